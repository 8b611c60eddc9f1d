"""The loop: batch, logits, loss, step, a line an epoch; validation; checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fullconv.card import Card
from fullconv.checkpoint import best_file
from fullconv.data import Dataset, Sample
from fullconv.data.loader import Batch, TrainingBatches
from fullconv.errors import RunError
from fullconv.evaluation import Report, evaluate_heads
from fullconv.labels import colorize
from fullconv.losses import LossSums, PixelLoss
from fullconv.modelfile import CARD_KEY, write_tensors
from fullconv.nn import Network
from fullconv.prediction import display
from fullconv.preprocess import normalize
from fullconv.recipe import Recipe
from fullconv.segmenter import Segmenter
from fullconv.tracking import Tracker, log_epoch, log_panels
from fullconv.training.console import Console
from fullconv.training.folder import RunFolder
from fullconv.training.optimizer import learning_rate, set_learning_rate
from fullconv.training.plan import Measured
from fullconv.training.state import TrainState

TRACKED_PICTURES = 4
"""Val pictures that trackers show."""


@dataclass
class Stepper:
    """Makes steps: everything that one needs beside the state."""

    recipe: Recipe
    card: Card
    losses: dict[str, PixelLoss]
    """By head of the data."""
    device: torch.device
    precision: str

    def step(self, state: TrainState, batches: Sequence[Batch], steps: int) -> float:
        """Make one step from one micro-batch or several; return its loss.

        The loss is that of all valid pixels of all micro-batches, so that their number changes nothing.

        Raises:
            RunError: The loss is not a number any more.
        """
        # Dropout and the like draw from torch's own generator: each step starts it anew.
        torch.manual_seed((self.recipe.seed * 1_000_003 + state.step) % 2**63)
        network = state.network
        set_training_mode(network, self.recipe)
        set_learning_rate(state.optimizer, learning_rate(state.step, steps, self.recipe))
        masks = [{head: mask.to(self.device) for head, mask in batch.masks.items()} for batch in batches]
        totals = {
            head: torch.stack([loss.denominator(part[head]) for part in masks]).sum().clamp(min=1e-12)
            for head, loss in self.losses.items()
        }
        state.optimizer.zero_grad(set_to_none=True)
        value = 0.0
        for batch, part in zip(batches, masks, strict=True):
            share = self._share(self.sums(network, batch.images, part), totals)
            share.backward()  # type: ignore[no-untyped-call]
            value += float(share.detach())
        if not math.isfinite(value):
            raise _not_finite(state.step, value, batches, self.recipe)
        if self.recipe.clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), self.recipe.clip)
        state.optimizer.step()
        if state.ema is not None:
            state.ema.update(network, state.step)
        state.step += 1
        return value

    def sums(self, network: Network, images: Tensor, masks: Mapping[str, Tensor]) -> dict[str, LossSums]:
        """Return each head's share of the loss, for pictures as stored (N, h, w, C) and labels (N, h, w) by head."""
        if images.dtype == torch.uint16:
            images = images.to(torch.float32)
        x = normalize(images.to(self.device, non_blocking=True), self.card)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            scores = network.scores(x)
        by_head = scores if isinstance(scores, dict) else {next(iter(self.losses)): scores}
        return {
            head: loss.sums_of_scores(
                by_head[head], *network.interpolation(by_head[head], (x.shape[-2], x.shape[-1])), masks[head]
            )
            for head, loss in self.losses.items()
        }

    def _share(self, sums: Mapping[str, LossSums], totals: dict[str, Tensor]) -> Tensor:
        parts = [part.numerator / totals[head].to(part.numerator.dtype) for head, part in sums.items()]
        return torch.stack(parts).sum()


