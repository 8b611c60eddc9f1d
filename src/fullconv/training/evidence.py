"""What a step that went wrong leaves behind: its batch and the state before it, for `fullconv debug`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fullconv.card import Card
from fullconv.checkpoint import read_state, write_state
from fullconv.data.loader import Batch
from fullconv.errors import ModelFileError, RunError
from fullconv.modelfile import CARD_KEY, read_card, read_header, read_tensors, weights_sha256, write_tensors
from fullconv.recipe import Recipe, parse_recipe
from fullconv.training.folder import RunFolder
from fullconv.training.plan import settings_of
from fullconv.training.state import TrainState

if TYPE_CHECKING:
    from fullconv.training.step import Stepper

STEP_KEY = "step"


class NotFiniteError(RunError):
    """The loss of a step or its gradient is not a number any more."""

    def __init__(self, value: float, step: int) -> None:
        what = "the gradient of the loss is not a number" if math.isfinite(value) else f"the loss became {value}"
        super().__init__(f"{what} at step {step + 1}")
        self.value, self.step = value, step

    def explained(self, recipe: Recipe, batches: Sequence[Batch], run: Path) -> NotFiniteError:
        """Return the error with its pictures and what to do."""
        stems = [stem for batch in batches for stem in batch.stems]
        listed = ", ".join(stems[:8]) + (" ..." if len(stems) > 8 else "")
        self.args = (
            f"{self} (pictures {listed}). `fullconv debug {run}` shows where it began. Going on would come to the same:"
            f" start again, in a new folder, with {what_to_change(recipe)}.",
        )
        return self


def what_to_change(recipe: Recipe) -> str:
    """Return the settings that keep a loss finite."""
    lower = f"--lr {(recipe.lr or 1e-3) / 4:.2g}"
    clipped = recipe.clip is not None and recipe.clip <= 1
    others = [*([] if clipped else ["--set clip=1"]), *([] if recipe.precision == "fp32" else ["--precision fp32"])]
    return " or ".join([lower, *others])


@dataclass
class Evidence:
    """What `keep_evidence` kept."""

    step: int
    """From 0."""
    steps: int
    value: float
    """Of the loss."""
    precision: str
    device: str
    recipe: Recipe
    card: Card
    class_weights: dict[str, list[float] | None]
    """By head."""
    batches: list[Batch]
    tensors: dict[str, Tensor]
    """The state before the step, as a checkpoint has it."""


def keep_evidence(
    error: NotFiniteError, state: TrainState, stepper: Stepper, batches: Sequence[Batch], folder: RunFolder, steps: int
) -> None:
    """Write batch and state of the step that went wrong into RUN/debug, and say in RUN/status.json how the run ended.

    Raises:
        OutputError: There is no room for it.
    """
    weights = {head: loss.class_weights and list(loss.class_weights) for head, loss in stepper.losses.items()}
    tensors: dict[str, Tensor] = {}
    for number, batch in enumerate(batches):
        # safetensors files of older versions know no uint16
        tensors[f"{number}.images"] = batch.images.int() if batch.images.dtype == torch.uint16 else batch.images
        tensors |= {f"{number}.mask.{head}": mask for head, mask in batch.masks.items()}
    facts = {
        "step": error.step, "steps": steps, "value": str(error.value), "precision": stepper.precision,
        "device": stepper.device.type, "recipe": settings_of(stepper.recipe), "class_weights": weights,
        "stems": [batch.stems for batch in batches], "sha256": weights_sha256(tensors),
    }  # fmt: skip
    folder.debug.mkdir(exist_ok=True)
    write_state(folder.debug / "state.safetensors", state.tensors(), state.numbers())
    metadata = {STEP_KEY: json.dumps(facts), CARD_KEY: stepper.card.to_json()}
    write_tensors(folder.debug / "batch.safetensors", tensors, metadata)
    folder.write_status("failed", state.step, steps, f"{error}; `fullconv debug` shows where it began.")


def read_evidence(run: Path) -> Evidence:
    """Read what a run's last step left behind.

    Raises:
        RunError: The run holds nothing of the kind, or what it holds is damaged.
    """
    folder = RunFolder(run)
    path = folder.debug / "batch.safetensors"
    if not folder.recipe.exists():
        raise RunError(
            f"{run}: is no run folder: it holds no recipe.toml. Name the folder that `fullconv train -o` made."
        )
    if not path.exists():
        raise RunError(f"{run}: holds no step that went wrong: its loss has always been a number.")
    try:
        facts: dict[str, Any] = json.loads(read_header(path)[1][STEP_KEY])
        card, found = read_card(path), read_tensors(path)
        if "sha256" in facts and facts["sha256"] != weights_sha256(found):
            raise ModelFileError(f"{path}: damaged: its bytes are not those that were written.")
        tensors, _ = read_state(folder.debug / "state.safetensors")
        batches = []
        for number, stems in enumerate(facts["stems"]):
            prefix = f"{number}.mask."
            masks = {name.removeprefix(prefix): t for name, t in found.items() if name.startswith(prefix)}
            batches.append(Batch(found[f"{number}.images"], masks, stems, facts["step"]))
        return Evidence(
            facts["step"], facts["steps"], float(facts["value"]), facts["precision"], facts["device"],
            parse_recipe(facts["recipe"], str(path)), card, facts["class_weights"], batches, tensors,
        )  # fmt: skip
    except (ModelFileError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{folder.debug}: damaged, so the step cannot be replayed: {error}") from error
