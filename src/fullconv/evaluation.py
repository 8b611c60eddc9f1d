"""Scores of a model on a data set, at the pictures' own resolution, by the same call that predicts."""

from __future__ import annotations

import csv
import io
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from fullconv.card import Card
from fullconv.data import Dataset, Sample, open_dataset
from fullconv.errors import DataError, FullconvError
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
    pixel_accuracy,
)
from fullconv.storage import write_text

Item = TypeVar("Item")

Progress = Callable[[int, int], None]
"""Called with the number of pictures done and of all pictures."""


class Labelled(Protocol):
    """What evaluation needs of a prediction."""

    @property
    def label_map(self) -> NDArray[np.uint8]:
        """Class index of every pixel, (H, W)."""
        ...


class Model(Protocol):
    """What evaluation needs of a `Segmenter`."""

    card: Card
    engine: Any
    """Something with a `name` and a `precision`."""

    def predict(self, image: Any, *, head: str | None = None) -> Labelled:
        """Label every pixel of a picture (H, W, C)."""
        ...

    def predict_many(self, images: Sequence[Any], *, head: str | None = None) -> Sequence[Labelled]:
        """Label several pictures."""
        ...


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
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["image", "class", "tp", "fp", "fn"])
        for stem, (hits, truth, predicted) in self.per_image.items():
            for k, name in enumerate(self.names):
                rows.writerow([stem, name, hits[k], predicted[k] - hits[k], truth[k] - hits[k]])
        write_text(path, text.getvalue())

    def __str__(self) -> str:
        interval = self.mean_iou_interval
        spread = "" if interval is None else f" (95 % interval {interval[0]:.4f} to {interval[1]:.4f})"
        width = max(len("class"), *(len(name) for name in self.names))
        lines = [
            f"mean IU            {_figure(self.mean_iou)}{spread}",
            f"pixel accuracy     {_figure(self.pixel_accuracy)}",
            f"mean accuracy      {_figure(self.mean_accuracy)}",
            f"freq. weighted IU  {_figure(self.freq_weighted_iou)}",
            "",
            f"{'class':{width}}      IU    Dice  accuracy        pixels",
        ]
        for row in self.classes:
            figures = f"{_figure(row['iou'])}  {_figure(row['dice'])}    {_figure(row['accuracy'])}"
            lines.append(f"{row['name']:{width}}  {figures}  {row['pixels']:>12,}")
        return "\n".join(lines)


