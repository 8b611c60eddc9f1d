"""Ctrl-C and SIGTERM as an orderly end.

When a checkpoint is written: at its interval, and after an epoch where that is cheap.

Validation in the middle of a run: whose weights, which pictures, what of the scores is kept and said.

The loop: batches, steps, a line an epoch; validation; checkpoints.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from fullconv.checkpoint import write_best
from fullconv.data import Dataset, Sample
from fullconv.data.loader import Batch, TrainingBatches
from fullconv.errors import OutputError
from fullconv.evaluation import Report
from fullconv.labels import colorize
from fullconv.prediction import display
from fullconv.segmenter import Segmenter
from fullconv.tracking import Tracker, log_epoch, log_panels
from fullconv.training.config import Schedule
from fullconv.training.console import Console
from fullconv.training.distributed import Distributed, PeerLostError, evaluate_distributed
from fullconv.training.errors import NonFiniteError
from fullconv.training.nan_debug import dump_failed_step
from fullconv.training.oom import next_batch
from fullconv.training.optimizer import lr_at
from fullconv.training.run_dir import RunDir
from fullconv.training.state import TrainState
from fullconv.training.step import TrainStep


@contextmanager
def graceful_stop() -> Iterator[Callable[[], str | None]]:
    """Turn the first Ctrl-C or SIGTERM into an orderly end after the step; a second one ends at once."""
    asked: list[str] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append("sigint" if number == signal.SIGINT else "sigterm")

    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, handle)
    try:
        yield lambda: asked[0] if asked else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


CHECKPOINT_SHARE = 0.02
"""Of the time since the one before, that a checkpoint at the end of an epoch may take."""
DISK_SPEED = 200e6
"""Bytes a second at which the first checkpoint is expected to be written."""


@dataclass
class CheckpointTimer:
    """Says when a checkpoint is due.

    One at the end of an epoch may take as long as the one before did, and that is at most 2 % of the time since then. So
    those at ends of epochs, but for the newest, together take no more than 2 % of the time in between.
    """

    every: float
    """Seconds after which one is due whatever it costs."""
    size: Callable[[], int]
    """Returns the bytes that one takes."""
    clock: Callable[[], float] = time.monotonic
    saved: float = field(default=0.0, init=False)
    """When the latest one was written, or the run began."""
    cost: float | None = field(default=None, init=False)
    """Seconds that it took; None before the first."""

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Count from now."""
        self.saved = self.clock()

    def due(self, epoch_ended: bool) -> bool:
        """Say whether one is due after a step, which may have ended an epoch."""
        since = self.clock() - self.saved
        return since >= self.every or (epoch_ended and self.expected() <= CHECKPOINT_SHARE * since)

    def expected(self) -> float:
        """Return the seconds that the next one will take."""
        return self.size() / DISK_SPEED if self.cost is None else self.cost

    def written(self, since: float) -> None:
        """Take down that one was written, beginning at a moment of the clock."""
        self.saved = self.clock()
        self.cost = self.saved - since


TRACKED_PICTURES = 4
"""Val pictures that trackers show."""


def mean_over_heads(reports: Mapping[str, Report]) -> float:
    """Return the score by which the best weights are chosen: mean IU, averaged over the heads."""
    return sum(report.mean_iou for report in reports.values()) / len(reports)


def reports_to_dict(reports: Mapping[str, Report]) -> dict[str, Any]:
    """Return what `evaluate --json` prints, but for the time that it took; that of all heads where there are several."""
    numbers = {head: {**report.to_dict(), "seconds": None} for head, report in reports.items()}
    first = next(iter(numbers.values()))
    return first if len(numbers) == 1 else {**first, "heads": numbers, "mean_iou_over_heads": mean_over_heads(reports)}


