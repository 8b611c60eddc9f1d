"""Test-time augmentation (TTA): an image, its mirror image, and both at other sizes; probabilities are averaged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fullconv.errors import RecipeError

MIN_SCALE, MAX_SCALE = 0.1, 10.0


@dataclass(frozen=True)
class TTAView:
    """One augmentation of an image."""

    hflip: bool = False
    scale: float = 1.0
    """Factor on the working resolution."""


@dataclass(frozen=True)
class ViewScores:
    """The scores of an image in one view."""

    view: TTAView
    working: tuple[int, int]
    """Size (h, w) at which they were computed."""
    scores: dict[str, NDArray[np.float32]]
    """(1, K, h, w) by head."""


def parse_views(text: str) -> tuple[TTAView, ...]:
    """Parse "flip", "0.75,1.25" or "flip,0.75,1.25".

    Returns:
        The image itself, then each of its sizes; each is mirrored, too, with "flip".

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
        if not MIN_SCALE <= scale <= MAX_SCALE:
            raise RecipeError(
                f"--tta {text}: use flip, factors of size from {MIN_SCALE:g} to {MAX_SCALE:g}, or both, for example"
                " flip,0.75,1.25"
            )
        scales += [scale] if scale not in scales else []
    return tuple(TTAView(hflip, scale) for scale in scales for hflip in flips)
