"""Plans of tiles that give exactly the whole picture's scores.

A score cell depends on a bounded window of the picture (`fullconv.geometry`). A tile whose window holds all that its
cells read, and that starts on the network's grid, computes the very same numbers; where the window meets a border of
the picture it ends there too, so that every layer pads as it does for the whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fullconv.errors import NetworkError
from fullconv.geometry import Axis
from fullconv.nn import Network


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
    rows, columns = (plan_axis(axis, n, p, core, align, network.minimum_size) for axis, n, p in sizes)
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
