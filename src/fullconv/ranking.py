"""What to label next: unlabeled images in the order in which labels would teach most.

The next image has the largest product of uncertainty (mean entropy of the class probabilities as a fraction of its maximum)
and novelty (distance to the nearest image that comes before it or is labeled, by the mean probability of each class in each
cell of a grid). Sources: entropy sampling, Settles 2009; farthest-first traversal, Gonzalez 1985, as in core-set selection by
Sener and Savarese, ICLR 2018.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fullconv.data import Dataset
from fullconv.errors import FullconvError, InputError
from fullconv.prediction import Prediction
from fullconv.segmenter import Segmenter

GRID = 4
"""Cells per side of the grid on which images are compared."""


@dataclass(frozen=True)
class ImageSummary:
    """What the model predicts for an image, in a few numbers."""

    image: str
    uncertainty: float
    """0 to 1."""
    seen: NDArray[np.float32]
    """(K * GRID * GRID,), mean probability of each class in each cell."""


@dataclass(frozen=True)
class Ranked:
    """The place of an image."""

    rank: int
    """From 1."""
    image: str
    uncertainty: float
    novelty: float | None
    """Distance to the nearest image before it, 0 to 1; None where there is none, and below the top."""


def summarize(prediction: Prediction, image: str) -> ImageSummary:
    """Summarize a prediction, strip by strip."""
    height, width = prediction.label_map.shape
    classes = len(prediction.classes)
    sums = torch.zeros(classes, GRID, GRID, dtype=torch.float64)
    rows, columns = _cells(height), _cells(width)
    entropy = 0.0
    for a, b, logits in prediction.logits.strips():
        log_p = torch.as_tensor(logits).cpu().log_softmax(0)
        p = log_p.exp()
        entropy -= float((p * log_p).double().sum())
        by_column = (p.double() @ columns).permute(1, 2, 0)  # (rows, GRID, K)
        sums += torch.einsum("rg,rck->kgc", rows[a:b], by_column)
    area = rows.sum(0)[:, None] * columns.sum(0)[None]
    seen = (sums / area.clamp(min=1)).flatten().float().numpy()
    return ImageSummary(image, entropy / (height * width * math.log(max(2, classes))), seen)


def _cells(length: int) -> Tensor:
    """Return in which of `GRID` cells each pixel of an axis lies, (length, GRID) float64 of 0 and 1."""
    index = torch.arange(length) * GRID // max(1, length)
    return torch.nn.functional.one_hot(index, GRID).double()


def summarize_images(
    segmenter: Segmenter,
    paths: Iterable[str],
    on_failure: Callable[[str, str], None] = lambda path, reason: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[ImageSummary]:
    """Predict and summarize images; those that cannot be read are reported and skipped."""
    paths = list(paths)
    summaries = []
    for done, path in enumerate(paths, 1):
        try:
            summaries.append(summarize(segmenter.predict(path), path))
        except (FullconvError, OSError) as error:
            on_failure(path, str(error))
        progress(done, len(paths))
    return summaries


def summarize_labeled(segmenter: Segmenter, dataset: Dataset) -> list[ImageSummary]:
    """Predict and summarize the images of the training split."""
    samples = dataset.splits.get("train", [])
    return [summarize(segmenter.predict(dataset.read_pixels(sample)), sample.stem) for sample in samples]


def rank(summaries: Sequence[ImageSummary], top: int = 100, labeled: Sequence[ImageSummary] = ()) -> list[Ranked]:
    """Order images by what their labels would teach, those to label first at the start; ties are broken by name.

    The first `top` are selected one after the other, each unlike those before and those in `labeled`; the rest follows by
    uncertainty.
    """
    if not summaries:
        raise InputError("there is no image to rank.")
    summaries = sorted(summaries, key=lambda s: s.image)
    uncertainty = np.array([s.uncertainty for s in summaries])
    seen = np.stack([s.seen for s in summaries])

    def distance(to: NDArray[np.float32]) -> NDArray[np.float64]:
        largest = math.sqrt(2) * GRID  # between two images that are all one class each, of different classes
        return np.asarray(np.linalg.norm((seen - to).astype(np.float64), axis=1) / largest)

    nearest = np.full(len(summaries), np.inf)
    for other in labeled:
        nearest = np.minimum(nearest, distance(other.seen))
    left = np.ones(len(summaries), bool)
    order: list[Ranked] = []
    for _ in range(min(top, len(summaries))):
        gain = uncertainty if np.isinf(nearest).all() else uncertainty * nearest
        best = int(np.argmax(np.where(left, gain, -np.inf)))
        novelty = None if np.isinf(nearest[best]) else float(nearest[best])
        order.append(Ranked(len(order) + 1, summaries[best].image, float(uncertainty[best]), novelty))
        left[best] = False
        nearest = np.minimum(nearest, distance(seen[best]))
    for index in sorted(np.flatnonzero(left), key=lambda i: (-uncertainty[i], summaries[i].image)):
        order.append(Ranked(len(order) + 1, summaries[index].image, float(uncertainty[index]), None))
    return order


def to_csv(order: Sequence[Ranked]) -> str:
    """Write a ranking as CSV with a header: rank, image, uncertainty, novelty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["rank", "image", "uncertainty", "novelty"])
    for row in order:
        writer.writerow(
            [row.rank, row.image, *("" if x is None else f"{x:.6f}" for x in (row.uncertainty, row.novelty))]
        )
    return text.getvalue()
