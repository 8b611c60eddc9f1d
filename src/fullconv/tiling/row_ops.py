"""Operations of a network, a few rows at a time: which rows they read, and how they compute some of their own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fullconv.geometry import WindowSpec, map_aggregate
from fullconv.nn.upsample import Upsample

NEVER = 2**62
"""A row that no map has."""


@dataclass
class RowBuffer:
    """Some rows of a map: those that are known and still required."""

    dim: int
    """The dimension of rows."""
    total: int
    """Rows of the whole map."""
    start: int = 0
    """First row that is kept."""
    stop: int = 0
    """Row behind the last that is known."""
    kept: Tensor | None = None
    width: int = 0
    """Columns, once rows are known."""

    def take(self, first: int, last: int) -> Tensor:
        """Return rows ``first`` to ``last``, without the last."""
        assert self.kept is not None
        assert self.start <= first < last <= self.stop
        return self.kept.narrow(self.dim, first - self.start, last - first)

    def append(self, new: Tensor) -> None:
        """Keep rows that lie directly above ``stop``."""
        self.width = new.shape[-1]
        self.kept = new if self.kept is None else torch.cat([self.kept, new], self.dim)

    def drop(self, first: int) -> None:
        """Release the rows before ``first``."""
        first = min(first, self.stop)
        if first > self.start and self.kept is not None:
            left = self.kept.narrow(self.dim, first - self.start, self.stop - first)
            self.kept = left.clone() if first < self.stop else None  # a view would hold all of the map
        self.start = max(first, self.start)


class RowOp(ABC):
    """One operation of a network; by default row i of the output reads row i of each input."""

    scratch = 0
    """Bytes that it works in, for a value of its output."""

    def total(self, totals: Sequence[int]) -> int:
        """Return its rows, for inputs of some rows."""
        return totals[0]

    def reads(self, row: int, place: int) -> tuple[int, int]:
        """Return first and last row that a row reads of an input, by its place; some may lie beyond the borders."""
        return row, row

    @abstractmethod
    def compute(self, first: int, last: int, maps: Sequence[RowBuffer]) -> Tensor:
        """Compute rows ``first`` to ``last``, without the last, of the inputs' rows."""

    def available(self, maps: Sequence[RowBuffer], total: int) -> int:
        """Return how many rows, from the top, the known rows of the inputs suffice for."""
        count = total if all(rows.stop for rows in maps) else 0
        for place, rows in enumerate(maps):
            if rows.stop < rows.total:
                known = rows.stop
                count = min(count, bisect_left(range(total), known, key=lambda row: self.reads(row, place)[1]))
        return count

    def window(self, first: int, last: int, rows: RowBuffer) -> tuple[Tensor, int, int]:
        """Return the rows of the first input that some rows read, and how many lie beyond its top and its bottom."""
        low, high = self.reads(first, 0)[0], self.reads(last - 1, 0)[1] + 1
        return rows.take(max(0, low), min(rows.total, high)), max(0, -low), max(0, high - rows.total)


@dataclass(frozen=True)
class Slot:
    """Stands for an input among the arguments of `Pointwise`."""

    place: int


@dataclass
class Pointwise(RowOp):
    """An operation that computes each row from the same row of its inputs."""

    function: Callable[..., Tensor]
    args: tuple[Any, ...]
    """Arguments, with a `Slot` for each input."""
    kwargs: Mapping[str, Any]

    def compute(self, first: int, last: int, maps: Sequence[RowBuffer]) -> Tensor:
        """Compute rows."""
        args, kwargs = map_aggregate(
            (self.args, dict(self.kwargs)),
            lambda leaf: maps[leaf.place].take(first, last) if isinstance(leaf, Slot) else leaf,
        )
        return self.function(*args, **kwargs)


