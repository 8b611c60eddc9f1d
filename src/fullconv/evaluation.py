"""Scores of a model on a data set, at the images' own resolution, and whether two models differ."""

from __future__ import annotations

import csv
import io
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fullconv.data import Dataset, Sample, choose_samples, leak, match_classes, match_heads, open_dataset, trained_on
from fullconv.errors import DataError, FullconvError, InputError, plural
from fullconv.intervals import bootstrap_interval, class_intervals, interval_obstacle, paired_difference
from fullconv.labels import VOID
from fullconv.metrics import (
    Counts,
    Policy,
    accuracy,
    best_constant,
    check_policy,
    confusion_matrix,
    count,
    dice,
    edge_band,
    freq_weighted_iou,
    iou,
    mean_accuracy,
    mean_iou,
    pixel_accuracy,
)
from fullconv.notices import Notice, NoticeCollector
from fullconv.prediction import Prediction
from fullconv.preprocess import NetworkInput
from fullconv.profiling import COUNTING, WAITING_IN, timed, timed_iter
from fullconv.segmenter import Segmenter, load
from fullconv.storage import write_text
from fullconv.system import ordered_map

Masks = dict[str | None, NDArray[np.uint8]]
"""Ground truth of an image, (H, W), by the model's head."""
Progress = Callable[[int, int], None]
"""Called with the number of images done and of all images."""


