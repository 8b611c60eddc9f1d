"""Test-time augmentation: a picture, its mirror image, and both at other sizes; their probabilities are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from fullconv.errors import RecipeError
from fullconv.nn import Network, Scores

SMALLEST, LARGEST = 0.1, 10.0


@dataclass(frozen=True)
class View:
    """One way to look at a picture."""

    mirrored: bool = False
    """Left and right change places."""
    scale: float = 1.0
    """Of the working resolution."""


@dataclass(frozen=True)
class Seen:
    """The scores of a picture in one view."""

    view: View
    working: tuple[int, int]
    """Size at which they were computed."""
    scores: Scores


def parse_views(text: str) -> tuple[View, ...]:
    """Read "flip", "0.75,1.25" or "flip,0.75,1.25".

    Returns:
        The picture as it is first, then each of its sizes, each mirrored too where "flip" is named.

    Raises:
        RecipeError: It is none of these.

    >>> [view.scale for view in parse_views("flip,0.5")]
    [1.0, 1.0, 0.5, 0.5]
    """
    scales, flips = [1.0], [False]
    for word in text.replace(" ", "").split(",") if text else ():
        if word == "flip":
            flips = [False, True]
            continue
        try:
            scale = float(word)
        except ValueError:
            scale = 0.0
        if not SMALLEST <= scale <= LARGEST:
            raise RecipeError(
                f"--tta {text}: write flip, factors of size from {SMALLEST:g} to {LARGEST:g}, or both, for example"
                " flip,0.75,1.25"
            )
        scales += [scale] if scale not in scales else []
    return tuple(View(mirrored, scale) for scale in scales for mirrored in flips)


def grow(
    network: Network, seen: Sequence[Seen], size: tuple[int, int], rows: tuple[int, int] | None, head: str
) -> Tensor:
    """Grow the scores of all views to rows of the logits.

    Args:
        network: The network.
        seen: One picture, the same in all views.
        size: (H, W) of the picture.
        rows: (a, b); None is all.
        head: The head's name, or "" for networks of one without a name.

    Returns:
        Logits (K, b - a, W) float32; of several views the logarithms of their mean probabilities.
    """
    found = []
    for each in seen:
        scores = each.scores[head] if isinstance(each.scores, dict) else each.scores
        logits = cast(Tensor, network.upsample(scores, size, rows, each.working))[0]
        found.append(logits.flip(-1) if each.view.mirrored else logits)
    return found[0] if len(found) == 1 else mean_logits(found)


def mean_logits(views: Sequence[Tensor]) -> Tensor:
    """Return the logarithms of the mean probabilities of logits (K, ...)."""
    total = views[0].softmax(0)
    for logits in views[1:]:
        total = total + logits.softmax(0)
    # what has no chance in any view keeps a finite logarithm
    return (total / len(views)).clamp_(min=torch.finfo(total.dtype).tiny).log()
