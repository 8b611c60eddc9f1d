"""Where the cells of a map lie in the picture, and which pixels they read: exact fractions, one axis at a time."""

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

    Cell ``i`` is centred at ``offset + scale * i`` and reads no pixel outside ``[scale * i + lo, scale * i + hi]``.
    Where a layer repeats its border cells (replicate padding), a cell whose interval leaves the map reads the nearest
    cells instead.

    >>> pixel = Axis.identity()
    >>> pixel.conv(3, padding=1).pool(2, 2)
    Axis(scale=Fraction(2, 1), offset=Fraction(1, 2), lo=Fraction(-1, 1), hi=Fraction(2, 1), spread=Fraction(0, 1))
    """

    scale: Fraction
    """Pixels from one cell to the next."""
    offset: Fraction
    """Centre of cell 0; the midpoint where branches disagree."""
    lo: Fraction
    """First pixel that cell 0 may read."""
    hi: Fraction
    """Last pixel that cell 0 may read."""
    spread: Fraction = ZERO
    """Largest minus smallest centre of the branches that met here; 0 where they agree."""

    @classmethod
    def identity(cls) -> Axis:
        """Return the axis of the picture itself: cell i is pixel i."""
        return cls(Fraction(1), ZERO, ZERO, ZERO)

    def field(self) -> int:
        """Return the receptive field in pixels: the most that any one cell reads."""
        return math.floor(self.hi - self.lo) + 1

    def conv(self, kernel: int, stride: int = 1, padding: int | tuple[int, int] = 0, dilation: int = 1) -> Axis:
        """Slide a window of ``kernel`` taps; ``padding`` is one number or (before, after)."""
        before = padding if isinstance(padding, int) else padding[0]
        reach = (kernel - 1) * dilation
        return Axis(
            self.scale * stride,
            self.offset + self.scale * (Fraction(reach, 2) - before),
            self.lo - self.scale * before,
            self.hi + self.scale * (reach - before),
            self.spread,
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
            self.scale / stride,
            self.offset + self.scale * (padding - Fraction(reach, 2)) / stride,
            self.lo + self.scale * Fraction(padding - reach, stride),
            self.hi + self.scale * Fraction(padding, stride),
            self.spread,
        )

    def upsample(self, factor: int, phase: Fraction | float) -> Axis:
        """Grow with the bilinear weights max(0, 1 - |t - phase| / factor): cell i goes to factor * i + phase."""
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
        move = self.scale * start
        return replace(self, offset=self.offset + move, lo=self.lo + move, hi=self.hi + move)

    def pad(self, before: int) -> Axis:
        """Put ``before`` cells in front."""
        return self.crop(-before)

    def mirror(self, before: int, after: int) -> Axis:
        """Put mirrored cells in front and behind: cell -n reads cell n, which is 2n cells away."""
        axis = self.pad(before)
        return replace(axis, lo=axis.lo - 2 * self.scale * after, hi=axis.hi + 2 * self.scale * before)

    def _resample(self, factor: Fraction, shift: Fraction, more_before: int, more_after: int) -> Axis:
        """Output j lies at cell u = j / factor + shift and reads the cells around it (itself where u is whole)."""
        places = [(Fraction(j) / factor + shift, Fraction(j) / factor) for j in range(factor.numerator)]
        lo = min(math.floor(u) - more_before - start for u, start in places)
        hi = max(math.ceil(u) + more_after - start for u, start in places)
        offset = self.offset + self.scale * shift
        return Axis(self.scale / factor, offset, self.lo + self.scale * lo, self.hi + self.scale * hi, self.spread)

    def _nearest(self, factor: Fraction, shift: Fraction, half: Fraction) -> Axis:
        """Output j reads the one cell floor((j + half) / factor)."""
        reads = [math.floor((j + half) / factor) - Fraction(j) / factor for j in range(factor.numerator)]
        offset = self.offset + self.scale * shift
        lo, hi = self.lo + self.scale * min(reads), self.hi + self.scale * max(reads)
        return Axis(self.scale / factor, offset, lo, hi, self.spread)


MODES = ("nearest", "nearest-exact", "bilinear", "bicubic")


@dataclass(frozen=True)
class Geometry:
    """Both axes of a map, and why it may see more than they say.

    A value without rows and columns (a gate, a vector of features) keeps the axes of the map that it was made of.
    """

    y: Axis
    x: Axis
    whole: tuple[str, ...] = ()
    """Layers that see the whole picture, as ``"blocks.0.0.se (SqueezeExcite: global average pooling)"``."""
    unknown: tuple[str, ...] = ()
    """Operations nobody described: they may read anything."""
    size_dependent: tuple[str, ...] = ()
    """Layers whose padding or factor depends on the picture's size."""
    spreads: tuple[tuple[str, Fraction], ...] = ()
    """Where branches with different centres met, and how far apart these are in pixels."""

    @property
    def bounded(self) -> bool:
        """Whether every cell reads only its interval, whatever the picture's size."""
        return not (self.whole or self.unknown or self.size_dependent)

    @property
    def stride(self) -> int:
        """Pixels from one cell to the next.

        Raises:
            NetworkError: The two axes differ, or the number is not whole.
        """
        if self.y.scale != self.x.scale or self.y.scale.denominator != 1:
            raise NetworkError(
                f"this map has a stride of {self.y.scale} pixels down and {self.x.scale} across;"
                " one whole number for both is needed"
            )
        return int(self.y.scale)

    @property
    def receptive_field(self) -> int | None:
        """The larger receptive field of the two axes in pixels; None where it has no bound."""
        return max(self.y.field(), self.x.field()) if self.bounded else None

    def each(self, change: Callable[[Axis], Axis]) -> Geometry:
        """Return this geometry with both axes changed alike."""
        return replace(self, y=change(self.y), x=change(self.x))

    def flagged(
        self, whole: Sequence[str] = (), unknown: Sequence[str] = (), size_dependent: Sequence[str] = ()
    ) -> Geometry:
        """Return this geometry with more names in its lists, none twice."""
        return replace(
            self,
            whole=union(self.whole, whole),
            unknown=union(self.unknown, unknown),
            size_dependent=union(self.size_dependent, size_dependent),
        )


