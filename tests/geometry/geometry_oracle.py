"""What a network really reads, by planting a mark in the image and looking where it comes out."""

import math
from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn

from fullconv.geometry import Axis


def covered(axis: Axis, pixel: int, cells: int) -> list[int]:
    """Return the cells that may read a pixel, as the geometry says."""
    return [i for i in range(cells) if axis.jump * i + axis.rf_start <= pixel <= axis.jump * i + axis.rf_end]


@torch.no_grad()
def marked(module: nn.Module, height: int, row: int, width: int, column: int, level: int) -> Tensor:
    """Plant one NaN and return the cells, (h, w) bool, of one of the network's feature maps that become NaN."""
    image = torch.randn(1, 3, height, width) / 2
    image[:, :, row, column] = math.nan
    return module(image)[level].isnan()[0].any(0)


@torch.no_grad()
def reads(module: nn.Module, size: int, dim: int) -> Tensor:
    """Return whether output cell j reads input line i, (lines, cells) bool, along rows (2) or columns (3).

    The network must grow with every pixel (weights of one, no bias): then a raised line shows wherever it is read.
    """
    base = torch.randint(0, 9, (1, 1, size, size)).double()  # whole numbers: sums are exact
    raised = base.repeat(size + 1, 1, 1, 1)
    for i in range(size):
        raised[i].select(dim - 1, i).add_(1024)
    out = module(raised)
    changed = (out[:-1] - out[-1:]).abs() > 1e-6  # the weights of an interpolation are rounded
    return changed.any(1).any(4 - dim)


def inside(axis: Axis, cell: int, lines: int) -> bool:
    """Whether a cell's interval is so far from the border that no cropped line is missing from it."""
    return axis.jump * cell + axis.rf_start >= 6 and axis.jump * cell + axis.rf_end < lines - 6


def wrong(axis: Axis, read: Tensor, tight: bool) -> list[str]:
    """List where a geometry contradicts what was read; ``tight``: both ends of intervals well inside are read, too."""
    found, (lines, _) = [], read.shape
    for j in range(read.shape[1]):
        lo, hi = axis.jump * j + axis.rf_start, axis.jump * j + axis.rf_end
        here = [i for i in range(lines) if read[i, j]]
        if any(not lo <= i <= hi for i in here):
            found.append(f"cell {j} reads {here[0]} to {here[-1]}, not within {lo} to {hi}")
        if tight and inside(axis, j, lines) and [*here[:1], *here[-1:]] != [lo, hi]:
            found.append(f"cell {j} reads {here}, whose ends are not {lo} and {hi}")
    return found


@torch.no_grad()
def place(module: nn.Module, size: int, dim: int, cells: Sequence[int]) -> list[Fraction]:
    """Return where cells lie: a linear network's answer to a ramp over its answer to ones."""
    ones = torch.ones(1, 1, size, size, dtype=torch.float64)
    ramp = ones * torch.arange(size, dtype=torch.float64).reshape([-1, 1] if dim == 2 else [1, -1])
    centre = (module(ramp).sum(5 - dim) / module(ones).sum(5 - dim))[0, 0]
    return [Fraction(float(centre[i])).limit_denominator(1000) for i in cells]
