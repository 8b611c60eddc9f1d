"""Numbers of a split: class frequencies, channel means, value range, sizes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fullconv.data.label_mapping import MaskCoding
from fullconv.data.scan.stats import MaskFacts, PictureFacts
from fullconv.errors import DataError
from fullconv.labels import VOID


@dataclass(frozen=True)
class Statistics:
    """Numbers of one split of a data set, K classes and C channels."""

    pixels: NDArray[np.int64]
    """(K,) pixels of each class."""
    pictures: NDArray[np.int64]
    """(K,) pictures in which each class occurs."""
    area: NDArray[np.int64]
    """(K,) valid pixels of the pictures in which each class occurs."""
    void: int
    """Pixels that are void."""
    mean: tuple[float, ...]
    """(C,) in units of `range`."""
    std: tuple[float, ...]
    """(C,) in units of `range`."""
    range: tuple[float, float]
    """Picture values that become 0 and 1."""
    sizes: list[tuple[int, int]]
    """Height and width of every picture."""
    channels: int
    dtype: str
    """"uint8", "uint16" or "float32"."""

    @property
    def fill(self) -> tuple[float, ...]:
        """The mean colour in the pictures' own numbers."""
        low, high = self.range
        return tuple(low + value * (high - low) for value in self.mean)


def class_counts(facts: MaskFacts, coding: MaskCoding) -> tuple[NDArray[np.int64], int, list[int]]:
    """Count a mask's pixels by class.

    Returns:
        (K,) pixels a class; void pixels; numbers or colours that mean nothing.
    """
    classes = np.zeros(len(coding.labels.classes), dtype=np.int64)
    void = 0
    unknown: list[int] = []
    for value, count in facts.counts.items():
        meaning = meaning_of(value, facts, coding)
        if meaning is None:
            unknown.append(value)
        elif meaning == VOID:
            void += count
        else:
            classes[meaning] += count
    return classes, void, unknown


def meaning_of(value: int, facts: MaskFacts, coding: MaskCoding) -> int | None:
    """Return the class index (or VOID) of a number or colour that a mask holds, as `MaskCoding.decode` would."""
    if coding.by_color and not facts.in_color:
        color = facts.palette.get(value, value << 16 | value << 8 | value)
        return coding.color_meaning(color)
    if not facts.in_color:
        return coding.meaning(value)
    if coding.colors:
        return coding.color_meaning(value)
    return coding.meaning(value & 255) if all_grey(facts) else None


def all_grey(facts: MaskFacts) -> bool:
    """Whether a mask in colour has equal channels everywhere, so that it holds numbers."""
    return all(color >> 16 == color & 255 == (color >> 8) & 255 for color in facts.counts)


def common_kind(kinds: Iterable[tuple[int, str]]) -> tuple[int, str] | None:
    """Return the (channels, dtype) that all pictures can be read as, or None; 8-bit grey goes with 8-bit RGB."""
    different = set(kinds)
    if different == {(1, "uint8"), (3, "uint8")}:
        return 3, "uint8"
    return next(iter(different)) if len(different) == 1 else None


@dataclass
class _Sums:
    """What is added up over pictures of one kind."""

    count: int = 0
    total: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))
    squares: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))
    low: NDArray[np.float64] = field(default_factory=lambda: np.full(1, np.inf))
    high: NDArray[np.float64] = field(default_factory=lambda: np.full(1, -np.inf))

    def add(
        self, count: int, total: Sequence[float], squares: Sequence[float], low: Sequence[float], high: Sequence[float]
    ) -> None:
        """Add the (C,) sums of `count` pixels."""
        self.count += count
        self.total = self.total + total
        self.squares = self.squares + squares
        self.low = np.minimum(self.low, low)
        self.high = np.maximum(self.high, high)


def gather(
    pictures: Iterable[PictureFacts],
    masks: Iterable[MaskFacts],
    coding: MaskCoding,
    bands: Sequence[int] | None,
    where: str,
) -> Statistics:
    """Add up the facts of a split; files with errors count nothing.

    Raises:
        DataError: No picture can be read, or they differ in channels or type.
    """
    sums: dict[tuple[int, str], _Sums] = {}
    sizes = []
    for facts in pictures:
        if not facts.error:
            sizes.append(facts.size)
            kind = sums.setdefault((facts.channels, facts.dtype), _Sums())
            kind.add(
                facts.size[0] * facts.size[1] - facts.strange // facts.channels,
                facts.total,
                facts.squares,
                facts.low,
                facts.high,
            )
    if not sizes:
        raise DataError(f"{where}: no picture can be read. Run: fullconv check")
    common = common_kind(sums)
    if common is None:
        said = ", ".join(f"{channels} channels of {dtype}" for channels, dtype in sorted(sums))
        raise DataError(f"{where}: pictures differ in kind: {said}. Convert them to one.")
    channels, dtype = common
    merged = _Sums()
    for kind in sums.values():
        merged.add(kind.count, kind.total.tolist(), kind.squares.tolist(), kind.low.tolist(), kind.high.tolist())
    chosen = [band - 1 for band in bands] if bands else list(range(channels))
    if max(chosen) >= channels:
        raise DataError(f"{where}: pictures have {channels} bands, data.toml asks for band {max(chosen) + 1}.")
    low, high = value_range(merged.low[chosen], merged.high[chosen], dtype, where)
    mean = merged.total[chosen] / merged.count
    spread = np.sqrt(np.maximum(merged.squares[chosen] / merged.count - mean**2, 0)) / (high - low)
    # A constant channel says nothing, and must not be divided by 0; beside depth in millimetres, colours vary little.
    own = (merged.high[chosen] - merged.low[chosen]) / (high - low)
    least = 1e-3 * np.where(own > 0, np.minimum(own, 1), 1)
    pixels, seen, area, void = _count_classes(masks, coding)
    return Statistics(
        pixels=pixels,
        pictures=seen,
        area=area,
        void=void,
        mean=tuple(((mean - low) / (high - low)).tolist()),
        std=tuple(np.maximum(spread, least).tolist()),
        range=(low, high),
        sizes=sizes,
        channels=len(chosen),
        dtype=dtype,
    )


def _count_classes(
    masks: Iterable[MaskFacts], coding: MaskCoding
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], int]:
    pixels, pictures, area = (np.zeros(len(coding.labels.classes), dtype=np.int64) for _ in range(3))
    void = 0
    for facts in masks:
        if not facts.error:
            counts, empty, _ = class_counts(facts, coding)
            pixels += counts
            pictures += counts > 0
            area += np.where(counts > 0, counts.sum(), 0)
            void += empty
    return pixels, pictures, area, void


def value_range(low: NDArray[np.float64], high: NDArray[np.float64], dtype: str, where: str) -> tuple[float, float]:
    """Return the values that become 0 and 1: 0 and 255 for uint8, else the smallest and largest of the whole split.

    Raises:
        DataError: There is only one value.
    """
    if dtype == "uint8":
        return 0.0, 255.0
    if not float(low.min()) < float(high.max()):
        raise DataError(f"{where}: every pixel of every picture is {low.min():g}, so there is nothing to learn from.")
    return float(low.min()), float(high.max())