IDENTITY = Geometry(Axis.identity(), Axis.identity())


def union(*groups: Sequence[str]) -> tuple[str, ...]:
    """Join names in order, each once."""
    return tuple(dict.fromkeys(name for group in groups for name in group))


def merge_axes(axes: Sequence[Axis], where: str) -> Axis:
    """Return the axis of a map that several branches make together.

    Raises:
        NetworkError: The branches have different strides.
    """
    scales = sorted({axis.scale for axis in axes})
    if len(scales) > 1:
        listed = " and ".join(str(scale) for scale in scales)
        raise NetworkError(
            f"{where}: branches with strides of {listed} pixels meet; their cells do not match one another"
        )
    first = min(axis.offset - axis.spread / 2 for axis in axes)
    last = max(axis.offset + axis.spread / 2 for axis in axes)
    lo, hi = min(axis.lo for axis in axes), max(axis.hi for axis in axes)
    return Axis(scales[0], (first + last) / 2, lo, hi, last - first)


def merge(where: str, y: Sequence[Geometry], x: Sequence[Geometry], rest: Sequence[Geometry] = ()) -> Geometry:
    """Join branches: ``y`` and ``x`` are those with such an axis; ``rest`` (gates) only bring their names along."""
    everyone = list(dict.fromkeys([*y, *x, *rest]))
    one, other = merge_axes([g.y for g in y], where), merge_axes([g.x for g in x], where)
    spreads = dict(item for geometry in everyone for item in geometry.spreads)
    grown = [axis.spread for axis, parts in ((one, [g.y for g in y]), (other, [g.x for g in x])) if _grew(axis, parts)]
    if grown:
        spreads[where] = max(grown)
    return Geometry(
        one,
        other,
        union(*(g.whole for g in everyone)),
        union(*(g.unknown for g in everyone)),
        union(*(g.size_dependent for g in everyone)),
        tuple(spreads.items()),
    )


def _grew(axis: Axis, parts: Sequence[Axis]) -> bool:
    return axis.spread > max(part.spread for part in parts)


def crop_between(reference: Axis, other: Axis) -> int:
    """Return the cell at which to begin ``other`` so that its cells lie on those of ``reference``.

    Raises:
        NetworkError: The strides differ, or no whole number of cells aligns the two.

    Source: Caffe's ``coord_map``; Long et al., CVPR 2015.

    >>> fine = Axis.identity()
    >>> crop_between(fine, fine.pad(19))
    19
    """
    if reference.scale != other.scale:
        raise NetworkError(
            f"a map of stride {other.scale} cannot be cropped to one of stride {reference.scale};"
            " the strides must be equal"
        )
    start = (reference.offset - other.offset) / reference.scale
    if start.denominator != 1:
        raise NetworkError(
            f"no crop aligns a map whose cell 0 lies at {other.offset} with one whose cell 0 lies at"
            f" {reference.offset}: they are {float(start):g} cells of {reference.scale} pixels apart, no whole number"
        )
    return int(start)


def halo(y: Axis, x: Axis, align: int) -> tuple[int, int, int, int]:
    """Return how many pixels a tile needs around its core: (left, top, right, bottom), multiples of ``align``.

    The core begins and ends on multiples of ``align`` pixels. With this halo all cells whose centre lies in the core
    (``start <= centre < end``), and one more cell on each side for the bilinear upsampling of the core's pixels, are
    those of the whole picture.

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
    for step in range((align / axis.scale).denominator):  # then cells and cores meet in the same way again
        edge = Fraction(step * align)
        cell = math.ceil((edge - axis.offset) / axis.scale)  # the first whose centre is not before the edge
        before = max(before, edge - (axis.scale * (cell - 1) + axis.lo))
        after = max(after, axis.scale * cell + axis.hi - (edge - 1))  # as an end: that cell is the one more
    return math.ceil(before / align) * align, math.ceil(after / align) * align
