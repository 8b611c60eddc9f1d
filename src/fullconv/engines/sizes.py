"""Classes of picture sizes, and what a network computes for a pixel."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from fullconv.nn import Network

SIDES = (64, 128, 256, 512)
"""Classes of picture sizes, by the side of a square of as many pixels; larger pictures are tried as the last."""


def size_class(height: int, width: int) -> int:
    """Return the side of the square that stands for pictures of a size.

    >>> size_class(360, 480), size_class(20, 700), size_class(3000, 4000)
    (512, 128, 512)
    """
    return next((side for side in SIDES if height * width <= side**2), SIDES[-1])


def told(side: int) -> str:
    """Return a class of sizes in words.

    >>> told(64), told(512)
    ('up to 64x64 pixels', '512x512 pixels and more')
    """
    return f"{side}x{side} pixels and more" if side == SIDES[-1] else f"up to {side}x{side} pixels"


def multiplications(network: Network) -> float:
    """Return the multiplications of a network's convolutions for a pixel of a picture, roughly."""
    height, width, total = 64, 96, 0

    def add(layer: nn.Module, _: Any, result: Tensor) -> None:
        nonlocal total
        weight = cast(Tensor, layer.weight)
        cells = result.shape[-2] * result.shape[-1]
        total += weight.numel() * cells

    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    try:
        with torch.inference_mode():
            parameter = next(network.parameters())
            network.scores(torch.zeros(1, network.in_channels, height, width).to(parameter))
    finally:
        for hook in hooks:
            hook.remove()
    return total / (height * width)
