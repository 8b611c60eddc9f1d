"""Where the cells of a map lie in the image, and which pixels they read: exact fractions, one axis at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from fullconv.errors import NetworkError

ZERO = Fraction(0)
HALF = Fraction(1, 2)


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a map, in pixels of the network's input.

    Cell ``i`` is centred at ``offset + jump * i`` and reads no pixel outside ``[jump * i + rf_start, jump * i + rf_end]``.
    Where a layer repeats its border cells (replicate padding), a cell whose interval leaves the map reads the nearest
    cells instead.

    >>> pixel = Axis.identity()
    >>> pixel.conv(3, padding=1).pool(2, 2)
    Axis(jump=Fraction(2, 1), offset=Fraction(1, 2), rf_start=Fraction(-1, 1), rf_end=Fraction(2, 1), misalignment=Fraction(0, 1))
    """

    jump: Fraction
    """Pixels from one cell to the next."""
    offset: Fraction
    """Center of cell 0 in pixels, which is the phase of an upsampling to them; the midpoint where branches disagree."""
    rf_start: Fraction
    """First pixel that cell 0 may read."""
    rf_end: Fraction
    """Last pixel that cell 0 may read."""
    misalignment: Fraction = ZERO
    """Largest minus smallest centre of the branches that met here; 0 where they agree."""

    @classmethod
    def identity(cls) -> Axis:
        """Return the axis of the image itself: cell i is pixel i."""
        return cls(Fraction(1), ZERO, ZERO, ZERO)

    def receptive_field(self) -> int:
        """Return the receptive field in pixels: the most that a cell reads."""
        return math.floor(self.rf_end - self.rf_start) + 1

    def conv(self, kernel: int, stride: int = 1, padding: int | tuple[int, int] = 0, dilation: int = 1) -> Axis:
        """Slide a window of ``kernel`` taps; ``padding`` is one number or (before, after)."""
        before = padding if isinstance(padding, int) else padding[0]
        reach = (kernel - 1) * dilation
        return Axis(
            self.jump * stride,
            self.offset + self.jump * (Fraction(reach, 2) - before),
            self.rf_start - self.jump * before,
            self.rf_end + self.jump * (reach - before),
            self.misalignment,
        )

    def pool(
        self, kernel: int, stride: int | None = None, padding: int | tuple[int, int] = 0, dilation: int = 1
    ) -> Axis:
        """Pool; as in PyTorch the stride is the kernel's size unless given. Rounding up changes nothing here."""
        return self.conv(kernel, kernel if stride is None else stride, padding, dilation)

    def transposed(self, kernel: int, stride: int, padding: int = 0, dilation: int = 1) -> Axis:
        """Slide a transposed window: output j reads cells ceil((j + p - reach) / f) to floor((j + p) / f)."""
        reach = (kernel - 1) * dilation
        return Axis(
            self.jump / stride,
            self.offset + self.jump * (padding - Fraction(reach, 2)) / stride,
            self.rf_start + self.jump * Fraction(padding - reach, stride),
            self.rf_end + self.jump * Fraction(padding, stride),
            self.misalignment,
        )

    def upsample(self, factor: int, phase: Fraction | float) -> Axis:
        """Upsample with the bilinear weights max(0, 1 - |t - phase| / factor): cell i goes to factor * i + phase."""
        return self._resample(Fraction(factor), -Fraction(phase) / factor, 0, 0)

    def resize(self, factor: Fraction, mode: str) -> Axis:
        """Resize as ``torch.nn.functional.interpolate`` does, by half-pixel centres; ``mode`` is one of ``MODES``."""
        centred = 1 / factor / 2 - HALF
        if mode in {"nearest", "nearest-exact"}:
            return self._nearest(factor, centred, HALF if mode == "nearest-exact" else ZERO)
        more = 1 if mode == "bicubic" else 0
        return self._resample(factor, centred, more, more)

    def crop(self, start: int | Fraction) -> Axis:
        """Begin at cell ``start``."""
        move = self.jump * start
        return replace(self, offset=self.offset + move, rf_start=self.rf_start + move, rf_end=self.rf_end + move)

    def pad(self, before: int) -> Axis:
        """Put ``before`` cells in front."""
        return self.crop(-before)

    def mirror(self, before: int, after: int) -> Axis:
        """Put mirrored cells in front and behind: cell -n reads cell n, which is 2n cells away."""
        axis = self.pad(before)
        return replace(
            axis, rf_start=axis.rf_start - 2 * self.jump * after, rf_end=axis.rf_end + 2 * self.jump * before
        )

    def _resample(self, factor: Fraction, shift: Fraction, more_before: int, more_after: int) -> Axis:
        """Output j lies at cell u = j / factor + shift and reads the cells around it (itself where u is whole)."""
        places = [(Fraction(j) / factor + shift, Fraction(j) / factor) for j in range(factor.numerator)]
        rf_start = min(math.floor(u) - more_before - start for u, start in places)
        rf_end = max(math.ceil(u) + more_after - start for u, start in places)
        offset = self.offset + self.jump * shift
        return Axis(
            self.jump / factor,
            offset,
            self.rf_start + self.jump * rf_start,
            self.rf_end + self.jump * rf_end,
            self.misalignment,
        )

    def _nearest(self, factor: Fraction, shift: Fraction, half: Fraction) -> Axis:
        """Output j reads the one cell floor((j + half) / factor)."""
        reads = [math.floor((j + half) / factor) - Fraction(j) / factor for j in range(factor.numerator)]
        offset = self.offset + self.jump * shift
        rf_start, rf_end = self.rf_start + self.jump * min(reads), self.rf_end + self.jump * max(reads)
        return Axis(self.jump / factor, offset, rf_start, rf_end, self.misalignment)


