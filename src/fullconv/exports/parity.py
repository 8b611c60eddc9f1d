"""The gate: what an exported file answers, against what the model answers in fp32, on real pictures and odd sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.data import Dataset, Sample
from fullconv.data.evaluation_samples import choose_heads, choose_samples
from fullconv.engines.engine import head_names
from fullconv.errors import DataError
from fullconv.metrics import confusion_matrix, mean_iou
from fullconv.segmenter import Segmenter

Image = NDArray[np.uint8]
Labels = dict[str, NDArray[np.uint8]]
"""Label maps (H, W) by head."""

PICTURES = 32
SIZES = ((1, 1), (31, 31), (33, 33), (700, 20))
"""Sizes (H, W) at which graphs go wrong that go right elsewhere."""
CROPS = {(1, 1): 16}
"""How many pictures of such a size, where not four."""
LABELS = {"fp32": 0.9999, "fp16": 0.995, "bf16": 0.995}
"""Least share of labels equal to those of fp32."""
MEAN_IOU = {"fp16": 0.002, "bf16": 0.002, "int8": 0.01}
"""Largest difference of mean IU."""


@dataclass
class Parity:
    """What was measured."""

    precision: str
    pictures: int = 0
    made: bool = False
    """Made pictures show that the graph is wired as it should be; how well labels agree on real ones they do not."""
    calibrated_on: bool = False
    """Whether 8 bits were calibrated with the pictures compared on, which proves less than others would."""
    labels: float = 0.0
    """Share of the pictures' pixels whose label is that of fp32."""
    mean_iou_difference: float | None = None
    """Of the file minus of fp32, on the pictures' masks, of the head where it is largest; None where there are none."""
    sizes: dict[str, float] = field(default_factory=dict)
    """Share of equal labels on small and odd sizes."""
    reasons: list[str] = field(default_factory=list)
    """Why the file is refused; none where it is not."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, for the file's metadata and for --json."""
        return asdict(self)

    def __str__(self) -> str:
        what = "made pictures" if self.made else "validation pictures"
        parts = [
            f"{self.precision}: {100 * self.labels:.3f} % of the labels of {self.pictures} {what} are those of fp32"
        ]
        if self.mean_iou_difference is not None:
            parts.append(f"mean IU {self.mean_iou_difference:+.5f}")
        sizes = ", ".join(f"{size} {100 * share:.2f} %" for size, share in self.sizes.items())
        text = "; ".join(parts) + f" (sizes {sizes})."
        if self.made:
            text += " Made pictures prove the wiring, not parity on yours: give --data."
        if self.calibrated_on:
            text += " 8 bits were calibrated with pictures of the same split, as DATA has no other: it proves less."
        return text


def measure(
    answer: Callable[[Image], Labels],
    exact: Segmenter,
    precision: str,
    pictures: Iterable[tuple[Image, Labels]],
    made: bool,
) -> Parity:
    """Compare a file's answers with the model's.

    Args:
        answer: What the file's own runtime gives for a picture (H, W, C).
        exact: The model in fp32.
        precision: What the file computes in.
        pictures: Pictures, each with its masks by head, as far as there are some.
        made: Whether they are made.
    """
    parity = Parity(precision, made=made)
    heads = head_names(exact.card)
    ours: dict[str, NDArray[np.int64]] = {}
    theirs: dict[str, NDArray[np.int64]] = {}
    equal = total = 0
    small: dict[tuple[int, int], list[int]] = {size: [0, 0] for size in SIZES}
    draw = np.random.default_rng(0)
    for image, masks in pictures:
        wanted, got = _both(exact, answer, image)
        equal, total = equal + _equal(wanted, got), total + wanted[heads[0]].size * len(heads)
        for head, mask in masks.items():
            classes = len(exact.card.labels(head or None).classes)
            for counted, labels in ((ours, wanted[head]), (theirs, got[head])):
                counted[head] = counted.get(head, 0) + confusion_matrix(mask, labels, classes)
        for size, count in small.items():
            if parity.pictures < CROPS.get(size, 4):
                wanted, got = _both(exact, answer, crop(image, size, draw))
                count[0], count[1] = count[0] + _equal(wanted, got), count[1] + size[0] * size[1] * len(heads)
        parity.pictures += 1
    if not parity.pictures:
        raise DataError("there is no picture to compare the export on.")
    parity.labels = equal / total
    parity.sizes = {f"{h}x{w}": right / count for (h, w), (right, count) in small.items()}
    apart = [mean_iou(theirs[head]) - mean_iou(matrix) for head, matrix in ours.items() if matrix.any()]
    parity.mean_iou_difference = max(apart, key=abs, default=None)
    parity.reasons = list(_reasons(parity, equal, total, small))
    return parity


