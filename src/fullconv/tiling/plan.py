"""Exact tiles and row chunks: how an image is cut, and how the scores of tiles are stitched.

A score cell reads a bounded window of the image (`fullconv.geometry`). A tile whose window holds all that its cells read,
and that starts on the network's grid, computes the very same numbers. A window that meets a border of the image ends
there, so every layer pads as it does for the whole image.

Arrays are numpy arrays or anything that is sliced like them, such as tensors; this module never imports torch.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from fullconv.errors import NetworkError

if TYPE_CHECKING:
    from fullconv.geometry.axis import Axis
    from fullconv.nn import Network

Scores = TypeVar("Scores")
"""An array (N, K, h, w), or a dict of them by head."""


@dataclass(frozen=True)
class TileSpan:
    """One tile along one axis."""

    start: int
    """First pixel of the window, on the grid."""
    stop: int
    """Pixel after the window's last; the image's end for the last tiles."""
    crop: int
    """Cells of the window's scores before the tile's first."""
    cells: int | None
    """Cells of the tile; None takes all that are left (the last tile)."""


def plan_axis(axis: Axis, length: int, padded: int, tile_size: int, align: int, min_size: int) -> list[TileSpan]:
    """Cut one axis into tiles whose cells follow each other without a gap."""
    stride = int(axis.jump)
    spans = []
    for begin in range(0, padded, tile_size):
        last = begin + tile_size >= padded
        first_cell, next_cell = begin // stride, (begin + tile_size) // stride
        low = first_cell * stride + axis.rf_start
        start = max(0, math.floor(low / align) * align) if begin else 0
        high = (next_cell - 1) * stride + axis.rf_end + 1
        stop = padded if last else min(padded, math.ceil(high / align) * align)
        if padded - stop < align:  # less than a grid step would be left: go to the true border
            stop = padded
        if stop - start < min_size:
            start = max(0, math.floor((stop - min_size) / align) * align)
            stop = min(padded, max(stop, start + math.ceil(min_size / align) * align))
        cells = None if last else next_cell - first_cell
        spans.append(
            TileSpan(start, min(stop, length) if stop == padded else stop, first_cell - start // stride, cells)
        )
    return spans


def plan(network: Network, height: int, width: int, tile_size: int) -> tuple[list[TileSpan], list[TileSpan]]:
    """Cut the rows and the columns of an image into tiles; ``tile_size`` is rounded up to the grid."""
    if network.halo is None:
        raise NetworkError(
            f"tiles cannot be exact: {explain_inexact(network)} Use --tile none, or --blend for overlapping tiles that"
            " are averaged, which is not exact."
        )
    align = network.stride
    tile_size = max(align, -(-tile_size // align) * align)
    padded = network.padded_size(height, width)
    sizes = zip((network.geometry.y, network.geometry.x), (height, width), padded, strict=True)
    rows, columns = (plan_axis(axis, n, p, tile_size, align, _least(network, axis)) for axis, n, p in sizes)
    return rows, columns


def _least(network: Network, axis: Axis) -> int:
    """Return the smallest window; a module from elsewhere, whose scores are logits, may cut off what its halo holds."""
    return max(network.min_size, math.ceil(axis.rf_end - axis.rf_start) + 1 if axis.jump == 1 else 1)


def explain_inexact(network: Network) -> str:
    """Return the sentence that names the layer because of which tiles are not exact."""
    geometry = network.geometry
    for names, what in (
        (geometry.global_ops, "sees the whole image"),
        (geometry.unknown_ops, "reads an unknown window"),
        (geometry.size_dependent, "depends on the image's size"),
    ):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            return f"{names[0]}{'' if what in names[0] else f' {what}'}{more}."
    return ""


def tiled_scores(
    compute: Callable[[Any], Scores], image: Any, rows: Sequence[TileSpan], columns: Sequence[TileSpan]
) -> Scores:
    """Compute the scores of an image (1, H, W, C) tile by tile: those of the whole image."""
    return _join(
        [tile_row_scores(compute, lambda *window: image[:, window[0], window[1]], row, columns) for row in rows], -2
    )


def tile_row_scores(
    compute: Callable[[Any], Scores], read: Callable[[slice, slice], Any], row: TileSpan, columns: Sequence[TileSpan]
) -> Scores:
    """Compute the scores of one row of tiles."""
    parts: list[Scores] = []
    for column in columns:
        scores = compute(read(slice(row.start, row.stop), slice(column.start, column.stop)))
        window = (..., *(slice(s.crop, None if s.cells is None else s.crop + s.cells) for s in (row, column)))
        # a copy, as a view would keep the margins in memory
        parts.append(_by_head(lambda one, window=window: _concatenate([one[window]], -1), [scores]))
    return _join(parts, -1)


def sliding_window(compute: Callable[[Any], Scores], image: Any, network: Network, tile_size: int) -> Scores:
    """Average the scores of tiles of an image (1, H, W, C) that overlap by half, the middle of a tile weighing most.

    The result is not the whole image's: this is for networks with layers that see the whole image, where no tile is exact.
    """
    align, stride = network.stride, network.score_stride
    side = max(2 * align, network.min_size, -(-tile_size // align) * align)
    starts = []
    for length in image.shape[1:3]:
        last = -(-(length - side) // align) * align
        starts.append([*range(0, last, max(align, side // 2 // align * align)), last] if length > side else [0])
    corners = [(top, left) for top in starts[0] for left in starts[1]]
    parts = [compute(image[:, top : top + side, left : left + side]) for top, left in corners]

    def average(*maps: Any) -> Any:
        cells = [(top // stride, left // stride) for top, left in corners]
        height = max(top + one.shape[-2] for (top, _), one in zip(cells, maps, strict=True))
        width = max(left + one.shape[-1] for (_, left), one in zip(cells, maps, strict=True))
        total = _like(maps[0], np.zeros((*maps[0].shape[:2], height, width)))
        weights = _like(maps[0], np.zeros((height, width)))
        for (top, left), one in zip(cells, maps, strict=True):
            h, w = one.shape[-2:]
            weight = _like(one, np.outer(_importance_window(h), _importance_window(w)))
            total[..., top : top + h, left : left + w] += one * weight
            weights[top : top + h, left : left + w] += weight
        return total / weights

    return cast(Scores, _by_head(average, parts))


def _importance_window(n: int) -> Any:
    """Return weights that rise to the middle and fall again, (n,)."""
    return np.minimum(np.arange(1, n + 1), np.arange(n, 0, -1))


def _like(array: Any, values: Any) -> Any:
    """Return a numpy array as the kind, dtype and device of another array."""
    return values.astype(array.dtype) if isinstance(array, np.ndarray) else array.new_tensor(values)


def _by_head(function: Callable[..., Any], scores: Sequence[Any]) -> Any:
    """Apply a function to scores, or by name to those of several heads."""
    if isinstance(scores[0], dict):
        return {name: function(*(one[name] for one in scores)) for name in scores[0]}
    return function(*scores)


def _join(parts: Sequence[Scores], axis: int) -> Scores:
    joined = parts[0] if len(parts) == 1 else _by_head(lambda *arrays: _concatenate(arrays, axis), parts)
    return cast(Scores, joined)


def _concatenate(arrays: Sequence[Any], axis: int) -> Any:
    """Join arrays of one kind along an axis into new memory."""
    if isinstance(arrays[0], np.ndarray):
        return np.concatenate(arrays, axis)
    shape, first = list(arrays[0].shape), 0
    shape[axis] = sum(array.shape[axis] for array in arrays)
    joined = arrays[0].new_empty(shape)
    for array in arrays:
        joined.narrow(axis, first, array.shape[axis]).copy_(array)
        first += array.shape[axis]
    return joined


def row_chunks(height: int, width: int, num_classes: int, budget: int = 8 * 2**20) -> Iterator[tuple[int, int]]:
    """Cut an image's rows (a, b) so that a chunk of logits (K, b - a, W) float32 stays within a budget of bytes."""
    rows = max(1, budget // (4 * num_classes * width))
    for start in range(0, height, rows):
        yield start, min(height, start + rows)


def rows_available(network: Network, known: int, height: int, total: int) -> int:
    """Return how many rows of the logits, from the top, the first rows of the scores suffice for."""
    return bisect_left(range(height), known, key=lambda row: _cells_around(network, row, height, total)[1])


def first_required(network: Network, row: int, height: int, total: int) -> int:
    """Return the first row of the scores that a row of the logits, or one below it, reads."""
    return max(0, _cells_around(network, row, height, total)[0])


def upsamples_by_size(network: Network) -> bool:
    """Whether a network upsamples to the image's size, so that the number of score cells matters."""
    row = getattr(network, "spec", None)
    return row is not None and row.upsample_mode == "size"


def _cells_around(network: Network, row: int, height: int, total: int) -> tuple[int, int]:
    """Return the two rows of the scores that a row of the logits lies between; at a border, one lies beyond it."""
    if getattr(network, "spec", None) is None:  # a wrapped module: its scores are its logits
        return row, row
    if upsamples_by_size(network):
        low = math.floor(max((row + 0.5) * total / height - 0.5, 0))
    else:
        low = (row - math.ceil(network.geometry.y.offset)) // network.score_stride
    return low, low + 1
