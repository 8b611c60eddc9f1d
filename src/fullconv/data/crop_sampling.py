"""Class imbalance: the loss, its weights, and where crops lie."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fullconv.data.statistics import Statistics
from fullconv.errors import RecipeError, percent, plural

Crop = tuple[int, int] | Literal["whole"]
"""Height and width of a training crop in pixels, or whole images."""

MAX_CROPS = 8
"""Crops that are taken from one decoded image."""

_MAX_BALANCED_RATIO = 5.0  # of pixels of two classes that need no weights
_DICE_SHARE = 0.05  # of the pixels, below which a class is helped by a loss that counts classes, not pixels
_RARE_CROPS = "Every second crop is centered on a class of the image, rare ones more often"
_RARE_SHARE = 0.02
# of the pixels, below which crops are centered on classes


def class_weights(statistics: Statistics, kind: str | Sequence[float] = "auto") -> tuple[NDArray[np.float32], str]:
    """Weigh classes for the loss by their pixels in the training split.

    Args:
        statistics: Of the training split, K classes.
        kind: "none"; "inverse_log", 1 / ln(1.02 + share of pixels) (ENet); "median_frequency", the median class
            frequency over the class's, each counted over the images in which the class occurs (SegNet);
            "auto": none where classes are even, the inverse square root of the share for two classes, else its
            inverse fourth root; or K numbers.

    Returns:
        (K,) float32, mean 1 over the valid pixels except for median_frequency and given numbers; and a sentence about them.
    """
    pixels = statistics.pixels.astype(np.float64)
    if not isinstance(kind, str):
        if len(kind) != len(pixels):
            classes = plural(len(pixels), "class", "classes")
            raise RecipeError(f"class_weights has {len(kind)} numbers for {classes}. Give one per class.")
        if min(kind) < 0 or max(kind) <= 0 or not np.isfinite(kind).all():
            raise RecipeError("class_weights must be finite numbers from 0, not all 0. Correct them.")
        return np.asarray(kind, np.float32), "Classes have the weights of the recipe."
    if kind not in ("auto", "none", "inverse_log", "median_frequency"):
        raise RecipeError(f"class_weights = '{kind}' is unknown. Choose auto, none, inverse_log or median_frequency.")
    present = pixels > 0
    share = pixels / max(pixels.sum(), 1)
    spread = share[present].max() / share[present].min() if present.any() else 1.0
    if kind == "none" or not present.any():
        return np.ones(len(pixels), np.float32), "All classes weigh the same."
    if kind == "auto" and spread < _MAX_BALANCED_RATIO:
        return np.ones(len(pixels), np.float32), f"All classes weigh the same: they differ by {spread:.1f}x in pixels."
    weights = np.ones(len(pixels))
    if kind == "median_frequency":
        frequency = pixels[present] / statistics.area[present]
        weights[present] = np.median(frequency) / frequency
        return weights.astype(np.float32), _sentence("median frequency", weights, present)
    # A weight w moves the border between two classes by log w: heavy weights find every pixel of a rare class at the price
    # of false positives, which lowers its IoU. A CamVid model's mIoU on its own training images was 0.586 with inverse_log,
    # and 0.616 with the square root of these weights, which is nearly the fourth root here.
    if kind == "inverse_log":
        weights[present], name = 1 / np.log(1.02 + share[present]), "the inverse logarithm of their pixels"
    elif len(pixels) == 2:
        weights[present], name = share[present] ** -0.5, "the inverse square root of their pixels"
    else:
        weights[present], name = share[present] ** -0.25, "the inverse fourth root of their pixels"
    weights[present] /= (share * weights)[present].sum()
    sentence = _sentence(name, weights, present)
    if kind == "auto":
        sentence += f" The rarest class has {percent(share[present].min())} of them."
    return weights.astype(np.float32), sentence


def choose_loss(heads: Iterable[Statistics]) -> str:
    """Return the default loss: cross-entropy, plus Dice where a class is rare.

    CamVid, trained from scratch for 12 epochs, last fifth of each sequence held out: mIoU 0.436 without Dice, 0.453 and 0.454
    (two seeds) with 1 * dice, 0.459 and 0.460 with 2 * dice, 0.462 with 4 * dice.
    """
    for statistics in heads:
        pixels = statistics.pixels[statistics.pixels > 0]
        if len(pixels) > 1 and pixels.min() < _DICE_SHARE * pixels.sum():
            return "cross_entropy + 2 * dice"
    return "cross_entropy"


def _sentence(name: str, weights: NDArray[np.float64], present: NDArray[np.bool_]) -> str:
    return f"Classes are weighted by {name}, from {weights[present].min():.2g} to {weights[present].max():.2g}."


def choose_sampling(statistics: Statistics, sampling: str, crop: Crop, scale: float) -> tuple[str, str]:
    """Return "rare", where every second crop is to be centered on a class, or "uniform"; and a sentence about it."""
    if crop == "whole" and sampling in ("uniform", "auto"):
        return "uniform", "Images are not cropped."
    if sampling == "uniform":
        return "uniform", "Crops lie anywhere in the image."
    if sampling == "rare" or crop == "whole":
        return "rare", f"{_RARE_CROPS}."
    if sampling != "auto":
        raise RecipeError(f"sampling = '{sampling}' is unknown. Choose auto, uniform or rare.")
    pixels = statistics.pixels
    share = float(pixels[pixels > 0].min() / pixels.sum()) if pixels.any() else 1.0
    covered = crop[0] * crop[1] / (median_area(statistics) * scale**2)
    if share >= _RARE_SHARE:
        return "uniform", f"Crops lie anywhere in the image: the rarest class has {percent(share)} of the pixels."
    if covered > 0.5:
        return "uniform", f"Crops lie anywhere in the image: one covers {100 * min(covered, 1):.0f} % of it."
    return "rare", f"{_RARE_CROPS}, as the rarest has only {percent(share)} of the pixels."


def median_area(statistics: Statistics) -> float:
    """Return the median number of pixels of an image."""
    return float(np.median([height * width for height, width in statistics.sizes]))


def center_probabilities(statistics: Statistics) -> NDArray[np.float64]:
    """Return (K,) relative probabilities of the classes as crop centers: the inverse root of their share of pixels."""
    share = statistics.pixels / max(int(statistics.pixels.sum()), 1)
    return np.asarray(np.where(share > 0, np.maximum(share, 1e-9) ** -0.5, 0.0))


def sample_center(
    mask: NDArray[np.uint8], probabilities: NDArray[np.float64], rng: np.random.Generator
) -> tuple[int, int] | None:
    """Draw a pixel of a class in the mask, classes by `probabilities` (K,); None where all is void."""
    present = np.flatnonzero((np.bincount(mask.ravel(), minlength=256)[: len(probabilities)] > 0) & (probabilities > 0))
    if not len(present):
        return None
    odds = probabilities[present] / probabilities[present].sum()
    chosen = present[min(int(np.searchsorted(np.cumsum(odds), rng.random(), side="right")), len(present) - 1)]
    places = np.flatnonzero(mask.ravel() == chosen)
    place = int(places[int(rng.random() * len(places))])
    return place // mask.shape[1], place % mask.shape[1]


def crops_per_image(statistics: Statistics, crop: Crop, scale: float) -> int:
    """Return how many crops are taken from one decoded image: as many as fit into the median one, at most `MAX_CROPS`."""
    if crop == "whole":
        return 1
    return int(min(max(median_area(statistics) * scale**2 / (crop[0] * crop[1]), 1), MAX_CROPS))
