"""PyTorch as an engine."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from fullconv.card import Card
from fullconv.geometry.gate import computing
from fullconv.nn import Network, Scores, tree_map
from fullconv.preprocess import normalize

SMALL = 64
"""Pictures with a shorter side are not computed in bf16 by networks that do not pad them to this size: bf16
convolutions of oneDNN, which OpenVINO has inside, too, go wrong on maps one cell wide."""


def too_small(height: int, width: int, minimum_size: int) -> bool:
    """Say whether a picture of a size may have maps one cell wide, which bf16 gets wrong."""
    return max(min(height, width), minimum_size) < SMALL


class TorchEngine:
    """Run a network in PyTorch.

    Args:
        network: In eval mode; bf16 works on a copy of its weights.
        card: The preprocessing.
        device: Where to compute; scores stay there.
        precision: "fp32" or "bf16".
    """

    name = "torch"

    def __init__(self, network: nn.Module, card: Card, device: torch.device, precision: str = "fp32") -> None:
        self.card, self.device, self.precision = card, device, precision
        exact = network.to(device).to(memory_format=torch.channels_last).eval()
        self.exact: Network = exact  # type: ignore[assignment]
        self.lower: Network | None = None
        if precision == "bf16":
            self.lower = in_bf16(self.exact)

    def at(self, height: int, width: int) -> TorchEngine:
        """Return itself."""
        return self

    def chosen(self, height: int, width: int) -> Network:
        """Return what computes pictures of a size: small ones are computed in full precision."""
        small = too_small(height, width, self.exact.min_size)
        return self.exact if self.lower is None or small else self.lower

    @torch.inference_mode()
    def scores(self, images: Tensor) -> Scores:
        """Map pictures (N, H, W, C) as stored to scores (N, K, h, w) float32, or a dict by head."""
        x = normalize(images.to(self.device, non_blocking=True), self.card)
        network = self.chosen(x.shape[-2], x.shape[-1])
        with computing():
            scores = network.scores(x if network is self.exact else x.to(torch.bfloat16))
        return tree_map(scores, Tensor.float)


class _InFloat32(nn.Module):
    """A layer that PyTorch does not compute in bf16 on CPUs."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x.float()).to(x.dtype)
        return result


def in_bf16(network: Network) -> Network:
    """Return a copy of a network that computes in bf16, but for local response normalisation."""
    lower = copy.deepcopy(network).to(torch.bfloat16)
    for parent in list(lower.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.LocalResponseNorm):
                setattr(parent, name, _InFloat32(layer))
    return lower
