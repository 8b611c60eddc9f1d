"""Scores of a model on a data set, at the pictures' own resolution, by the same call that predicts."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from fullconv.card import Card
from fullconv.data import Dataset, Sample, open_dataset
from fullconv.data.choice import check_classes, choose_heads, choose_samples
from fullconv.errors import FullconvError, InputError
from fullconv.labels import read_label_map
from fullconv.metrics import Policy, check_policy
from fullconv.scoring import Report, Tally, save_per_image
from fullconv.segmenter import load
from fullconv.timing import COUNTING, WAITING_IN, part

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
    tallies: dict[str | None, Tally] = {}
    for ours, theirs in heads:
        names = segmenter.card.labels(ours).classes
        check_classes(names, dataset.labels[theirs].classes, str(dataset.root))
        tallies[ours] = Tally(names, check_policy(policy), band)
    members, notes = (list(samples), []) if samples is not None else choose_samples(dataset, segmenter.card, split)

    def read(sample: Sample) -> tuple[NDArray[Any], Masks]:
        masks = {ours: dataset.read_mask(sample, theirs) for ours, theirs in heads}
        return segmenter.read(dataset.read_image(sample), sample.image.as_posix()), masks

    def fail(sample: Sample, error: FullconvError, of: Iterable[Tally] = tuple(tallies.values())) -> None:
        if on_error == "raise":
            raise error
        for tally in of:
            tally.failed.append({"input": sample.image.as_posix(), "reason": str(error)})

    done = 0
    only = heads[0][0] if len(heads) == 1 else None
    with closing(_ahead(read, members, max(workers, 1))) as queue:
        for batch in _batches(queue, max(batch_size, 1)):
            scored = []
            for sample, pending in batch:
                try:
                    with part(WAITING_IN):
                        scored.append((sample, *pending.result()))
                except FullconvError as error:
                    fail(sample, error)
            for sample, masks, prediction in _label(segmenter, scored, only, fail):
                for ours, theirs in heads:
                    label_map = prediction.label_map if ours in (None, only) else prediction.label_maps[ours]
                    try:
                        with part(COUNTING):
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
    tally = Tally(tuple(classes), check_policy(policy), band)
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


def _ahead(
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
