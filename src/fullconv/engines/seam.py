"""The seam: pictures as stored in, scores out."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from fullconv.nn import Scores


class Engine(Protocol):
    """A runtime that holds a network and its preprocessing."""

    name: str
    """"torch", "openvino" or "onnxruntime"."""
    precision: str
    """"fp32", "bf16" or "int8"."""

    def scores(self, images: Tensor) -> Scores:
        """Map pictures (N, H, W, C) as stored, in the card's bands, to scores (N, K, h, w) float32, or a dict by head."""
        ...
