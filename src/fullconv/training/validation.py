"""Validation in the middle of a run: whose weights, which pictures, what of the scores is kept and said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from fullconv.data import Dataset, Sample
from fullconv.evaluation import Report
from fullconv.labels import colorize
from fullconv.prediction import display
from fullconv.segmenter import Segmenter
from fullconv.tracking import Tracker, log_panels
from fullconv.training.state import TrainState
from fullconv.training.step import Stepper

TRACKED_PICTURES = 4
"""Val pictures that trackers show."""


def mean_over_heads(reports: Mapping[str, Report]) -> float:
    """Return the score by which the best weights are chosen: mean IU, averaged over the heads."""
    return sum(report.mean_iou for report in reports.values()) / len(reports)


def without_seconds(reports: Mapping[str, Report]) -> dict[str, Any]:
    """Return what `evaluate --json` prints, but for the time that it took; that of all heads where there are several."""
    numbers = {head: {**report.to_dict(), "seconds": None} for head, report in reports.items()}
    first = next(iter(numbers.values()))
    return first if len(numbers) == 1 else {**first, "heads": numbers, "mean_iou_over_heads": mean_over_heads(reports)}


def spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Return a fixed subset, evenly spread."""
    if count >= len(samples):
        return list(samples)
    return [samples[index * len(samples) // count] for index in range(count)]


class evaluation_of:  # noqa: N801  (a context manager reads as a phrase)
    """A segmenter of the weights to be validated; the network is back in training mode afterwards."""

    def __init__(self, state: TrainState, stepper: Stepper) -> None:
        self.state, self.stepper = state, stepper
        self.kept: dict[str, Tensor] | None = None

    def __enter__(self) -> Segmenter:
        network = self.state.network
        if self.state.ema is not None:
            self.kept = {name: value.clone() for name, value in network.state_dict().items()}
            network.load_state_dict(self.state.ema.tensors)
        return Segmenter(network, self.stepper.card, str(self.stepper.device), self.stepper.precision, "torch")

    def __exit__(self, *_: Any) -> None:
        if self.kept is not None:
            self.state.network.load_state_dict(self.kept)
        self.state.network.train()


def track_pictures(
    trackers: Sequence[Tracker], dataset: Dataset, val: Sequence[Sample], segmenter: Segmenter, step: int
) -> None:
    """Log a few val pictures, always the same: picture, truth, prediction."""
    head = next(iter(dataset.labels))
    palette = dataset.labels[head].palette
    for sample in spread(val, TRACKED_PICTURES):
        image = dataset.read_image(sample)
        label_map = segmenter.predict(image).label_map
        masks = (dataset.read_mask(sample, head), label_map)
        panels = [display(image), *(colorize(mask, palette) for mask in masks)]
        log_panels(trackers, f"val/{sample.stem}", panels, step)


def warning_of_one_class(report: Report, epoch: int) -> str | None:
    """Return what to say aloud where everything is predicted as one class after the first epochs."""
    predicted = report.confusion.sum(axis=0)
    if len(predicted) < 2 or (predicted > 0).sum() != 1 or not 2 <= epoch <= 10:
        return None
    return (
        f"Everything is predicted as '{report.names[int(predicted.argmax())]}' after {epoch} epochs. If that does not change"
        " soon, try --set class_weights=inverse_log --set sampling=rare, and look at `fullconv check`."
    )