def set_training_mode(network: Network, recipe: Recipe) -> None:
    """Put the network into training mode, with what the recipe freezes in evaluation mode."""
    network.train()
    if recipe.freeze == "backbone":
        network.backbone.eval()
    if recipe.freeze == "norm":
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def _not_finite(step: int, value: float, batches: Sequence[Batch], recipe: Recipe) -> RunError:
    stems = [stem for batch in batches for stem in batch.stems]
    listed = ", ".join(stems[:8]) + (" ..." if len(stems) > 8 else "")
    return RunError(
        f"the loss became {value} at step {step + 1} (pictures {listed}). The learning rate is too high for these data:"
        f" start again with --lr {(recipe.lr or 1e-3) / 4:.2g}, --set clip=1, or --precision fp32."
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

    def run(self) -> str:
        """Train; return "done" or the signal that ended it."""
        if self._waited_enough():
            return "done"  # killed between the last step and the end: one step more would give other weights
        saved = time.monotonic()
        if signal := self.stop():
            self.save()
            return signal
        for group in self._groups():
            loss = self.stepper.step(self.state, group, self.measured.steps)
            self.state.loss = (self.state.loss[0] + loss, self.state.loss[1] + 1)
            self.state.skipped.update(self.batches.skipped)
            self.console.step(self.state.step, self.measured.steps, loss)
            if self.measured.epoch_ends(self.state.step):
                self._end_epoch()
            finished = self.state.step >= self.measured.steps or self._waited_enough()
            signal = self.stop()
            if signal or finished or time.monotonic() - saved >= self.stepper.recipe.checkpoint_every:
                self.save()
                saved = time.monotonic()
            if finished:
                return "done"
            if signal:
                return signal
        return "done"

    def save(self) -> None:
        """Write a checkpoint and the log that belongs to it."""
        now = time.monotonic()
        self.state.seconds += now - self.started
        self.started = now
        self.state.save(self.folder.checkpoints)
        self.folder.write_metrics(self.state.history)
        self.folder.write_status("running", self.state.step, self.measured.steps)

    def _groups(self) -> Iterator[list[Batch]]:
        """Yield the micro-batches of each step."""
        accumulate = self.stepper.recipe.accumulate
        group: list[Batch] = []
        if self.state.step >= self.measured.steps:
            return
        for batch in self.batches.batches(self.state.step * accumulate, self.measured.steps * accumulate):
            group.append(batch)
            if len(group) == accumulate:
                yield group
                group = []

    def _end_epoch(self) -> None:
        """Validate where it is due, and write the epoch's line."""
        state, recipe = self.state, self.stepper.recipe
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
        self.folder.write_metrics(state.history)
        log_epoch(self.trackers, line)
        self.console.epoch(line, state.best, state.best_step == state.step)
        for report in (reports or {}).values():
            self._warn_of_one_class(report, epoch)

    def _validate(self, epoch: int) -> dict[str, Report] | None:
        due = epoch % self.measured.validate_every == 0 or self.state.step == self.measured.steps
        if not self.val or not due:
            return None
        chosen = spread(self.val, self.measured.validation_pictures)
        with evaluation_of(self.state, self.stepper) as segmenter:
            progress = self.console.validating
            reports = evaluate_heads(segmenter, self.dataset, "val", samples=chosen, progress=progress)
            if self.trackers:
                self._track_pictures(segmenter)
        score = mean_over_heads(reports)
        if self.state.best is None or score > self.state.best:
            self.state.best, self.state.best_step, self.state.waited = score, self.state.step, 0
            metadata = {CARD_KEY: self.stepper.card.to_json()}
            write_tensors(best_file(self.folder.checkpoints, self.state.step), self.state.weights(), metadata)
        else:
            self.state.waited += 1
        return reports

    def _track_pictures(self, segmenter: Segmenter) -> None:
        """Log a few val pictures, always the same: picture, truth, prediction."""
        for sample in spread(self.val, TRACKED_PICTURES):
            image = self.dataset.read_image(sample)
            label_map = segmenter.predict(image).label_map
            head = next(iter(self.dataset.labels))
            palette = self.dataset.labels[head].palette
            masks = (self.dataset.read_mask(sample, head), label_map)
            panels = [display(image), *(colorize(mask, palette) for mask in masks)]
            log_panels(self.trackers, f"val/{sample.stem}", panels, self.state.step)

    def _waited_enough(self) -> bool:
        patience = self.stepper.recipe.early_stop
        return patience is not None and self.state.waited >= patience

    def _warn_of_one_class(self, report: Report, epoch: int) -> None:
        """Say aloud when everything is predicted as one class after the first epochs."""
        predicted = report.confusion.sum(axis=0)
        if len(predicted) > 1 and (predicted > 0).sum() == 1 and 2 <= epoch <= 10:
            name = report.names[int(predicted.argmax())]
            self.console.say(
                f"Everything is predicted as '{name}' after {epoch} epochs. If that does not change soon, try"
                " --set class_weights=inverse_log --set sampling=rare, and look at `fullconv check`."
            )


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
        return Segmenter(network, self.stepper.card, str(self.stepper.device), self.stepper.precision)

    def __exit__(self, *_: Any) -> None:
        if self.kept is not None:
            self.state.network.load_state_dict(self.kept)
        self.state.network.train()