def evenly_spaced(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Return a fixed subset, evenly evenly_spaced."""
    if count >= len(samples):
        return list(samples)
    return [samples[index * len(samples) // count] for index in range(count)]


class ema_scope:  # noqa: N801  (a context manager reads as a phrase)
    """A segmenter of the weights to be validated; the network is back in training mode afterwards."""

    def __init__(self, state: TrainState, stepper: TrainStep) -> None:
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


def log_validation_images(
    trackers: Sequence[Tracker], dataset: Dataset, val: Sequence[Sample], segmenter: Segmenter, step: int
) -> None:
    """Log a few val pictures, always the same: picture, truth, prediction."""
    head = next(iter(dataset.labels))
    palette = dataset.labels[head].palette
    for sample in evenly_spaced(val, TRACKED_PICTURES):
        image = dataset.read_image(sample)
        label_map = segmenter.predict(image).label_map
        masks = (dataset.read_mask(sample, head), label_map)
        panels = [display(image), *(colorize(mask, palette) for mask in masks)]
        log_panels(trackers, f"val/{sample.stem}", panels, step)


def collapse_warning(report: Report, epoch: int) -> str | None:
    """Return what to say aloud where everything is predicted as one class after the first epochs."""
    predicted = report.confusion.sum(axis=0)
    if len(predicted) < 2 or (predicted > 0).sum() != 1 or not 2 <= epoch <= 10:
        return None
    return (
        f"Everything is predicted as '{report.names[int(predicted.argmax())]}' after {epoch} epochs. If that does not change"
        " soon, try --set class_weights=inverse_log --set sampling=rare, and look at `fullconv check`."
    )


@dataclass
class TrainLoop:
    """Runs steps from where the state is to the end, or until it is told to stop."""

    state: TrainState
    stepper: TrainStep
    batches: TrainingBatches
    measured: Schedule
    dataset: Dataset
    val: Sequence[Sample]
    folder: RunDir
    console: Console
    stop: Callable[[], str | None]
    """Returns the name of the signal that asks for an end."""
    trackers: Sequence[Tracker] = ()
    started: float = field(default_factory=time.monotonic)
    whole: bool = field(default=True, init=False)
    """Whether the state is that of a moment at which a run can go on: not while an epoch ends."""
    rhythm: CheckpointTimer = field(init=False)
    """Of checkpoints."""

    def __post_init__(self) -> None:
        self.rhythm = CheckpointTimer(self.stepper.recipe.checkpoint_every, self.state.bytes)

    @property
    def processes(self) -> Distributed:
        """All that train together."""
        return self.stepper.processes

    def run(self) -> str:
        """Train; return "done" or the signal that ended it.

        Raises:
            NonFiniteError: The loss is not a number any more; batch and state are kept for `fullconv debug`.
            PeerLostError: Another process is gone; a checkpoint was written where that could be.
            OutputError: The run folder cannot be written; what was there before is whole.
        """
        try:
            return self._run()
        except OutputError as error:
            kept = [name for name in ("last", "previous") if (self.folder.checkpoints / name).exists()]
            state = "the checkpoint before it is whole" if kept else "and there is no checkpoint yet"
            raise OutputError(
                f"{error} Step {self.state.step} is lost, {state}: make room or mend that folder, and go on by the same command"
                " with --resume."
            ) from error
        except PeerLostError as error:
            if self.processes.first and self.whole:
                self.save()
            raise PeerLostError(
                f"{error} The newest checkpoint is in {self.folder.checkpoints}; go on by the same command with --resume."
            ) from error

    def _run(self) -> str:
        if self._waited_enough():
            return "done"  # killed between the last step and the end: one step more would give other weights
        self.rhythm.begin()
        if signal := self._asked():
            self.save()
            return signal
        for group in self._groups():
            loss = self._step(group)
            self.console.step(self.state.step, self.measured.steps, loss)
            ended = self.measured.epoch_ends(self.state.step)
            if ended:
                self._end_epoch()
            finished = self.state.step >= self.measured.steps or self._waited_enough()
            signal = self._asked()
            if signal or finished or self.rhythm.due(ended):
                self.save()
            if finished:
                return "done"
            if signal:
                return signal
        return "done"

    def _step(self, group: Sequence[Batch]) -> float:
        try:
            loss = self.stepper.step(self.state, group, self.measured.steps)
        except NonFiniteError as error:
            batches = group if self.processes.ranks == 1 else [self.batches.whole(batch.step) for batch in group]
            if self.processes.first:
                dump_failed_step(error, self.state, self.stepper, batches, self.folder, self.measured.steps)
            raise self.processes.spoken(error.explained(self.stepper.recipe, batches, self.folder.path)) from None
        self.state.loss = (self.state.loss[0] + loss, self.state.loss[1] + 1)
        return loss

    def _asked(self) -> str | None:
        """Return the signal that any process got to end, and take down what any of them left out."""
        signal = self.stop()
        if self.processes.ranks == 1:
            self.state.skipped.update(self.batches.skipped)
            return signal
        more = len(self.batches.skipped.keys() - self.state.skipped.keys())
        flags = self.processes.sum(torch.tensor([signal == "sigint", signal == "sigterm", more > 0]).int()).tolist()
        if flags[2]:
            for skipped in self.processes.gathered(self.batches.skipped):
                self.state.skipped.update(skipped)
        return "sigint" if flags[0] else "sigterm" if flags[1] else None

    def save(self) -> None:
        """Write a checkpoint and the log that belongs to it."""
        now = time.monotonic()
        self.state.seconds += now - self.started
        self.started = now
        if self.processes.first:
            self.state.save(self.folder.checkpoints)
            self.folder.write_metrics(self.state.history)
            self.folder.write_status("running", self.state.step, self.measured.steps)
        self.rhythm.written(since=now)

    def _groups(self) -> Iterator[list[Batch]]:
        """Yield the micro-batches of each step."""
        accumulate = self.stepper.recipe.accumulate
        group: list[Batch] = []
        if self.state.step >= self.measured.steps:
            return
        batches = self.batches.batches(self.state.step * accumulate, self.measured.steps * accumulate)
        while (batch := self.processes.all_do(lambda: next_batch(batches))) is not None:
            group.append(batch)
            if len(group) == accumulate:
                yield group
                group = []

    def _end_epoch(self) -> None:
        """Validate where it is due, and write the epoch's line."""
        state, recipe = self.state, self.stepper.recipe
        self.whole = False
        epoch = self.measured.epoch(state.step)
        mean_loss = state.loss[0] / max(1.0, state.loss[1])
        state.loss = (0.0, 0.0)
        reports = self._validate(epoch)
        line = {
            "epoch": epoch,
            "step": state.step,
            "train_loss": mean_loss,
            "lr": lr_at(state.step - 1, self.measured.steps, recipe),
            "seconds": round(state.seconds + time.monotonic() - self.started, 3),
            # A score's own seconds vary from run to run; two runs that are the same have the same lines.
            "val": None if reports is None else reports_to_dict(reports),
        }
        state.history.append(line)
        self.whole = True
        if self.processes.first:
            self.folder.write_metrics(state.history)
        log_epoch(self.trackers, line)
        self.console.epoch(line, state.best, state.best_step == state.step)
        for report in (reports or {}).values():
            if words := collapse_warning(report, epoch):
                self.console.say(words)

    def _validate(self, epoch: int) -> dict[str, Report] | None:
        due = epoch % self.measured.validate_every == 0 or self.state.step == self.measured.steps
        if not self.val or not due:
            return None
        chosen = evenly_spaced(self.val, self.measured.validation_pictures)
        with ema_scope(self.state, self.stepper) as segmenter:
            reports = evaluate_distributed(
                self.processes, segmenter, self.dataset, "val", chosen, progress=self.console.validating
            )
            if self.trackers:
                log_validation_images(self.trackers, self.dataset, self.val, segmenter, self.state.step)
        score = mean_over_heads(reports)
        if self.state.best is None or score > self.state.best:
            self.state.best, self.state.best_step, self.state.bad_epochs = score, self.state.step, 0
            if self.processes.first:
                write_best(self.folder.checkpoints, self.state.step, self.stepper.card, self.state.weights())
        else:
            self.state.bad_epochs += 1
        return reports

    def _waited_enough(self) -> bool:
        patience = self.stepper.recipe.early_stop
        return patience is not None and self.state.bad_epochs >= patience
