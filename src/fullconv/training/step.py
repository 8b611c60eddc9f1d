"""One step: micro-batches, logits, loss, the gradient of the global batch, the optimiser."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fullconv.card import Card
from fullconv.data.loader import Batch
from fullconv.losses import LossSums, PixelLoss
from fullconv.nn import Network
from fullconv.preprocess import normalize
from fullconv.recipe import Recipe
from fullconv.training.distributed import SINGLE_PROCESS, Distributed, all_reduce_gradients, reduce_bn_stats
from fullconv.training.errors import NonFiniteError
from fullconv.training.oom import catch_oom
from fullconv.training.optimizer import lr_at, set_lr
from fullconv.training.state import TrainState


@dataclass
class TrainStep:
    """Makes steps: everything that one needs beside the state."""

    recipe: Recipe
    card: Card
    losses: dict[str, PixelLoss]
    """By head of the data."""
    device: torch.device
    precision: str
    processes: Distributed = SINGLE_PROCESS

    def __post_init__(self) -> None:
        for loss in self.losses.values():
            loss.all_reduce = self.processes.sum if self.processes.ranks > 1 else None

    def step(self, state: TrainState, batches: Sequence[Batch], steps: int) -> float:
        """Make one step from one micro-batch or several; return its loss.

        The loss is that of all valid pixels of all micro-batches in all processes, so that their numbers change nothing.

        Raises:
            NonFiniteError: The loss or its gradient is not a number any more; the state is that before the step.
            OutOfMemoryError: There is too little memory for the step; the state is that before it.
            LostError: Another process is gone; the state is that before the step.
        """
        network = state.network
        set_training_mode(network, self.recipe)
        set_lr(state.optimizer, lr_at(state.step, steps, self.recipe))
        kept = [buffer.clone() for buffer in network.buffers()]  # the forward pass moves running statistics
        try:
            value = self.gradient(state, batches)
        except BaseException:
            for buffer, before in zip(network.buffers(), kept, strict=True):
                buffer.copy_(before)
            raise
        if self.recipe.clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), self.recipe.clip)
        state.optimizer.step()
        if state.ema is not None:
            state.ema.update(network, state.step)
        state.step += 1
        return value

    def gradient(self, state: TrainState, batches: Sequence[Batch]) -> float:
        """Leave the gradient of the global batch in the parameters of a network in training mode; return its loss.

        Raises:
            NonFiniteError, OutOfMemoryError, LostError: As `step`; running statistics have moved.
        """
        # Dropout and the like draw from torch's own generator: each step and process starts it anew.
        torch.manual_seed((self.recipe.seed * 1_000_003 + state.step + self.processes.rank * 2**40) % 2**63)
        network, processes = state.network, self.processes
        masks = [{head: mask.to(self.device) for head, mask in batch.masks.items()} for batch in batches]
        totals = {
            head: processes.sum(torch.stack([loss.denominator(part[head]) for part in masks]).sum()).clamp(min=1e-12)
            for head, loss in self.losses.items()
        }
        state.optimizer.zero_grad(set_to_none=True)
        value = 0.0
        with catch_oom():
            for batch, part in zip(batches, masks, strict=True):
                share = self._share(self.sums(network, batch.images, part), totals)
                share.backward()  # type: ignore[no-untyped-call]
                value += float(share.detach())
        if processes.ranks > 1:
            value = float(processes.sum(torch.tensor(value, dtype=torch.float64)))
            all_reduce_gradients(network, processes)
            crops = len(batches[0].stems)
            reduce_bn_stats(network, processes, crops / int(processes.sum(torch.tensor(crops))))
        if not (math.isfinite(value) and finite_gradients(network)):
            raise NonFiniteError(value, state.step)
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
            head: loss.sums(
                by_head[head], masks[head], network.interpolation_matrices(by_head[head], (x.shape[-2], x.shape[-1]))
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


def finite_gradients(network: nn.Module) -> bool:
    """Say whether every gradient is a number: the optimiser would carry one that is not into the weights."""
    norms = [torch.linalg.vector_norm(p.grad) for p in network.parameters() if p.grad is not None]
    return not norms or bool(torch.isfinite(torch.stack(norms)).all())
