"""Scores of a set of pictures: what was counted, the figures that follow from it, and how they are shown and kept."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.errors import DataError, FullconvError
from fullconv.labels import VOID
from fullconv.metrics import (
    Counts,
    Policy,
    accuracy,
    band,
    bootstrap_interval,
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


class Tally:
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