@dataclass
class SlidingOp(RowOp):
    """A window that slides over rows and columns."""

    spec: WindowSpec
    options: Mapping[str, Any]
    """Further arguments of the function, by name."""
    fill = 0.0
    """Value of the padding."""

    def total(self, totals: Sequence[int]) -> int:
        """Return its rows."""
        return self.spec.output_size(0, totals[0])

    def reads(self, row: int, place: int) -> tuple[int, int]:
        """Return the rows of the window."""
        return self.spec.reads(0, row)

    @abstractmethod
    def slide(self, x: Tensor, padding: tuple[int, int]) -> Tensor:
        """Apply the function, with its own padding of rows and of columns."""

    def compute(self, first: int, last: int, maps: Sequence[RowBuffer]) -> Tensor:
        """Compute rows."""
        x, above, below = self.window(first, last, maps[0])
        ((before, after), (left, right)), stride = self.spec.padding, self.spec.stride[0]
        beside = left if left == right else 0
        columns = (0, 0) if left == right else (left, right)
        if (above or below) and before == after and left == right and (above or before % stride == 0):
            # The function's own padding saves a copy of all rows; it also gives a few rows that are not whole yet.
            return self.slide(x, (before, beside)).narrow(-2, first if above else before // stride, last - first)
        if above or below or any(columns):
            x = F.pad(x, (*columns, above, below), value=self.fill)
        return self.slide(x, (0, beside))


class Conv(SlidingOp):
    """A convolution."""

    def slide(self, x: Tensor, padding: tuple[int, int]) -> Tensor:
        """Apply ``F.conv2d``."""
        spec, weight, bias = self.spec, self.options["weight"], self.options.get("bias")
        return F.conv2d(x, weight, bias, spec.stride, padding, spec.dilation, self.options.get("groups", 1))


class MaxPool(SlidingOp):
    """A max pool."""

    fill = -torch.inf
    scratch = 8  # PyTorch also computes where each maximum lies, as int64

    def slide(self, x: Tensor, padding: tuple[int, int]) -> Tensor:
        """Apply ``F.max_pool2d``."""
        spec = self.spec
        return F.max_pool2d(x, spec.kernel, spec.stride, padding, spec.dilation, spec.ceil)


class AvgPool(SlidingOp):
    """An average pool, which may count its padding or not."""

    def slide(self, x: Tensor, padding: tuple[int, int]) -> Tensor:
        """Apply ``F.avg_pool2d``."""
        count_padding, divisor = self.options.get("count_include_pad", True), self.options.get("divisor_override")
        return F.avg_pool2d(x, self.spec.kernel, self.spec.stride, padding, self.spec.ceil, count_padding, divisor)

    def compute(self, first: int, last: int, maps: Sequence[RowBuffer]) -> Tensor:
        """Compute rows."""
        x, above, below = self.window(first, last, maps[0])
        spec, divisor, width = self.spec, self.options.get("divisor_override"), self.spec.padding[1][0]
        if not above and not below:
            return self.slide(x, (0, width))
        padded = F.pad(x, (0, 0, above, below))
        total = F.avg_pool2d(padded, spec.kernel, spec.stride, (0, width), spec.ceil, True, divisor or 1)
        if divisor is not None:
            return total
        # how many rows and how many columns count in each window; the latter asked of PyTorch
        counts_padding = self.options.get("count_include_pad", True)
        before, after = spec.padding[0] if counts_padding else (0, 0)
        reads = [spec.reads(0, row) for row in range(first, last)]
        high = [min(end + 1, maps[0].total + after) - max(start, -before) for start, end in reads]
        line = x.new_ones(1, 1, 1, x.shape[-1], dtype=torch.float64, device="cpu")
        options = (1, spec.kernel[1]), (1, spec.stride[1]), (0, width), spec.ceil
        wide = F.avg_pool2d(line, *options, True, 1) / F.avg_pool2d(line, *options, counts_padding)
        return total / torch.outer(torch.tensor(high, dtype=torch.float64), wide.reshape(-1)).to(total)


class TransposedConv(SlidingOp):
    """A transposed convolution."""

    def slide(self, x: Tensor, padding: tuple[int, int]) -> Tensor:
        """Apply ``F.conv_transpose2d``."""
        spec, weight, bias = self.spec, self.options["weight"], self.options.get("bias")
        groups = self.options.get("groups", 1)
        return F.conv_transpose2d(x, weight, bias, spec.stride, padding, spec.output_padding, groups, spec.dilation)

    def compute(self, first: int, last: int, maps: Sequence[RowBuffer]) -> Tensor:
        """Compute rows."""
        low = max(0, self.reads(first, 0)[0])
        high = max(low, min(maps[0].total - 1, self.reads(last - 1, 0)[1]))
        start = first + self.spec.padding[0][0] - low * self.spec.stride[0]
        grown = self.slide(maps[0].take(low, high + 1), (0, self.spec.padding[1][0]))  # its rows are not cut
        return grown.narrow(-2, start, last - first)


@dataclass
class BilinearUp(RowOp):
    """Our upsampling by a fixed factor and phase: only the size of the second input is used."""

    layer: Upsample

    def total(self, totals: Sequence[int]) -> int:
        """Return its rows."""
        return totals[1]

    def reads(self, row: int, place: int) -> tuple[int, int]:
        """Return the two rows that a row lies between."""
        if place == 1:
            return NEVER, -1
        low = (row - -(-self.layer.phase.numerator // self.layer.phase.denominator)) // self.layer.factor
        return low, low + 1

    def compute(self, first: int, last: int, maps: Sequence[RowBuffer]) -> Tensor:
        """Compute rows."""
        coarse, _, _ = self.window(first, last, maps[0])
        shift = max(0, self.reads(first, 0)[0]) * self.layer.factor
        return self.layer.to_size(coarse, last - shift, maps[1].width).narrow(-2, first - shift, last - first)


@dataclass
class Resize(RowOp):
    """Interpolation by a whole factor, by half-pixel centres or to the nearest cell."""

    factor: tuple[int, int]
    mode: str

    def total(self, totals: Sequence[int]) -> int:
        """Return its rows."""
        return totals[0] * self.factor[0]

    def reads(self, row: int, place: int) -> tuple[int, int]:
        """Return the rows that a row lies between."""
        if self.mode != "bilinear":
            return row // self.factor[0], row // self.factor[0]
        low = (2 * row + 1 - self.factor[0]) // (2 * self.factor[0])
        return low, low + 1

    def compute(self, first: int, last: int, maps: Sequence[RowBuffer]) -> Tensor:
        """Compute rows."""
        x, _, _ = self.window(first, last, maps[0])
        shift = max(0, self.reads(first, 0)[0]) * self.factor[0]
        scale = [float(factor) for factor in self.factor]
        return F.interpolate(x, scale_factor=scale, mode=self.mode).narrow(-2, first - shift, last - first)


@dataclass
class CropOp(RowOp):
    """The Caffe release's crop: a map begins at an offset, and has the size that a coarser one is upsampled to."""

    offset: int

    def total(self, totals: Sequence[int]) -> int:
        """Return its rows."""
        return min(2 * totals[1] + 2, totals[0] - self.offset)

    def reads(self, row: int, place: int) -> tuple[int, int]:
        """Return the row below by the offset."""
        return (NEVER, -1) if place == 1 else (row + self.offset, row + self.offset)

    def compute(self, first: int, last: int, maps: Sequence[RowBuffer]) -> Tensor:
        """Compute rows."""
        x, _, _ = self.window(first, last, maps[0])
        return x[..., self.offset : self.offset + 2 * maps[1].width + 2]


@dataclass
class Pad(RowOp):
    """Constant padding."""

    columns: tuple[int, int]
    rows: tuple[int, int]
    value: float

    def total(self, totals: Sequence[int]) -> int:
        """Return its rows."""
        return totals[0] + sum(self.rows)

    def reads(self, row: int, place: int) -> tuple[int, int]:
        """Return the row above by the padding."""
        return row - self.rows[0], row - self.rows[0]

    def compute(self, first: int, last: int, maps: Sequence[RowBuffer]) -> Tensor:
        """Compute rows."""
        x, above, below = self.window(first, last, maps[0])
        return F.pad(x, (*self.columns, above, below), value=self.value)
