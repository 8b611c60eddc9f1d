"""Two models on the same pictures: is their difference noise?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from fullconv.data import Dataset, open_dataset
from fullconv.errors import DataError
from fullconv.evaluation import Progress, Report, evaluate
from fullconv.metrics import Counts, paired_difference
from fullconv.segmenter import Segmenter


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
