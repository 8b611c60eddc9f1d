"""Whether masks number things one by one: each number is one region, and each mask counts up to another end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fullconv.data.labels.histogram import Census

_FEWEST = 6
_ENDS = 3
"""Different last numbers of masks; where all hold the same ones they are classes."""
_LAST = 4
"""The largest number at least; nested things (organ, lesion, core) are fewer."""
_MOST = 0.8  # of the masks that end at one number
_ALL = 0.9  # of the masks that hold all numbers up to their last
_WHOLE = 0.8  # of the numbers that are one region; things hide parts of one another
LOOKED_AT = 64
"""Small copies of masks that are enough."""


def counts_things(census: Census, masks: Sequence[NDArray[np.uint8]]) -> bool:
    """Whether numbers are those of things.

    Args:
        census: What all masks hold.
        masks: Small copies of some of them, (SIDE, SIDE).
    """
    ends = {last: count for last, count in census.tops.items() if count}
    counted = sum(ends.values())
    if census.masks < _FEWEST or len(ends) < _ENDS or max(ends) < _LAST:
        return False
    drawn = census.masks - census.ends[0, 0]
    if counted < _ALL * drawn or max(ends.values()) > _MOST * drawn:
        return False
    void = np.array([min(value, 255) for value in census.void])
    single = [regions(mask == value) == 1 for mask in masks for value in np.setdiff1d(np.unique(mask), [0, *void])]
    return len(single) >= _FEWEST and sum(single) >= _WHOLE * len(single)


def regions(inside: NDArray[np.bool_]) -> int:
    """Count the regions of a small mask that hang together, corners included."""
    left = set(map(tuple, np.argwhere(inside).tolist()))
    count = 0
    while left:
        count += 1
        todo = [left.pop()]
        while todo:
            y, x = todo.pop()
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            todo += near
    return count
