"""Debug a non-finite loss: dump the failed step, and replay it for `fullconv debug`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fullconv.card import Card
from fullconv.checkpoint import read_state, write_state
from fullconv.data import Batch
from fullconv.errors import ModelFileError, RunError, percent, plural
from fullconv.labels import VOID
from fullconv.losses import PixelLoss
from fullconv.modelfile import CARD_KEY, read_card, read_header, read_tensors, weights_sha256, write_tensors
from fullconv.preprocess import normalize
from fullconv.recipe import Recipe, parse_recipe
from fullconv.segmenter import build_from_card
from fullconv.training.errors import NonFiniteError, suggest_settings
from fullconv.training.run_dir import RunDir
from fullconv.training.state import TrainState, new_state
from fullconv.training.step import TrainStep, set_training_mode

STEP_KEY = "step"
"""In the header of debug/batch.safetensors."""
MAX_VALUE = 1e4
"""Largest plausible magnitude of an activation or gradient; normalized images and their maps are of the order of 1."""


@dataclass
class FailedStep:
    """What `dump_failed_step` wrote."""

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
    """The state before the step, as in a checkpoint."""


def dump_failed_step(
    error: NonFiniteError,
    state: TrainState,
    train_step: TrainStep,
    batches: Sequence[Batch],
    run_dir: RunDir,
    steps: int,
) -> None:
    """Write batch and state of the failed step into RUN/debug, and the failure into RUN/status.json."""
    weights = {head: loss.class_weights and list(loss.class_weights) for head, loss in train_step.criteria.items()}
    tensors: dict[str, Tensor] = {}
    for number, batch in enumerate(batches):
        # safetensors before 0.4.4 has no uint16
        tensors[f"{number}.images"] = batch.images.int() if batch.images.dtype == torch.uint16 else batch.images
        tensors |= {f"{number}.mask.{head}": mask for head, mask in batch.masks.items()}
    facts = {
        "step": error.step, "steps": steps, "value": str(error.value), "precision": train_step.precision,
        "device": train_step.device.type, "recipe": train_step.recipe.model_dump(mode="json"), "class_weights": weights,
        "stems": [batch.stems for batch in batches], "sha256": weights_sha256(tensors),
    }  # fmt: skip
    run_dir.debug.mkdir(exist_ok=True)
    write_state(run_dir.debug / "state.safetensors", state.tensors(), state.scalars())
    metadata = {STEP_KEY: json.dumps(facts), CARD_KEY: train_step.card.to_json()}
    write_tensors(run_dir.debug / "batch.safetensors", tensors, metadata)
    run_dir.write_status("failed", state.step, steps, f"{error}; `fullconv debug` shows where it began.")


def load_failed_step(run: Path) -> FailedStep:
    """Read what `dump_failed_step` wrote."""
    run_dir = RunDir(run)
    path = run_dir.debug / "batch.safetensors"
    if not run_dir.recipe.exists():
        raise RunError(f"{run}: not a run folder (recipe.toml is missing). Give the folder of `fullconv train -o`.")
    if not path.exists():
        raise RunError(f"{run}: holds no failed step: its loss was always finite.")
    try:
        facts: dict[str, Any] = json.loads(read_header(path)[1][STEP_KEY])
        card, found = read_card(path), read_tensors(path)
        if "sha256" in facts and facts["sha256"] != weights_sha256(found):
            raise ModelFileError(f"{path}: damaged: its bytes are not those that were written.")
        tensors, _ = read_state(run_dir.debug / "state.safetensors")
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
        raise RunError(f"{run_dir.debug}: damaged, so the step cannot be replayed: {error}") from error


@dataclass
class TensorStats:
    """The range of a tensor."""

    name: str
    kind: str
    largest: float
    """Magnitude of the finite values."""
    nonfinite: int
    """Number of NaN and infinite values."""

    @classmethod
    def of(cls, name: str, kind: str, value: Tensor) -> TensorStats:
        """Measure a tensor."""
        finite = torch.isfinite(value)
        largest = float(torch.where(finite, value, torch.zeros_like(value)).abs().max()) if value.numel() else 0.0
        return cls(name, kind, largest, int((~finite).sum()))

    @property
    def suspicious(self) -> bool:
        """Whether it is not finite, or too large."""
        return self.nonfinite > 0 or self.largest > MAX_VALUE

    def __str__(self) -> str:
        values = plural(self.nonfinite, "non-finite value") if self.nonfinite else f"values up to {self.largest:.3g}"
        return f"{self.name} ({self.kind}): {values}"


@dataclass
class Replay:
    """What a replayed step computed."""

    loss: float
    weights: list[TensorStats]
    """Before the step, by parameter and buffer."""
    maps: list[TensorStats] = field(default_factory=list)
    """Outputs of the layers, in order."""
    gradients: list[TensorStats] = field(default_factory=list)
    """Of the parameters, in the order of the backward pass."""
    crops: list[tuple[TensorStats, float]] = field(default_factory=list)
    """Normalized pixels, named by the image's stem, and the fraction of labeled ones."""


