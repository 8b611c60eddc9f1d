"""Pixel losses, as sums that add up exactly: over batches, accumulated gradients and processes.

The loss of a step is a numerator over a denominator, both summed over everything that the step sees. Each micro-batch
gives its share of the two (`PixelLoss.sums`); only the totals are divided. A mean of means would give a pixel the more
weight the more void there is around it.

- ``cross_entropy``: sum(w l) / sum(w) over valid pixels, w the weight of a pixel's class (1 without class weights).
- ``focal``: the same with l (1 - p)^gamma, p the probability of the true class. Source: Lin et al., ICCV 2017.
- ``dice``: 1 - mean of 2 sum(p y) / (sum(p) + sum(y)) over the classes in the micro-batch's truth, weighted by their
  class weights; p are probabilities, y the truth. It is a ratio of sums over the micro-batch, not a sum over pixels: a
  step's value is the mean over its micro-batches, weighted by their denominators. Source: Milletari et al., 3DV 2016.

With ``reduction="sum"`` the denominator is the number of pictures, which is Caffe's rule (and the paper's).

`PixelLoss.sums_of_scores` gives the same from coarse scores: it grows a strip of rows at a time, so that logits of the
full size are never in memory together.
"""

from __future__ import annotations

from fullconv.losses.pixel import LossSums, PixelLoss, ratio
from fullconv.losses.terms import TERMS, parse_loss

__all__ = ["TERMS", "LossSums", "PixelLoss", "parse_loss", "ratio"]