@dataclass(eq=False, repr=False)
class Report:
    """Scores of one model on one set of images. Fractions in [0, 1]; NaN where there was nothing to score."""

    names: tuple[str, ...]
    """The K classes."""
    confusion: NDArray[np.int64]
    """(K, K) pixels by true class (rows) and predicted class."""
    per_image: dict[str, Counts]
    """Hits, true and predicted pixels (K,) by the image's stem."""
    policy: Policy = "nan"
    engine: str = ""
    precision: str = ""
    split: str = ""
    head: str = ""
    """Of a network with several."""
    failed: list[dict[str, str]] = field(default_factory=list)
    """`input` and `reason` of each image that could not be scored."""
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    """How images were selected and classes matched, where that is unexpected."""
    notices: tuple[Notice, ...] = ()
    """Warnings about the images, one per code."""

    @property
    def images(self) -> int:
        """Images scored."""
        return len(self.per_image)

    @property
    def pixels(self) -> int:
        """Valid pixels of the ground truth."""
        return int(self.confusion.sum())

    @property
    def pixel_accuracy(self) -> float:
        """Fraction of correct pixels."""
        return pixel_accuracy(self.confusion)

    @property
    def mean_accuracy(self) -> float:
        """Mean over classes of the fraction of their pixels that were found."""
        return mean_accuracy(self.confusion)

    @property
    def mean_iou(self) -> float:
        """Mean over classes of intersection over union."""
        return mean_iou(self.confusion, self.policy)

    @property
    def freq_weighted_iou(self) -> float:
        """Intersection over union, weighted by true pixels."""
        return freq_weighted_iou(self.confusion)

    @property
    def baseline(self) -> dict[str, Any]:
        """Scores of the best constant prediction: its `class`, and the four metrics by their names, None where undefined."""
        best, confusion = best_constant(self.confusion)
        return {
            "class": self.names[best],
            "pixel_accuracy": _or_none(pixel_accuracy(confusion)),
            "mean_accuracy": _or_none(mean_accuracy(confusion)),
            "mean_iou": _or_none(mean_iou(confusion, self.policy)),
            "freq_weighted_iou": _or_none(freq_weighted_iou(confusion)),
        }

    @property
    def below_baseline(self) -> str | None:
        """The sentence that says so where the mIoU is not above the baseline's."""
        baseline = self.baseline
        if not baseline["mean_iou"] or not self.mean_iou <= baseline["mean_iou"]:
            return None
        return (
            f"The model is no better than a constant: its mIoU on {self.split}{f' of {self.head}' * bool(self.head)} is"
            f" {self.mean_iou:.4f}, and labelling every pixel '{baseline['class']}' gives {baseline['mean_iou']:.4f}."
        )

    @property
    def no_interval(self) -> str | None:
        """Why there is no interval of the mIoU; None where there is one."""
        return interval_obstacle(self.counts)

    @property
    def warnings(self) -> list[Notice]:
        """Warnings about images and scores, one per code."""
        below = self.below_baseline
        return [*self.notices, *([] if below is None else [Notice("below-baseline", below)])]

    @cached_property
    def mean_iou_interval(self) -> tuple[float, float] | None:
        """95 % interval of the mIoU by bootstrap over images; None where they are too few (`no_interval`)."""
        interval = bootstrap_interval(self.counts, self.policy)
        return None if math.isnan(interval[0]) else interval

    @cached_property
    def counts(self) -> Counts:
        """Counts (P, K), a row per image, in the order of `per_image`."""
        empty = np.zeros((0, len(self.names)), np.int64)
        return _stack(list(self.per_image.values())) if self.per_image else Counts(empty, empty, empty)

    @property
    def classes(self) -> list[dict[str, Any]]:
        """A row per class: `index`, `name`, `iou`, `dice`, `accuracy`, `pixels`; None where not defined."""
        columns = zip(iou(self.confusion), dice(self.confusion), accuracy(self.confusion), strict=True)
        pixels = self.confusion.sum(axis=1)
        return [
            {
                "index": k,
                "name": name,
                **dict(zip(("iou", "dice", "accuracy"), map(_or_none, scores), strict=True)),
                "pixels": int(pixels[k]),
            }
            for k, (name, scores) in enumerate(zip(self.names, columns, strict=True))
        ]

    def class_intervals(self) -> NDArray[np.float64]:
        """Return the 95 % interval of each class's IoU by bootstrap over images, (K, 2); NaN where there is none."""
        return class_intervals(self.counts)

    def scores_by_image(self) -> dict[str, float]:
        """Return the mIoU of each image by stem; NaN where it is all void."""
        return {stem: mean_iou(counts, self.policy) for stem, counts in self.per_image.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return what `fullconv evaluate --json` prints."""
        interval = self.mean_iou_interval
        return {
            **({"head": self.head} if self.head else {}),
            "images": self.images,
            "pixels": self.pixels,
            "pixel_accuracy": _or_none(self.pixel_accuracy),
            "mean_accuracy": _or_none(self.mean_accuracy),
            "mean_iou": _or_none(self.mean_iou),
            "freq_weighted_iou": _or_none(self.freq_weighted_iou),
            "classes": self.classes,
            "mean_iou_interval": None if interval is None else list(interval),
            "baseline": self.baseline,
            "confusion": self.confusion.tolist(),
            "policy": self.policy,
            "engine": self.engine,
            "precision": self.precision,
            "warnings": [notice.to_dict() for notice in self.warnings],
            "failed": self.failed,
            "seconds": round(self.seconds, 3),
        }

    def save_per_image(self, path: str | Path) -> None:
        """Write a CSV with a row per image and class: ``image,class,tp,fp,fn``, in pixels."""
        save_per_image({"": self}, path)

    def __repr__(self) -> str:
        where = " ".join(part for part in (self.split, self.head) if part)
        return f"Report({where}: {plural(self.images, 'image')}, mIoU {_figure(self.mean_iou).strip()})"

    def summary(self) -> list[str]:
        """Return the lines above the table of classes: what was scored, the four metrics beside the baseline's, the engine."""
        interval, baseline = self.mean_iou_interval, self.baseline
        spread = f"95 % interval {interval[0]:.4f} to {interval[1]:.4f}" if interval else self.no_interval
        rows = [
            ("mIoU", "mean_iou"),
            ("pixel accuracy", "pixel_accuracy"),
            ("mean accuracy", "mean_accuracy"),
            ("freq. weighted IoU", "freq_weighted_iou"),
        ]
        lines = [f"head {self.head}"] if self.head else []
        lines.append(f"{plural(self.images, 'image')} of {self.split}, {self.pixels:,} valid pixels")
        for title, key in rows:
            more = f"  ({spread})" if key == "mean_iou" else ""
            lines.append(f"{title:18} {_figure(getattr(self, key))}  (constant {_figure(baseline[key])}){more}")
        lines.append(f"constant           every pixel '{baseline['class']}', the best such prediction")
        return [*lines, f"computed by        {self.engine}, {self.precision}"] if self.engine else lines

    def __str__(self) -> str:
        width = max(len("class"), *(len(name) for name in self.names))
        lines = [*self.summary(), "", f"{'class':{width}}     IoU    Dice  accuracy        pixels"]
        for row in self.classes:
            figures = f"{_figure(row['iou'])}  {_figure(row['dice'])}    {_figure(row['accuracy'])}"
            lines.append(f"{row['name']:{width}}  {figures}  {row['pixels']:>12,}")
        return "\n".join(lines)


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _figure(value: float | None) -> str:
    return "     -" if value is None or math.isnan(value) else f"{value:.4f}"


def _stack(rows: Sequence[Counts]) -> Counts:
    """Stack the counts (K,) of images to (P, K)."""
    return Counts(*(np.stack(part) for part in zip(*rows, strict=True)))


def save_per_image(reports: Mapping[str, Report], path: str | Path) -> None:
    """Write a CSV with a row per image and class, in pixels; with a column ``head`` where there are several."""
    several = len(reports) > 1
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["image", *(["head"] if several else []), "class", "tp", "fp", "fn"])
    for head, report in reports.items():
        for stem, (hits, true, predicted) in report.per_image.items():
            for k, name in enumerate(report.names):
                numbers = hits[k], predicted[k] - hits[k], true[k] - hits[k]
                rows.writerow([stem, *([head] if several else []), name, *numbers])
    write_text(path, text.getvalue())


