"""One process's part of a run: build, autotune or take up, train, end."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from fullconv.card import Card
from fullconv.checkpoint import read_checkpoint
from fullconv.data import Dataset, Statistics
from fullconv.data.loader import TrainingBatches
from fullconv.losses import ratio
from fullconv.nn import Network
from fullconv.recipe import Recipe
from fullconv.segmenter import Segmenter, choose_device
from fullconv.system import malloc_trim
from fullconv.tracking import open_trackers, require_trackers
from fullconv.training.autotune import autotune
from fullconv.training.config import RunConfig, check_lr, resolve_defaults
from fullconv.training.console import Console
from fullconv.training.distributed import SINGLE_PROCESS, Distributed, convert_sync_batchnorm, rank_device
from fullconv.training.errors import NonFiniteError
from fullconv.training.finalize import finalize, write_model
from fullconv.training.loop import TrainLoop, graceful_stop
from fullconv.training.oom import TrainOOMError, catch_oom, suggest_smaller_batch
from fullconv.training.run_dir import RunDir
from fullconv.training.setup import build_card, build_criteria, build_model, build_train_loader, describe_run
from fullconv.training.state import TrainState, new_state
from fullconv.training.step import TrainStep


@dataclass
class TrainResult:
    """How a run ended."""

    status: str
    """"done", "sigint" or "sigterm"."""
    segmenter: Segmenter
    skipped: list[str] = field(default_factory=list)
    """Pictures that --skip-bad left out."""


@dataclass
class Run:
    """One process's part of a run."""

    plan: RunConfig
    going_on: bool
    origin: dict[str, Any]
    dataset: Dataset
    statistics: Statistics
    folder: RunDir
    console: Console
    notes: list[str]
    started: float
    processes: Distributed = SINGLE_PROCESS
    recipe: Recipe = field(init=False)
    network: Network = field(init=False)
    stepper: TrainStep = field(init=False)
    batches: TrainingBatches = field(init=False)

    def build(self) -> None:
        """Make everything that a run is made of; the run folder is not touched."""
        recipe = self.recipe = resolve_defaults(self.plan.recipe, self.dataset, self.statistics, self.processes)
        require_trackers(recipe.track)
        check_lr(recipe, self.statistics)
        device = choose_device(rank_device(recipe.device, self.processes))
        if recipe.deterministic:
            _be_deterministic()
        if self.plan.measured is not None:
            torch.set_num_threads(self.plan.measured.threads)
        torch.manual_seed(recipe.seed)
        self.network = build_model(recipe, self.dataset, self.statistics.channels, device, self.console)
        card = build_card(recipe, self.network, self.dataset, self.statistics, self.origin["fingerprint"])
        losses, said = build_criteria(recipe, self.dataset)
        self.stepper = TrainStep(recipe, card, losses, device, "fp32", self.processes)
        self.batches = build_train_loader(recipe, self.dataset, self.statistics, self.processes)
        if recipe.sync_batchnorm:
            convert_sync_batchnorm(self.network, self.processes)
        for sentence in (*said, self.batches.explain):
            self.console.say(sentence)
            self.notes.append(sentence)

    def go(self) -> TrainResult:
        """Measure or take up, train, end.

        Raises:
            TrainOOMError: A step does not fit into memory; names the settings to lower, and by how much.
        """
        try:
            return self._go()
        except TrainOOMError as error:
            raise suggest_smaller_batch(self.recipe, error, self._fits, self.processes.ranks) from None

    def _fits(self, crops: int, size: tuple[int, int]) -> bool:
        """Say whether so many crops go through the network and back."""
        network, channels = self.network, self.statistics.channels
        alone = replace(self.stepper, processes=SINGLE_PROCESS)  # the others are not trying anything
        network.eval().zero_grad(set_to_none=True)
        malloc_trim()
        if alone.device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            with catch_oom():
                images = torch.zeros(crops, *size, channels, dtype=torch.uint8)
                masks = {
                    head: torch.zeros(crops, *size, dtype=torch.uint8, device=alone.device) for head in alone.losses
                }
                shares = [ratio(*sums) for sums in alone.sums(network, images, masks).values()]
                torch.stack(shares).sum().backward()  # type: ignore[no-untyped-call]
        except TrainOOMError:
            return False
        return True

    def _go(self) -> TrainResult:
        val = self.dataset.splits.get("val", [])
        measured = self.plan.measured or autotune(
            self.network, self.stepper, self.batches, self.dataset, val, self.started
        )
        self.stepper.precision = measured.precision
        if torch.get_num_threads() != measured.threads:
            torch.set_num_threads(measured.threads)
        if measured.processes != self.processes.ranks:
            self.console.say(
                f"This run had {measured.processes} processes, and goes on with {self.processes.ranks}: sums round"
                " differently, so it will not end with the same bits."
            )
            measured = replace(measured, processes=self.processes.ranks)
        weights = {head: loss.class_weights for head, loss in self.stepper.losses.items() if loss.class_weights}
        decided = {
            "sampling": self.batches.sampling,
            "class_weights": {head or "only": w for head, w in weights.items()},
        }
        self.plan = RunConfig(self.recipe, measured, self.plan.origin if self.going_on else self.origin, decided)
        with graceful_stop() as stop:
            if self.processes.first:
                self.plan.write(self.folder.recipe)
            if self.processes.ranks > 1:
                self.network.load_state_dict(self.processes.share(self.network.state_dict()))
            state = new_state(self.network, self.recipe)
            if self.going_on:
                self._take_up(state)
            for sentence in describe_run(self.network, self.recipe, measured, self.stepper.device):
                self.console.say(sentence)
            track = self.recipe.track if self.processes.first else ()
            trackers = open_trackers(track, self.folder.path, self.recipe.model_dump(), state.step)
            loop = TrainLoop(
                state,
                self.stepper,
                self.batches,
                measured,
                self.dataset,
                val,
                self.folder,
                self.console,
                stop,
                trackers,
            )
            self.console.batch_size = (self.recipe.batch_size or 1) * self.recipe.accumulate
            self.console.start(state.step, measured.steps)
            try:
                status = loop.run()
            except NonFiniteError:
                self._keep_best(state)
                raise
            finally:
                self.console.stop()
                for tracker in trackers:
                    tracker.close()
        return self._end(status, loop, self.stepper.card, str(self.stepper.device))

    def _take_up(self, state: TrainState) -> None:
        """Become what the newest whole checkpoint holds, where there is one."""
        held: dict[str, Tensor] = {}

        def read() -> Any:
            found = read_checkpoint(self.folder.checkpoints)
            if found is None:
                return None
            held.update(found[0])
            return found[1:]

        found = self.processes.told(read)
        if found is None:
            return
        numbers, note = found
        state.restore(self.processes.share(held), numbers)
        if note:
            self.console.say(note)
        if self.processes.first:
            self.folder.write_metrics(state.history)
        assert self.plan.measured is not None
        self.console.say(f"Going on at step {state.step + 1} of {self.plan.measured.steps}.")

    def _keep_best(self, state: TrainState) -> None:
        """Write the best model of a run that cannot go on, where it has one."""
        if self.processes.first and state.best_step is not None:
            write_model(state, self.stepper.card, self.folder, str(self.stepper.device))
            self.console.say(f"The model of the best step, {state.best_step}, is {self.folder.model}.")

    def _end(self, status: str, loop: TrainLoop, card: Card, device: str) -> TrainResult:
        """Write what the run came to."""
        state, steps = loop.state, loop.measured.steps
        skipped = [*self.dataset.skipped, *state.skipped]
        if status != "done":
            segmenter = write_model(state, card, self.folder, device, self.processes)
            if self.processes.first:
                self.folder.write_status("stopped", state.step, steps)
            self.console.say(
                f"Stopped after step {state.step} of {steps}. The model so far is {self.folder.model};"
                f" go on by the same command with --resume."
            )
            return TrainResult(status, segmenter, skipped)
        segmenter = finalize(
            state, card, self.plan, self.dataset, self.statistics, self.folder, self.console, self.notes, device,
            self.processes,
        )  # fmt: skip
        if not self.processes.first:
            return TrainResult(status, segmenter, skipped)
        self.folder.write_status("finished", state.step, steps)
        val = segmenter.card.scores.get("val") or {}
        for head, scores in (val.get("heads") or {"": val}).items():
            interval = scores.get("mean_iou_interval")
            if scores.get("mean_iou") is not None:
                spread = f" (95 % interval {interval[0]:.4f} to {interval[1]:.4f})" if interval else ""
                named = f"val mean IU of {head}" if head else "val mean IU"
                self.console.say(f"{named} {scores['mean_iou']:.4f}{spread} at the best step, {state.best_step}.")
        self.console.say(f"Model {self.folder.model}, report {self.folder.report}.")
        return TrainResult(status, segmenter, skipped)


def _be_deterministic() -> None:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=False)
    torch.backends.cudnn.benchmark = False
