"""Rare classes: the loss, its weights, and where crops lie."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fullconv.data.statistics import Statistics
from fullconv.errors import RecipeError

Crop = tuple[int, int] | Literal["whole"]
"""Height and width of what a step sees of a picture."""

MOST_CROPS = 8
"""Crops that are taken from one decoded picture, however large."""

_EVEN = 5.0
"""Classes within this factor of each other need no weights."""
_RARE = 0.05
"""Share of the pixels below which a class is helped by a loss that counts classes, not pixels."""


def class_weights(statistics: Statistics, kind: str | Sequence[float] = "auto") -> tuple[NDArray[np.float32], str]:
    """Weigh classes for the loss by their pixels in the training split.

    Args:
        statistics: Of the training split, K classes.
        kind: "none"; "inverse_log", 1 / ln(1.02 + share of pixels) (ENet); "median_frequency", the median class
            frequency over the class's, each counted over the pictures in which the class occurs (SegNet);
            "auto": none where classes are even, the inverse square root of the share for two classes, else its
            inverse fourth root; or K numbers.

    Returns:
        (K,) float32, mean 1 over the valid pixels but for median_frequency and given numbers; and what was done, one
        sentence.

    Raises:
        RecipeError: Unknown kind, or another number of weights than classes.
    """
    pixels = statistics.pixels.astype(np.float64)
    if not isinstance(kind, str):
        return _given(kind, len(pixels))
    if kind not in ("auto", "none", "inverse_log", "median_frequency"):
        raise RecipeError(f"class_weights = '{kind}' is none of auto, none, inverse_log, median_frequency.")
    there = pixels > 0
    share = pixels / max(pixels.sum(), 1)
    spread = share[there].max() / share[there].min() if there.any() else 1.0
    if kind == "none" or not there.any():
        return np.ones(len(pixels), np.float32), "All classes weigh the same."
    if kind == "auto" and spread < _EVEN:
        return np.ones(len(pixels), np.float32), f"All classes weigh the same: they differ by {spread:.1f}x in pixels."
    weights = np.ones(len(pixels))
    if kind == "median_frequency":
        frequency = pixels[there] / statistics.area[there]
        weights[there] = np.median(frequency) / frequency
        return weights.astype(np.float32), _sentence("median frequency", weights, there)
    weights[there], name = _balance(share[there], kind, len(pixels))
    weights[there] /= (share * weights)[there].sum()
    sentence = _sentence(name, weights, there)
    if kind == "auto":
        sentence += f" The rarest class has {100 * share[there].min():.2g} % of them."
    return weights.astype(np.float32), sentence


def choose_loss(heads: Iterable[Statistics]) -> str:
    """Return the loss of a recipe that leaves it open: cross-entropy, with Dice beside it where a class is rare.

    On the last fifth of each of CamVid's training sequences, nets that were trained from scratch on the rest for 12 epochs came
    to a mean IU of 0.436 without Dice, 0.453 and 0.454 (two seeds) with it once,
    0.459 and 0.460 with it twice, and 0.462 with four times.

    Args:
        heads: Of the training split, one for each head.
    """
    for statistics in heads:
        pixels = statistics.pixels[statistics.pixels > 0]
        if len(pixels) > 1 and pixels.min() < _RARE * pixels.sum():
            return "cross_entropy + 2 * dice"
    return "cross_entropy"


def _balance(share: NDArray[np.float64], kind: str, classes: int) -> tuple[NDArray[np.float64], str]:
    """Return weights by share of pixels, and what they are called.

    A weight w moves the border between two classes by log w: heavy weights find every pixel of a rare class at the
    price of many that are not, which lowers its IU. With inverse_log a CamVid net's mean IU on its own training
    pictures was 0.586; with the weights taken back to their square root, which is nearly the fourth root here, 0.616.
    """
    if kind == "inverse_log":
        return 1 / np.log(1.02 + share), "the inverse logarithm of their pixels"
    if classes == 2:
        return share**-0.5, "the inverse square root of their pixels"
    return share**-0.25, "the inverse fourth root of their pixels"


def _given(weights: Sequence[float], classes: int) -> tuple[NDArray[np.float32], str]:
    if len(weights) != classes:
        raise RecipeError(f"class_weights has {len(weights)} numbers for {classes} classes. Give one a class.")
    if min(weights) < 0 or max(weights) <= 0 or not np.isfinite(weights).all():
        raise RecipeError("class_weights must be finite, 0 or more, and not all 0.")
    return np.asarray(weights, np.float32), "Classes weigh what the recipe says."


def _sentence(name: str, weights: NDArray[np.float64], there: NDArray[np.bool_]) -> str:
    return f"Classes are weighted by {name}, from {weights[there].min():.2g} to {weights[there].max():.2g}."


def choose_sampling(statistics: Statistics, sampling: str, crop: Crop, scale: float) -> tuple[str, str]:
    """Decide whether every second crop is centred on a class, the rare ones more often.

    Returns:
        "uniform" or "rare", and what was decided, one sentence.
    """
    if crop == "whole" and sampling in ("uniform", "auto"):
        return "uniform", "Every picture is seen whole."
    if sampling == "uniform":
        return "uniform", "Crops lie anywhere in the picture."
    if sampling == "rare" or crop == "whole":
        return "rare", "Every second crop is centred on a class of the picture, rare ones more often."
    if sampling != "auto":
        raise RecipeError(f"sampling = '{sampling}' is none of auto, uniform, rare.")
    pixels = statistics.pixels
    share = float(pixels[pixels > 0].min() / pixels.sum()) if pixels.any() else 1.0
    covered = crop[0] * crop[1] / (area(statistics) * scale**2)
    if share >= 0.02:
        return "uniform", f"Crops lie anywhere in the picture: the rarest class has {100 * share:.2g} % of the pixels."
    if covered > 0.5:
        return "uniform", f"Crops lie anywhere in the picture: one covers {100 * min(covered, 1):.0f} % of it."
    return "rare", (
        "Every second crop is centred on a class of the picture, rare ones more often, as the rarest has only"
        f" {100 * share:.2g} % of the pixels."
    )


def area(statistics: Statistics) -> float:
    """Return the median number of pixels of a picture."""
    return float(np.median([height * width for height, width in statistics.sizes]))


def likely_centres(statistics: Statistics) -> NDArray[np.float64]:
    """How likely each class is to be the centre of a crop: by the inverse root of its share of pixels."""
    share = statistics.pixels / max(int(statistics.pixels.sum()), 1)
    return np.asarray(np.where(share > 0, np.maximum(share, 1e-9) ** -0.5, 0.0))


def choose_focus(
    mask: NDArray[np.uint8], likely: NDArray[np.float64], rng: np.random.Generator
) -> tuple[int, int] | None:
    """Draw a pixel of a class that is in the mask, classes by `likely` (K,); None where all is void."""
    present = np.flatnonzero((np.bincount(mask.ravel(), minlength=256)[: len(likely)] > 0) & (likely > 0))
    if not len(present):
        return None
    odds = likely[present] / likely[present].sum()
    chosen = present[min(int(np.searchsorted(np.cumsum(odds), rng.random(), side="right")), len(present) - 1)]
    places = np.flatnonzero(mask.ravel() == chosen)
    place = int(places[int(rng.random() * len(places))])
    return place // mask.shape[1], place % mask.shape[1]


def crops_a_picture(statistics: Statistics, crop: Crop, scale: float) -> int:
    """Return how many crops are taken from one decoded picture: as many as fit into the median one, at most 8."""
    if crop == "whole":
        return 1
    return int(min(max(area(statistics) * scale**2 / (crop[0] * crop[1]), 1), MOST_CROPS))
