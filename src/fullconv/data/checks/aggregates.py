"""What one scan of a data set records: file by file a `Record`, over all of them `Aggregates`; checks read both."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fullconv.data.dataset import Dataset
from fullconv.data.formats import BoundsCheck, DrawnMask
from fullconv.data.label_diagnosis import LabelHistogram, is_blurred, known_values, void_labels
from fullconv.data.label_mapping import LabelMapping
from fullconv.data.problems import MAX_FILES, display_path
from fullconv.data.samples import JPEG_FORMATS, MaskFile, Sample
from fullconv.data.scan.stats import ImageStats, MaskStats, decode_thumbnail
from fullconv.data.statistics import class_counts, class_of_value, holds_labels
from fullconv.images import apply_orientation
from fullconv.labels import VOID

MAX_PAIRS = 256
"""Pairs of a split whose masks and images are compared with each other; time grows with the square."""

FEW_VALUES = 64
"""Images with fewer different values look like masks."""

_MAX_GREYS = 64  # labels of a mask whose greys are compared with other masks'

DUPLICATE_SIDE = 16
"""Cells along each side of what is kept of every image to find near-duplicates."""

_BLOCK = 16  # masks that are compared with all images at once
_MIN_SECOND_SHARE = 0.02  # of the cells that the second largest label must have, so that there is something to compare
_MIN_CONTRAST = 2  # grey levels


@dataclass(frozen=True, eq=False)
class Thumbnails:
    """An image and its mask in 32x32 cells."""

    sample: Sample
    image: NDArray[np.float32]
    """(SIDE, SIDE, 3), each channel with mean 0, all together with variance 1."""
    mask: NDArray[np.uint8]
    """(SIDE, SIDE) labels."""
    classes: NDArray[np.uint8] | None = None
    """(256,) class of each label of `mask`; None where it is unclear."""

    @cached_property
    def score_by_orientation(self) -> dict[int, float]:
        """Share of the image's variance that the mask explains, by the EXIF orientation 1 to 8 given to the image."""
        cells = _oriented_cells(len(self.mask))
        turned = self.image.reshape(-1, 3).take(cells, axis=0).reshape(len(cells), -1)  # a quarter of [cells]'s time
        return dict(zip(range(1, 9), explained_variance([self.mask], turned)[0].tolist(), strict=True))