def _count_image(
    report: Report, stem: str, mask: NDArray[np.uint8], label_map: NDArray[Any], where: str, band: int | None
) -> None:
    """Add an image to a report; with a band, only what lies within that many pixels of true edges."""
    if mask.shape != label_map.shape:
        raise DataError(
            f"{where}: mask and prediction of '{stem}' differ in size:"
            f" {mask.shape[1]}x{mask.shape[0]} and {label_map.shape[1]}x{label_map.shape[0]} pixels."
            " A mask must have the size of its image (after EXIF rotation)."
        )
    if band is not None:
        mask = np.where(edge_band(mask, band), mask, np.uint8(VOID))
    try:
        confusion = confusion_matrix(mask, label_map, len(report.names))
    except FullconvError as error:
        raise DataError(f"{where}: {error}") from error
    report.confusion += confusion
    report.per_image[stem] = count(confusion)


def evaluate(
    segmenter: Segmenter | str | os.PathLike[str],
    data: Dataset | str | Path,
    split: str | None = None,
    *,
    policy: Policy = "nan",
    samples: Sequence[Sample] | None = None,
    head: str | None = None,
    band: int | None = None,
    progress: Progress | None = None,
    on_error: Literal["raise", "record"] = "raise",
    batch_size: int = 1,
    workers: int = 1,
) -> Report:
    """Score a model on a split of a data set, whose classes are matched with the model's by name.

    Every image is predicted by itself, as by `Segmenter.predict`, and compared at its own size.

    Args:
        segmenter: The model, or the path of its file.
        data: A data set, or its folder.
        split: "train", "val", "test" or "all"; None is test where the data have it, else val.
        policy: Classes that the mean includes, see `fullconv.metrics`.
        samples: Only these of the data set; then `split` is only a name.
        head: Of a network with several; None for the first.
        band: Score only within this many pixels of edges in the ground truth.
        progress: Called after each image.
        on_error: "record" continues after an image that cannot be scored, and lists it in `failed`.
        batch_size: Images per forward pass, where consecutive ones have one size.
        workers: Threads that read ahead.

    Returns:
        The scores, from one confusion matrix for the whole set.

    Raises:
        DataError: Classes of model and data differ, there is no such split, or every image failed.
        InputError, DataError: An image or mask cannot be used, with ``on_error="raise"``.
    """
    if isinstance(segmenter, (str, os.PathLike)):
        segmenter = load(Path(segmenter))
    if not hasattr(segmenter, "card"):
        raise InputError(
            f"cannot score a {type(segmenter).__name__}: give what fullconv.load, train or Segmenter.from_network return, or"
            " the path of a model file."
        )
    dataset = data if isinstance(data, Dataset) else open_dataset(data)
    reports = evaluate_heads(
        segmenter, dataset, split, head=match_heads(segmenter.card, dataset, head)[0][0], policy=policy,
        samples=samples, band=band, progress=progress, on_error=on_error, batch_size=batch_size, workers=workers,
    )  # fmt: skip
    return next(iter(reports.values()))


