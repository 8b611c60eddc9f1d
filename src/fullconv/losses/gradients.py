"""Losses of full-size logits: values and gradients from few passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fullconv.labels import VOID

AddUp = Callable[[Tensor], Tensor]


def pictures(logits: Tensor, target: Tensor) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Yield each picture's index, logits (K, H, W) in full precision, labels and labels without void, (H, W) int64.

    A picture at a time stays in the processor's cache: a third of the time of the whole batch at once.
    """
    exact = torch.float64 if logits.dtype == torch.float64 else torch.float32
    for n in range(logits.shape[0]):
        labels = target[n].long()
        # The softmax over a channels_last axis of K is 20 times slower than over planes.
        planes = logits[n].to(exact, memory_format=torch.contiguous_format)
        yield n, planes, labels, torch.where(labels != VOID, labels, 0)


def _flat(planes: Tensor, labels: Tensor, safe: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Lay what `pictures` yields as (1, K, H W) and (1, H W), twice."""
    return planes.flatten(1)[None], labels.flatten()[None], safe.flatten()[None]


def by_label(table: Tensor, labels: Tensor) -> Tensor:
    """Look up each label (H, W) in a table (K or 256,)."""
    return table.index_select(0, labels.flatten()).view_as(labels)  # a quarter of the time of table[labels]


def pixel_loss(
    planes: Tensor,
    labels: Tensor,
    safe: Tensor,
    table: Tensor,
    pixel: Sequence[tuple[float, float]],
    gradient: bool,
    slopes: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return minus the sum over pixels of w l (1 - p)^gamma, and the gradient of the sum, from one pass over the logits.

    Args:
        planes: Logits (B, K, M), classes in the middle.
        labels: (B, M) int64, with void.
        safe: Labels without void.
        table: Weights by label, (256,).
        pixel: A factor and gamma (0 for cross-entropy) for each term that is a sum over pixels.
        gradient: Whether the gradient, (B, K, M), is wanted.
        slopes: Dice's derivatives by p, which its gradient is made of: for the true class and for all, (K,) each.
    """
    weights = by_label(table.to(planes.dtype), labels)
    log_p = torch.log_softmax(planes, dim=1)
    log_true = log_p.gather(1, safe[:, None])[:, 0]
    miss = -torch.expm1(log_true)  # 1 - p, without cancellation
    value, slope = torch.zeros((), dtype=planes.dtype, device=planes.device), torch.zeros_like(weights)
    for factor, gamma in pixel:
        own = steep = factor * weights
        if gamma:
            # Minus the derivative of (1 - p)^gamma log p by log p; where p is 1 the clamp makes 0 * infinity 0.
            pull = gamma * miss.clamp(min=1e-12) ** (gamma - 1) * torch.exp(log_true) * log_true
            own, steep = own * miss**gamma, own * (miss**gamma - pull)
        value, slope = value + (own * log_true).sum(), slope + steep
    if not gradient:
        return value, None
    p = log_p.exp_()
    if slopes is None:
        return value, p.scatter_(1, safe[:, None], -miss[:, None]).mul_(slope[:, None])  # (p - y) slope
    # Dice: d/dz_j = p_j (g_j - sum_k p_k g_k) with g_k = on_all_k + on_true_k [k is the truth], nothing at void
    on_true, on_all = slopes
    valid = (labels != VOID).to(p.dtype)
    truly = valid * by_label(on_true, safe) * (1 - miss)
    pull = valid * (on_all @ p) + truly
    change = p.mul_(torch.baddbmm((slope - pull)[:, None], on_all[None, :, None].expand(len(p), -1, 1), valid[:, None]))
    return value, change.scatter_add_(1, safe[:, None], (truly - slope)[:, None])


class Scaled(torch.autograd.Function):
    """A sum whose forward makes its gradient by the first argument as well, so that backward only scales that."""

    @staticmethod
    def keep(ctx: Any, gradient: Tensor | None, sums: Sequence[Tensor]) -> Tensor:
        """Keep the gradient where it was wanted, and return minus the total."""
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return -torch.stack(list(sums)).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradient; the factor stays float32: rounded to bf16 it would scale the whole step by up to 0.4 %."""
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, *[None] * (len(ctx.needs_input_grad) - 1)


class CrossEntropy(Scaled):
    """Sum over pixels of w l (1 - p)^gamma, with value and gradient from one pass over the logits.

    Against F.cross_entropy on float32 copies of bf16 logits: no log-probabilities of the whole batch are kept, and the
    gradient is stored in the logits' type, so far less fresh memory is touched. That is what takes the time.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, table: Tensor, gamma: float) -> Tensor:
        """Return the sum, and keep its gradient."""
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        sums = []
        for n, planes, labels, safe in pictures(logits, target):
            value, change = pixel_loss(*_flat(planes, labels, safe), table, ((1.0, gamma),), gradient is not None)
            sums.append(value)
            if gradient is not None and change is not None:
                gradient[n] = change.view_as(planes).to(logits.dtype)  # rounded first: half the traffic
        return Scaled.keep(ctx, gradient, sums)


def add_dice_sums(sums: Tensor, planes: Tensor, labels: Tensor, safe: Tensor) -> None:
    """Add what dice is made of, sum(p y), sum(p) and sum(y) over valid pixels, to ``sums`` (3, K) float64.

    Args:
        sums: Changed in place.
        planes: Logits (B, K, M), classes in the middle.
        labels: (B, M) int64, with void.
        safe: Labels without void.
    """
    shared, summed, present = sums
    valid = (labels != VOID).to(planes.dtype)
    p = torch.softmax(planes, dim=1).mul_(valid[:, None])
    shared.index_add_(0, safe.flatten(), p.gather(1, safe[:, None]).flatten().double())
    summed += p.sum(dim=(0, 2))
    present += torch.bincount(labels.flatten(), minlength=VOID + 1)[: len(present)]


def dice_of(sums: Tensor, table: Tensor, add_up: AddUp | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return dice, and its derivatives by the probability of the true class and of each class, from `add_dice_sums`."""
    shared, summed, present = sums if add_up is None else add_up(sums)
    summed = (summed + present).clamp(min=1)  # it is that, in every class of the truth
    weights = table[: len(present)] * (present > 0)
    weights = weights / weights.sum().clamp(min=torch.finfo(torch.float64).tiny)
    loss = (weights * (1 - 2 * shared / summed)).sum()
    return loss, -2 * weights / summed, 2 * weights * shared / summed**2


def whole_denominator(denominator: Tensor, add_up: AddUp | None) -> Tensor:
    """Return a denominator, added up over processes where there are several."""
    return denominator if add_up is None else add_up(denominator.clone())


class Dice(torch.autograd.Function):
    """1 - weighted mean over the true classes of 2 I / S, I = sum(p y), S = sum(p) + sum(y) over valid pixels."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, table: Tensor, add_up: AddUp | None) -> Tensor:
        """Return dice of the micro-batch, of all processes."""
        sums = torch.zeros((3, logits.shape[1]), dtype=torch.float64, device=logits.device)
        for _, planes, labels, safe in pictures(logits, target):
            add_dice_sums(sums, *_flat(planes, labels, safe))
        loss, on_true, on_all = dice_of(sums, table, add_up)
        ctx.save_for_backward(logits, target, table, on_true, on_all)
        return loss if logits.dtype == torch.float64 else loss.float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Make the gradient from the derivatives by the probabilities."""
        logits, target, table, on_true, on_all = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        for n, planes, labels, safe in pictures(logits, target):
            slopes = (on_true * upstream).to(planes.dtype), (on_all * upstream).to(planes.dtype)
            _, change = pixel_loss(*_flat(planes, labels, safe), table, (), True, slopes)
            gradient[n] = cast(Tensor, change).view_as(planes)
        return gradient, None, None, None


class Part(torch.autograd.Function):
    """A value that all processes have, times this one's part of the denominator; its gradient is that of the whole."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, part: Tensor, whole: Tensor) -> Tensor:
        """Return this process's part."""
        ctx.save_for_backward(whole)
        return value * part

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the whole."""
        (whole,) = ctx.saved_tensors
        return upstream * whole, None, None
