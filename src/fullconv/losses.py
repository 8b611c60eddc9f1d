"""Pixel losses, as sums that add up exactly: over batches, accumulated gradients and processes.

The loss of a step is a numerator over a denominator, both summed over everything that the step sees. Each micro-batch
gives its share of the two (`PixelLoss.sums`); only the totals are divided. A mean of means would give a pixel the more
weight the more void there is around it.

- ``cross_entropy``: sum(w l) / sum(w) over valid pixels, w the weight of a pixel's class (1 without class weights).
- ``focal``: the same with l (1 - p)^gamma, p the probability of the true class. Source: Lin et al., ICCV 2017.
- ``dice``: 1 - mean of 2 sum(p y) / (sum(p) + sum(y)) over the classes in the micro-batch's truth, weighted by their
  class weights; p are probabilities, y the truth. It is a ratio of sums over the micro-batch, not a sum over pixels: a
  step's value is the mean over its micro-batches, weighted by their denominators. Source: Milletari et al., 3DV 2016.

With ``reduction="sum"`` the denominator is the number of pictures, which is Caffe's rule (and the paper's).

`PixelLoss.sums_of_scores` gives the same from coarse scores: it grows a strip of rows at a time, so that logits of the
full size are never in memory together.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fullconv.errors import RecipeError, nearest
from fullconv.labels import VOID

AddUp = Callable[[Tensor], Tensor]

TERMS = ("cross_entropy", "focal", "dice")
"""Losses that a recipe's sum can name."""
STRIP = 1 << 19
"""Logits of a strip, in numbers: two megabytes."""


class LossSums(NamedTuple):
    """A micro-batch's share of a step's loss."""

    numerator: Tensor
    """() float, with gradient."""
    denominator: Tensor
    """() float64, without gradient; 0 where there is no valid pixel, and then the numerator is 0 too."""