def evaluate_heads(
    segmenter: Segmenter,
    dataset: Dataset,
    split: str | None = None,
    *,
    head: str | None = None,
    policy: Policy = "nan",
    samples: Sequence[Sample] | None = None,
    band: int | None = None,
    progress: Progress | None = None,
    on_error: Literal["raise", "record"] = "raise",
    batch_size: int = 1,
    workers: int = 1,
) -> dict[str, Report]:
    """Score the heads for which the data have masks, as `evaluate` does, each image predicted once; "" names the only head."""
    start = time.perf_counter()
    split = split or ("test" if dataset.splits.get("test") else "val")
    dataset, heads, notes = match_classes(segmenter.card, dataset, head)
    reports: dict[str | None, Report] = {}
    for head, _ in heads:
        names = segmenter.card.labels(head).classes
        confusion = np.zeros((len(names), len(names)), np.int64)
        reports[head] = Report(names, confusion, {}, check_policy(policy), split=split, head=head or "")
    members, more = (list(samples), []) if samples is not None else choose_samples(dataset, segmenter.card, split)
    only = heads[0][0] if len(heads) == 1 else None
    done, notices = 0, NoticeCollector()
    if split in ("val", "test") and (notice := leak(segmenter.card, dataset, split, members, "the model")) is not None:
        notices.add(notice)
        if samples is None:  # training, which says so once, scores some images again and again
            segmenter.log(notice)

    def read(sample: Sample) -> tuple[Sample, NetworkInput, Masks] | tuple[Sample, FullconvError]:
        try:
            masks = {head: dataset.read_mask(sample, data_head) for head, data_head in heads}
            pixels = dataset.read_pixels(sample, segmenter.card.in_channels)
            image = segmenter.read(pixels, sample.image.as_posix())
            return sample, image, {head: pixels.with_void(mask) for head, mask in masks.items()}
        except FullconvError as error:
            return sample, error

    def fail(sample: Sample, error: FullconvError, of: Iterable[Report] = tuple(reports.values())) -> None:
        if on_error == "raise":
            raise error
        for report in of:
            report.failed.append({"input": sample.image.as_posix(), "reason": str(error)})

    def predict(batch: list[tuple[Sample, NetworkInput, Masks]]) -> Iterator[Prediction | FullconvError]:
        if len(batch) > 1:
            yield from segmenter.predict_many([image for _, image, _ in batch], head=only)
            return
        for _, image, _ in batch:
            try:
                yield segmenter.predict(image, head=only)
            except FullconvError as error:
                yield error

    with closing(ordered_map(read, members, max(workers, 1))) as reading:
        loaded = timed_iter(WAITING_IN, reading)
        while part := list(islice(loaded, max(batch_size, 1))):
            batch = []
            for item in part:
                if len(item) == 2:
                    fail(*item)
                else:
                    batch.append(item)
            for (sample, _, masks), prediction in zip(batch, predict(batch), strict=True):
                if isinstance(prediction, FullconvError):
                    fail(sample, prediction)
                    continue
                notices.extend(replace(notice, file=sample.image.as_posix()) for notice in prediction.notices)
                for head, data_head in heads:
                    label_map = prediction.label_map if head in (None, only) else prediction.label_maps[head]
                    try:
                        with timed(COUNTING):
                            where = str(sample.masks[data_head].path)
                            _count_image(reports[head], sample.stem, masks[head], label_map, where, band)
                    except FullconvError as error:
                        fail(sample, error, [reports[head]])
            done += len(part)
            if progress is not None:
                progress(done, len(members))
    for report in reports.values():
        if report.failed and not report.per_image:
            reason = f"none of {plural(len(report.failed), 'image')} could be scored. The first: {report.failed[0]['reason']}"
            unscored = DataError(f"{dataset.root}: {reason}")
            unscored.failed = report.failed
            raise unscored
        report.engine, report.precision = segmenter.engine.name, segmenter.engine.precision
        report.notes, report.notices, report.seconds = [*notes, *more], tuple(notices), time.perf_counter() - start
    return {report.head: report for report in reports.values()}


