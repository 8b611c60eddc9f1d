"""The loop: batches, steps, a line an epoch; validation; checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from fullconv.checkpoint import write_best
from fullconv.data import Dataset, Sample
from fullconv.data.loader import Batch, TrainingBatches
from fullconv.errors import OutputError
from fullconv.evaluation import Report
from fullconv.tracking import Tracker, log_epoch
from fullconv.training.console import Console
from fullconv.training.evidence import NotFiniteError, keep_evidence
from fullconv.training.folder import RunFolder
from fullconv.training.optimizer import learning_rate
from fullconv.training.plan import Measured
from fullconv.training.processes import LostError, Processes
from fullconv.training.rhythm import Rhythm
from fullconv.training.shared import evaluate_together
from fullconv.training.shortage import next_batch
from fullconv.training.state import TrainState
from fullconv.training.step import Stepper
from fullconv.training.validation import (
    evaluation_of,
    mean_over_heads,
    spread,
    track_pictures,
    warning_of_one_class,
    without_seconds,
)


@dataclass
class Loop:
    """Runs steps from where the state is to the end, or until it is told to stop."""

    state: TrainState
    stepper: Stepper
    batches: TrainingBatches
    measured: Measured
    dataset: Dataset
    val: Sequence[Sample]
    folder: RunFolder
    console: Console
    stop: Callable[[], str | None]
    """Returns the name of the signal that asks for an end."""
    trackers: Sequence[Tracker] = ()
    started: float = field(default_factory=time.monotonic)
    whole: bool = field(default=True, init=False)
    """Whether the state is that of a moment at which a run can go on: not while an epoch ends."""
    rhythm: Rhythm = field(init=False)
    """Of checkpoints."""

    def __post_init__(self) -> None:
        self.rhythm = Rhythm(self.stepper.recipe.checkpoint_every, self.state.bytes)

    @property
    def processes(self) -> Processes:
        """All that train together."""
        return self.stepper.processes

    def run(self) -> str:
        """Train; return "done" or the signal that ended it.

        Raises:
            NotFiniteError: The loss is not a number any more; batch and state are kept for `fullconv debug`.
            LostError: Another process is gone; a checkpoint was written where that could be.
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
        except LostError as error:
            if self.processes.first and self.whole:
                self.save()
            raise LostError(
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
        except NotFiniteError as error:
            batches = group if self.processes.ranks == 1 else [self.batches.whole(batch.step) for batch in group]
            if self.processes.first:
                keep_evidence(error, self.state, self.stepper, batches, self.folder, self.measured.steps)
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
            "lr": learning_rate(state.step - 1, self.measured.steps, recipe),
            "seconds": round(state.seconds + time.monotonic() - self.started, 3),
            # A score's own seconds vary from run to run; two runs that are the same have the same lines.
            "val": None if reports is None else without_seconds(reports),
        }
        state.history.append(line)
        self.whole = True
        if self.processes.first:
            self.folder.write_metrics(state.history)
        log_epoch(self.trackers, line)
        self.console.epoch(line, state.best, state.best_step == state.step)
        for report in (reports or {}).values():
            if words := warning_of_one_class(report, epoch):
                self.console.say(words)

    def _validate(self, epoch: int) -> dict[str, Report] | None:
        due = epoch % self.measured.validate_every == 0 or self.state.step == self.measured.steps
        if not self.val or not due:
            return None
        chosen = spread(self.val, self.measured.validation_pictures)
        with evaluation_of(self.state, self.stepper) as segmenter:
            reports = evaluate_together(
                self.processes, segmenter, self.dataset, "val", chosen, progress=self.console.validating
            )
            if self.trackers:
                track_pictures(self.trackers, self.dataset, self.val, segmenter, self.state.step)
        score = mean_over_heads(reports)
        if self.state.best is None or score > self.state.best:
            self.state.best, self.state.best_step, self.state.waited = score, self.state.step, 0
            if self.processes.first:
                write_best(self.folder.checkpoints, self.state.step, self.stepper.card, self.state.weights())
        else:
            self.state.waited += 1
        return reports

    def _waited_enough(self) -> bool:
        patience = self.stepper.recipe.early_stop
        return patience is not None and self.state.waited >= patience
