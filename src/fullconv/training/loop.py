"""The training loop: steps, an epoch's line, validation, checkpoints."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch

from fullconv.checkpoint import best_file
from fullconv.data import Batch, Sample, TrainingBatches
from fullconv.errors import OutputError
from fullconv.evaluation import Report
from fullconv.modelfile import write_model
from fullconv.segmenter import Segmenter
from fullconv.system import handle_signals
from fullconv.tracking import EpochRecord, Observer, Validation
from fullconv.training.config import Schedule
from fullconv.training.distributed import evaluate_distributed
from fullconv.training.errors import NonFiniteError, PeerLostError, next_batch
from fullconv.training.nan_debug import dump_failed_step
from fullconv.training.optimizer import lr_at
from fullconv.training.setup import RunContext
from fullconv.training.state import TrainState
from fullconv.training.step import TrainStep

CHECKPOINT_SHARE = 0.02
"""Largest fraction of the time since the last checkpoint for one at the end of an epoch."""
DISK_BYTES_PER_S = 200e6
"""Assumed for the first checkpoint."""


@contextmanager
def graceful_stop() -> Iterator[Callable[[], str | None]]:
    """Let the first Ctrl-C or SIGTERM stop after the step, a second at once; yield what returns "sigint" or "sigterm"."""
    received: list[str] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append("sigint" if number == signal.SIGINT else "sigterm")

    with handle_signals(handle, signal.SIGINT, signal.SIGTERM):
        yield lambda: received[0] if received else None


@dataclass
class CheckpointTimer:
    """Decides when to save: at an interval, and after an epoch where that is cheap.

    At the end of an epoch one is written only if it is expected to take at most 2 % of the time since the last one.
    """

    interval_s: float
    """A checkpoint is due after this long, whatever it costs."""
    size: Callable[[], int]
    """Returns the bytes of a checkpoint."""
    clock: Callable[[], float] = time.monotonic
    last_saved: float = field(default=0.0, init=False)
    """When the latest one was written, or the run began."""
    last_duration_s: float | None = field(default=None, init=False)
    """None before the first."""

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Count from now."""
        self.last_saved = self.clock()

    def should_save(self, epoch_ended: bool) -> bool:
        """Return whether to save after a step."""
        since = self.clock() - self.last_saved
        expected = self.size() / DISK_BYTES_PER_S if self.last_duration_s is None else self.last_duration_s
        return since >= self.interval_s or (epoch_ended and expected <= CHECKPOINT_SHARE * since)

    def saved(self, began: float) -> None:
        """Record a checkpoint whose writing began at a time of the clock."""
        self.last_saved = self.clock()
        self.last_duration_s = self.last_saved - began


def mean_over_heads(reports: Mapping[str, Report]) -> float:
    """Return the score that selects the best weights: mIoU, averaged over the heads."""
    return sum(report.mean_iou for report in reports.values()) / len(reports)


def reports_to_dict(reports: Mapping[str, Report]) -> dict[str, Any]:
    """Return what `evaluate --json` prints, without the time, so that equal runs have equal lines."""
    numbers = {head: {**report.to_dict(), "seconds": None} for head, report in reports.items()}
    first = next(iter(numbers.values()))
    return first if len(numbers) == 1 else {**first, "heads": numbers, "mean_iou_over_heads": mean_over_heads(reports)}