def _both(exact: Segmenter, answer: Callable[[Image], Labels], image: Image) -> tuple[Labels, Labels]:
    return dict(exact.predict(image, tile="none").label_maps), answer(image)


def _equal(wanted: Mapping[str, Any], got: Mapping[str, Any]) -> int:
    return sum(int((labels == got[head]).sum()) for head, labels in wanted.items())


def _reasons(parity: Parity, equal: int, total: int, small: Mapping[tuple[int, int], list[int]]) -> Iterator[str]:
    """Yield what keeps the file from being what the model is.

    Args:
        parity: What was measured.
        equal: Labels of the pictures that are those of fp32.
        total: Labels of the pictures.
        small: Both for the crops of each odd size.
    """
    least, apart = LABELS.get(parity.precision), MEAN_IOU.get(parity.precision)
    if least is not None:
        right, count = (sum(counts) for counts in zip(*small.values(), strict=True))
        for what, share in (
            ("", (equal + right) / (total + count)),
            (" on pictures", parity.labels),
            (" on small and odd sizes", right / count),
        ):
            if share < least:
                yield f"only {100 * share:.3f} % of the labels{what} are those of fp32, {100 * least:g} % are wanted"
                break
        for (height, width), (right, count) in small.items():
            # A few hundred pixels tell little of a share: one may lie between two classes. A graph that is wired wrongly
            # for a size misses many.
            if count - right > max(1, 4 * (1 - least) * count):
                yield f"on pictures of {height}x{width}, {count - right} of {count} labels are not those of fp32"
    difference = parity.mean_iou_difference
    if apart is not None and difference is None and not parity.made:
        yield "mean IU cannot be compared, as the masks of the validation pictures hold nothing but void"
    if apart is not None and difference is not None and not abs(difference) <= apart:
        yield f"mean IU differs by {difference:+.4f}, {apart:g} is allowed"


def crop(image: Image, size: tuple[int, int], draw: np.random.Generator) -> Image:
    """Cut a size out of a picture, which repeats itself where it is smaller."""
    (height, width), (rows, columns) = size, image.shape[:2]
    top, left = int(draw.integers(rows)), int(draw.integers(columns))
    picked: Image = image[np.ix_((top + np.arange(height)) % rows, (left + np.arange(width)) % columns)]
    return np.ascontiguousarray(picked)


def validation_pictures(dataset: Dataset, exact: Segmenter, count: int = PICTURES) -> Iterator[tuple[Image, Labels]]:
    """Yield validation pictures of a data set with their masks by head of the model, spread over it.

    They are those that `evaluate` scores: where the data are the model's own, the split of its training.

    Raises:
        DataError: They are no 8-bit pictures, there are none, or a mask has another size than its picture.
        InputError: A picture or a mask cannot be read.
    """
    if not dataset.splits.get("val"):
        raise DataError(f"{dataset.root}: has no validation pictures to compare the export on.")
    samples, _ = choose_samples(dataset, exact.card, "val")
    heads = choose_heads(exact.card, dataset, None)
    step = max(1, len(samples) // count)
    for sample in samples[::step][:count]:
        image = exact.read(dataset.read_image(sample), sample.image.as_posix())
        check_bytes(image, sample)
        masks = {ours or "": dataset.read_mask(sample, theirs) for ours, theirs in heads}
        for mask in masks.values():
            if mask.shape != image.shape[:2]:
                raise DataError(f"{sample.image}: its mask has another size. `fullconv check` lists all such masks.")
        yield image, masks


def check_bytes(image: NDArray[Any], sample: Sample) -> None:
    """Raise DataError for a picture of a data set that an exported file could not take."""
    if image.dtype != np.uint8:
        raise DataError(f"{sample.image}: is {image.dtype}; an exported file takes pictures of 8 bits.")


def made_pictures(channels: int, count: int = PICTURES) -> Iterator[tuple[Image, Labels]]:
    """Yield pictures of soft patches and noise, of many sizes."""
    for index in range(count):
        draw = np.random.default_rng(index)
        height, width = (int(n) for n in draw.integers(40, 140, 2))
        coarse = draw.integers(0, 256, (height // 16 + 1, width // 16 + 1, channels)).astype(np.float64)
        soft = coarse.repeat(16, 0).repeat(16, 1)[:height, :width]
        yield np.clip(soft + draw.normal(0, 24, soft.shape), 0, 255).astype(np.uint8), {}
