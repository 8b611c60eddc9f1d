"""JPEG works in blocks of 8x8 pixels: what it did to a mask stays within the blocks that an edge goes through."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SIDE = 8
_BANDS = 12
"""Rows of blocks that are searched in one mask."""
_SHIFTED = 1.1
"""Torn blocks off the grid by torn blocks on it from which on a set of masks was compressed. 0/1 masks that were JPEG
of quality 50 to 100: 1.13 to 5; drawn by hand, or salt and pepper all over: 0.97 to 1.05."""
_CLEAR = 4.0
"""Standard errors by which it must be more than 1."""
_ENOUGH = 6  # masks
_ALONE, _TWICE = 4.5, 2.0
"""Standard deviations and ratio from which on one mask by itself was compressed; of 1700 drawn ones none has both."""


def torn_blocks(numbers: NDArray[np.uint8]) -> tuple[int, int]:
    """Count the 8x8 blocks of a mask (H, W) that hold several numbers: on JPEG's grid, and off it by half a block.

    Of tall masks some rows of blocks are searched, evenly spread.
    """
    height, width = numbers.shape
    rows, columns = (height - SIDE // 2) // SIDE, (width - SIDE // 2) // SIDE
    if rows < 1 or columns < 1:
        return 0, 0
    chosen = np.arange(0, rows, -(-rows // _BANDS)) * SIDE
    lines = (chosen[:, None] + np.arange(SIDE + SIDE // 2)).ravel()
    bands = numbers[lines].reshape(len(chosen), SIDE + SIDE // 2, width)
    half, across = SIDE // 2, columns * SIDE
    return _torn(bands[:, :SIDE, :across]), _torn(bands[:, half:, half : half + across])


def _torn(bands: NDArray[np.uint8]) -> int:
    words = np.ascontiguousarray(bands).view(np.uint64)  # one of 8 pixels of a row
    first = words[:, 0]
    same = (words == first[:, None]).all(axis=1) & (first == (first << np.uint64(8) | first >> np.uint64(56)))
    return int(same.size - np.count_nonzero(same))


def on_grid(torn: Sequence[tuple[int, int]]) -> bool:
    """Whether the edges of masks keep to JPEG's grid, by what `torn_blocks` says of each."""
    counts = np.array([pair for pair in torn if max(pair) > 0], np.float64).reshape(-1, 2)
    if len(counts) < _ENOUGH:
        return False
    on, off = counts.T
    if off.sum() < _SHIFTED * on.sum():
        return False
    gain = (off - on) / (off + on)
    return bool(gain.mean() > _CLEAR * (gain.std() / np.sqrt(len(gain)) + 1e-9))


def is_on_grid(torn: tuple[int, int]) -> bool:
    """Whether the edges of one mask keep to JPEG's grid, so clearly that it needs no others beside it."""
    on, off = torn
    return off - on >= _ALONE * float(np.sqrt(on + off + 1)) and off >= _TWICE * on
