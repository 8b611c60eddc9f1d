"""Bilinear upsampling of scores by an integer factor at any real phase, for the whole map or for some of its rows.

Transposed convolution with the weights ``max(0, 1 - |t - phase| / factor)`` is linear interpolation between the two
nearest cells. The fixed case is computed as interpolation: the same numbers, several times faster, and the same bits for
every chunk of rows. The learned case is a transposed convolution that starts from these weights.
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullconv.errors import InputError
from fullconv.geometry import Geometry

Border = Literal["replicate", "zero"]
"""What lies beyond the first and last cell: copies of them, or zeros (as a transposed convolution pads)."""


def bilinear_kernel(factor: int, phase: Fraction | float) -> Tensor:
    """Return the 1-D weights of the transposed convolution, (2 * factor,) float64, summing to ``factor``.

    Args:
        factor: Output cells per input cell.
        phase: Position of the center of input cell 0 among the output cells; its whole part only shifts the crop.

    Source: Long et al., CVPR 2015, section 3.3; the Caffe release's surgery for phase (factor - 1) / 2.

    >>> bilinear_kernel(2, 0.5).tolist()
    [0.25, 0.75, 0.75, 0.25]
    """
    lead = math.ceil(phase) - float(phase)  # of the first output cell at or right of the center
    rising = (torch.arange(factor, dtype=torch.float64) + lead) / factor
    return torch.cat([rising, 1 - rising])


def check_rows(rows: tuple[int, int] | None, size: tuple[int, int]) -> None:
    """Raise InputError unless rows (a, b) lie in a result of (H, W)."""
    if rows is not None and not 0 <= rows[0] <= rows[1] <= size[0]:
        raise InputError(f"rows {rows[0]} to {rows[1]} are not among the {size[0]} of the result.")


def upsample1d(
    x: Tensor, dim: int, factor: int, phase: Fraction | float, start: int, stop: int, border: Border = "replicate"
) -> Tensor:
    """Interpolate the cells of one axis linearly at output positions ``start <= j < stop``.

    Args:
        x: Any shape.
        dim: The axis, counted from the end (negative), of n cells.
        factor: Output cells per input cell.
        phase: Output position of the center of input cell 0.
        start: First output position.
        stop: One past the last.
        border: What lies beyond the first and last cell.

    Returns:
        ``x`` with ``stop - start`` cells along ``dim``.
    """
    first = math.ceil(phase)
    low, high = (start - first) // factor, (stop - 1 - first) // factor  # the left one of each output's two cells
    cells = _gather_padded(x, dim, low, high + 1, border)
    weight = (torch.arange(factor, dtype=torch.float64) + (first - float(phase))) / factor
    weight = weight.to(device=x.device, dtype=x.dtype).reshape(-1, *([1] * (-1 - dim)))
    left = cells.narrow(dim, 0, high - low + 1).unsqueeze(dim)
    right = cells.narrow(dim, 1, high - low + 1).unsqueeze(dim)
    # (..., cells, factor, ...): unsqueeze at a negative dim puts the new axis behind the cells
    fine = torch.lerp(left, right, weight).flatten(dim - 1, dim)
    return fine.narrow(dim, start - first - factor * low, stop - start)


def _gather_padded(x: Tensor, dim: int, low: int, high: int, border: Border) -> Tensor:
    """Return cells ``low..high`` of an axis, both included, some of which may lie outside."""
    n = x.shape[dim]
    if low >= 0 and high < n:
        return x.narrow(dim, low, high - low + 1)
    index = torch.arange(low, high + 1, device=x.device)
    cells = x.index_select(dim, index.clamp(0, n - 1))
    if border == "zero":
        inside = ((index >= 0) & (index < n)).to(x.dtype)
        cells = cells * inside.reshape(-1, *([1] * (-1 - dim)))
    return cells


def half_pixel_coords(start: int, stop: int, cells: int, full: int, device: torch.device) -> Tensor:
    """Return where pixels ``start`` to ``stop`` of ``full`` lie among cells that share their extent, (stop - start,) float64."""
    pixel = torch.arange(start, stop, dtype=torch.float64, device=device)
    return ((pixel + 0.5) * cells / full - 0.5).clamp(min=0)


def interp1d(x: Tensor, dim: int, positions: Tensor, border: Border = "replicate") -> Tensor:
    """Interpolate the cells of one axis linearly at any real positions.

    Args:
        x: Any shape.
        dim: The axis, counted from the end (negative), of n cells.
        positions: (m,) float64, in cells.
        border: What lies beyond the first and last cell.

    Returns:
        ``x`` with m cells along ``dim``.
    """
    left = positions.floor()
    return _lerp(_cells_around(x, dim, left, border), dim, positions, left)


def interp2d(x: Tensor, rows: Tensor, columns: Tensor, border: Border = "replicate") -> Tensor:
    """Interpolate cells bilinearly at rows and columns, columns first: the full-size map is written once, row by row.

    Args:
        x: (..., h, w).
        rows: (H,) float64, in cells.
        columns: (W,) float64, in cells.
        border: What lies beyond the first and last cell.

    Returns:
        (..., H, W). A row has the same bits whatever others are requested.
    """
    above = rows.floor()
    wide = interp1d(_cells_around(x, -2, above, border), -1, columns, border)
    return _lerp(wide, -2, rows, above)


def _cells_around(x: Tensor, dim: int, left: Tensor, border: Border) -> Tensor:
    """Return the cells of an axis from the first of ``left`` to the one after the last."""
    return _gather_padded(x, dim, int(left.min()), int(left.max()) + 1, border) if x.shape[dim] else x


def _lerp(cells: Tensor, dim: int, positions: Tensor, left: Tensor) -> Tensor:
    """Interpolate between the cells of `_cells_around`."""
    weight = (positions - left).to(cells.dtype).reshape(-1, *([1] * (-1 - dim)))
    index = (left - left.min()).long()
    return torch.lerp(cells.index_select(dim, index), cells.index_select(dim, index + 1), weight)


def interpolation_matrix(
    size: int, cells: int, factor: int, phase: Fraction | float, border: Border, like: Tensor
) -> Tensor:
    """Return the (size, cells) matrix by which `upsample1d` multiplies, with dtype and device of ``like``."""
    unit = torch.eye(cells, dtype=torch.float64)
    return upsample1d(unit, -2, factor, phase, 0, size, border).to(like)


class Upsample(nn.Module):
    """Upsample a coarse map onto the grid of a finer one by a fixed factor and phase.

    Args:
        channels: Channels of the map.
        factor: Fine cells per coarse cell.
        phase: Fine position of the center of coarse cell 0, from `fullconv.geometry`.
        learned: Train the weights, one kernel per channel, starting from bilinear.
        border: What lies beyond the map.

    Source: Long et al., CVPR 2015, sections 3.3 and 4.2 ("fixed" and "learned" upsampling).
    """

    def __init__(
        self, channels: int, factor: int, phase: Fraction, learned: bool = False, border: Border = "replicate"
    ) -> None:
        super().__init__()
        self.factor, self.phase, self.border = factor, phase, border
        kernel = bilinear_kernel(factor, phase)
        plane = torch.outer(kernel, kernel).to(torch.get_default_dtype())
        self.weight = nn.Parameter(plane.expand(channels, 1, -1, -1).clone()) if learned else None

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Upsample (N, K, h, w) to the size of ``fine`` (N, C, H, W); returns (N, K, H, W)."""
        return self.to_size(coarse, fine.shape[-2], fine.shape[-1])

    def to_size(self, coarse: Tensor, height: int, width: int) -> Tensor:
        """Upsample (N, K, h, w) to (N, K, height, width)."""
        if self.weight is not None:
            first = math.ceil(self.phase)
            for dim, size in ((-2, height), (-1, width)):
                low, high = (0 - first) // self.factor, (size - 1 - first) // self.factor
                coarse = _gather_padded(coarse, dim, low, high + 1, self.border)
            fine = F.conv_transpose2d(coarse, self.weight, stride=self.factor, groups=coarse.shape[1])
            # Output index 0 of the transposed convolution lies `factor` before the first padded cell's right half.
            crop = self.factor + (-first) % self.factor
            return fine[..., crop : crop + height, crop : crop + width]
        if torch.is_grad_enabled() and coarse.requires_grad:
            # The same sums as two matrix products: their gradients are products too, not scattered additions.
            rows = interpolation_matrix(height, coarse.shape[-2], self.factor, self.phase, self.border, coarse)
            columns = interpolation_matrix(width, coarse.shape[-1], self.factor, self.phase, self.border, coarse)
            return rows @ (coarse @ columns.T)
        wide = upsample1d(coarse, -1, self.factor, self.phase, 0, width, self.border)
        return upsample1d(wide, -2, self.factor, self.phase, 0, height, self.border)

    def trace_geometry(self, coarse: Geometry, fine: Geometry) -> Geometry:
        """Return the geometry of the output; the fine map only lends its size."""
        return replace(
            coarse, y=coarse.y.upsample(self.factor, self.phase), x=coarse.x.upsample(self.factor, self.phase)
        )

    def extra_repr(self) -> str:
        """Show factor and phase."""
        return f"factor={self.factor}, phase={float(self.phase):g}, learned={self.weight is not None}"
