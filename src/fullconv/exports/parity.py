"""The parity check: labels of an exported file against the model's in fp32, on real images and odd sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.data import Dataset, Sample, choose_samples, match_classes
from fullconv.engines import head_names
from fullconv.errors import DataError, plural
from fullconv.metrics import confusion_matrix, mean_iou
from fullconv.segmenter import Segmenter

Image = NDArray[np.uint8]
Labels = dict[str, NDArray[np.uint8]]
"""Label maps (H, W) by head."""

IMAGES = 32
SIZES = ((1, 1), (31, 31), (33, 33), (700, 20))
"""Sizes (H, W) at which graphs fail that are right elsewhere."""
CROPS_PER_SIZE = {(1, 1): 16}
"""Number of crops of a size, where not four."""
MIN_LABELS_EQUAL = {"fp32": 0.9999, "fp16": 0.995, "bf16": 0.995}
"""Smallest share of labels equal to those of fp32."""
MAX_MEAN_IOU_DIFFERENCE = {"fp16": 0.002, "bf16": 0.002, "int8": 0.01}
"""Largest difference of mIoU."""


@dataclass
class Parity:
    """The agreement of an exported file with the model in fp32; its fields are keys of `export --json`."""

    precision: str
    pictures: int = 0
    made: bool = False
    """Whether the images are synthetic: they test the graph's wiring, not the agreement on real images."""
    calibrated_on: bool = False
    """Whether int8 was calibrated with the compared images, which proves less than held-out ones."""
    labels: float = 0.0
    """Share of the images' pixels with fp32's label."""
    mean_iou_difference: float | None = None
    """mIoU of the file minus fp32's, of the head where it differs most; None without masks."""
    sizes: dict[str, float] = field(default_factory=dict)
    """Share of equal labels on small and odd sizes."""
    reasons: list[str] = field(default_factory=list)
    """Why the file is refused; empty where it is accepted."""

    def __str__(self) -> str:
        images = plural(self.pictures, "synthetic image" if self.made else "validation image")
        parts = [f"{self.precision}: {100 * self.labels:.3f} % of the labels of {images} agree with fp32"]
        if self.mean_iou_difference is not None:
            parts.append(f"mIoU {self.mean_iou_difference:+.5f}")
        sizes = ", ".join(f"{size} {100 * share:.2f} %" for size, share in self.sizes.items())
        text = "; ".join(parts) + f" (sizes {sizes})."
        if self.made:
            text += " Synthetic images test the wiring, not the parity on real ones: use --data."
        if self.calibrated_on:
            text += " int8 was calibrated with images of the same split, as DATA has no other: this proves less."
        return text


def measure_parity(
    predict: Callable[[Image], Labels],
    exact: Segmenter,
    precision: str,
    images: Iterable[tuple[Image, Labels]],
    made: bool,
) -> Parity:
    """Compare the labels that a file predicts for images (H, W, C), given with masks by head, with the model's."""
    parity = Parity(precision, made=made)
    heads = head_names(exact.card)
    ours: dict[str, NDArray[np.int64]] = {}
    theirs: dict[str, NDArray[np.int64]] = {}
    equal = total = 0
    small: dict[tuple[int, int], list[int]] = {size: [0, 0] for size in SIZES}
    rng = np.random.default_rng(0)
    for image, masks in images:
        expected, got = exact.predict(image, tile="none").label_maps, predict(image)
        equal, total = equal + _equal(expected, got), total + expected[heads[0]].size * len(heads)
        for head, mask in masks.items():
            classes = len(exact.card.labels(head or None).classes)
            for counted, labels in ((ours, expected[head]), (theirs, got[head])):
                counted[head] = counted.get(head, 0) + confusion_matrix(mask, labels, classes)
        for size, count in small.items():
            if parity.pictures < CROPS_PER_SIZE.get(size, 4):
                part = crop(image, size, rng)
                expected, got = exact.predict(part, tile="none").label_maps, predict(part)
                count[0], count[1] = count[0] + _equal(expected, got), count[1] + size[0] * size[1] * len(heads)
        parity.pictures += 1
    if not parity.pictures:
        raise DataError("there is no image to compare the export on.")
    parity.labels = equal / total
    parity.sizes = {f"{h}x{w}": right / count for (h, w), (right, count) in small.items()}
    apart = [mean_iou(theirs[head]) - mean_iou(matrix) for head, matrix in ours.items() if matrix.any()]
    parity.mean_iou_difference = max(apart, key=abs, default=None)
    parity.reasons = list(_reasons(parity, equal, total, small))
    return parity


