"""PyTorch as an engine."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fullconv.card import Card
from fullconv.engines.engine import Engine, Scores, bf16_unsafe
from fullconv.geometry import shared
from fullconv.nn import Network, scores_by_head
from fullconv.preprocess import as_tensor, normalize


class TorchEngine(Engine):
    """Run a network in PyTorch."""

    name = "torch"

    def __init__(self, network: nn.Module, card: Card, device: torch.device, precision: str = "fp32") -> None:
        self.card, self.device, self.precision = card, device, precision
        network = network.to(device).eval()
        if all(weight.ndim < 5 for weight in network.parameters()):  # those of 3-D layers have no such order
            network = network.to(memory_format=torch.channels_last)
        self.fp32_net = cast(Network, network)
        self.bf16_net = in_bf16(self.fp32_net) if precision == "bf16" else None

    def net_for(self, height: int, width: int) -> Network:
        """Return the network that computes images of a size; small ones are computed in full precision."""
        if self.bf16_net is None or bf16_unsafe(height, width, self.fp32_net.min_size):
            return self.fp32_net
        return self.bf16_net

    def prepare(self, images: NDArray[Any], network: Network) -> Tensor:
        """Return images (N, H, W, C) as stored as the input of a network of this engine, on its device."""
        x = normalize(as_tensor(images).to(self.device, non_blocking=True), self.card)
        return x if network is self.fp32_net else x.to(torch.bfloat16)

    @torch.inference_mode()
    def scores(self, images: NDArray[Any]) -> Scores:
        """Map images (N, H, W, C) as stored to scores (N, K, h, w) by head."""
        network = self.net_for(*images.shape[1:3])
        x = self.prepare(images, network)
        with shared():
            scores = scores_by_head(network.scores(x))
        return {name: value.float().cpu().numpy() for name, value in scores.items()}


class _InFloat32(nn.Module):
    """A layer that PyTorch does not compute in bf16 on CPUs."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x.float()).to(x.dtype)
        return result


def in_bf16(network: Network) -> Network:
    """Return a copy of a network that computes in bf16, except for local response normalisation."""
    lower = copy.deepcopy(network).to(torch.bfloat16)
    for parent in list(lower.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.LocalResponseNorm):
                setattr(parent, name, _InFloat32(layer))
    return lower