@dataclass(frozen=True, repr=False)
class Comparison:
    """mIoU of b minus that of a, in fractions, with its 95 % interval by paired bootstrap over images."""

    a: Report
    b: Report
    difference: float
    interval: tuple[float, float] | None
    """None for fewer than two images."""

    @property
    def significant(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]

    def __repr__(self) -> str:
        return f"Comparison({self})"

    def __str__(self) -> str:
        a, b = (f"{each.mean_iou:.4f} ({each.engine} {each.precision})" for each in (self.a, self.b))
        head = f"mIoU on {self.a.split}: {a} and {b}, difference {self.difference:+.4f}"
        if self.interval is None:
            return f"{head}; the significance is unknown for one image."
        low, high = self.interval
        verdict = "significant" if self.significant else "not significant"
        return f"{head} (95 % interval {low:+.4f} to {high:+.4f}, {plural(self.a.images, 'image')}): {verdict}."

    def to_dict(self) -> dict[str, Any]:
        """Return what `fullconv compare --json` prints."""
        return {
            "mean_iou": [self.a.mean_iou, self.b.mean_iou],
            "difference": self.difference,
            "interval": None if self.interval is None else list(self.interval),
            "noise": not self.significant,
            "images": self.a.images,
            "policy": self.a.policy,
            "engine": [self.a.engine, self.b.engine],
            "precision": [self.a.precision, self.b.precision],
        }


def compare(
    a: Segmenter, b: Segmenter, data: Dataset | str | Path, split: str = "val", progress: Progress | None = None
) -> Comparison:
    """Score two models on the same images, without those that either was trained on.

    Args:
        a: The first model.
        b: The second.
        data: A data set, or its folder.
        split: Images to score.
        progress: Called after each image, of one model after the other.

    Raises:
        DataError: One of the models was trained on every image of the split.
    """
    dataset = data if isinstance(data, Dataset) else open_dataset(data)
    samples = dataset.samples(split)
    seen = {sample.stem for model in (a, b) for sample in trained_on(model.card, dataset, samples, by_name=True)}
    samples = [sample for sample in samples if sample.stem not in seen]
    if not samples:
        raise DataError(
            f"{dataset.root}: one of the models was trained on every image of {split}. Choose another split."
        )
    reports = [evaluate(model, dataset, split, samples=samples, progress=progress) for model in (a, b)]
    first, second = (_stack([report.per_image[sample.stem] for sample in samples]) for report in reports)
    found = paired_difference(first, second)
    interval = None if len(samples) < 2 else (found.low, found.high)
    return Comparison(reports[0], reports[1], found.value, interval)