MODES = ("nearest", "nearest-exact", "bilinear", "bicubic")


@dataclass(frozen=True)
class Geometry:
    """Both axes of a map, and what may see more than they state.

    A value without rows and columns (a gate, a vector of features) keeps the axes of the map that it was computed from.
    """

    y: Axis
    x: Axis
    global_ops: tuple[str, ...] = ()
    """Layers that see the whole image, as ``"blocks.0.0.se (SqueezeExcite: global average pooling)"``."""
    unknown_ops: tuple[str, ...] = ()
    """Operations without a geometry rule: they may read anything."""
    size_dependent: tuple[str, ...] = ()
    """Layers whose padding or factor depends on the image's size."""
    misalignments: tuple[tuple[str, Fraction], ...] = ()
    """Where branches with different centres met, and how far apart these are in pixels."""

    @property
    def bounded(self) -> bool:
        """Whether every cell reads only its interval, whatever the image's size."""
        return not (self.global_ops or self.unknown_ops or self.size_dependent)

    @property
    def stride(self) -> int:
        """Pixels from one cell to the next.

        Raises:
            NetworkError: The two axes differ, or the number is not whole.
        """
        if self.y.jump != self.x.jump or self.y.jump.denominator != 1:
            raise NetworkError(
                f"this map has a stride of {self.y.jump} pixels down and {self.x.jump} across;"
                " one whole number for both is needed"
            )
        return int(self.y.jump)

    @property
    def receptive_field(self) -> int | None:
        """The larger receptive field of the two axes in pixels; None where it has no bound."""
        return max(self.y.receptive_field(), self.x.receptive_field()) if self.bounded else None

    def each(self, change: Callable[[Axis], Axis]) -> Geometry:
        """Return this geometry with both axes changed alike."""
        return replace(self, y=change(self.y), x=change(self.x))

    def flagged(
        self, global_ops: Sequence[str] = (), unknown_ops: Sequence[str] = (), size_dependent: Sequence[str] = ()
    ) -> Geometry:
        """Return this geometry with more names in its lists, none twice."""
        return replace(
            self,
            global_ops=union(self.global_ops, global_ops),
            unknown_ops=union(self.unknown_ops, unknown_ops),
            size_dependent=union(self.size_dependent, size_dependent),
        )


IDENTITY = Geometry(Axis.identity(), Axis.identity())


def union(*groups: Sequence[str]) -> tuple[str, ...]:
    """Join names in order, each once."""
    return tuple(dict.fromkeys(name for group in groups for name in group))


