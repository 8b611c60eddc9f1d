"""Optimizer, learning rate schedule and moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fullconv.recipe import Recipe


def parameter_groups(network: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Put every trainable parameter into exactly one group, with its ``names``, by learning rate and weight decay.

    Source: the Caffe release's solvers for biases (learning rate x2, decay 0) and fixed upsampling (in no group).
    """
    backbone_lr = 1.0 if recipe.backbone_lr is None else recipe.backbone_lr
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        in_backbone = name.startswith("backbone.")
        as_weight = recipe.bias_scope == "head" and in_backbone
        bias = name.endswith("bias") and not as_weight
        # Norm scales and biases have one dimension; decaying them regularizes nothing.
        decays = parameter.ndim > 1 or recipe.bias_decay or as_weight
        lr_scale = (backbone_lr if in_backbone else 1.0) * (recipe.bias_lr if bias else 1.0)
        group = groups.setdefault((lr_scale, decays), {
            "params": [], "names": [], "lr_scale": lr_scale,
            "weight_decay": (recipe.weight_decay or 0.0) if decays else 0.0,
        })  # fmt: skip
        group["params"].append(parameter)
        group["names"].append(name)
    return [group for group in groups.values() if group["lr_scale"] > 0]


def make_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the recipe's optimizer over the network's parameter groups."""
    groups = parameter_groups(network, recipe)
    lr = recipe.lr or 1e-3
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=lr, fused=True)
    return torch.optim.SGD(groups, lr=lr, momentum=recipe.momentum, fused=True)


def lr_at(step: int, steps: int, recipe: Recipe) -> float:
    """Return the learning rate of a 0-based step, before each group's scale."""
    base = recipe.lr or 1e-3
    warmup_steps = round(recipe.warmup * steps)
    if step < warmup_steps:
        return base * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    if recipe.schedule == "poly":
        return float(base * (1 - progress) ** 0.9)
    if recipe.schedule == "cosine":
        return base * (1 + math.cos(math.pi * progress)) / 2
    return base


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set every group's learning rate, scaled by its ``lr_scale``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state as ``optimizer.<parameter>.<slot>``."""
    tensors = {}
    for name, parameter in _named_parameters(optimizer):
        for slot, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{name}.{slot}"] = value
    return tensors


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Load saved state, each moment in the memory format of its parameter.

    Fused AdamW rounds differently if a moment is contiguous and its parameter channels_last.
    """
    for name, parameter in _named_parameters(optimizer):
        prefix = f"optimizer.{name}."
        found = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        for slot, value in found.items():
            if value.shape == parameter.shape:
                restored = torch.empty_like(parameter, memory_format=torch.preserve_format, requires_grad=False)
                restored.copy_(value)
            else:
                restored = value.clone().to(parameter.device)
            optimizer.state[parameter][slot] = restored


def _named_parameters(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    for group in optimizer.param_groups:
        yield from zip(group["names"], group["params"], strict=True)


class ModelEma:
    """Exponential moving average of a network's floating-point tensors; integer tensors are copied.

    The fraction kept per step is at most (1 + step) / (10 + step), so that early steps count more.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move towards the current weights; ``step`` counts from 0."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                self.tensors[name].lerp_(value, weight)
            else:
                self.tensors[name].copy_(value)
