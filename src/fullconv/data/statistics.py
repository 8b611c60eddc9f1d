"""Statistics of a split: class frequencies, channel means, value range, sizes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fullconv.data.label_mapping import LabelMapping, is_grey_color
from fullconv.data.scan.stats import ImageStats, MaskStats
from fullconv.errors import DataError
from fullconv.labels import VOID


@dataclass(frozen=True)
class Statistics:
    """Of one split of a data set with K classes and C channels."""

    pixels: NDArray[np.int64]
    """(K,) pixels of each class."""
    pictures: NDArray[np.int64]
    """(K,) images in which each class occurs."""
    area: NDArray[np.int64]
    """(K,) valid pixels of the images in which each class occurs."""
    void: int
    """Void pixels."""
    mean: tuple[float, ...]
    """(C,) in units of `range`."""
    std: tuple[float, ...]
    """(C,) in units of `range`."""
    range: tuple[float, float]
    """Image values that become 0 and 1."""
    sizes: list[tuple[int, int]]
    """Height and width of every image."""
    channels: int
    dtype: str
    """"uint8", "uint16" or "float32"."""

    @property
    def fill(self) -> tuple[float, ...]:
        """(C,) mean colour in the images' own values."""
        low, high = self.range
        return tuple(low + value * (high - low) for value in self.mean)


def class_counts(stats: MaskStats, mapping: LabelMapping) -> tuple[NDArray[np.int64], int, list[int]]:
    """Return a mask's pixels by class (K,), its void pixels, and its labels or colours without a meaning."""
    classes = np.zeros(len(mapping.labels.classes), dtype=np.int64)
    void = 0
    unknown: list[int] = []
    for value, count in stats.counts.items():
        index = class_of_value(value, stats, mapping)
        if index is None:
            unknown.append(value)
        elif index == VOID:
            void += count
        else:
            classes[index] += count
    return classes, void, unknown


def class_of_value(value: int, stats: MaskStats, mapping: LabelMapping) -> int | None:
    """Return the class index (or VOID) of a label or colour that a mask holds, as `LabelMapping.decode` would."""
    if mapping.by_color and not stats.in_color:
        return mapping.colors.get(stats.palette.get(value, value << 16 | value << 8 | value))
    if not stats.in_color:
        return mapping.class_of(value)
    if mapping.colors:
        return mapping.colors.get(value)
    return mapping.class_of(value & 255) if holds_labels(stats) else None


def holds_labels(stats: MaskStats) -> bool:
    """Whether a mask holds labels: it is not in colour, or has equal channels everywhere."""
    return not stats.in_color or all(map(is_grey_color, stats.counts))


def common_kind(kinds: Iterable[tuple[int, str]]) -> tuple[int, str] | None:
    """Return the (channels, dtype) as which all images can be read, or None; 8-bit grey goes with 8-bit RGB."""
    different = set(kinds)
    if different == {(1, "uint8"), (3, "uint8")}:
        return 3, "uint8"
    return next(iter(different)) if len(different) == 1 else None


@dataclass
class _ChannelSums:
    """Sums over images of one kind, each (C,)."""

    count: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))
    total: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))
    squares: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))
    low: NDArray[np.float64] = field(default_factory=lambda: np.full(1, np.inf))
    high: NDArray[np.float64] = field(default_factory=lambda: np.full(1, -np.inf))

    def add(self, count: NDArray[np.int64], sums: ImageStats | _ChannelSums) -> None:
        """Add the sums of `count` values with data, by channel."""
        self.count = self.count + count
        self.total = self.total + sums.total
        self.squares = self.squares + sums.squares
        self.low = np.minimum(self.low, sums.low)
        self.high = np.maximum(self.high, sums.high)


def gather_statistics(
    images: Iterable[ImageStats],
    masks: Iterable[tuple[NDArray[np.int64], int]],
    classes: int,
    where: str,
) -> Statistics:
    """Add up a split's stats of images, without those that have errors, and each mask's pixels by class and void pixels."""
    sums: dict[tuple[int, str], _ChannelSums] = {}
    sizes = []
    for stats in images:
        if stats.code == "missing-band":
            raise DataError(stats.error)
        if not stats.error:
            sizes.append(stats.size)
            sums.setdefault((stats.channels, stats.dtype), _ChannelSums()).add(np.array(stats.valid), stats)
    if not sizes:
        raise DataError(f"{where}: no image can be read. Run: fullconv check")
    common = common_kind(sums)
    if common is None:
        kinds = ", ".join(f"{channels} channels of {dtype}" for channels, dtype in sorted(sums))
        raise DataError(f"{where}: images differ in kind: {kinds}. Convert them to one.")
    channels, dtype = common
    merged = _ChannelSums()
    for kind in sums.values():
        merged.add(kind.count, kind)
    if not merged.count.all():
        raise DataError(f"{where}: no image has data. Check the nodata value of the files.")
    low, high = value_range(merged.low, merged.high, dtype, where)
    mean = merged.total / merged.count
    spread = np.sqrt(np.maximum(merged.squares / merged.count - mean**2, 0)) / (high - low)
    # A constant channel must not be divided by 0; beside depth in millimetres, colours vary little.
    own = (merged.high - merged.low) / (high - low)
    least = 1e-3 * np.where(own > 0, np.minimum(own, 1), 1)
    class_pixels, class_images, area = (np.zeros(classes, dtype=np.int64) for _ in range(3))
    void = 0
    for counts, empty in masks:
        class_pixels += counts
        class_images += counts > 0
        area += np.where(counts > 0, counts.sum(), 0)
        void += empty
    return Statistics(
        pixels=class_pixels,
        pictures=class_images,
        area=area,
        void=void,
        mean=tuple(((mean - low) / (high - low)).tolist()),
        std=tuple(np.maximum(spread, least).tolist()),
        range=(low, high),
        sizes=sizes,
        channels=channels,
        dtype=dtype,
    )


def value_range(low: NDArray[np.float64], high: NDArray[np.float64], dtype: str, where: str) -> tuple[float, float]:
    """Return the values that become 0 and 1: 0 and 255 for uint8, else the smallest and largest of the whole split."""
    if dtype == "uint8":
        return 0.0, 255.0
    if not float(low.min()) < float(high.max()):
        raise DataError(f"{where}: every pixel of every image is {low.min():g}. Check the export.")

    return float(low.min()), float(high.max())
