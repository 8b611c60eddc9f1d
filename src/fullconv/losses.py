"""Which losses a recipe may name, and their sums.

Losses of full-size logits: values and gradients from few passes.

Losses of logits that grow from coarse scores, a strip of rows at a time.

A loss on logits or on coarse scores, as a numerator and a denominator.
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

TERMS = ("cross_entropy", "focal", "dice")
"""Losses that a recipe's sum can name."""


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
            return cast(Tensor, CrossEntropy.apply(logits, target, weights, gamma))

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
            What `sums` gives for ``rows @ scores @ columns.T``, up to rounding. ``dice`` goes over the strips twice.

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
        denominator = self.denominator(target)
        pixel = tuple((factor, self._gamma(name)) for factor, name in self.terms if name != "dice")
        dice = next((Ratio(factor, denominator, self.add_up) for factor, name in self.terms if name == "dice"), None)
        numerator = StripLoss.apply(
            scores, rows.to(exact), columns.to(exact), target, self._table(scores.device), pixel, dice
        )
        return LossSums(cast(Tensor, numerator), denominator)

    def _dice(self, logits: Tensor, target: Tensor, denominator: Tensor) -> Tensor:
        value = Dice.apply(logits, target, self._table(logits.device), self.add_up)
        whole = whole_denominator(denominator, self.add_up)
        return cast(Tensor, Part.apply(value, denominator.to(value.dtype), whole.to(value.dtype)))

    def _gamma(self, name: str) -> float:
        return self.focal_gamma if name == "focal" else 0.0

    def _numerator(self, pixels: Callable[[float], Tensor], dice: Callable[[], Tensor]) -> Tensor:
        """Add up the terms, each with its factor."""
        numerator: Tensor | None = None
        for factor, name in self.terms:
            value = dice() if name == "dice" else pixels(self._gamma(name))
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


def _checked(weights: Sequence[float]) -> tuple[float, ...]:
    """Return class weights as floats if all are finite, none is negative and not all are 0."""
    values = tuple(float(weight) for weight in weights)
    for index, value in enumerate(values):
        if not 0 <= value < math.inf:
            raise RecipeError(f"class_weights[{index}] = {value} cannot be: a weight is a finite number of at least 0.")
    if not any(values):
        raise RecipeError("class_weights are all 0: no pixel would count.")
    return values
