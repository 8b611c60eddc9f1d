"""Optimiser, learning rate, moving average: what changes the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fullconv.recipe import Recipe


def parameter_groups(network: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Put every trainable parameter into exactly one group, by part and kind.

    Returns:
        Groups with ``params``, ``names``, ``weight_decay`` and ``multiplier`` (of the learning rate).

    Source: the Caffe release's solvers for biases (learning rate x2, decay 0) and fixed upsampling (in no group).
    """
    backbone_lr = 1.0 if recipe.backbone_lr is None else recipe.backbone_lr
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        bias = name.endswith("bias")
        # Scales of norms and biases have one dimension: decay would pull them to 0, which regularises nothing.
        decays = parameter.ndim > 1 or recipe.bias_decay
        multiplier = (backbone_lr if name.startswith("backbone.") else 1.0) * (recipe.bias_lr if bias else 1.0)
        group = groups.setdefault((multiplier, decays), {
            "params": [], "names": [], "multiplier": multiplier,
            "weight_decay": (recipe.weight_decay or 0.0) if decays else 0.0,
        })  # fmt: skip
        group["params"].append(parameter)
        group["names"].append(name)
    return [group for group in groups.values() if group["multiplier"] > 0]


def make_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the recipe's optimiser over the network's parameter groups."""
    groups = parameter_groups(network, recipe)
    names = [group.pop("names") for group in groups]
    lr = recipe.lr or 1e-3
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=lr, fused=True)
    else:
        optimizer = torch.optim.SGD(groups, lr=lr, momentum=recipe.momentum, fused=True)
    for group, part in zip(optimizer.param_groups, names, strict=True):
        group["names"] = part
    return optimizer


def learning_rate(step: int, steps: int, recipe: Recipe) -> float:
    """Return the learning rate of a step, 0-based, before multipliers.

    Source: poly with power 0.9 as DeepLab and torchvision have it.
    """
    base = recipe.lr or 1e-3
    warm = round(recipe.warmup * steps)
    if step < warm:
        return base * (step + 1) / warm
    share = (step - warm) / max(1, steps - warm)
    if recipe.schedule == "poly":
        return float(base * (1 - share) ** 0.9)
    if recipe.schedule == "cosine":
        return base * (1 + math.cos(math.pi * share)) / 2
    return base


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its share of the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["multiplier"]


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's state as ``optimizer.<parameter>.<slot>``."""
    tensors = {}
    for name, parameter in _named(optimizer):
        for slot, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{name}.{slot}"] = value
    return tensors


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put saved state back, each moment in the memory format of its parameter.

    A contiguous moment beside a channels_last parameter makes fused AdamW round other bits.
    """
    for name, parameter in _named(optimizer):
        prefix = f"optimizer.{name}."
        found = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        for slot, value in found.items():
            if value.shape == parameter.shape:
                place = torch.empty_like(parameter, memory_format=torch.preserve_format, requires_grad=False)
                place.copy_(value)
            else:
                place = value.clone().to(parameter.device)
            optimizer.state[parameter][slot] = place


def _named(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    for group in optimizer.param_groups:
        yield from zip(group["names"], group["params"], strict=True)


class MovingAverage:
    """An exponential moving average of all floating tensors of a network; whole numbers are copied.

    Args:
        network: Averaged from its present weights on.
        decay: Share that is kept a step; less in the first steps: (1 + step) / (10 + step).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move towards the present weights; ``step`` counts from 0."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                self.tensors[name].lerp_(value, share)
            else:
                self.tensors[name].copy_(value)
