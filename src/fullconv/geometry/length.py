"""Numbers that a network computes from the image's size, as formulas that hold for every size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from math import floor, lcm
from typing import Any

MAX_PERIOD = 4096
"""Pixels; formulas that need larger steps are given up."""


class NoFormulaError(Exception):
    """A number is no such formula, or a comparison has not one answer for all sizes."""


@dataclass
class Sizes:
    """The sides that images have: multiples of ``multiple`` pixels; windows within an image begin and end on ``period``."""

    multiple: int = 1
    period: int = 1
    """A multiple of ``multiple``; grows as formulas need it."""


@dataclass(frozen=True, eq=False)
class Length:
    """A number of cells or pixels: ``slope * side + rest`` for every side that is a multiple of the period.

    For other sides it is that plus something that repeats with the period: ``floor(side / 2)`` is ``side / 2``, less 1/2
    where the side is odd. Hence a window that touches the image's border has the whole's number less a fixed one.

    >>> side = Length.image("y", Sizes(multiple=32))
    >>> (side // 8 * 4 - side // 2).constant()
    0
    >>> side % 64 == 0
    Traceback (most recent call last):
    fullconv.geometry.length.NoFormulaError
    """

    slope: Fraction
    rest: Fraction
    exact: bool
    """Whether it is ``slope * side + rest`` for all sides of images."""
    role: str
    """Y or X: the side."""
    sizes: Sizes

    @classmethod
    def image(cls, role: str, sizes: Sizes) -> Length:
        """Return the side itself."""
        return cls(Fraction(1), Fraction(0), True, role, sizes)

    def constant(self) -> Any:
        """Return the number where it is the same for all images, else None."""
        if self.slope or not self.exact:
            return None
        return int(self.rest) if self.rest.denominator == 1 else float(self.rest)

    def __add__(self, other: Any) -> Length:
        if not isinstance(other, Length):
            return replace(self, rest=self.rest + _number(other))
        if self.role != other.role:
            raise NoFormulaError
        exact = self.exact and other.exact
        return replace(self, slope=self.slope + other.slope, rest=self.rest + other.rest, exact=exact)

    __radd__ = __add__

    def __neg__(self) -> Length:
        return replace(self, slope=-self.slope, rest=-self.rest)

    def __pos__(self) -> Length:
        return self

    def __sub__(self, other: Any) -> Length:
        return self.__add__(-other)

    def __rsub__(self, other: Any) -> Length:
        return (-self).__add__(other)

    def __mul__(self, other: Any) -> Length:
        factor = _number(other)
        return replace(self, slope=self.slope * factor, rest=self.rest * factor)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Length:
        return self.__mul__(1 / _number(other, positive=True))

    def __floordiv__(self, other: Any) -> Length:
        divided: Length = self / other
        slope, sizes = divided.slope, self.sizes
        period = lcm(sizes.period, slope.denominator)
        if period > MAX_PERIOD:
            raise NoFormulaError
        sizes.period = period
        exact = self.exact and (slope * sizes.multiple).denominator == 1
        return replace(divided, rest=Fraction(floor(divided.rest)), exact=exact)

    def __mod__(self, other: Any) -> Length:
        whole: Length = self // other * other
        return self.__sub__(whole)

    def __floor__(self) -> Length:
        return self // 1

    def __ceil__(self) -> Length:
        return -(-self // 1)

    def __round__(self, digits: int | None = None) -> Length:
        whole = self.exact and (self.slope * self.sizes.multiple).denominator == 1
        if digits is not None or not whole or self.rest.denominator == 2:  # halves go to the even neighbour
            raise NoFormulaError
        return (self + Fraction(1, 2)) // 1

    def __lt__(self, other: Any) -> bool:
        apart = self.__sub__(other)
        least = apart.slope * self.sizes.multiple + apart.rest  # of the smallest image
        if apart.exact and (apart.slope == 0 or (apart.slope > 0) == (least >= 0)):
            return least < 0
        raise NoFormulaError

    def __gt__(self, other: Any) -> bool:
        return (-self).__lt__(-other)

    def __le__(self, other: Any) -> bool:
        return not self.__gt__(other)

    def __ge__(self, other: Any) -> bool:
        return not self.__lt__(other)

    def __eq__(self, other: object) -> bool:
        apart = self.__sub__(other)
        if not apart.exact:
            raise NoFormulaError
        if apart.slope == 0:
            return apart.rest == 0
        side = -apart.rest / apart.slope
        if side > 0 and side % self.sizes.multiple == 0:
            raise NoFormulaError
        return False

    __hash__ = None  # type: ignore[assignment]


def _number(value: Any, positive: bool = False) -> Fraction:
    """Return a plain number as a fraction."""
    if isinstance(value, Length):
        value = value.constant()
    if not isinstance(value, (int, float, Fraction)) or value != value or (positive and value <= 0):
        raise NoFormulaError
    found = Fraction(value)
    if found.denominator > MAX_PERIOD:
        raise NoFormulaError
    return found


def ratio(numerator: Length, denominator: Length) -> Fraction | None:
    """Return the quotient of two lengths where it is the same for all images, else None."""
    same = (
        numerator.role == denominator.role and numerator.slope * denominator.rest == denominator.slope * numerator.rest
    )
    if not (same and numerator.exact and denominator.exact and denominator.slope):
        return None
    return numerator.slope / denominator.slope
