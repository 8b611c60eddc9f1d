"""Learning rates: one that belongs to a sum over pixels is some 100,000 times smaller than one for their mean."""

from __future__ import annotations

import numpy as np

from fullconv.data import Statistics
from fullconv.errors import RecipeError
from fullconv.recipe import Recipe

LARGEST = 1.0
"""Of lr / (1 - momentum) for a mean loss: lr 0.1 with momentum 0.9, the most that is in use."""
SMALLEST = {"sgd": 5e-8, "adamw": 1e-8}
"""Below it nothing is learned in any time; of lr / (1 - momentum) for SGD (1e-7 in the paper for FCN-8s), of lr for AdamW."""

_DEFAULTS = {"adamw": (2e-3, 5e-4), "sgd": (0.05, 0.01)}
"""From scratch, and from given weights."""


def summed_pixels(recipe: Recipe, statistics: Statistics) -> float:
    """Return by how much a loss is larger with ``reduction = "sum"``: the valid pixels that a step sees of a picture."""
    if not any(name in recipe.loss for name in ("auto", "cross_entropy", "focal")):
        return 1.0  # dice is a ratio, whatever the number of pixels
    height, width = np.median(np.array(statistics.sizes, dtype=np.float64), axis=0) * recipe.scale
    if isinstance(recipe.crop, tuple):
        height, width = min(height, recipe.crop[0]), min(width, recipe.crop[1])
    valid = int(statistics.pixels.sum())
    return max(1.0, float(height * width) * valid / max(1, valid + statistics.void))


def default_rate(recipe: Recipe, statistics: Statistics) -> float:
    """Return the learning rate of a recipe that has none."""
    rate = _DEFAULTS[recipe.optimizer][0 if recipe.weights == "none" else 1]
    if recipe.optimizer == "sgd" and recipe.reduction == "sum":
        return float(f"{rate / summed_pixels(recipe, statistics):.2g}")
    return rate


def check_rate(recipe: Recipe, statistics: Statistics) -> None:
    """Raise where the learning rate belongs to the other reduction of the loss.

    Args:
        recipe: Resolved.
        statistics: Of the training split.

    Raises:
        RecipeError: The rate of a mean with a sum, or the other way round; the message has the converted rate.

    Source: the Caffe release's solvers (sum, 1e-10) and Long et al., CVPR 2015 (mean, 1e-4).
    """
    lr = recipe.lr or 0.0
    if recipe.optimizer == "adamw":
        if lr < SMALLEST["adamw"]:
            usual = _DEFAULTS["adamw"][0 if recipe.weights == "none" else 1]
            raise RecipeError(
                f"lr = {lr:g} teaches nothing with adamw, whose steps are as large as lr whatever the size of the loss:"
                f" write --lr {usual:g}; or, for the paper's rates, --set optimizer=sgd --set reduction=sum."
            )
        return
    pixels = summed_pixels(recipe, statistics)
    memory = 1 - recipe.momentum
    if recipe.reduction == "sum" and lr * pixels / memory > LARGEST:
        raise RecipeError(
            f"lr = {lr:g} is a rate for the mean over pixels, but reduction = sum adds up the {pixels:.0f} of a picture:"
            f" it would act as {lr * pixels:.2g} with the mean, and the loss would soon be no number. The same step is"
            f" --lr {lr / pixels:.2g} with the sum; or leave reduction = sum away."
        )
    if recipe.reduction == "mean" and lr / memory < SMALLEST["sgd"]:
        raise RecipeError(
            f"lr = {lr:g} is a rate for the sum over pixels, but reduction = mean divides by the {pixels:.0f} of a"
            f" picture, so nothing would be learned. The same step is --lr {lr * pixels:.2g} with the mean; or add"
            f" --set reduction=sum."
        )
