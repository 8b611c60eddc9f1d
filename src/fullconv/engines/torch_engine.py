"""PyTorch as an engine, eager."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from fullconv.card import Card
from fullconv.nn import Network, Scores, map_scores
from fullconv.preprocess import normalize


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
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        if precision == "bf16":
            network = copy.deepcopy(network).to(torch.bfloat16)
        self.network: Network = network.to(device).to(memory_format=torch.channels_last).eval()  # type: ignore[assignment]

    @torch.inference_mode()
    def scores(self, images: Tensor) -> Scores:
        """Map pictures (N, H, W, C) as stored to scores (N, K, h, w) float32, or a dict by head."""
        x = normalize(images.to(self.device, non_blocking=True), self.card)
        return map_scores(self.network.scores(x.to(self.dtype)), Tensor.float)