class PixelLoss:
    """A loss on logits (N, K, H, W) against labels (N, H, W).

    Args:
        loss: Sum of terms with optional factors, for example ``"cross_entropy + 0.5 * dice"``.
        class_weights: A number of at least 0 for each class; None for 1.
        focal_gamma: Exponent of ``focal``, at least 0; 0 makes it cross-entropy.
        reduction: ``"mean"`` divides by the (weighted) number of valid pixels, ``"sum"`` by the number of pictures.

    Raises:
        RecipeError: The text, a weight or gamma cannot be; the message names the nearest term.

    One step over several micro-batches (the denominators need only the labels, so they are known beforehand)::

        total = sum(loss.denominator(target) for _, target in batches)  # and all-reduced over processes
        for image, target in batches:
            (loss.sums(network(image), target).numerator / total).backward()
    """

    def __init__(
        self,
        loss: str = "cross_entropy",
        class_weights: Sequence[float] | None = None,
        focal_gamma: float = 2.0,
        reduction: Literal["mean", "sum"] = "mean",
    ) -> None:
        self.terms = parse_loss(loss)
        if not focal_gamma >= 0:
            raise RecipeError(f"focal_gamma = {focal_gamma} cannot be: it is at least 0 (2 is usual).")
        if reduction not in ("mean", "sum"):
            raise RecipeError(
                f"there is no reduction '{reduction}', only mean and sum.{nearest(reduction, ('mean', 'sum'))}"
            )
        self.class_weights = None if class_weights is None else _checked(class_weights)
        self.focal_gamma = focal_gamma
        self.reduction = reduction
        self.add_up: AddUp | None = None
        """Where processes share each micro-batch: adds a tensor up over them, in place. Only dice, which is no sum over
        pixels, needs it; the processes' numerators then add up to that of the whole micro-batch."""
        self._tables: dict[torch.device, Tensor] = {}

    def sums(self, logits: Tensor, target: Tensor) -> LossSums:
        """Return numerator and denominator of a micro-batch.

        Computed in float32 for bf16 and fp16 logits (float64 for float64); the gradient has the logits' type.

        Args:
            logits: (N, K, H, W) float, any memory format. What they are under void changes nothing.
            target: (N, H, W) uint8 or int64, 0..K-1 or void.

        Raises:
            RecipeError: The class weights are not K.
            ValueError: The shapes do not fit.
        """
        self._check(logits, target)
        denominator = self.denominator(target)
        weights = self._table(logits.device)

        def pixels(gamma: float) -> Tensor:
            return cast(Tensor, _CrossEntropy.apply(logits, target, weights, gamma))

        def dice() -> Tensor:
            return self._dice(logits, target, denominator)

        return LossSums(self._numerator(pixels, dice), denominator)

    def sums_of_scores(self, scores: Tensor, rows: Tensor, columns: Tensor, target: Tensor) -> LossSums:
        """Return numerator and denominator for the logits that coarse scores grow to, without holding these.

        Args:
            scores: (N, K, h, w) float. bf16 is grown in float32.
            rows: (H, h) float, the weights of each row of logits on the rows of scores.
            columns: (W, w) float, likewise.
            target: (N, H, W) uint8 or int64, 0..K-1 or void.

        Returns:
            What `sums` gives for ``rows @ scores @ columns.T``, up to rounding. ``dice`` needs all logits, and makes
            them.

        Raises:
            RecipeError: The class weights are not K.
            ValueError: The shapes do not fit.
        """
        size = (rows.shape[0], columns.shape[0])
        if rows.shape[1:] != scores.shape[-2:-1] or columns.shape[1:] != scores.shape[-1:]:
            raise ValueError(
                f"rows (H, h) and columns (W, w) are {tuple(rows.shape)} and {tuple(columns.shape)}"
                f" for scores {tuple(scores.shape)}."
            )
        self._check(scores, target, size)
        exact = torch.float64 if scores.dtype == torch.float64 else torch.float32
        rows, columns = rows.to(exact), columns.to(exact)
        denominator = self.denominator(target)
        weights = self._table(scores.device)

        def pixels(gamma: float) -> Tensor:
            return cast(Tensor, _StripCrossEntropy.apply(scores, rows, columns, target, weights, gamma))

        def dice() -> Tensor:
            return self._dice(rows @ (scores.to(exact) @ columns.T), target, denominator)

        return LossSums(self._numerator(pixels, dice), denominator)

    def _dice(self, logits: Tensor, target: Tensor, denominator: Tensor) -> Tensor:
        value = _Dice.apply(logits, target, self._table(logits.device), self.add_up)
        whole = denominator if self.add_up is None else self.add_up(denominator.clone())
        return cast(Tensor, _Part.apply(value, denominator.to(value.dtype), whole.to(value.dtype)))

    def _numerator(self, pixels: Callable[[float], Tensor], dice: Callable[[], Tensor]) -> Tensor:
        """Add up the terms, each with its factor."""
        numerator: Tensor | None = None
        for factor, name in self.terms:
            value = dice() if name == "dice" else pixels(self.focal_gamma if name == "focal" else 0.0)
            numerator = factor * value if numerator is None else numerator + factor * value
        assert numerator is not None
        return numerator

    def denominator(self, target: Tensor) -> Tensor:
        """Return the denominator of labels (N, H, W), () float64; it needs no logits."""
        if self.reduction == "sum":
            return torch.tensor(float(target.shape[0]), dtype=torch.float64, device=target.device)
        if self.class_weights is None:
            return (target != VOID).sum().double()
        return (torch.bincount(target.flatten(), minlength=256) * self._table(target.device)).sum()

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of a batch that is a whole step, () float; 0 with zero gradient where all is void."""
        return ratio(*self.sums(logits, target))

    def _check(self, logits: Tensor, target: Tensor, size: Sequence[int] | None = None) -> None:
        if logits.ndim != 4 or target.shape != (logits.shape[0], *(size or logits.shape[2:])):
            raise ValueError(
                f"logits are (N, K, H, W) and target (N, H, W), not {tuple(logits.shape)} and {tuple(target.shape)}."
            )
        if self.class_weights is not None and len(self.class_weights) != logits.shape[1]:
            raise RecipeError(f"class_weights has {len(self.class_weights)} numbers for {logits.shape[1]} classes.")

    def _table(self, device: torch.device) -> Tensor:
        """Weights by label, (256,) float64; 0 for void, so that void needs no mask of its own."""
        if device not in self._tables:
            table = torch.ones(256, dtype=torch.float64)
            if self.class_weights is not None:
                table[: len(self.class_weights)] = torch.tensor(self.class_weights, dtype=torch.float64)
            table[VOID] = 0
            self._tables[device] = table.to(device)
        return self._tables[device]


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide totals; 0 (with zero gradient) where the denominator is 0."""
    return (numerator / torch.where(denominator > 0, denominator, 1.0)).to(numerator.dtype)


