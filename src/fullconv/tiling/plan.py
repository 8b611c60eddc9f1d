"""Plans of tiles that give exactly the whole picture's scores.

A score cell depends on a bounded window of the picture (`fullconv.geometry`). A tile whose window holds all that its
cells read, and that starts on the network's grid, computes the very same numbers; where the window meets a border of
the picture it ends there too, so that every layer pads as it does for the whole.

Scores of tiles put together: exactly, or averaged where tiles cannot be exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from fullconv.errors import NetworkError
from fullconv.geometry import Axis
from fullconv.nn import Network, Scores


@dataclass(frozen=True)
class Span:
    """One tile along one axis."""

    start: int
    """First pixel of the window, on the grid."""
    stop: int
    """Pixel after the window's last; the picture's end for the last tiles."""
    skip: int
    """Cells of the window's scores before the tile's first."""
    cells: int | None
    """Cells of the tile; None takes all that are left (the last tile)."""


def plan_axis(axis: Axis, length: int, padded: int, core: int, align: int, minimum: int) -> list[Span]:
    """Cut one axis into tiles.

    Args:
        axis: Geometry of the score map along this axis.
        length: Pixels of the picture.
        padded: Pixels on which the whole picture is computed.
        core: Pixels of a tile's core, a multiple of ``align``.
        align: Grid on which windows start and end.
        minimum: Least size of a window, below which the network would pad it.

    Returns:
        Spans in order; their cells follow each other without gap.
    """
    stride = int(axis.scale)
    spans = []
    for begin in range(0, padded, core):
        last = begin + core >= padded
        first_cell, next_cell = begin // stride, (begin + core) // stride
        low = first_cell * stride + axis.lo
        start = max(0, math.floor(low / align) * align) if begin else 0
        high = (next_cell - 1) * stride + axis.hi + 1
        stop = padded if last else min(padded, math.ceil(high / align) * align)
        if padded - stop < align:  # what would be left beyond is less than a grid step: go to the true border
            stop = padded
        if stop - start < minimum:
            start = max(0, math.floor((stop - minimum) / align) * align)
            stop = min(padded, max(stop, start + math.ceil(minimum / align) * align))
        spans.append(Span(start, min(stop, length) if stop == padded else stop, first_cell - start // stride,
                          None if last else next_cell - first_cell))  # fmt: skip
    return spans


def plan(network: Network, height: int, width: int, core: int) -> tuple[list[Span], list[Span]]:
    """Cut a picture into tiles of a core size, rounded up to the grid.

    Raises:
        NetworkError: A layer sees the whole picture, or has a reach that nobody knows.
    """
    if network.halo is None:
        raise NetworkError(
            f"tiles cannot be exact: {why_not(network)} Use --tile none, or --blend for overlapping tiles that are"
            " averaged, which is not exact."
        )
    align = network.stride
    core = max(align, -(-core // align) * align)
    padded = network.padded_size(height, width)
    sizes = zip((network.geometry.y, network.geometry.x), (height, width), padded, strict=True)
    rows, columns = (plan_axis(axis, n, p, core, align, network.min_size) for axis, n, p in sizes)
    return rows, columns


def why_not(network: Network) -> str:
    """Return the sentence that names what keeps tiles from being exact."""
    geometry = network.geometry
    for names, what in (
        (geometry.whole, "sees the whole picture"),
        (geometry.unknown, "is an operation of unknown reach"),
        (geometry.size_dependent, "depends on the picture's size"),
    ):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            return f"{names[0]} {what}{more}."
    return ""


def stitched_scores(
    compute: Callable[[Tensor], Scores], image: Tensor, rows: list[Span], columns: list[Span]
) -> Scores:
    """Compute the scores of a picture tile by tile.

    Args:
        compute: Maps (1, H, W, C) as stored to scores.
        image: (1, H, W, C).
        rows: Plan of the rows.
        columns: Plan of the columns.

    Returns:
        Scores of the whole picture.
    """

    def read(row: Span, column: Span) -> Tensor:
        return image[:, row.start : row.stop, column.start : column.stop]

    return _join([band_scores(compute, read, row, columns) for row in rows], -2)


def band_scores(
    compute: Callable[[Tensor], Scores], read: Callable[[Span, Span], Tensor], row: Span, columns: list[Span]
) -> Scores:
    """Compute the scores of one row of tiles.

    Args:
        compute: Maps (1, h, w, C) as stored to scores.
        read: Gives the window of a tile, (1, h, w, C).
        row: Of the plan of the rows.
        columns: Plan of the columns.
    """
    return _join([_cut(compute(read(row, column)), row, column) for column in columns], -1)


def _cut(scores: Scores, row: Span, column: Span) -> Scores:
    if isinstance(scores, dict):
        return {name: _one(value, row, column) for name, value in scores.items()}
    return _one(scores, row, column)


def _one(scores: Tensor, row: Span, column: Span) -> Tensor:
    for dim, span in ((-2, row), (-1, column)):
        count = scores.shape[dim] - span.skip if span.cells is None else span.cells
        scores = scores.narrow(dim, span.skip, count)
    return scores.clone()  # lets go of the window's margins


def _join(parts: list[Scores], dim: int) -> Scores:
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], dict):
        return {name: torch.cat([p[name] for p in parts], dim) for name in parts[0]}  # type: ignore[index]
    return torch.cat(parts, dim)  # type: ignore[arg-type]


def blended_scores(compute: Callable[[Tensor], Scores], image: Tensor, network: Network, core: int) -> Scores:
    """Average the scores of tiles that overlap by half, the middle of a tile weighing most.

    This is not the whole picture's answer: it is for networks whose layers see the whole picture, where no tile is.

    Args:
        compute: Maps (1, h, w, C) as stored to scores.
        image: (1, H, W, C).
        network: The network, for its grid.
        core: Side of a tile in pixels, rounded up to the grid.
    """
    align = network.stride
    side = max(2 * align, network.min_size, -(-core // align) * align)
    spans = [_overlapping(n, side, align) for n in image.shape[1:3]]
    parts = [
        ((top, left), compute(image[:, top : top + side, left : left + side])) for top in spans[0] for left in spans[1]
    ]
    if isinstance(parts[0][1], dict):
        names = parts[0][1].keys()
        maps = [(at, cast("dict[str, Tensor]", s)) for at, s in parts]
        return {n: _average([(at, s[n]) for at, s in maps], network.score_stride) for n in names}
    return _average([(at, cast(Tensor, s)) for at, s in parts], network.score_stride)


def _overlapping(length: int, side: int, align: int) -> list[int]:
    """Return where tiles begin: every half side, and where the last one reaches the end."""
    if length <= side:
        return [0]
    step = max(align, side // 2 // align * align)
    last = -(-(length - side) // align) * align
    return [*range(0, last, step), last]


def _average(parts: list[tuple[tuple[int, int], Tensor]], stride: int) -> Tensor:
    """Add scores up at their places, weighted, and divide by the weights."""
    height = max(top // stride + s.shape[-2] for (top, _), s in parts)
    width = max(left // stride + s.shape[-1] for (_, left), s in parts)
    first = parts[0][1]
    total = first.new_zeros(*first.shape[:2], height, width)
    weights = first.new_zeros(height, width)
    for (top, left), scores in parts:
        h, w = scores.shape[-2:]
        weight = torch.outer(_hat(h), _hat(w)).to(scores)
        rows, columns = slice(top // stride, top // stride + h), slice(left // stride, left // stride + w)
        total[..., rows, columns] += scores * weight
        weights[rows, columns] += weight
    return total / weights


def _hat(n: int) -> Tensor:
    """Return weights that rise to the middle and fall again, (n,)."""
    up = torch.arange(1, n + 1, dtype=torch.float32)
    return torch.minimum(up, up.flip(0))