def merge_axes(axes: Sequence[Axis], location: str) -> Axis:
    """Return the axis of a map that is computed from several branches.

    Raises:
        NetworkError: The branches have different strides.
    """
    scales = sorted({axis.jump for axis in axes})
    if len(scales) > 1:
        listed = " and ".join(str(jump) for jump in scales)
        raise NetworkError(
            f"{location}: branches with strides of {listed} pixels meet; their cells do not match one another"
        )
    first = min(axis.offset - axis.misalignment / 2 for axis in axes)
    last = max(axis.offset + axis.misalignment / 2 for axis in axes)
    rf_start, rf_end = min(axis.rf_start for axis in axes), max(axis.rf_end for axis in axes)
    return Axis(scales[0], (first + last) / 2, rf_start, rf_end, last - first)


def merge(location: str, y: Sequence[Geometry], x: Sequence[Geometry], rest: Sequence[Geometry] = ()) -> Geometry:
    """Join branches: ``y`` and ``x`` are those with such an axis; ``rest`` (gates) only add their names."""
    branches = list(dict.fromkeys([*y, *x, *rest]))
    parts = [g.y for g in y], [g.x for g in x]
    axes = merge_axes(parts[0], location), merge_axes(parts[1], location)
    misalignments = dict(item for geometry in branches for item in geometry.misalignments)
    more = [
        axis.misalignment
        for axis, part in zip(axes, parts, strict=True)
        if axis.misalignment > max(one.misalignment for one in part)
    ]
    if more:
        misalignments[location] = max(more)
    return Geometry(
        *axes,
        union(*(g.global_ops for g in branches)),
        union(*(g.unknown_ops for g in branches)),
        union(*(g.size_dependent for g in branches)),
        tuple(misalignments.items()),
    )


def crop_between(reference: Axis, other: Axis) -> int:
    """Return the cell at which to begin ``other`` so that its cells lie on those of ``reference``.

    Raises:
        NetworkError: The strides differ, or no whole number of cells aligns the two.

    Source: Caffe's ``coord_map``; Long et al., CVPR 2015.

    >>> fine = Axis.identity()
    >>> crop_between(fine, fine.pad(19))
    19
    """
    if reference.jump != other.jump:
        raise NetworkError(
            f"a map of stride {other.jump} cannot be cropped to one of stride {reference.jump};"
            " the strides must be equal"
        )
    start = (reference.offset - other.offset) / reference.jump
    if start.denominator != 1:
        raise NetworkError(
            f"no crop aligns a map whose cell 0 lies at {other.offset} with one whose cell 0 lies at"
            f" {reference.offset}: they are {float(start):g} cells of {reference.jump} pixels apart, not a whole number"
        )
    return int(start)


def halo(y: Axis, x: Axis, align: int) -> tuple[int, int, int, int]:
    """Return how many pixels a tile needs around its core: (left, top, right, bottom), multiples of ``align``.

    This is the figure for any core; `fullconv.tiling.plan.plan_axis` computes each tile's window from the cells that it
    holds, which may need less. The core begins and ends on multiples of ``align`` pixels. With this halo all cells whose
    center lies in the core (``start <= center < end``), and one more cell on each side for the bilinear upsampling of the
    core's pixels, are those of the whole image.

    Args:
        y: Rows of the score map.
        x: Columns of the score map.
        align: Pixels; a multiple of every stride in the network.

    >>> halo(Axis.identity().conv(3, padding=1), Axis.identity(), align=4)
    (4, 4, 4, 4)
    """
    (left, right), (top, bottom) = _margins(x, align), _margins(y, align)
    return left, top, right, bottom


def _margins(axis: Axis, align: int) -> tuple[int, int]:
    """Return the margins before and after a core, the largest over all places where it can begin or end."""
    before = after = ZERO
    for step in range((align / axis.jump).denominator):  # then cells and cores meet in the same way again
        edge = Fraction(step * align)
        cell = math.ceil((edge - axis.offset) / axis.jump)  # the first whose centre is not before the edge
        before = max(before, edge - (axis.jump * (cell - 1) + axis.rf_start))
        after = max(after, axis.jump * cell + axis.rf_end - (edge - 1))  # as an end: that cell is the one more
    return math.ceil(before / align) * align, math.ceil(after / align) * align