def parse_loss(text: str) -> tuple[tuple[float, str], ...]:
    """Read a sum of losses as pairs of factor and name.

    Raises:
        RecipeError: A term is unknown (the nearest is named), named twice, or has no factor above 0.

    >>> parse_loss("cross_entropy + 0.5 * dice")
    ((1.0, 'cross_entropy'), (0.5, 'dice'))
    """
    terms: list[tuple[float, str]] = []
    for part in re.split(r"(?<![0-9.][eE])\+", text):  # not at the plus of 1e+2
        factor, star, name = part.rpartition("*")
        name = name.strip()
        if name not in TERMS:
            known = ", ".join(TERMS)
            raise RecipeError(
                f"loss = {text!r}: there is no loss '{name}', only {known} and sums such as"
                f" 'cross_entropy + 0.5 * dice'.{nearest(name, TERMS)}"
            )
        if any(name == other for _, other in terms):
            raise RecipeError(f"loss = {text!r}: {name} is named twice. Write it once, with the factors added up.")
        terms.append((_factor(factor, text) if star else 1.0, name))
    return tuple(terms)


def _factor(text: str, whole: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise RecipeError(f"loss = {whole!r}: the factor '{text.strip()}' is not a number above 0.")
    return value


def _checked(weights: Sequence[float]) -> tuple[float, ...]:
    """Return class weights as floats if all are finite, none is negative and not all are 0."""
    values = tuple(float(weight) for weight in weights)
    for index, value in enumerate(values):
        if not 0 <= value < math.inf:
            raise RecipeError(f"class_weights[{index}] = {value} cannot be: a weight is a finite number of at least 0.")
    if not any(values):
        raise RecipeError("class_weights are all 0: no pixel would count.")
    return values


def _pictures(logits: Tensor, target: Tensor) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Yield each picture's index, logits (K, H, W) in full precision, labels and labels without void, (H, W) int64.

    A picture at a time stays in the processor's cache: a third of the time of the whole batch at once.
    """
    exact = torch.float64 if logits.dtype == torch.float64 else torch.float32
    for n in range(logits.shape[0]):
        labels = target[n].long()
        # The softmax over a channels_last axis of K is 20 times slower than over planes.
        planes = logits[n].to(exact, memory_format=torch.contiguous_format)
        yield n, planes, labels, torch.where(labels != VOID, labels, 0)


def _by_label(table: Tensor, labels: Tensor) -> Tensor:
    """Look up each label (H, W) in a table (K or 256,)."""
    return table.index_select(0, labels.flatten()).view_as(labels)  # a quarter of the time of table[labels]


def _pixel_loss(
    planes: Tensor, labels: Tensor, safe: Tensor, table: Tensor, gamma: float, gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """Return minus the sum over pixels of w l (1 - p)^gamma, and minus its gradient, from one pass over the logits.

    Args:
        planes: Logits (B, K, M), classes in the middle.
        labels: (B, M) int64, with void.
        safe: Labels without void.
        table: Weights by label, (256,).
        gamma: 0 for cross-entropy.
        gradient: Whether the gradient, (B, K, M), is wanted.
    """
    weights = _by_label(table.to(planes.dtype), labels)
    log_p = torch.log_softmax(planes, dim=1)
    log_true = log_p.gather(1, safe[:, None])[:, 0]
    miss = -torch.expm1(log_true)  # 1 - p, without cancellation
    slope = weights
    if gamma:
        # Minus the derivative of (1 - p)^gamma log p by log p; where p is 1 the clamp makes 0 * infinity 0.
        pull = gamma * miss.clamp(min=1e-12) ** (gamma - 1) * torch.exp(log_true) * log_true
        slope = weights * (miss**gamma - pull)
        weights = weights * miss**gamma
    value = (weights * log_true).sum()
    if not gradient:
        return value, None
    return value, log_p.exp_().scatter_(1, safe[:, None], -miss[:, None]).mul_(slope[:, None])  # (p - y) slope


class _CrossEntropy(torch.autograd.Function):
    """Sum over pixels of w l (1 - p)^gamma, with value and gradient from one pass over the logits.

    Against F.cross_entropy on float32 copies of bf16 logits: no log-probabilities of the whole batch are kept, and the
    gradient is stored in the logits' type, so far less fresh memory is touched. That is what takes the time.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, table: Tensor, gamma: float) -> Tensor:
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        sums = []
        for n, planes, labels, safe in _pictures(logits, target):
            flat = (planes.flatten(1)[None], labels.flatten()[None], safe.flatten()[None])
            value, change = _pixel_loss(*flat, table, gamma, gradient is not None)
            sums.append(value)
            if gradient is not None and change is not None:
                gradient[n] = change.view_as(planes).to(logits.dtype)  # rounded first: half the traffic
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return -torch.stack(sums).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        # The factor stays float32: rounded to bf16 it would scale the whole step by up to 0.4 %.
        return gradient * upstream, None, None, None


class _StripCrossEntropy(torch.autograd.Function):
    """`_CrossEntropy` of ``rows @ scores @ columns.T``, a strip of rows at a time.

    A strip's gradient goes back to the coarse scores at once, through the same two products, so nothing of the full
    size is kept or even written. Classes lie between rows and columns, so that each product is one of two matrices.
    """

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, rows: Tensor, columns: Tensor, target: Tensor, table: Tensor, gamma: float
    ) -> Tensor:
        classes, h = scores.shape[1:3]
        width = columns.shape[0]
        step = max(1, STRIP // (classes * width))
        strips = [(a, min(a + step, len(rows)), *_support(rows[a : a + step])) for a in range(0, len(rows), step)]
        gradient = torch.empty_like(scores) if ctx.needs_input_grad[0] else None
        sums = []
        for n in range(scores.shape[0]):
            labels = target[n].long()
            safe = torch.where(labels != VOID, labels, 0)
            coarse = scores[n].to(rows.dtype).permute(1, 0, 2)  # (h, K, w)
            wide = (coarse @ columns.T).view(h, classes * width)
            back = torch.zeros_like(wide)
            for a, b, low, high in strips:
                weights = rows[a:b, low:high]
                planes = (weights @ wide[low:high]).view(b - a, classes, width)
                value, change = _pixel_loss(planes, labels[a:b], safe[a:b], table, gamma, gradient is not None)
                sums.append(value)
                if change is not None:
                    back[low:high].addmm_(weights.T, change.view(b - a, -1))
            if gradient is not None:
                gradient[n] = (back.view(h, classes, width) @ columns).permute(1, 0, 2)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return -torch.stack(sums).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None, None, None, None, None


def _support(weights: Tensor) -> tuple[int, int]:
    """Return the range of columns of a matrix (m, n) outside which it is 0."""
    used = weights.ne(0).any(dim=0).nonzero()
    return (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)


class _Dice(torch.autograd.Function):
    """1 - weighted mean over the true classes of 2 I / S, I = sum(p y), S = sum(p) + sum(y) over valid pixels."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, table: Tensor, add_up: AddUp | None) -> Tensor:
        classes = logits.shape[1]
        shared, summed, present = (torch.zeros(classes, dtype=torch.float64, device=logits.device) for _ in range(3))
        for _, planes, labels, safe in _pictures(logits, target):
            valid = (labels != VOID).to(planes.dtype)
            p = torch.softmax(planes, dim=0).mul_(valid)
            p_true = p.gather(0, safe[None]).flatten().double()
            shared.index_add_(0, safe.flatten(), p_true)
            pixels = torch.zeros_like(present).index_add_(0, safe.flatten(), valid.flatten().double())
            present += pixels
            summed += p.sum(dim=(1, 2)) + pixels
        if add_up is not None:
            shared, summed, present = add_up(torch.stack([shared, summed, present]))
        weights = table[:classes] * (present > 0)
        weights = weights / weights.sum().clamp(min=torch.finfo(torch.float64).tiny)
        summed = summed.clamp(min=1)  # it is that, in every class of the truth
        ctx.save_for_backward(logits, target, -2 * weights / summed, 2 * weights * shared / summed**2)
        loss = (weights * (1 - 2 * shared / summed)).sum()
        return loss if logits.dtype == torch.float64 else loss.float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        logits, target, on_true, on_all = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        for n, planes, labels, safe in _pictures(logits, target):
            p = torch.softmax(planes, dim=0)
            by_class = on_all.to(p.dtype)[:, None, None]
            truly = _by_label(on_true.to(p.dtype), safe)
            p_true = p.gather(0, safe[None])[0]
            # d/dz_j = p_j (g_j - sum_k p_k g_k) with g_k = on_all_k + on_true_k [k is the truth]
            pull = by_class - (p * by_class).sum(dim=0) - (truly * p_true)
            pull.scatter_(0, safe[None], pull.gather(0, safe[None]) + truly)
            gradient[n] = p.mul_(pull).mul_((labels != VOID) * upstream)
        return gradient, None, None, None


class _Part(torch.autograd.Function):
    """A value that all processes have, times this one's part of the denominator; its gradient is that of the whole."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, part: Tensor, whole: Tensor) -> Tensor:
        ctx.save_for_backward(whole)
        return value * part

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (whole,) = ctx.saved_tensors
        return upstream * whole, None, None
