"""One training step: logits, loss, the gradient of the global batch, the optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fullconv.card import Card
from fullconv.data import Batch
from fullconv.losses import LossSums, PixelLoss
from fullconv.nn import Network
from fullconv.preprocess import normalize
from fullconv.recipe import Recipe
from fullconv.training.distributed import SINGLE_PROCESS, Distributed, all_reduce_gradients, reduce_bn_stats
from fullconv.training.errors import NonFiniteError, catch_oom
from fullconv.training.optimizer import lr_at, set_lr
from fullconv.training.state import TrainState


@dataclass
class TrainStep:
    """What a step needs besides the state."""

    recipe: Recipe
    card: Card
    criteria: dict[str, PixelLoss]
    """By head of the data."""
    device: torch.device
    precision: str = "fp32"
    dist: Distributed = SINGLE_PROCESS

    def __post_init__(self) -> None:
        for criterion in self.criteria.values():
            criterion.all_reduce = self.dist.all_reduce if self.dist.world_size > 1 else None

    def step(self, state: TrainState, batches: Sequence[Batch], steps: int) -> float:
        """Make one step from one or more micro-batches and return its loss.

        Numerators and denominators are summed over all micro-batches of all ranks and divided once, so the split changes
        nothing. If the forward or backward pass fails, the state is that before the step.
        """
        network = state.network
        set_training_mode(network, self.recipe)
        set_lr(state.optimizer, lr_at(state.step, steps, self.recipe))
        saved_buffers = [buffer.clone() for buffer in network.buffers()]  # the forward pass moves running statistics
        try:
            loss = self.backward(state, batches)
        except BaseException:
            for buffer, saved in zip(network.buffers(), saved_buffers, strict=True):
                buffer.copy_(saved)
            raise
        with catch_oom():  # AdamW allocates its moments in the first step
            if self.recipe.clip is not None:
                nn.utils.clip_grad_norm_(network.parameters(), self.recipe.clip)
            state.optimizer.step()
        if state.ema is not None:
            state.ema.update(network, state.step)
        state.step += 1
        return loss

    def backward(self, state: TrainState, batches: Sequence[Batch]) -> float:
        """Compute the gradient of the global batch into the parameters of a network in training mode."""
        # Dropout draws from torch's global generator: seed it per step and process.
        torch.manual_seed((self.recipe.seed * 1_000_003 + state.step + self.dist.rank * 2**40) % 2**63)
        network, dist = state.network, self.dist
        masks = [{head: mask.to(self.device) for head, mask in batch.masks.items()} for batch in batches]
        totals = {
            head: dist.all_reduce(torch.stack([loss.denominator(part[head]) for part in masks]).sum()).clamp(min=1e-12)
            for head, loss in self.criteria.items()
        }
        state.optimizer.zero_grad(set_to_none=True)
        value = 0.0
        with catch_oom():
            for batch, part in zip(batches, masks, strict=True):
                sums = self.loss_sums(network, batch.images, part)
                parts = [s.numerator / totals[head].to(s.numerator.dtype) for head, s in sums.items()]
                loss = torch.stack(parts).sum()
                loss.backward()  # type: ignore[no-untyped-call]
                value += float(loss.detach())
        if dist.world_size > 1:
            value = float(dist.all_reduce(torch.tensor(value, dtype=torch.float64)))
            all_reduce_gradients(network, dist)
            crops = len(batches[0].stems)
            reduce_bn_stats(network, dist, crops / int(dist.all_reduce(torch.tensor(crops))))
        if not (math.isfinite(value) and finite_gradients(network)):
            raise NonFiniteError(value, state.step)
        return value

    def loss_sums(self, network: Network, images: Tensor, masks: Mapping[str, Tensor]) -> dict[str, LossSums]:
        """Return the loss's sums by head, for images (N, h, w, C) as stored and masks (N, h, w) uint8 on the device."""
        if images.dtype == torch.uint16:
            images = images.to(torch.float32)
        x = normalize(images.to(self.device, non_blocking=True), self.card)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            scores = network.scores(x)
        by_head = scores if isinstance(scores, dict) else {next(iter(self.criteria)): scores}
        size = (x.shape[-2], x.shape[-1])
        sums = {}
        for head, loss in self.criteria.items():
            sums[head] = loss.sums(by_head[head], masks[head], network.interpolation_matrices(by_head[head], size))
        return sums


def set_training_mode(network: Network, recipe: Recipe) -> None:
    """Put the network into training mode, except for what the recipe freezes."""
    network.train()
    if recipe.freeze == "backbone":
        network.backbone.eval()
    if recipe.freeze == "norm":
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def finite_gradients(network: nn.Module) -> bool:
    """Return whether all gradients are finite; the optimizer would carry any other value into the weights."""
    norms = [torch.linalg.vector_norm(p.grad) for p in network.parameters() if p.grad is not None]
    return not norms or bool(torch.isfinite(torch.stack(norms)).all())
