"""Operations of a network, a few rows at a time: which rows they read, and how they compute some of their own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fullconv.nn.upsample import Upsample

NEVER = 2**62
"""A row that no map has."""


@dataclass
class RowBuffer:
    """Some rows of a map: those that are known and still needed."""

    dim: int
    """The dimension of rows."""
    total: int
    """RowBuffer of the whole map."""
    start: int = 0
    """Place of the first row that is kept."""
    stop: int = 0
    """Place behind the last row that is known."""
    kept: Tensor | None = None
    width: int = 0
    """Columns, once rows are known."""

    def take(self, first: int, last: int) -> Tensor:
        """Return rows ``first`` to ``last``, the last left out."""
        assert self.kept is not None
        assert self.start <= first < last <= self.stop
        return self.kept.narrow(self.dim, first - self.start, last - first)

    def append(self, new: Tensor) -> None:
        """Keep rows that lie directly above ``stop``."""
        self.width = new.shape[-1]
        self.kept = new if self.kept is None else torch.cat([self.kept, new], self.dim)

    def drop(self, first: int) -> None:
        """Let go of the rows before a place."""
        first = min(first, self.stop)
        if first > self.start and self.kept is not None:
            left = self.kept.narrow(self.dim, first - self.start, self.stop - first)
            self.kept = left.clone() if first < self.stop else None  # a view would hold all of the map
        self.start = max(first, self.start)


class RowOp(ABC):
    """One operation of a network."""

    scratch = 0
    """Bytes that it works in, a value of its result."""

    @abstractmethod
    def total(self, totals: Sequence[int]) -> int:
        """Return its rows for inputs of some rows."""

    @abstractmethod
    def reads(self, row: int, place: int) -> tuple[int, int]:
        """Return first and last row of an input, by its place, that a row reads; some may lie beyond the borders."""

    @abstractmethod
    def compute(self, first: int, last: int, maps: Sequence[RowBuffer]) -> Tensor:
        """Compute rows ``first`` to ``last``, the last left out.

        Args:
            first: A row.
            last: A later one.
            maps: The inputs.
        """

    def ready(self, maps: Sequence[RowBuffer], total: int) -> int:
        """Return how many rows, from the top, the known rows of the inputs are enough for."""
        count = total if all(rows.stop for rows in maps) else 0
        for place, rows in enumerate(maps):
            if rows.stop < rows.total:
                known = rows.stop
                count = min(count, bisect_left(range(total), known, key=lambda row: self.reads(row, place)[1]))
        return count

    def window(self, first: int, last: int, rows: RowBuffer, place: int = 0) -> tuple[Tensor, int, int]:
        """Return the rows of an input that some rows read, and how many of them lie beyond its top and its bottom."""
        low, high = self.reads(first, place)[0], self.reads(last - 1, place)[1] + 1
        inside = max(0, low), min(rows.total, high)
        return rows.take(*inside), max(0, -low), max(0, high - rows.total)


@dataclass
class Pointwise(RowOp):
    """An operation that computes each row from the same row of its inputs."""

    call: Callable[[Sequence[Tensor]], Tensor]

    def total(self, totals: Sequence[int]) -> int:
        """Return its rows."""
        return totals[0]

    def reads(self, row: int, place: int) -> tuple[int, int]:
        """Return what a row reads."""
        return row, row

    def compute(self, first: int, last: int, maps: Sequence[RowBuffer]) -> Tensor:
        """Compute rows."""
        return self.call([rows.take(first, last) for rows in maps])


@dataclass
class SlidingOp(RowOp):
    """A window that slides over rows and columns: a convolution or a pool."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    """(before, after) of rows and of columns."""
    dilation: tuple[int, int]
    slide: Callable[[Tensor, tuple[int, int]], Tensor]
    """(input, padding of rows and columns) -> output."""
    fill: float = 0.0
    """What lies beyond the borders."""
    ceil: bool = False
    scratch: int = 0

    @property
    def reach(self) -> int:
        """RowBuffer from the first to the last that a window reads."""
        return (self.kernel[0] - 1) * self.dilation[0]

    def total(self, totals: Sequence[int]) -> int:
        """Return its rows."""
        before, after = self.padding[0]
        stride, free = self.stride[0], totals[0] + before + after - self.reach - 1
        if not self.ceil:
            return free // stride + 1
        count = -(-free // stride) + 1
        return count - 1 if (count - 1) * stride >= totals[0] + before else count  # no window begins in the padding

    def reads(self, row: int, place: int) -> tuple[int, int]:
        """Return what a row reads."""
        low = row * self.stride[0] - self.padding[0][0]
        return low, low + self.reach

    def compute(self, first: int, last: int, maps: Sequence[RowBuffer]) -> Tensor:
        """Compute rows."""
        x, above, below = self.window(first, last, maps[0])
        (before, after), (left, right) = self.padding
        beside = left if left == right else 0
        columns = (0, 0) if left == right else (left, right)
        if (above or below) and before == after and left == right and (above or before % self.stride[0] == 0):
            # The layer's own padding saves a copy of all rows; it also gives a few rows that are not whole yet.
            return self.slide(x, (before, beside)).narrow(
                -2, first if above else before // self.stride[0], last - first
            )
        if above or below or any(columns):
            x = F.pad(x, (*columns, above, below), value=self.fill)
        return self.slide(x, (0, beside))


@dataclass
class AvgPool(SlidingOp):
    """An average pool, which may count its padding or not."""

    count_padding: bool = True
    divisor: int | None = None

    def compute(self, first: int, last: int, maps: Sequence[RowBuffer]) -> Tensor:
        """Compute rows."""
        x, above, below = self.window(first, last, maps[0])
        width = self.padding[1][0]
        options = (self.kernel, self.stride, (0, width), self.ceil)
        if not above and not below:
            return F.avg_pool2d(x, *options, self.count_padding, self.divisor)
        total = F.avg_pool2d(F.pad(x, (0, 0, above, below)), *options, True, self.divisor or 1)
        if self.divisor is not None:
            return total
        high, wide = self._counts(first, last, maps[0].total), self._columns(x)
        return total / torch.outer(high, wide).to(total)

    def _counts(self, first: int, last: int, rows: int) -> Tensor:
        """Return how many rows count in each window."""
        before, after = self.padding[0] if self.count_padding else (0, 0)
        spans = [self.reads(row, 0) for row in range(first, last)]
        counts = [min(high + 1, rows + after) - max(low, -before) for low, high in spans]
        return torch.tensor(counts, dtype=torch.float64)

    def _columns(self, x: Tensor) -> Tensor:
        """Return how many columns count in each window, asking PyTorch."""
        line = x.new_ones(1, 1, 1, x.shape[-1], dtype=torch.float64, device="cpu")
        kernel, stride, pad = (1, self.kernel[1]), (1, self.stride[1]), (0, self.padding[1][0])
        total = F.avg_pool2d(line, kernel, stride, pad, self.ceil, True, 1)
        mean = F.avg_pool2d(line, kernel, stride, pad, self.ceil, self.count_padding)
        return (total / mean).reshape(-1)


@dataclass
class BilinearUp(RowOp):
    """Our upsampling by a fixed factor and phase: the second input lends its size only."""

    layer: Upsample

    def total(self, totals: Sequence[int]) -> int:
        """Return its rows."""
        return totals[1]

    def reads(self, row: int, place: int) -> tuple[int, int]:
        """Return what a row reads."""
        if place == 1:
            return NEVER, -1  # its width is asked, its rows are not
        low = (row - -(-self.layer.phase.numerator // self.layer.phase.denominator)) // self.layer.factor
        return low, low + 1

    def compute(self, first: int, last: int, maps: Sequence[RowBuffer]) -> Tensor:
        """Compute rows."""
        coarse, _, _ = self.window(first, last, maps[0])
        shift = max(0, self.reads(first, 0)[0]) * self.layer.factor
        return self.layer.to_size(coarse, last - shift, maps[1].width).narrow(-2, first - shift, last - first)


@dataclass
class Transposed(RowOp):
    """A transposed convolution."""

    kernel: int
    stride: int
    padding: int
    dilation: int
    more: int
    """RowBuffer of output padding."""
    slide: Callable[[Tensor], Tensor]
    """Input -> output, its rows not cut."""

    def total(self, totals: Sequence[int]) -> int:
        """Return its rows."""
        return (totals[0] - 1) * self.stride - 2 * self.padding + self.dilation * (self.kernel - 1) + self.more + 1

    def reads(self, row: int, place: int) -> tuple[int, int]:
        """Return what a row reads."""
        at = row + self.padding
        return -(-(at - self.dilation * (self.kernel - 1)) // self.stride), at // self.stride

    def compute(self, first: int, last: int, maps: Sequence[RowBuffer]) -> Tensor:
        """Compute rows."""
        low = max(0, self.reads(first, 0)[0])
        high = max(low, min(maps[0].total - 1, self.reads(last - 1, 0)[1]))
        start = first + self.padding - low * self.stride
        return self.slide(maps[0].take(low, high + 1)).narrow(-2, start, last - first)


@dataclass
class Resize(RowOp):
    """Interpolation by a whole factor, by half-pixel centres or to the nearest cell."""

    factor: tuple[int, int]
    mode: str

    def total(self, totals: Sequence[int]) -> int:
        """Return its rows."""
        return totals[0] * self.factor[0]

    def reads(self, row: int, place: int) -> tuple[int, int]:
        """Return what a row reads."""
        if self.mode != "bilinear":
            return row // self.factor[0], row // self.factor[0]
        low = (2 * row + 1 - self.factor[0]) // (2 * self.factor[0])
        return low, low + 1

    def compute(self, first: int, last: int, maps: Sequence[RowBuffer]) -> Tensor:
        """Compute rows."""
        x, _, _ = self.window(first, last, maps[0])
        shift = max(0, self.reads(first, 0)[0]) * self.factor[0]
        scale = [float(factor) for factor in self.factor]
        grown = F.interpolate(x, scale_factor=scale, mode=self.mode)
        return grown.narrow(-2, first - shift, last - first)


@dataclass
class CropOp(RowOp):
    """The release's crop: a map begins at an offset, and has the size that a coarser one grows to."""

    offset: int

    def total(self, totals: Sequence[int]) -> int:
        """Return its rows."""
        return min(2 * totals[1] + 2, totals[0] - self.offset)

    def reads(self, row: int, place: int) -> tuple[int, int]:
        """Return what a row reads."""
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
        """Return what a row reads."""
        return row - self.rows[0], row - self.rows[0]

    def compute(self, first: int, last: int, maps: Sequence[RowBuffer]) -> Tensor:
        """Compute rows."""
        x, above, below = self.window(first, last, maps[0])
        return F.pad(x, (*self.columns, above, below), value=self.value)