def debug(run: Path) -> list[str]:
    """Replay the failed step of a run; return lines that name the first layer or parameter that is not finite, and the fix."""
    failed = load_failed_step(run)
    replayed = replay(failed, failed.precision)
    lines = [
        f"Step {failed.step + 1} of {failed.steps}: the loss was {failed.value} ({failed.precision} on"
        f" {failed.device}); replayed, it is {replayed.loss}.",
        f"Where it began: {first_nonfinite(replayed)}",
        "",
        "The images of the batch, normalized:",
    ]
    for crop, valid in replayed.crops:
        nonfinite = f", {crop.nonfinite} NOT FINITE" if crop.nonfinite else ""
        lines.append(f"  {crop.name}: values up to {crop.largest:.3g}{nonfinite}, {percent(valid)} labeled")
    lines.append("")
    for title, stats in (("weights", replayed.weights), ("maps", replayed.maps), ("gradients", replayed.gradients)):
        worst = sorted(stats, key=lambda s: (s.nonfinite > 0, s.largest), reverse=True)[:3]
        lines += [f"Largest {title}:", *(f"  {s}" for s in worst)]
    return [*lines, "", f"What to change: {suggest_fix(failed, replayed)}"]


def first_nonfinite(replayed: Replay) -> str:
    """Name the first thing that is not finite or explodes: in images, weights, maps, loss, then gradients."""
    for crop, _ in replayed.crops:
        if crop.suspicious:
            return f"the image {crop}."
    for what, stats in (("the weight", replayed.weights), ("the output of the layer", replayed.maps)):
        if first := next((s for s in stats if s.suspicious), None):  # too large comes before not finite
            return f"{what} {first}."
    if not math.isfinite(replayed.loss):
        return "the loss itself: everything that it is computed from is finite."
    if first := next((s for s in replayed.gradients if s.suspicious), None):
        return f"the gradient of {first}."
    return "nowhere: replayed, everything is finite. The cause may be the hardware, or another number of threads."


def suggest_fix(failed: FailedStep, replayed: Replay) -> str:
    """Return the fix that follows from the replay."""
    suspicious = [crop.name for crop, _ in replayed.crops if crop.suspicious]
    if suspicious:
        return f"check the values of {', '.join(suspicious[:8])}: fix these files, or remove them."
    if failed.precision != "fp32" and not any(s.suspicious for s in replayed.weights):
        fp32 = replay(failed, "fp32")
        if math.isfinite(fp32.loss) and not any(s.nonfinite for s in fp32.gradients):
            return f"--precision fp32 (there the loss of the same step is {fp32.loss:.4g})."
    settings = suggest_settings(failed.recipe)
    if failed.recipe.warmup < 0.05:
        settings += " or a longer warmup, --set warmup=0.05"
    return f"start a new run with {settings}."


def replay(failed: FailedStep, precision: str) -> Replay:
    """Make the step again on the CPU, from the state before it, and measure everything on the way."""
    recipe, prefix = failed.recipe, "network."
    weights = {k.removeprefix(prefix): v for k, v in failed.tensors.items() if k.startswith(prefix)}
    network = build_from_card(failed.card, weights, Path("state.safetensors"))
    network.to(memory_format=torch.channels_last)
    if recipe.freeze == "backbone":
        network.backbone.requires_grad_(False)
    criteria = {
        head: PixelLoss(recipe.loss, class_weights, recipe.focal_gamma, recipe.reduction)
        for head, class_weights in failed.class_weights.items()
    }
    state = new_state(network, recipe)
    state.step = failed.step
    train_step = TrainStep(recipe, failed.card, criteria, torch.device("cpu"), precision)
    result = Replay(math.nan, [TensorStats.of(name, "weight", v) for name, v in network.state_dict().items()])
    for batch in failed.batches:
        x = normalize(batch.images.float(), failed.card)
        mask = next(iter(batch.masks.values()))
        for stem, crop, labels in zip(batch.stems, x, mask, strict=True):
            valid = float((labels != VOID).float().mean())
            result.crops.append((TensorStats.of(stem, "image", crop), valid))
    handles = register_hooks(network, result)
    set_training_mode(network, recipe)
    try:
        result.loss = train_step.backward(state, failed.batches)
    except NonFiniteError as error:
        result.loss = error.value
    finally:
        for handle in handles:
            handle.remove()
    return result


def register_hooks(network: nn.Module, result: Replay) -> list[Any]:
    """Measure every layer's output, and every parameter's gradient when it is computed; return the handles."""

    def on_output(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        for value in output.values() if isinstance(output, Mapping) else [output]:
            if isinstance(value, Tensor):
                result.maps.append(TensorStats.of(name, type(module).__name__, value.detach()))

    def on_gradient(name: str, parameter: Tensor) -> None:
        assert parameter.grad is not None
        result.gradients.append(TensorStats.of(name, "gradient", parameter.grad))

    handles: list[Any] = []
    for name, module in network.named_modules():
        if not list(module.children()):
            handles.append(module.register_forward_hook(partial(on_output, name)))
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            handles.append(parameter.register_post_accumulate_grad_hook(partial(on_gradient, name)))  # type: ignore[no-untyped-call]
    return handles
