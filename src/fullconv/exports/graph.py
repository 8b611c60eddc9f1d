"""The whole prediction as one graph: images of any size as stored in, labels of every pixel out."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fullconv.card import Card
from fullconv.engines import ExportModule, output_names
from fullconv.errors import NetworkError
from fullconv.geometry import Axis
from fullconv.nn import ModuleWrapper, Network
from fullconv.nn.upsample import Border


class LabelGraph(nn.Module):
    """Images (N, H, W, C) uint8 to label maps (N, H, W) uint8 and, where asked for, probabilities (N, K, H, W) and scores.

    It upsamples as `Network.upsample` does, with integer arithmetic wherever that decides between two cells.
    """

    def __init__(
        self,
        network: Network,
        card: Card,
        probabilities: bool = False,
        scores: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if card.scale != 1:
            raise NetworkError(
                f"this model works at {card.scale:g} of the images' size, and an exported file cannot resize. Export"
                " a model that was trained with --scale 1."
            )
        self.body = ExportModule(network, card, dtype)
        self.whole = isinstance(network, ModuleWrapper)
        self.upsamples_by_size = self.whole or network.spec.upsample_mode == "size"
        self.border: Border = "replicate" if self.whole else network.border
        self.axes = (network.geometry.y, network.geometry.x)
        self.probabilities, self.scores = probabilities, scores
        words = ["labels", *(["probabilities"] if probabilities else []), *(["scores"] if scores else [])]
        self.names = [name for word in words for name in output_names(word, card)]

    def forward(self, images: Tensor) -> tuple[Tensor, ...] | Tensor:
        """Return labels, probabilities and scores, of each head; the labels alone where they are all."""
        scores = self.body(images)
        size = (images.shape[1], images.shape[2])
        logits = [self.upsample(part, size) for part in scores]
        labels = [part.argmax(1).to(torch.uint8) for part in logits]
        chances = [part.softmax(1) for part in logits] if self.probabilities else []
        found = (*labels, *chances, *(scores if self.scores else ()))
        return found if len(found) > 1 else found[0]

    def upsample(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """Upsample scores (N, K, h, w) to logits (N, K, H, W): the width first, as the full-size map is largest."""
        if self.whole:
            return scores
        for dim, axis, full in ((-1, self.axes[1], size[1]), (-2, self.axes[0], size[0])):
            left, weight = self.positions(axis, full, scores.shape[dim])
            low, high = (_take(scores, dim, index, self.border) for index in (left, left + 1))
            scores = low + (high - low) * weight.reshape(-1, *([1] * (-1 - dim)))
        return scores

    def positions(self, axis: Axis, full: int, cells: int) -> tuple[Tensor, Tensor]:
        """Return for every pixel of an axis the cell at or before it, and the fraction of the way to the next."""
        pixel = torch.arange(full)
        if self.upsamples_by_size:  # (pixel + 1/2) cells / full - 1/2, and no less than 0
            return _divide(((2 * pixel + 1) * cells - full).clamp(min=0), 2 * full)
        offset, step = axis.offset, axis.jump
        # (pixel - offset) / step, in integers; `before` cells keep the dividend from being negative
        above, below = offset.numerator * step.denominator, offset.denominator * step.numerator
        unit = offset.denominator * step.denominator
        before = max(0, math.ceil(above / below))
        cell, weight = _divide(pixel * unit - above + before * below, below)
        return cell - before, weight


def _divide(value: Tensor, by: int) -> tuple[Tensor, Tensor]:
    """Return quotient and remainder, the latter as a fraction of the divisor."""
    quotient = value // by
    return quotient, (value - quotient * by).to(torch.float32) / by


def _take(x: Tensor, dim: int, index: Tensor, border: Border) -> Tensor:
    """Return cells of an axis; some may lie outside."""
    n = x.shape[dim]
    cells = x.index_select(dim, index.clamp(min=0).clamp(max=n - 1))
    if border == "zero":
        inside = ((index >= 0) & (index < n)).to(torch.float32)
        cells = cells * inside.reshape(-1, *([1] * (-1 - dim)))
    return cells