def evenly_spaced(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Return a fixed, evenly spaced subset."""
    if count >= len(samples):
        return list(samples)
    return [samples[index * len(samples) // count] for index in range(count)]


@contextmanager
def validation_segmenter(state: TrainState, train_step: TrainStep) -> Iterator[Segmenter]:
    """Yield a segmenter of the weights to validate; restore the network and its training mode afterwards."""
    network, saved = state.network, None
    if state.ema is not None:
        saved = {name: value.clone() for name, value in network.state_dict().items()}
        network.load_state_dict(state.ema.tensors)
    try:
        yield Segmenter(network, train_step.card, str(train_step.device), train_step.precision, "torch")
    finally:
        if saved is not None:
            network.load_state_dict(saved)
        network.train()


def collapse_warning(report: Report, epoch: int) -> str | None:
    """Return a warning if only one class is predicted after the first epochs."""
    predicted = report.confusion.sum(axis=0)
    if len(predicted) < 2 or (predicted > 0).sum() != 1 or not 2 <= epoch <= 10:
        return None
    return (
        f"After {epoch} epochs every pixel is predicted as '{report.names[int(predicted.argmax())]}'. If that does not"
        " change soon, try --set class_weights=inverse_log --set sampling=rare, and run `fullconv check`."
    )


@dataclass
class TrainLoop:
    """Runs steps from the state's to the last one, or until a stop is requested."""

    context: RunContext
    state: TrainState
    train_step: TrainStep
    loader: TrainingBatches
    schedule: Schedule
    stop_requested: Callable[[], str | None]
    """Returns the signal that requests a stop."""
    observers: Sequence[Observer] = ()
    """Called on every rank after each validation and epoch; they read, and never alter the run."""
    started: float = field(default_factory=time.monotonic)
    resumable: bool = field(default=True, init=False)
    """Whether a run can resume from the state; not while an epoch ends: its loss is reset, its line not yet written."""

    def __post_init__(self) -> None:
        self.dist = self.context.dist
        self.timer = CheckpointTimer(self.context.recipe.checkpoint_every, self.state.bytes)

    def run(self) -> str:
        """Train; return "done" or the signal that stopped it."""
        state, schedule, run_dir = self.state, self.schedule, self.context.run_dir
        if self.early_stop():
            return "done"  # killed between the last step and the end: one more step would change the weights
        try:
            self.timer.start()
            if signal_name := self.poll_stop():
                self.save()
                return signal_name
            for batches in self.micro_batches():
                try:
                    loss = self.train_step.step(state, batches, schedule.steps)
                except NonFiniteError as error:
                    raise self.explain(error, batches) from None
                state.loss = (state.loss[0] + loss, state.loss[1] + 1)
                self.context.console.step(state.step, schedule.steps, loss)
                epoch_ended = schedule.epoch_ends(state.step)
                if epoch_ended:
                    self.end_epoch()
                finished = state.step >= schedule.steps or self.early_stop()
                signal_name = self.poll_stop()
                if signal_name or finished or self.timer.should_save(epoch_ended):
                    self.save()
                if finished:
                    return "done"
                if signal_name:
                    return signal_name
        except OutputError as error:
            kept = any((run_dir.checkpoints / name).exists() for name in ("last", "previous"))
            before = "the checkpoint before it is intact" if kept else "there is no checkpoint"
            raise OutputError(
                f"{error} Step {state.step} is lost; {before}. Free disk space or fix the folder's permissions, then rerun the"
                " same command with --resume."
            ) from error
        except PeerLostError as error:
            if self.dist.is_main and self.resumable:
                self.save()
            raise PeerLostError(
                f"{error} The newest checkpoint is in {run_dir.checkpoints}; rerun the same command with --resume."
            ) from error
        return "done"

    def early_stop(self) -> bool:
        """Return whether the recipe's number of validations passed without a better one."""
        patience = self.context.recipe.early_stop
        return patience is not None and self.state.bad_epochs >= patience

    def micro_batches(self) -> Iterator[list[Batch]]:
        """Yield the micro-batches of each step."""
        accumulate = self.context.recipe.accumulate
        if self.state.step >= self.schedule.steps:
            return
        batches = self.loader.batches(self.state.step * accumulate, self.schedule.steps * accumulate)
        group: list[Batch] = []
        while (batch := self.dist.run_synced(lambda: next_batch(batches))) is not None:
            group.append(batch)
            if len(group) == accumulate:
                yield group
                group = []

    def explain(self, error: NonFiniteError, batches: Sequence[Batch]) -> BaseException:
        """Dump a step whose loss is not finite, and return the error to raise."""
        if self.dist.world_size > 1:
            batches = [self.loader.full_batch(batch.step) for batch in batches]
        if self.dist.is_main:
            dump_failed_step(error, self.state, self.train_step, batches, self.context.run_dir, self.schedule.steps)
        return self.dist.main_raises(error.with_hint(self.context.recipe, batches, self.context.run_dir.path))

    def poll_stop(self) -> str | None:
        """Return the signal that any process got, and collect what any of them skipped."""
        signal_name, state = self.stop_requested(), self.state
        if self.dist.world_size == 1:
            state.skipped.update(self.loader.skipped)
            return signal_name
        more = len(self.loader.skipped.keys() - state.skipped.keys())
        flags = torch.tensor([signal_name == "sigint", signal_name == "sigterm", more > 0]).int()
        sigint, sigterm, skipped = self.dist.all_reduce(flags).tolist()
        if skipped:
            for part in self.dist.all_gather_object(self.loader.skipped):
                state.skipped.update(part)
        return "sigint" if sigint else "sigterm" if sigterm else None

    def save(self) -> None:
        """Write a checkpoint with its log and status."""
        now = time.monotonic()
        self.state.seconds += now - self.started
        self.started = now
        if self.dist.is_main:
            run_dir = self.context.run_dir
            self.state.save(run_dir.checkpoints)
            run_dir.write_metrics(self.state.history)
            run_dir.write_status("running", self.state.step, self.schedule.steps)
        self.timer.saved(began=now)

    def end_epoch(self) -> None:
        """Validate if it is due, and write the epoch's line."""
        state, schedule = self.state, self.schedule
        self.resumable = False
        epoch = schedule.epoch(state.step)
        mean_loss = state.loss[0] / max(1.0, state.loss[1])
        state.loss = (0.0, 0.0)
        due = epoch % schedule.validate_every == 0 or state.step == schedule.steps
        reports = self.validate() if due and self.context.val else {}
        line = {
            "epoch": epoch,
            "step": state.step,
            "train_loss": mean_loss,
            "lr": lr_at(state.step - 1, schedule.steps, self.context.recipe),
            "seconds": round(state.seconds + time.monotonic() - self.started, 3),
            "val": reports_to_dict(reports) if reports else None,
        }
        state.history.append(line)
        self.resumable = True
        if self.dist.is_main:
            self.context.run_dir.write_metrics(state.history)
        warnings = tuple(text for report in reports.values() if (text := collapse_warning(report, epoch)))
        for observer in self.observers:
            observer.on_epoch(EpochRecord(line, state.best, state.best_step == state.step, warnings))

    def validate(self) -> dict[str, Report]:
        """Score a part of val, and keep the weights if they are the best."""
        state, context = self.state, self.context
        samples = evenly_spaced(context.val, self.schedule.validation_pictures)
        with validation_segmenter(state, self.train_step) as segmenter:
            reports = evaluate_distributed(
                self.dist, segmenter, context.dataset, "val", samples, progress=context.console.validation_progress
            )
            for observer in self.observers:
                observer.on_validation(Validation(segmenter, reports, state.step))
        score = mean_over_heads(reports)
        if state.best is None or score > state.best:
            state.best, state.best_step, state.bad_epochs = score, state.step, 0
            if self.dist.is_main:
                write_model(best_file(context.run_dir.checkpoints, state.step), context.card, state.weights())
        else:
            state.bad_epochs += 1
        return reports
