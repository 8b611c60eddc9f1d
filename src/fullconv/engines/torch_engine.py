"""PyTorch as an engine, eager."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from fullconv.card import Card
from fullconv.nn import Network, Scores, map_scores
from fullconv.preprocess import normalize

SMALL = 64
"""Pictures with a shorter side are not computed in bf16 by networks that do not pad them to this size: oneDNN's bf16
convolutions go wrong on maps one cell wide."""


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
            self.lower = copy.deepcopy(self.exact).to(torch.bfloat16)

    def chosen(self, height: int, width: int) -> Network:
        """Return what computes pictures of a size: small ones are computed in full precision."""
        small = max(min(height, width), self.exact.minimum_size) < SMALL
        return self.exact if self.lower is None or small else self.lower

    @torch.inference_mode()
    def scores(self, images: Tensor) -> Scores:
        """Map pictures (N, H, W, C) as stored to scores (N, K, h, w) float32, or a dict by head."""
        x = normalize(images.to(self.device, non_blocking=True), self.card)
        network = self.chosen(x.shape[-2], x.shape[-1])
        if network is self.exact:
            return map_scores(network.scores(x), Tensor.float)
        return map_scores(network.scores(x.to(torch.bfloat16)), Tensor.float)
