"""Scores of a set of pictures: what was counted, the figures that follow from it, and how they are shown and kept.

Scores of a model on a data set, at the pictures' own resolution, by the same call that predicts.

Two models on the same pictures: is their difference noise?
"""

from __future__ import annotations

import csv
import io
import math
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from fullconv.card import Card
from fullconv.data import Dataset, Sample, open_dataset
from fullconv.data.evaluation_samples import check_classes, choose_heads, choose_samples
from fullconv.errors import DataError, FullconvError, InputError
from fullconv.labels import VOID, read_label_map
from fullconv.metrics import (
    Counts,
    Policy,
    accuracy,
    band,
    bootstrap_interval,
    check_policy,
    class_intervals,
    confusion_matrix,
    count,
    dice,
    freq_weighted_iou,
    iou,
    mean_accuracy,
    mean_iou,
    paired_difference,
    pixel_accuracy,
)
from fullconv.profiling import COUNTING, WAITING_IN, timed
from fullconv.segmenter import Segmenter, load
from fullconv.storage import write_text


@dataclass(eq=False)
class Report:
    """Scores of one model on one set of pictures. Fractions in [0, 1]; NaN where there was nothing to score."""

    names: tuple[str, ...]
    """The K classes."""
    confusion: NDArray[np.int64]
    """(K, K) pixels by true class (rows) and predicted class."""
    per_image: dict[str, Counts]
    """Hits, truth and predicted pixels (K,) by the picture's stem."""
    policy: Policy = "nan"
    engine: str = ""
    precision: str = ""
    split: str = ""
    head: str = ""
    """Name of the head, of a network that has several."""
    failed: list[dict[str, str]] = field(default_factory=list)
    """`input` and `reason` of each picture that could not be scored."""
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    """What the reader should know about how the pictures were chosen."""

    @property
    def images(self) -> int:
        """Pictures scored."""
        return len(self.per_image)

    @property
    def pixels(self) -> int:
        """Valid pixels of the truth."""
        return int(self.confusion.sum())

    @property
    def pixel_accuracy(self) -> float:
        """Share of pixels that are right."""
        return pixel_accuracy(self.confusion)

    @property
    def mean_accuracy(self) -> float:
        """Mean over classes of the share of their pixels that were found."""
        return mean_accuracy(self.confusion)

    @property
    def mean_iou(self) -> float:
        """Mean over classes of intersection over union."""
        return mean_iou(self.confusion, self.policy)

    @property
    def freq_weighted_iou(self) -> float:
        """Intersection over union, weighted by true pixels."""
        return freq_weighted_iou(self.confusion)

    @cached_property
    def mean_iou_interval(self) -> tuple[float, float] | None:
        """95 % interval of mean IU by bootstrap over pictures; None for fewer than two pictures."""
        interval = bootstrap_interval(self.counts, self.policy)
        return None if math.isnan(interval[0]) else interval

    @cached_property
    def counts(self) -> Counts:
        """Counts (P, K), a row a picture, in the order of `per_image`."""
        empty = np.zeros((0, len(self.names)), np.int64)
        rows = list(self.per_image.values())
        return Counts(*(np.stack(part) for part in zip(*rows, strict=True))) if rows else Counts(empty, empty, empty)

    @property
    def classes(self) -> list[dict[str, Any]]:
        """A row a class: `index`, `name`, `iou`, `dice`, `accuracy`, `pixels`; None where not defined."""
        columns = (iou(self.confusion), dice(self.confusion), accuracy(self.confusion), self.confusion.sum(axis=1))
        return [
            {
                "index": k,
                "name": name,
                "iou": _or_none(columns[0][k]),
                "dice": _or_none(columns[1][k]),
                "accuracy": _or_none(columns[2][k]),
                "pixels": int(columns[3][k]),
            }
            for k, name in enumerate(self.names)
        ]

    def class_intervals(self) -> NDArray[np.float64]:
        """95 % interval of each class's IU by bootstrap over pictures, (K, 2); NaN where there is none."""
        return class_intervals(self.counts)

    def scores_by_image(self) -> dict[str, float]:
        """Mean IU of each picture by itself, by stem; NaN where it is all void."""
        return {stem: mean_iou(counts, self.policy) for stem, counts in self.per_image.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return what `fullconv evaluate --json` prints: plain numbers, lists and None."""
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
            "confusion": self.confusion.tolist(),
            "policy": self.policy,
            "engine": self.engine,
            "precision": self.precision,
            "failed": self.failed,
            "seconds": round(self.seconds, 3),
        }

    def save_per_image(self, path: str | Path) -> None:
        """Write a CSV with a row a picture and class: ``image,class,tp,fp,fn``, in pixels.

        Raises:
            OutputError: It cannot be written.
        """
        save_per_image({"": self}, path)

    def __str__(self) -> str:
        interval = self.mean_iou_interval
        spread = "" if interval is None else f" (95 % interval {interval[0]:.4f} to {interval[1]:.4f})"
        width = max(len("class"), *(len(name) for name in self.names))
        lines = [
            f"mean IU            {_figure(self.mean_iou)}{spread}",
            f"pixel accuracy     {_figure(self.pixel_accuracy)}",
            f"mean accuracy      {_figure(self.mean_accuracy)}",
            f"freq. weighted IU  {_figure(self.freq_weighted_iou)}",
            *([f"computed by        {self.engine}, {self.precision}"] if self.engine else []),
            "",
            f"{'class':{width}}      IU    Dice  accuracy        pixels",
        ]
        for row in self.classes:
            figures = f"{_figure(row['iou'])}  {_figure(row['dice'])}    {_figure(row['accuracy'])}"
            lines.append(f"{row['name']:{width}}  {figures}  {row['pixels']:>12,}")
        return "\n".join(lines)


def save_per_image(reports: Mapping[str, Report], path: str | Path) -> None:
    """Write a CSV with a row a picture and class, in pixels; a column says which head where there are several.

    Raises:
        OutputError: It cannot be written.
    """
    several = len(reports) > 1
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["image", *(["head"] if several else []), "class", "tp", "fp", "fn"])
    for head, report in reports.items():
        for stem, (hits, truth, predicted) in report.per_image.items():
            for k, name in enumerate(report.names):
                numbers = hits[k], predicted[k] - hits[k], truth[k] - hits[k]
                rows.writerow([stem, *([head] if several else []), name, *numbers])
    write_text(path, text.getvalue())


class MetricAccumulator:
    """The counts of a set while its pictures come in."""

    def __init__(self, names: tuple[str, ...], policy: Policy, width: int | None) -> None:
        self.names, self.policy, self.width = names, policy, width
        self.confusion = np.zeros((len(names), len(names)), np.int64)
        self.per_image: dict[str, Counts] = {}
        self.failed: list[dict[str, str]] = []

    def add(self, name: str, truth: NDArray[np.uint8], label_map: NDArray[Any], where: str) -> None:
        """Count one picture; `where` is the file to name when its size or labels do not fit."""
        if truth.shape != label_map.shape:
            raise DataError(
                f"{where}: mask and prediction of '{name}' differ in size:"
                f" {truth.shape[1]}x{truth.shape[0]} and {label_map.shape[1]}x{label_map.shape[0]} pixels."
                " A mask must have the size of its picture (after EXIF rotation)."
            )
        if self.width is not None:
            truth = np.where(band(truth, self.width), truth, np.uint8(VOID))
        try:
            confusion = confusion_matrix(truth, label_map, len(self.names))
        except FullconvError as error:
            raise DataError(f"{where}: {error}") from error
        self.confusion += confusion
        self.per_image[name] = count(confusion)

    def report(self, where: str) -> Report:
        """Return the scores so far, if there are any."""
        if self.failed and not self.per_image:
            number = len(self.failed)
            nothing = DataError(
                f"{where}: none of {number} pictures could be scored. The first: {self.failed[0]['reason']}"
            )
            nothing.failed = self.failed
            raise nothing
        return Report(self.names, self.confusion, self.per_image, policy=self.policy, failed=self.failed)


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _figure(value: float | None) -> str:
    return "     -" if value is None or math.isnan(value) else f"{value:.4f}"


__all__ = ["Report", "evaluate", "evaluate_heads", "save_per_image", "score_files"]

Item = TypeVar("Item")

Masks = dict[str | None, NDArray[np.uint8]]
"""The truth of a picture, (H, W), by the model's head."""

Progress = Callable[[int, int], None]
"""Called with the number of pictures done and of all pictures."""


class Labelled(Protocol):
    """What evaluation needs of a prediction."""

    @property
    def label_map(self) -> NDArray[np.uint8]:
        """Class index of every pixel, (H, W)."""
        ...

    @property
    def label_maps(self) -> dict[str, NDArray[np.uint8]]:
        """The same by head."""
        ...


class Model(Protocol):
    """What evaluation needs of a `Segmenter`."""

    card: Card
    engine: Any
    """Something with a `name` and a `precision`."""

    def read(self, image: Any, name: str) -> NDArray[Any]:
        """Check a picture (H, W, C) of a file, and take the card's bands."""
        ...

    def predict(self, image: Any, *, head: str | None = None) -> Labelled:
        """Label every pixel of a picture (H, W, C)."""
        ...

    def predict_many(self, images: Sequence[Any], *, head: str | None = None) -> Sequence[Labelled]:
        """Label several pictures."""
        ...


def evaluate(
    segmenter: Model | str | os.PathLike[str],
    data: Dataset | str | Path,
    split: str = "val",
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
    """Score a model on a split of a data set.

    Every picture is predicted by itself, as `Segmenter.predict` does it, and compared at its own size.

    Args:
        segmenter: The model, or the path of its file.
        data: A data set, or its folder.
        split: "train", "val", "test" or "all".
        policy: Classes that the mean runs over, see `fullconv.metrics`.
        samples: Only these of the data set; then `split` is only a name.
        head: Head of a network that has several; None for the first.
        band: Score only within so many pixels of true edges.
        progress: Called after each picture.
        on_error: "record" goes on after a picture that cannot be read or scored, and names it in `failed`.
        batch_size: Pictures that go through the network together, where those that follow each other have one size.
        workers: Threads that read the next pictures.

    Returns:
        The scores; they hold one confusion matrix for the whole set, whatever the order of the pictures.

    Raises:
        DataError: Classes of model and data differ, there is no such split, or every picture failed.
        InputError, DataError: A picture or mask cannot be used, with ``on_error="raise"``.
    """
    if isinstance(segmenter, (str, os.PathLike)):
        segmenter = load(Path(segmenter))
    if not hasattr(segmenter, "card"):
        raise InputError(
            f"a {type(segmenter).__name__} cannot be scored: give what fullconv.load, train or Segmenter.from_network"
            " return, or the path of a model file."
        )
    dataset = data if isinstance(data, Dataset) else open_dataset(data)
    pair = choose_heads(segmenter.card, dataset, head)[0]
    reports = _score(
        segmenter, dataset, split, [pair], policy=policy, samples=samples, band=band, progress=progress,
        on_error=on_error, batch_size=batch_size, workers=workers,
    )  # fmt: skip
    return next(iter(reports.values()))


def evaluate_heads(
    segmenter: Model, data: Dataset, split: str = "val", *, head: str | None = None, **options: Any
) -> dict[str, Report]:
    """Score every head of a model for which the data have masks, each picture being predicted once.

    Args:
        segmenter: The model.
        data: A data set.
        split: "train", "val", "test" or "all".
        head: Only this one.
        options: Further ones of `evaluate`.

    Returns:
        Scores by head; "" for a model of one.

    Raises:
        DataError, InputError: As of `evaluate`.
    """
    return _score(segmenter, data, split, choose_heads(segmenter.card, data, head), **options)


def _score(
    segmenter: Model,
    dataset: Dataset,
    split: str,
    heads: Sequence[tuple[str | None, str]],
    *,
    policy: Policy = "nan",
    samples: Sequence[Sample] | None = None,
    band: int | None = None,
    progress: Progress | None = None,
    on_error: Literal["raise", "record"] = "raise",
    batch_size: int = 1,
    workers: int = 1,
) -> dict[str, Report]:
    start = time.perf_counter()
    tallies: dict[str | None, MetricAccumulator] = {}
    for ours, theirs in heads:
        names = segmenter.card.labels(ours).classes
        check_classes(names, dataset.labels[theirs].classes, str(dataset.root))
        tallies[ours] = MetricAccumulator(names, check_policy(policy), band)
    members, notes = (list(samples), []) if samples is not None else choose_samples(dataset, segmenter.card, split)

    def read(sample: Sample) -> tuple[NDArray[Any], Masks]:
        masks = {ours: dataset.read_mask(sample, theirs) for ours, theirs in heads}
        return segmenter.read(dataset.read_image(sample), sample.image.as_posix()), masks

    def fail(sample: Sample, error: FullconvError, of: Iterable[MetricAccumulator] = tuple(tallies.values())) -> None:
        if on_error == "raise":
            raise error
        for tally in of:
            tally.failed.append({"input": sample.image.as_posix(), "reason": str(error)})

    done = 0
    only = heads[0][0] if len(heads) == 1 else None
    with closing(prefetch(read, members, max(workers, 1))) as queue:
        for batch in _batches(queue, max(batch_size, 1)):
            scored = []
            for sample, pending in batch:
                try:
                    with timed(WAITING_IN):
                        scored.append((sample, *pending.result()))
                except FullconvError as error:
                    fail(sample, error)
            for sample, masks, prediction in _label(segmenter, scored, only, fail):
                for ours, theirs in heads:
                    label_map = prediction.label_map if ours in (None, only) else prediction.label_maps[ours]
                    try:
                        with timed(COUNTING):
                            tallies[ours].add(sample.stem, masks[ours], label_map, str(sample.masks[theirs].path))
                    except FullconvError as error:
                        fail(sample, error, [tallies[ours]])
            done += len(batch)
            if progress is not None:
                progress(done, len(members))
    reports = {ours or "": tally.report(str(dataset.root)) for ours, tally in tallies.items()}
    for head, report in reports.items():
        report.engine, report.precision = segmenter.engine.name, segmenter.engine.precision
        report.split, report.head, report.notes = split, head, notes
        report.seconds = time.perf_counter() - start
    return reports


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Cut an iterable into lists of a size, the last one maybe shorter."""
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch


def _label(
    segmenter: Model,
    scored: Sequence[tuple[Sample, NDArray[Any], Masks]],
    head: str | None,
    fail: Callable[[Sample, FullconvError], None],
) -> Iterator[tuple[Sample, Masks, Labelled]]:
    """Predict pictures, together where there are several, and yield sample, truth by head and prediction of each."""
    if len(scored) > 1:
        predictions = segmenter.predict_many([image for _, image, _ in scored], head=head)
        for (sample, _, masks), prediction in zip(scored, predictions, strict=True):
            yield sample, masks, prediction
        return
    for sample, image, masks in scored:
        try:
            prediction = segmenter.predict(image, head=head)
        except FullconvError as error:
            fail(sample, error)
            continue
        yield sample, masks, prediction


def score_files(
    pairs: Iterable[tuple[str, NDArray[np.uint8], str | Path]],
    classes: Sequence[str],
    *,
    policy: Policy = "nan",
    band: int | None = None,
    on_error: Literal["raise", "record"] = "raise",
) -> Report:
    """Score label maps that were written before, such as the PNGs of `fullconv predict`.

    Args:
        pairs: Name, truth (H, W) uint8 with 255 for void, and the file with class indices.
        classes: The K names.
        policy: Classes that the mean runs over.
        band: Score only within so many pixels of true edges.
        on_error: "record" goes on after a file that cannot be read or scored.

    Raises:
        DataError: Sizes differ, or every file failed.
        InputError: A file cannot be read or holds a number that is no class.
    """
    start = time.perf_counter()
    tally = MetricAccumulator(tuple(classes), check_policy(policy), band)
    for name, truth, path in pairs:
        try:
            tally.add(name, truth, read_label_map(path), str(path))
        except FullconvError as error:
            if on_error == "raise":
                raise
            tally.failed.append({"input": Path(path).as_posix(), "reason": str(error)})
    report = tally.report("the given files")
    report.seconds = time.perf_counter() - start
    return report


def prefetch(
    read: Callable[[Sample], tuple[NDArray[Any], Masks]], samples: Sequence[Sample], threads: int
) -> Generator[tuple[Sample, Future[tuple[NDArray[Any], Masks]]], None, None]:
    """Read the next pictures in other threads while the network runs; at most two a thread are waiting."""
    with ThreadPoolExecutor(max_workers=threads) as pool:
        waiting: deque[tuple[Sample, Future[tuple[NDArray[Any], Masks]]]] = deque()
        try:
            for sample in samples:
                waiting.append((sample, pool.submit(read, sample)))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            for _, pending in waiting:
                pending.cancel()


@dataclass(frozen=True)
class Comparison:
    """Mean IU of b minus that of a, in fractions, with its 95 % interval by paired bootstrap over pictures."""

    a: Report
    b: Report
    difference: float
    interval: tuple[float, float] | None
    """None for fewer than two pictures."""

    @property
    def noise(self) -> bool:
        """Whether a difference of 0 lies inside the interval."""
        return self.interval is None or self.interval[0] <= 0 <= self.interval[1]

    def __str__(self) -> str:
        a, b = (f"{each.mean_iou:.4f} ({each.engine} {each.precision})" for each in (self.a, self.b))
        head = f"mean IU {a} and {b}: difference {self.difference:+.4f}"
        if self.interval is None:
            return f"{head}; one picture says nothing about noise."
        low, high = self.interval
        verdict = "within noise" if self.noise else "more than noise"
        return f"{head} (95 % interval {low:+.4f} to {high:+.4f}, {self.a.images} pictures): {verdict}."

    def to_dict(self) -> dict[str, Any]:
        """Return what `fullconv compare --json` prints."""
        return {
            "mean_iou": [self.a.mean_iou, self.b.mean_iou],
            "difference": self.difference,
            "interval": None if self.interval is None else list(self.interval),
            "noise": self.noise,
            "images": self.a.images,
            "policy": self.a.policy,
            "engine": [self.a.engine, self.b.engine],
            "precision": [self.a.precision, self.b.precision],
        }


def compare(
    a: Segmenter, b: Segmenter, data: Dataset | str | Path, split: str = "val", progress: Progress | None = None
) -> Comparison:
    """Score two models on the same pictures and compare them.

    Pictures that either model was trained on are left out, so that neither is scored on what it has seen.

    Args:
        a: The first model.
        b: The second.
        data: A data set, or its folder.
        split: Pictures to score.
        progress: Called after each picture, of both models in turn.

    Raises:
        DataError: No picture of the split is new to both.
    """
    dataset = data if isinstance(data, Dataset) else open_dataset(data)
    seen = {stem for model in (a, b) for stem in (model.card.data.get("splits") or {}).get("train", [])}
    samples = [sample for sample in dataset.samples(split) if sample.stem not in seen]
    if not samples:
        raise DataError(
            f"{dataset.root}: one of the models was trained on every picture of {split}. Choose another split."
        )
    reports = [evaluate(cast(Any, model), dataset, split, samples=samples, progress=progress) for model in (a, b)]
    stems = [sample.stem for sample in samples]
    found = paired_difference(_in_order(reports[0], stems), _in_order(reports[1], stems))
    interval = None if len(samples) < 2 else (found.low, found.high)
    return Comparison(reports[0], reports[1], found.value, interval)


def _in_order(report: Report, stems: list[str]) -> Counts:
    """Return a report's counts with the pictures in a given order."""
    rows = [report.per_image[stem] for stem in stems]
    return Counts(*(np.stack(part) for part in zip(*rows, strict=True)))