def _equal(expected: Mapping[str, Any], got: Mapping[str, Any]) -> int:
    return sum(int((labels == got[head]).sum()) for head, labels in expected.items())


def _reasons(parity: Parity, equal: int, total: int, small: Mapping[tuple[int, int], list[int]]) -> Iterator[str]:
    """Yield the reasons to refuse the file."""
    least, apart = MIN_LABELS_EQUAL.get(parity.precision), MAX_MEAN_IOU_DIFFERENCE.get(parity.precision)
    if least is not None:
        right, count = (sum(counts) for counts in zip(*small.values(), strict=True))
        for what, share in (
            ("", (equal + right) / (total + count)),
            (" on images", parity.labels),
            (" on small and odd sizes", right / count),
        ):
            if share < least:
                yield f"only {100 * share:.3f} % of the labels{what} agree with fp32, {100 * least:g} % are required"
                break
        for (height, width), (right, count) in small.items():
            # A few hundred pixels say little about a share: one may lie between two classes. A graph that is wired wrongly
            # for a size misses many.
            if count - right > max(1, 4 * (1 - least) * count):
                yield f"on images of {height}x{width}, {count - right} of {count} labels differ from fp32"
    difference = parity.mean_iou_difference
    if apart is not None and difference is None and not parity.made:
        yield "mIoU cannot be compared, as the masks of the validation images are all void"
    if apart is not None and difference is not None and not abs(difference) <= apart:
        yield f"mIoU differs by {difference:+.4f}, {apart:g} is allowed"


def crop(image: Image, size: tuple[int, int], rng: np.random.Generator) -> Image:
    """Crop an image to a size, repeating it where it is smaller."""
    (height, width), (rows, columns) = size, image.shape[:2]
    top, left = int(rng.integers(rows)), int(rng.integers(columns))
    picked: Image = image[np.ix_((top + np.arange(height)) % rows, (left + np.arange(width)) % columns)]
    return np.ascontiguousarray(picked)


def validation_images(dataset: Dataset, exact: Segmenter) -> Iterator[tuple[Image, Labels]]:
    """Yield evenly spaced validation images of a data set with their masks by head of the model.

    They are those that `evaluate` scores: of the model's own split where it was trained on this data.
    """
    if not dataset.splits.get("val"):
        raise DataError(f"{dataset.root}: has no validation images to compare the export on.")
    samples, _ = choose_samples(dataset, exact.card, "val")
    dataset, heads, _ = match_classes(exact.card, dataset)
    for sample in samples[:: max(1, len(samples) // IMAGES)][:IMAGES]:
        found = exact.read(dataset.read_pixels(sample), sample.image.as_posix())
        image = found.values
        check_bytes(image, sample)
        masks = {ours or "": found.with_void(dataset.read_mask(sample, theirs)) for ours, theirs in heads}
        for mask in masks.values():
            if mask.shape != image.shape[:2]:
                raise DataError(f"{sample.image}: its mask has another size. `fullconv check` lists all such masks.")
        yield image, masks


def check_bytes(image: NDArray[Any], sample: Sample) -> None:
    """Raise DataError for an image that an exported file cannot take."""
    if image.dtype != np.uint8:
        raise DataError(f"{sample.image}: is {image.dtype}; an exported file takes 8-bit images.")


def synthetic_images(channels: int, count: int = IMAGES) -> Iterator[tuple[Image, Labels]]:
    """Yield synthetic images of soft patches and noise, of many sizes."""
    for index in range(count):
        rng = np.random.default_rng(index)
        height, width = (int(n) for n in rng.integers(40, 140, 2))
        coarse = rng.integers(0, 256, (height // 16 + 1, width // 16 + 1, channels)).astype(np.float64)
        soft = coarse.repeat(16, 0).repeat(16, 1)[:height, :width]
        yield np.clip(soft + rng.normal(0, 24, soft.shape), 0, 255).astype(np.uint8), {}
