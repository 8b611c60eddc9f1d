"""`fullconv debug`: replay the step that went wrong, and name where it began."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fullconv.labels import VOID
from fullconv.losses import PixelLoss
from fullconv.nn import Network
from fullconv.preprocess import normalize
from fullconv.segmenter import network_of
from fullconv.training.evidence import Evidence, NotFiniteError, read_evidence, what_to_change
from fullconv.training.state import TrainState, new_state
from fullconv.training.step import Stepper, set_training_mode

EXPLODING = 1e4
"""Largest number in a map or gradient that training still bears; normalised pictures and their maps are of the order of 1."""


@dataclass
class Size:
    """How large the numbers of a tensor are."""

    name: str
    kind: str
    largest: float
    """Of the finite ones."""
    wrong: int
    """NaN or infinite."""

    @classmethod
    def of(cls, name: str, kind: str, value: Tensor) -> Size:
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
class Picture:
    """A crop of the batch."""

    stem: str
    pixels: Size
    """As the network gets them."""
    valid: float
    """Share of its pixels that are not void."""


@dataclass
class Replay:
    """What a step did."""

    loss: float
    weights: list[Size]
    """Before the step, by parameter and buffer."""
    maps: list[Size] = field(default_factory=list)
    """Outputs of the layers, in the order in which they were computed."""
    gradients: list[Size] = field(default_factory=list)
    """Of the parameters, in the order of the backward pass."""
    pictures: list[Picture] = field(default_factory=list)


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
    evidence = read_evidence(run)
    replayed = replay(evidence, evidence.precision)
    lines = [
        f"Step {evidence.step + 1} of {evidence.steps}: the loss was {evidence.value} ({evidence.precision} on"
        f" {evidence.device}); replayed, it is {replayed.loss}."
    ]
    lines += [f"Where it began: {where_it_began(replayed)}", "", "The pictures of the batch, as the network gets them:"]
    for picture in replayed.pictures:
        size = picture.pixels
        wrong = f", {size.wrong} NOT A NUMBER" if size.wrong else ""
        lines.append(f"  {picture.stem}: values up to {size.largest:.3g}{wrong}, {picture.valid:.0%} of it labelled")
    lines += ["", *_tables(replayed), "", f"What to change: {advice(evidence, replayed)}"]
    return lines


def _tables(replayed: Replay) -> list[str]:
    lines = []
    for title, sizes in (("weights", replayed.weights), ("maps", replayed.maps), ("gradients", replayed.gradients)):
        worst = sorted(sizes, key=lambda size: (size.wrong > 0, size.largest), reverse=True)[:3]
        lines += [f"Largest {title}:", *(f"  {size}" for size in worst)]
    return lines


def where_it_began(replayed: Replay) -> str:
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


def advice(evidence: Evidence, replayed: Replay) -> str:
    """Return what to change, from what the replay found."""
    bad = [picture.stem for picture in replayed.pictures if picture.pixels.bad]
    if bad:
        return f"look at the values of {', '.join(bad[:8])}: mend these files, or leave them out."
    if evidence.precision != "fp32" and not any(size.bad for size in replayed.weights):
        exact = replay(evidence, "fp32")
        if math.isfinite(exact.loss) and not any(size.wrong for size in exact.gradients):
            return f"--precision fp32 (the same step has the loss {exact.loss:.4g} there)."
    settings = what_to_change(evidence.recipe)
    if evidence.recipe.warmup < 0.05:
        settings += " or a longer rise of the learning rate, --set warmup=0.05"
    return f"start again, in a new folder, with {settings}."


def replay(evidence: Evidence, precision: str) -> Replay:
    """Make the step again from the state before it, and look at everything on the way."""
    stepper, state = _stage(evidence, precision)
    network = state.network
    found = Replay(math.nan, [Size.of(name, "weight", v) for name, v in network.state_dict().items()])
    for batch in evidence.batches:
        x = normalize(batch.images.float(), evidence.card)
        mask = next(iter(batch.masks.values()))
        for stem, picture, labels in zip(batch.stems, x, mask, strict=True):
            valid = float((labels != VOID).float().mean())
            found.pictures.append(Picture(stem, Size.of(stem, "picture", picture), valid))
    handles = _watch(network, found)
    set_training_mode(network, evidence.recipe)
    try:
        found.loss = stepper.gradient(state, evidence.batches)
    except NotFiniteError as error:
        found.loss = error.value
    finally:
        for handle in handles:
            handle.remove()
    return found


def _stage(evidence: Evidence, precision: str) -> tuple[Stepper, TrainState]:
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
    return Stepper(recipe, evidence.card, losses, torch.device("cpu"), precision), state


def _watch(network: Network, found: Replay) -> list[Any]:
    """Note the size of every layer's output, and of every parameter's gradient as it is computed."""

    def seen(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        for value in output.values() if isinstance(output, Mapping) else [output]:
            if isinstance(value, Tensor):
                found.maps.append(Size.of(name, type(module).__name__, value.detach()))

    def pulled(name: str, parameter: Tensor) -> None:
        assert parameter.grad is not None
        found.gradients.append(Size.of(name, "gradient", parameter.grad))

    handles: list[Any] = []
    for name, module in network.named_modules():
        if not list(module.children()):
            handles.append(module.register_forward_hook(partial(seen, name)))
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            handles.append(parameter.register_post_accumulate_grad_hook(partial(pulled, name)))  # type: ignore[no-untyped-call]
    return handles