def make_thumbnails(sample: Sample, image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> Thumbnails | None:
    """Prepare (SIDE, SIDE, 3) colours and (SIDE, SIDE) labels to be compared; None where one of them is too plain."""
    counts = np.sort(np.bincount(mask.ravel()))[::-1]
    if len(counts) < 2 or counts[1] < _MIN_SECOND_SHARE * mask.size:
        return None
    colors = image.astype(np.float32)
    cells = colors.reshape(-1, 3)
    cells -= np.full(len(cells), 1 / len(cells), np.float32) @ cells  # a tenth of the time of mean
    spread = float(np.sqrt(np.vdot(colors, colors) / mask.size))
    return None if spread < _MIN_CONTRAST else Thumbnails(sample, colors / spread, mask)


def explained_variance(masks: Sequence[NDArray[np.uint8]], images: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return (M, N), 0 to 1: which share of each image's variance the labels of each mask explain.

    Masks are M of (SIDE, SIDE) labels; images (SIDE * SIDE, 3 N), a row per cell, three columns per image of variance 1.
    """
    return np.concatenate([_explained(masks[i : i + _BLOCK], images) for i in range(0, len(masks), _BLOCK)])


def _explained(masks: Sequence[NDArray[np.uint8]], images: NDArray[np.float32]) -> NDArray[np.float64]:
    counts = [np.bincount(mask.ravel()) for mask in masks]
    labels = [np.flatnonzero(count) for count in counts]
    regions = np.concatenate([mask.ravel() == present[:, None] for mask, present in zip(masks, labels, strict=True)])
    sizes = np.concatenate([count[present] for count, present in zip(counts, labels, strict=True)])
    sums = (regions.astype(np.float32) @ images).reshape(len(sizes), -1, 3).astype(np.float64)
    between = np.einsum("lnk,lnk->ln", sums, sums) / sizes[:, None]
    first = np.cumsum([0, *map(len, labels)])[:-1]
    return np.asarray(np.add.reduceat(between, first, axis=0) / masks[0].size)


@cache
def _oriented_cells(side: int) -> NDArray[np.intp]:
    """Return (side * side, 8): which cell of an image lies at each place after EXIF orientation 1 to 8."""
    cells = np.arange(side * side).reshape(side, side, 1)
    return np.stack([apply_orientation(cells, orientation).ravel() for orientation in range(1, 9)], axis=1)


@dataclass(eq=False)
class Record:
    """One sample with what the scan found in its files."""

    dataset: Dataset
    head: str
    split: str
    sample: Sample
    image: ImageStats
    mask: MaskStats

    @property
    def mapping(self) -> LabelMapping:
        """What the head's masks mean."""
        return self.dataset.mappings[self.head]

    @property
    def report_path(self) -> str:
        """The file that problems with the mask name, for display."""
        return display_path(self.sample.report_path(self.head), self.dataset.root)

    @property
    def is_copy_of_image(self) -> bool:
        """Whether the mask is its image, byte by byte."""
        return self.mask.digest == self.image.digest and isinstance(self.sample.masks[self.head], MaskFile)

    @cached_property
    def image_cells(self) -> NDArray[np.uint8]:
        """The image's thumbnail, (SIDE, SIDE, 3)."""
        return decode_thumbnail(self.image.thumbnail)

    @cached_property
    def thumbnails(self) -> Thumbnails | None:
        """Image and mask as thumbnails; None where one is missing or too plain to be compared."""
        if not (self.image.thumbnail and self.mask.thumbnail):
            return None
        return make_thumbnails(self.sample, self.image_cells, decode_thumbnail(self.mask.thumbnail))

    @cached_property
    def ignores_exif(self) -> bool:
        """Whether the mask was drawn on the image without its EXIF orientation, by the sizes."""
        height, width = self.image.size
        return self.image.orientation in (5, 6, 7, 8) and height != width and self.mask.size == (width, height)

    @cached_property
    def counts(self) -> tuple[NDArray[np.int64], int, list[int]]:
        """(K,) pixels by class, void pixels, and the values without a meaning."""
        return class_counts(self.mask, self.mapping)

    @cached_property
    def has_clean_values(self) -> bool:
        """Whether the mask's values can be judged one by one; those of the rest have a cause that is reported for all."""
        mask, mapping = self.mask, self.mapping
        if mask.error or self.is_copy_of_image:
            return False
        if mapping.threshold is not None:
            return holds_labels(mask)
        if mask.format in JPEG_FORMATS:
            return False
        if holds_labels(mask):
            return not is_blurred(mask, void_labels(mapping.labels), known_values(mapping))
        return bool(mapping.colors) and not is_blurred(mask, frozenset(), known_values(mapping))


class Aggregates:
    """What the scan of one head's masks, with the images, records over the whole data set."""

    def __init__(self, dataset: Dataset, head: str = "") -> None:
        self.dataset, self.head = dataset, head
        self.is_first = head == dataset.heads[0]
        self.mapping = dataset.mappings[head]
        self.names = self.mapping.labels.classes
        self.settings = dataset.settings.of_head(head)
        inferred = dataset.histograms.get(head)
        self._counts_labels = inferred is None and self.mapping.threshold is None
        self.histogram = inferred or LabelHistogram(void_labels(self.mapping.labels), known_values(self.mapping))
        self.class_pixels = {split: np.zeros(len(self.names), np.int64) for split in dataset.splits}
        self.class_images = np.zeros(len(self.names), np.int64)
        self.void_pixels = 0
        self.void: dict[str, list[str]] = defaultdict(list)
        """Masks that are void everywhere, by split."""
        self.unknown: dict[str, dict[str, str]] = {"unknown-label": {}, "unknown-color": {}}
        """Masks with values that have no meaning, with their stems, by code."""
        self.unknown_values: dict[str, set[int]] = {"unknown-label": set(), "unknown-color": set()}
        self.digests: dict[str, list[str]] = defaultdict(list)
        """Mask files of two classes or more, by content."""
        self.holders: dict[int, list[str]] = defaultdict(list)
        """The first masks of val and test by class."""
        self.jpegs: list[Sample] = []
        """Masks that are JPEGs, whatever their names."""
        self.below_threshold: list[Sample] = []
        """Masks of 0 and 1, all below the threshold of data.toml."""
        self.photos = 0
        """Masks with more colours than any mask has."""
        self.palettes: dict[tuple[tuple[int, int], ...], list[Sample]] = defaultdict(list)
        """Masks by their palette of (label, colour 0xrrggbb) pairs; without palettes of greys."""
        self.greys: dict[tuple[tuple[int, int], ...], list[Sample]] = defaultdict(list)
        """Masks by (label, grey) pairs: of their palette of greys, or the labels themselves where they have none."""
        self.shapes = BoundsCheck()
        self.drawn: Counter[int] = Counter()
        """Pixels by class that shapes draw."""
        self.hidden: dict[int, Counter[int]] = defaultdict(Counter)
        """Those of them that larger shapes drawn later hide, by class and the class that hides it."""
        self.hidden_in: dict[int, list[str]] = defaultdict(list)
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.kinds: dict[tuple[int, str], list[Sample]] = defaultdict(list)
        """Images by channels and dtype."""
        self.plain: list[str] = []
        """Images of one colour."""
        self.train_dtypes: set[str] = set()
        self.train_low, self.train_high = float("inf"), float("-inf")
        self.max_unique = 0
        self.images: dict[str, list[Sample]] = defaultdict(list)
        self.duplicate_keys: dict[str, list[int]] = defaultdict(list)
        """Hash of each image's decoded content, by split."""
        self.duplicate_cells: dict[str, list[bytes]] = defaultdict(list)
        """Each image as DUPLICATE_SIDE x DUPLICATE_SIDE grey cells, by split."""
        self.pairs: dict[str, list[Thumbnails]] = defaultdict(list)
        """The first aligned pairs that can be compared, by split."""
        self.oriented: dict[int, list[Thumbnails]] = defaultdict(list)
        """Pairs whose sizes do not tell whether the mask follows the image's EXIF orientation, by that orientation."""
        self._seen: Counter[str] = Counter()

    def add(self, record: Record) -> None:
        """Record one sample."""
        if self.is_first and not record.image.error:
            self._add_image(record)
        mask, sample = record.mask, record.sample
        if mask.error:
            return
        source = sample.masks[self.head]
        self.shapes.add(sample, source, mask.size)
        self.drawn.update(mask.drawn)
        for label, by in mask.hidden.items():
            self.hidden[label].update(by)
            if len(self.hidden_in[label]) < MAX_FILES:
                self.hidden_in[label].append(display_path(sample.image, self.dataset.root))
        counts, void, unknown = record.counts
        self.class_pixels[record.split] += counts
        self.class_images += counts > 0
        self.void_pixels += void
        if record.split != "train":
            for index in np.flatnonzero(counts).tolist():
                if len(self.holders[index]) < MAX_FILES:
                    self.holders[index].append(record.report_path)
        if record.has_clean_values and unknown:
            in_color = self.mapping.by_color or (mask.in_color and bool(self.mapping.colors))
            code = "unknown-color" if in_color else "unknown-label"
            self.unknown[code][record.report_path] = sample.stem
            self.unknown_values[code].update(unknown)
        elif record.has_clean_values and not counts.any():
            self.void[record.split].append(record.report_path)
        self.photos += mask.overflowed and mask.in_color
        if self._counts_labels and not record.is_copy_of_image:
            self.histogram.add_values(mask)
        if self.mapping.threshold is not None:
            if max(mask.counts) == 1:
                self.below_threshold.append(sample)
        elif mask.format in JPEG_FORMATS:
            if not record.is_copy_of_image:
                self.jpegs.append(sample)
            return
        if self._counts_labels and not isinstance(source, DrawnMask):  # drawn labels are ours
            self.histogram.add(sample, mask, colors_named=bool(self.mapping.colors))
        if len(set(mask.palette.values())) > 1 and any(color >> 16 != color & 255 for color in mask.palette.values()):
            self.palettes[tuple(sorted(mask.palette.items()))].append(sample)
        elif 2 <= len(mask.counts) <= _MAX_GREYS and not mask.in_color:
            greys = {value: mask.palette.get(value, value) & 255 for value in mask.counts}
            self.greys[tuple(sorted(greys.items()))].append(sample)
        if (counts > 0).sum() > 1 and isinstance(source, MaskFile):
            self.digests[mask.digest].append(record.report_path)
        if not self.is_first or record.image.error:
            return
        self._seen[record.split] += 1
        orientation, size = record.image.orientation, record.image.size
        if mask.size != size or (orientation in (5, 6, 7, 8) and size[0] != size[1]):  # judged by the sizes
            return
        if (orientation != 1 or self._seen[record.split] <= MAX_PAIRS) and (pair := record.thumbnails) is not None:
            if orientation != 1:
                self.oriented[orientation].append(pair)
            else:
                self.pairs[record.split].append(replace(pair, classes=self._classes_by_label(mask, pair.mask)))

    def _add_image(self, record: Record) -> None:
        split, image = record.split, record.image
        self.sizes[image.size] += 1
        self.kinds[image.channels, image.dtype].append(record.sample)
        self.max_unique = max(self.max_unique, image.max_unique or FEW_VALUES)
        if image.low == image.high:
            self.plain.append(self.display(record.sample.image))
        if split == "train":
            self.train_dtypes.add(image.dtype)
            self.train_low, self.train_high = min(self.train_low, *image.low), max(self.train_high, *image.high)
        side = DUPLICATE_SIDE
        sums = record.image_cells.reshape(side, 2, side, 6).sum(axis=(1, 3), dtype=np.int32)
        content = (image.size, image.channels, image.dtype, *image.total, *image.squares, image.thumbnail)
        self.images[split].append(record.sample)
        self.duplicate_keys[split].append(hash(content))
        self.duplicate_cells[split].append((sums / 12).round().astype(np.uint8).tobytes())

    def _classes_by_label(self, mask: MaskStats, cells: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
        """Return the class of each label of a mask's thumbnail, where colours and large labels are ranks; None if unclear."""
        held = sorted(mask.counts)
        are_ranks = mask.in_color or held[-1] > VOID
        if are_ranks and len(np.unique(cells)) < len(held):  # some are in no cell, so ranks are unclear
            return None
        table = np.full(256, VOID, np.uint8)
        for rank, value in enumerate(held):
            index = class_of_value(value, mask, self.mapping)
            table[rank if are_ranks else value] = VOID if index is None else index
        return table

    def mask_paths(self) -> list[str]:
        """Return what problems with all masks name."""
        return [self.report_path(sample) for members in self.dataset.splits.values() for sample in members]

    def report_path(self, sample: Sample) -> str:
        """Return the file that a problem with a sample's mask names."""
        return self.display(sample.report_path(self.head))

    def display(self, path: Path) -> str:
        """Return a path relative to the data folder."""
        return display_path(path, self.dataset.root)
