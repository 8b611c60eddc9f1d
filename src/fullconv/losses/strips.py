"""Losses of logits that grow from coarse scores, a strip of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fullconv.labels import VOID
from fullconv.losses.gradients import AddUp, Scaled, add_dice_sums, dice_of, pixel_loss, whole_denominator

STRIP = 1 << 19
"""Logits of a strip, in numbers: two megabytes."""


class Ratio(NamedTuple):
    """Dice as a term of a sum that is divided by a denominator."""

    factor: float
    part: Tensor
    """This process's denominator."""
    add_up: AddUp | None


class Grown:
    """Logits ``rows @ scores @ columns.T`` of a batch, a strip of rows at a time.

    Classes lie between rows and columns, so that each product is one of two matrices.
    """

    def __init__(self, scores: Tensor, rows: Tensor, columns: Tensor, target: Tensor) -> None:
        self.scores, self.rows, self.columns, self.target = scores, rows, columns, target
        step = max(1, STRIP // (scores.shape[1] * len(columns)))
        self._strips = [(a, min(a + step, len(rows)), *_support(rows[a : a + step])) for a in range(0, len(rows), step)]

    def pictures(self) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """Yield each picture's index, scores as wide as the logits (h, K W), labels and labels without void."""
        classes, h = self.scores.shape[1:3]
        for n in range(len(self.scores)):
            labels = self.target[n].long()
            coarse = self.scores[n].to(self.rows.dtype).permute(1, 0, 2)  # (h, K, w)
            wide = (coarse @ self.columns.T).view(h, classes * len(self.columns))
            yield n, wide, labels, torch.where(labels != VOID, labels, 0)

    def strips(self, wide: Tensor) -> Iterator[tuple[slice, Tensor, slice, Tensor]]:
        """Yield which rows of a picture a strip has, its logits (B, K, W), which rows of scores it needs, and their weights."""
        for a, b, low, high in self._strips:
            weights = self.rows[a:b, low:high]
            yield slice(a, b), (weights @ wide[low:high]).view(b - a, -1, len(self.columns)), slice(low, high), weights


class StripLoss(Scaled):
    """A sum of terms on ``rows @ scores @ columns.T``: factors times `CrossEntropy`, and times `Dice` by the denominator.

    A strip's gradient goes back to the coarse scores at once, through the same two products, so nothing of the full
    size is kept or even written. Dice's gradient needs its sums over the micro-batch: strips are then grown twice.
    """

    @staticmethod
    def forward(
        ctx: Any,
        scores: Tensor,
        rows: Tensor,
        columns: Tensor,
        target: Tensor,
        table: Tensor,
        pixel: Sequence[tuple[float, float]],
        dice: Ratio | None,
    ) -> Tensor:
        """Return the numerator, and keep its gradient."""
        grown = Grown(scores, rows, columns, target)
        total = torch.zeros((), dtype=rows.dtype, device=scores.device)
        slopes = None
        if dice is not None:
            value, on_true, on_all = dice_of(_strip_sums(grown), table, dice.add_up)
            total = total + (dice.factor * value * dice.part).to(rows.dtype)
            whole = dice.factor * whole_denominator(dice.part, dice.add_up)
            slopes = (on_true * whole).to(rows.dtype), (on_all * whole).to(rows.dtype)
        gradient = torch.empty_like(scores) if ctx.needs_input_grad[0] else None
        sums = [-total]
        for n, wide, labels, safe in grown.pictures():
            back = torch.zeros_like(wide)
            for part, planes, needed, weights in grown.strips(wide):
                value, change = pixel_loss(planes, labels[part], safe[part], table, pixel, gradient is not None, slopes)
                sums.append(value)
                if change is not None:
                    back[needed].addmm_(weights.T, change.view(len(change), -1))
            if gradient is not None:
                gradient[n] = (back.view(len(back), -1, len(columns)) @ columns).permute(1, 0, 2)
        return Scaled.keep(ctx, gradient, sums)


def _support(weights: Tensor) -> tuple[int, int]:
    """Return the range of columns of a matrix (m, n) outside which it is 0."""
    used = weights.ne(0).any(dim=0).nonzero()
    return (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)


def _strip_sums(grown: Grown) -> Tensor:
    """Return what dice is made of, (3, K) float64, as `add_dice_sums` adds it up."""
    sums = torch.zeros((3, grown.scores.shape[1]), dtype=torch.float64, device=grown.scores.device)
    for _, wide, labels, safe in grown.pictures():
        for part, planes, _, _ in grown.strips(wide):
            add_dice_sums(sums, planes, labels[part], safe[part])
    return sums