def evaluate(
    segmenter: Model,
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
        segmenter: The model.
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
    start = time.perf_counter()
    dataset = data if isinstance(data, Dataset) else open_dataset(data)
    data_head = head if head in dataset.labels else next(iter(dataset.labels))
    names = segmenter.card.labels(head).classes
    check_classes(names, dataset.labels[data_head].classes, str(dataset.root))
    members, notes = (list(samples), []) if samples is not None else choose_samples(dataset, segmenter.card, split)
    tally = _Tally(names, check_policy(policy), band)

    def read(sample: Sample) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        return dataset.read_image(sample), dataset.read_mask(sample, data_head)

    def fail(sample: Sample, error: FullconvError) -> None:
        if on_error == "raise":
            raise error
        tally.failed.append({"input": sample.image.as_posix(), "reason": str(error)})

    done = 0
    with closing(_ahead(read, members, max(workers, 1))) as queue:
        for batch in _batches(queue, max(batch_size, 1)):
            scored = []
            for sample, pending in batch:
                try:
                    scored.append((sample, *pending.result()))
                except FullconvError as error:
                    fail(sample, error)
            for sample, mask, label_map in _label(segmenter, scored, head, fail):
                try:
                    tally.add(sample.stem, mask, label_map, str(sample.mask))
                except FullconvError as error:
                    fail(sample, error)
            done += len(batch)
            if progress is not None:
                progress(done, len(members))
    report = tally.report(str(dataset.root))
    report.engine, report.precision = segmenter.engine.name, segmenter.engine.precision
    report.split, report.notes, report.seconds = split, notes, time.perf_counter() - start
    return report


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Cut an iterable into lists of a size, the last one maybe shorter."""
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch


def _label(
    segmenter: Model,
    scored: Sequence[tuple[Sample, NDArray[Any], NDArray[np.uint8]]],
    head: str | None,
    fail: Callable[[Sample, FullconvError], None],
) -> Iterator[tuple[Sample, NDArray[np.uint8], NDArray[np.uint8]]]:
    """Predict pictures, together where there are several, and yield sample, truth and label map of each."""
    if len(scored) > 1:
        predictions = segmenter.predict_many([image for _, image, _ in scored], head=head)
        for (sample, _, mask), prediction in zip(scored, predictions, strict=True):
            yield sample, mask, prediction.label_map
        return
    for sample, image, mask in scored:
        try:
            label_map = segmenter.predict(image, head=head).label_map
        except FullconvError as error:
            fail(sample, error)
            continue
        yield sample, mask, label_map


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
    tally = _Tally(tuple(classes), check_policy(policy), band)
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


class _Tally:
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
            raise DataError(
                f"{where}: none of {number} pictures could be scored. The first: {self.failed[0]['reason']}"
            )
        return Report(self.names, self.confusion, self.per_image, policy=self.policy, failed=self.failed)


def check_classes(model: Sequence[str], data: Sequence[str], where: str) -> None:
    """Raise if the classes of a model and of a data set are not the same in the same order.

    Raises:
        DataError: They differ; the message names those that do.
    """
    if tuple(model) == tuple(data):
        return
    only_model = [name for name in model if name not in data]
    only_data = [name for name in data if name not in model]
    listed = "[" + ", ".join(f'"{name}"' for name in model) + "]"
    if not only_model and not only_data:
        k = next(k for k, names in enumerate(zip(model, data, strict=True)) if names[0] != names[1])
        difference = f"class {k} is '{model[k]}' in the model and '{data[k]}' in the data"
    else:
        parts = [f"only in the {what}: {', '.join(names)}" for what, names in
                 (("model", only_model), ("data", only_data)) if names]  # fmt: skip
        difference = "; ".join(parts)
    raise DataError(
        f"{where}: classes of model and data differ: {difference}. If the masks mean the model's classes,"
        f" write in data.toml: classes = {listed}"
    )


def choose_samples(data: Dataset, card: Card, split: str) -> tuple[list[Sample], list[str]]:
    """Return the samples of a split, as the model's own training split them where the data set is the same.

    A model that was trained on a fold, or on a split by hash, keeps its split in the card; scoring the data set's
    present split could score pictures that the model was trained on.

    Returns:
        The samples, and notes for the reader.

    Raises:
        DataError: There is no such split.
    """
    own = data.samples(split)
    splits = card.data.get("splits")
    if split == "all" or not isinstance(splits, Mapping):
        return own, []
    trained = {stem: name for name, stems in splits.items() for stem in stems}
    present = {sample.stem: sample for sample in data.samples("all")}
    # The same but for a few that were added or left out; a foreign data set may share a name here and there.
    if not (trained.keys() <= present.keys() and len(trained) >= 0.9 * len(present)):
        return own, []
    unknown = {sample.stem for sample in own} - trained.keys()
    kept = [sample for stem, sample in sorted(present.items()) if trained.get(stem) == split or stem in unknown]
    if not kept or {sample.stem for sample in kept} == {sample.stem for sample in own}:
        return own, []
    return kept, [f"split '{split}' is that of the model's training ({len(kept)} pictures), not the data set's own"]


def _ahead(
    read: Callable[[Sample], tuple[NDArray[Any], NDArray[np.uint8]]], samples: Sequence[Sample], threads: int
) -> Generator[tuple[Sample, Future[tuple[NDArray[Any], NDArray[np.uint8]]]], None, None]:
    """Read the next pictures in other threads while the network runs; at most two a thread are waiting."""
    with ThreadPoolExecutor(max_workers=threads) as pool:
        waiting: deque[tuple[Sample, Future[tuple[NDArray[Any], NDArray[np.uint8]]]]] = deque()
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


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _figure(value: float | None) -> str:
    return "     -" if value is None or math.isnan(value) else f"{value:.4f}"
