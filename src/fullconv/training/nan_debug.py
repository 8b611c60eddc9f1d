"""What a step that went wrong leaves behind: its batch and the state before it, for `fullconv debug`.

`fullconv debug`: replay the step that went wrong, and name where it began.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fullconv.card import Card
from fullconv.checkpoint import read_state, write_state
from fullconv.data.loader import Batch
from fullconv.errors import ModelFileError, RunError
from fullconv.labels import VOID
from fullconv.losses import PixelLoss
from fullconv.modelfile import CARD_KEY, read_card, read_header, read_tensors, weights_sha256, write_tensors
from fullconv.nn import Network
from fullconv.preprocess import normalize
from fullconv.recipe import Recipe, parse_recipe
from fullconv.segmenter import network_of
from fullconv.training.config import recipe_to_dict
from fullconv.training.errors import NonFiniteError, suggest_settings
from fullconv.training.run_dir import RunDir
from fullconv.training.state import TrainState, new_state
from fullconv.training.step import TrainStep, set_training_mode

if TYPE_CHECKING:
    from fullconv.training.step import TrainStep


STEP_KEY = "step"


@dataclass
class FailedStep:
    """What `dump_failed_step` kept."""

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


def dump_failed_step(
    error: NonFiniteError, state: TrainState, stepper: TrainStep, batches: Sequence[Batch], folder: RunDir, steps: int
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
        "device": stepper.device.type, "recipe": recipe_to_dict(stepper.recipe), "class_weights": weights,
        "stems": [batch.stems for batch in batches], "sha256": weights_sha256(tensors),
    }  # fmt: skip
    folder.debug.mkdir(exist_ok=True)
    write_state(folder.debug / "state.safetensors", state.tensors(), state.scalars())
    metadata = {STEP_KEY: json.dumps(facts), CARD_KEY: stepper.card.to_json()}
    write_tensors(folder.debug / "batch.safetensors", tensors, metadata)
    folder.write_status("failed", state.step, steps, f"{error}; `fullconv debug` shows where it began.")


def load_failed_step(run: Path) -> FailedStep:
    """Read what a run's last step left behind.

    Raises:
        RunError: The run holds nothing of the kind, or what it holds is damaged.
    """
    folder = RunDir(run)
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
        return FailedStep(
            facts["step"], facts["steps"], float(facts["value"]), facts["precision"], facts["device"],
            parse_recipe(facts["recipe"], str(path)), card, facts["class_weights"], batches, tensors,
        )  # fmt: skip
    except (ModelFileError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{folder.debug}: damaged, so the step cannot be replayed: {error}") from error


EXPLODING = 1e4
"""Largest number in a map or gradient that training still bears; normalised pictures and their maps are of the order of 1."""


@dataclass
class TensorStats:
    """How large the numbers of a tensor are."""

    name: str
    kind: str
    largest: float
    """Of the finite ones."""
    wrong: int
    """NaN or infinite."""

    @classmethod
    def of(cls, name: str, kind: str, value: Tensor) -> TensorStats:
        """Look at a tensor."""
        finite = torch.isfinite(value)
        largest = float(torch.where(finite, value, torch.zeros_like(value)).abs().max()) if value.numel() else 0.0
        return cls(name, kind, largest, int((~finite).sum()))

    @property
    def bad(self) -> bool:
        """Whether it is not finite, or too large."""
        return self.wrong > 0 or self.largest > EXPLODING

    def __str__(self) -> str:
        what = f"{self.wrong} values that are no numbers" if self.wrong else f"values up to {self.largest:.3g}"
        return f"{self.name} ({self.kind}): {what}"


@dataclass
class CropStats:
    """A crop of the batch."""

    stem: str
    pixels: TensorStats
    """As the network gets them."""
    valid: float
    """Share of its pixels that are not void."""


@dataclass
class Replay:
    """What a step did."""

    loss: float
    weights: list[TensorStats]
    """Before the step, by parameter and buffer."""
    maps: list[TensorStats] = field(default_factory=list)
    """Outputs of the layers, in the order in which they were computed."""
    gradients: list[TensorStats] = field(default_factory=list)
    """Of the parameters, in the order of the backward pass."""
    pictures: list[CropStats] = field(default_factory=list)


def debug(run: Path) -> list[str]:
    """Replay the step that went wrong.

    Args:
        run: A run folder.

    Returns:
        Lines for people: what happened, the first layer or parameter that is not finite or explodes, the pictures of
        the batch, and what to change.

    Raises:
        RunError: The run holds no such step, or what it holds is damaged.
    """
    evidence = load_failed_step(run)
    replayed = replay(evidence, evidence.precision)
    lines = [
        f"Step {evidence.step + 1} of {evidence.steps}: the loss was {evidence.value} ({evidence.precision} on"
        f" {evidence.device}); replayed, it is {replayed.loss}."
    ]
    lines += [
        f"Where it began: {first_nonfinite(replayed)}",
        "",
        "The pictures of the batch, as the network gets them:",
    ]
    for picture in replayed.pictures:
        size = picture.pixels
        wrong = f", {size.wrong} NOT A NUMBER" if size.wrong else ""
        lines.append(f"  {picture.stem}: values up to {size.largest:.3g}{wrong}, {picture.valid:.0%} of it labelled")
    lines += ["", *_tables(replayed), "", f"What to change: {suggest_fix(evidence, replayed)}"]
    return lines


def _tables(replayed: Replay) -> list[str]:
    lines = []
    for title, sizes in (("weights", replayed.weights), ("maps", replayed.maps), ("gradients", replayed.gradients)):
        worst = sorted(sizes, key=lambda size: (size.wrong > 0, size.largest), reverse=True)[:3]
        lines += [f"Largest {title}:", *(f"  {size}" for size in worst)]
    return lines


def first_nonfinite(replayed: Replay) -> str:
    """Name the first thing that is not finite or explodes: in pictures, weights, maps, loss, then gradients."""
    for picture in replayed.pictures:
        if picture.pixels.bad:
            return f"the picture {picture.pixels}."
    for what, sizes in (("the weight", replayed.weights), ("the output of the layer", replayed.maps)):
        # What is no number comes from something that was too large before it.
        if first := next((size for size in sizes if size.bad), None):
            return f"{what} {first}."
    if not math.isfinite(replayed.loss):
        return "the loss itself: all that it is computed from is finite."
    if first := next((size for size in replayed.gradients if size.bad), None):
        return f"the gradient of {first}."
    return "nowhere: replayed, everything is finite. It may have been the hardware, or another number of threads."


def suggest_fix(evidence: FailedStep, replayed: Replay) -> str:
    """Return what to change, from what the replay found."""
    bad = [picture.stem for picture in replayed.pictures if picture.pixels.bad]
    if bad:
        return f"look at the values of {', '.join(bad[:8])}: mend these files, or leave them out."
    if evidence.precision != "fp32" and not any(size.bad for size in replayed.weights):
        exact = replay(evidence, "fp32")
        if math.isfinite(exact.loss) and not any(size.wrong for size in exact.gradients):
            return f"--precision fp32 (the same step has the loss {exact.loss:.4g} there)."
    settings = suggest_settings(evidence.recipe)
    if evidence.recipe.warmup < 0.05:
        settings += " or a longer rise of the learning rate, --set warmup=0.05"
    return f"start again, in a new folder, with {settings}."


def replay(evidence: FailedStep, precision: str) -> Replay:
    """Make the step again from the state before it, and look at everything on the way."""
    stepper, state = rebuild_step(evidence, precision)
    network = state.network
    found = Replay(math.nan, [TensorStats.of(name, "weight", v) for name, v in network.state_dict().items()])
    for batch in evidence.batches:
        x = normalize(batch.images.float(), evidence.card)
        mask = next(iter(batch.masks.values()))
        for stem, picture, labels in zip(batch.stems, x, mask, strict=True):
            valid = float((labels != VOID).float().mean())
            found.pictures.append(CropStats(stem, TensorStats.of(stem, "picture", picture), valid))
    handles = register_hooks(network, found)
    set_training_mode(network, evidence.recipe)
    try:
        found.loss = stepper.gradient(state, evidence.batches)
    except NonFiniteError as error:
        found.loss = error.value
    finally:
        for handle in handles:
            handle.remove()
    return found


def rebuild_step(evidence: FailedStep, precision: str) -> tuple[TrainStep, TrainState]:
    """Return the stepper and the state as they were before the step."""
    prefix = "network."
    weights = {k.removeprefix(prefix): v for k, v in evidence.tensors.items() if k.startswith(prefix)}
    network = network_of(evidence.card, weights, Path("state.safetensors"))
    network.to(memory_format=torch.channels_last)
    if evidence.recipe.freeze == "backbone":
        network.backbone.requires_grad_(False)
    recipe = evidence.recipe
    losses = {
        head: PixelLoss(recipe.loss, weights_of, recipe.focal_gamma, recipe.reduction)
        for head, weights_of in evidence.class_weights.items()
    }
    state = new_state(network, recipe)
    state.step = evidence.step
    return TrainStep(recipe, evidence.card, losses, torch.device("cpu"), precision), state


def register_hooks(network: Network, found: Replay) -> list[Any]:
    """Note the size of every layer's output, and of every parameter's gradient as it is computed."""

    def seen(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        for value in output.values() if isinstance(output, Mapping) else [output]:
            if isinstance(value, Tensor):
                found.maps.append(TensorStats.of(name, type(module).__name__, value.detach()))

    def pulled(name: str, parameter: Tensor) -> None:
        assert parameter.grad is not None
        found.gradients.append(TensorStats.of(name, "gradient", parameter.grad))

    handles: list[Any] = []
    for name, module in network.named_modules():
        if not list(module.children()):
            handles.append(module.register_forward_hook(partial(seen, name)))
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            handles.append(parameter.register_post_accumulate_grad_hook(partial(pulled, name)))  # type: ignore[no-untyped-call]
    return handles
