"""Pixel losses, as sums that add up exactly: over batches, accumulated gradients and processes.

Each micro-batch contributes its share of a numerator and a denominator (`PixelLoss.sums`); only the totals of a step are
divided. Averaging the means of batches would give more weight to pixels of batches with more void.

- ``cross_entropy``: sum(w l) / sum(w) over valid pixels; w is the weight of a pixel's class (1 without class weights),
  l minus the log-probability of that class.
- ``focal``: the same with l (1 - p)^gamma, p the probability of the true class. Source: Lin et al., ICCV 2017.
- ``dice``: 1 - mean of 2 sum(p y) / (sum(p) + sum(y)) over the classes in the micro-batch's ground truth, weighted by
  their class weights. A step's value is the mean over its micro-batches, weighted by their denominators.
  Source: Milletari et al., 3DV 2016.

With ``reduction="sum"`` the denominator is the number of images, which is Caffe's rule (and the paper's). Coarse scores are
upsampled, scored and differentiated a chunk of rows at a time (`ChunkedLoss`): logits of the full size are never in memory.
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
"""Losses that a recipe can sum."""

CHUNK_LOGITS = 1 << 19
"""Logits in a chunk of rows: 2 MB of float32, which stay in the processor's cache."""

AllReduce = Callable[[Tensor], Tensor]


def parse_loss(text: str) -> tuple[tuple[float, str], ...]:
    """Parse a sum of losses into pairs of factor and name.

    >>> parse_loss("cross_entropy + 0.5 * dice")
    ((1.0, 'cross_entropy'), (0.5, 'dice'))
    """
    terms: list[tuple[float, str]] = []
    for part in re.split(r"(?<![0-9.][eE])\+", text):  # not at the plus of 1e+2
        factor_text, star, name = part.rpartition("*")
        name = name.strip()
        if name not in TERMS:
            raise RecipeError(
                f"loss = {text!r}: there is no loss '{name}', only {', '.join(TERMS)} and sums such as"
                f" 'cross_entropy + 0.5 * dice'.{nearest(name, TERMS)}"
            )
        if any(name == other for _, other in terms):
            raise RecipeError(f"loss = {text!r}: {name} is named twice. Write it once, with the factors added up.")
        try:
            factor = float(factor_text) if star else 1.0
        except ValueError:
            factor = math.nan
        if not 0 < factor < math.inf:
            raise RecipeError(f"loss = {text!r}: the factor '{factor_text.strip()}' is not a number above 0.")
        terms.append((factor, name))
    return tuple(terms)


class LossSums(NamedTuple):
    """A micro-batch's share of a step's loss."""

    numerator: Tensor
    """() float, with gradient."""
    denominator: Tensor
    """() float64, without gradient; 0 where there is no valid pixel, and then the numerator is 0 too."""


class DiceTerm(NamedTuple):
    """Dice as a term of a sum that is divided by a denominator."""

    factor: float
    denominator: Tensor
    """Of this process's part of the micro-batch."""
    all_reduce: AllReduce | None


class PixelLoss:
    """A loss on logits (N, K, H, W) against labels (N, H, W).

    Args:
        loss: Sum of terms with optional factors, for example ``"cross_entropy + 0.5 * dice"``.
        class_weights: A number of at least 0 for each class; None for 1.
        focal_gamma: Exponent of ``focal``, at least 0; 0 makes it cross-entropy.
        reduction: ``"mean"`` divides by the (weighted) number of valid pixels, ``"sum"`` by the number of images.

    One step over several micro-batches (the denominators need only the labels, so they are known beforehand)::

        total = sum(loss.denominator(target) for _, target in batches)  # and all-reduced over processes
        for image, target in batches:
            scores = network.scores(image)
            upsampling = network.interpolation_matrices(scores, target.shape[-2:])
            (loss.sums(scores, target, upsampling).numerator / total).backward()
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
            raise RecipeError(f"focal_gamma = {focal_gamma} is invalid: it must be at least 0 (2 is usual).")
        if reduction not in ("mean", "sum"):
            raise RecipeError(
                f"there is no reduction '{reduction}', only mean and sum.{nearest(reduction, ('mean', 'sum'))}"
            )
        self.class_weights = None if class_weights is None else tuple(float(weight) for weight in class_weights)
        for index, weight in enumerate(self.class_weights or ()):
            if not 0 <= weight < math.inf:
                raise RecipeError(
                    f"class_weights[{index}] = {weight} is invalid: a weight must be finite and at least 0."
                )
        if self.class_weights is not None and not any(self.class_weights):
            raise RecipeError("class_weights are all 0: no pixel would count.")
        self.focal_gamma = focal_gamma
        self.reduction = reduction
        self.all_reduce: AllReduce | None = None
        """Where processes share each micro-batch: sums a tensor over them, in place. Only dice, which is no sum over
        pixels, needs it; the processes' numerators then add up to that of the whole micro-batch."""
        self._label_weights: dict[torch.device, Tensor] = {}

    def sums(self, scores: Tensor, target: Tensor, upsampling: tuple[Tensor, Tensor] | None = None) -> LossSums:
        """Return numerator and denominator of a micro-batch, for the logits ``rows @ scores @ columns.T``.

        Computed in float32 for bf16 and fp16 scores (float64 for float64); the gradient has the scores' type.

        Args:
            scores: (N, K, h, w) float, any memory format.
            target: (N, H, W) uint8 or int64, 0..K-1 or void. Logits at void pixels change nothing.
            upsampling: ``rows`` (H, h) and ``columns`` (W, w) float, the weights of each row and column of the logits on
                those of the scores (`Network.interpolation_matrices`); None if the scores are the logits.
        """
        exact = torch.float64 if scores.dtype == torch.float64 else torch.float32
        rows, columns = upsampling or (torch.eye(side, device=scores.device) for side in scores.shape[-2:])
        if rows.shape[1:] != scores.shape[-2:-1] or columns.shape[1:] != scores.shape[-1:]:
            raise ValueError(
                f"rows (H, h) and columns (W, w) are {tuple(rows.shape)} and {tuple(columns.shape)}"
                f" for scores {tuple(scores.shape)}."
            )
        if scores.ndim != 4 or target.shape != (len(scores), len(rows), len(columns)):
            raise ValueError(
                f"logits are (N, K, H, W) and target (N, H, W), not {tuple(scores.shape)} and {tuple(target.shape)}."
            )
        if self.class_weights is not None and len(self.class_weights) != scores.shape[1]:
            raise RecipeError(f"class_weights has {len(self.class_weights)} numbers for {scores.shape[1]} classes.")
        denominator = self.denominator(target)
        pixel = [(k, self.focal_gamma if name == "focal" else 0.0) for k, name in self.terms if name != "dice"]
        dice = next((DiceTerm(k, denominator, self.all_reduce) for k, name in self.terms if name == "dice"), None)
        table = self._weights_by_label(scores.device)
        numerator = ChunkedLoss.apply(scores, rows.to(exact), columns.to(exact), target, table, pixel, dice)
        return LossSums(cast(Tensor, numerator), denominator)

    def denominator(self, target: Tensor) -> Tensor:
        """Return the denominator of labels (N, H, W), () float64; it needs no logits."""
        if self.reduction == "sum":
            return torch.tensor(float(target.shape[0]), dtype=torch.float64, device=target.device)
        if self.class_weights is None:
            return (target != VOID).sum().double()
        return (torch.bincount(target.flatten(), minlength=256) * self._weights_by_label(target.device)).sum()

    def _weights_by_label(self, device: torch.device) -> Tensor:
        """Return weights by label, (256,) float64; 0 for void, so that void needs no mask of its own."""
        if device not in self._label_weights:
            table = torch.ones(256, dtype=torch.float64)
            if self.class_weights is not None:
                table[: len(self.class_weights)] = torch.tensor(self.class_weights, dtype=torch.float64)
            table[VOID] = 0
            self._label_weights[device] = table.to(device)
        return self._label_weights[device]


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide totals; 0 (with zero gradient) where the denominator is 0."""
    return (numerator / torch.where(denominator > 0, denominator, 1.0)).to(numerator.dtype)


class ChunkedLogits:
    """Logits ``rows @ scores @ columns.T`` of a batch, a chunk of rows at a time.

    An image at a time stays in the processor's cache: a third of the time of the whole batch at once. Classes lie between
    rows and columns, so that each product is one of two matrices.
    """

    def __init__(self, scores: Tensor, rows: Tensor, columns: Tensor, target: Tensor) -> None:
        self.scores, self.rows, self.columns, self.target = scores, rows, columns, target
        step = max(1, CHUNK_LOGITS // (scores.shape[1] * len(columns)))
        self._chunks: list[tuple[slice, slice]] = []
        for start in range(0, len(rows), step):
            used = rows[start : start + step].ne(0).any(dim=0).nonzero()  # rows of scores that the chunk reads
            needed = slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1)
            self._chunks.append((slice(start, min(start + step, len(rows))), needed))

    def images(self) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """Yield each image's index, scores as wide as the logits (h, K W), labels, and labels with void filled by 0."""
        classes, height = self.scores.shape[1:3]
        for n in range(len(self.scores)):
            labels = self.target[n].long()
            coarse = self.scores[n].to(self.rows.dtype).permute(1, 0, 2)  # (h, K, w)
            wide = (coarse @ self.columns.T).view(height, classes * len(self.columns))
            yield n, wide, labels, torch.where(labels != VOID, labels, 0)

    def chunks(self, wide: Tensor) -> Iterator[tuple[slice, Tensor, slice, Tensor]]:
        """Yield a chunk's rows of the image, its logits (B, K, W), the rows of scores that it reads, and their weights."""
        for part, needed in self._chunks:
            weights = self.rows[part, needed]
            logits = (weights @ wide[needed]).view(part.stop - part.start, -1, len(self.columns))
            yield part, logits, needed, weights


class ChunkedLoss(torch.autograd.Function):
    """Sum of loss terms on ``rows @ scores @ columns.T``: pixel terms by their factors, dice by factor and denominator.

    The forward pass computes the gradient as well, and backward only scales it: a chunk's gradient goes back to the coarse
    scores at once, through the same two products, so nothing of the full size is kept or even written. Dice's gradient
    needs its sums over the micro-batch: chunks are then upsampled twice.
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
        dice: DiceTerm | None,
    ) -> Tensor:
        """Return the numerator, () float, and keep its gradient.

        Scores are (N, K, h, w), rows (H, h) and columns (W, w) in the type to compute in, the target (N, H, W), the table of
        weights by label (256,) float64; ``pixel`` holds factor and gamma (0 for cross-entropy) of each sum over pixels.
        """
        chunked = ChunkedLogits(scores, rows, columns, target)
        dice_value, dice_slopes = torch.zeros((), dtype=rows.dtype, device=scores.device), None
        if dice is not None:
            value, by_true, by_all = _dice(_dice_sums(chunked), table, dice.all_reduce)
            dice_value = dice_value + (dice.factor * value * dice.denominator).to(rows.dtype)
            reduced = dice.denominator if dice.all_reduce is None else dice.all_reduce(dice.denominator.clone())
            whole = dice.factor * reduced
            dice_slopes = (by_true * whole).to(rows.dtype), (by_all * whole).to(rows.dtype)
        gradient = torch.empty_like(scores) if ctx.needs_input_grad[0] else None
        sums = [-dice_value]
        for n, wide, labels, filled in chunked.images():
            back = torch.zeros_like(wide)  # gradient of the scores, as wide as the logits
            for part, logits, needed, weights in chunked.chunks(wide):
                value, change = pixel_terms(
                    logits, labels[part], filled[part], table, pixel, gradient is not None, dice_slopes
                )
                sums.append(value)
                if change is not None:
                    back[needed].addmm_(weights.T, change.view(len(change), -1))
            if gradient is not None:
                gradient[n] = (back.view(len(back), -1, len(columns)) @ columns).permute(1, 0, 2)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return -torch.stack(sums).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradient; the factor stays float32: rounded to bf16 it would scale the whole step by up to 0.4 %."""
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, *[None] * (len(ctx.needs_input_grad) - 1)


def pixel_terms(
    logits: Tensor,
    labels: Tensor,
    filled: Tensor,
    table: Tensor,
    pixel: Sequence[tuple[float, float]],
    with_gradient: bool,
    dice_slopes: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor | None]:
    """Return minus the sum over pixels of w l (1 - p)^gamma, and the gradient of the loss, from one pass over the logits.

    Logits and gradient are (B, K, M), labels (B, M), with void and ``filled`` by a class, the table of weights by label
    (256,); ``pixel`` holds factor and gamma of each term. The gradient includes dice, by its derivatives by p: of the true
    class, and of every class, (K,).
    """
    weights = _by_label(table.to(logits.dtype), labels)
    log_p = torch.log_softmax(logits, dim=1)
    log_true = log_p.gather(1, filled[:, None])[:, 0]
    miss = -torch.expm1(log_true)  # 1 - p, without cancellation
    value, dlogp = torch.zeros((), dtype=logits.dtype, device=logits.device), torch.zeros_like(weights)
    for factor, gamma in pixel:
        own = term_dlogp = factor * weights
        if gamma:
            # Minus the derivative of (1 - p)^gamma log p by log p; where p is 1 the clamp makes 0 * infinity 0.
            focusing = gamma * miss.clamp(min=1e-12) ** (gamma - 1) * torch.exp(log_true) * log_true
            own, term_dlogp = own * miss**gamma, own * (miss**gamma - focusing)
        value, dlogp = value + (own * log_true).sum(), dlogp + term_dlogp
    if not with_gradient:
        return value, None
    p = log_p.exp_()
    if dice_slopes is None:
        return value, p.scatter_(1, filled[:, None], -miss[:, None]).mul_(dlogp[:, None])  # (p - y) dlogp
    # Dice: d/dz_j = p_j (g_j - sum_k p_k g_k) with g_k = by_all_k + by_true_k [k is the label], nothing at void.
    by_true, by_all = dice_slopes
    valid = (labels != VOID).to(p.dtype)
    true_part = valid * _by_label(by_true, filled) * (1 - miss)
    mean_slope = valid * (by_all @ p) + true_part
    by_class = by_all[None, :, None].expand(len(p), -1, 1)
    change = p.mul_(torch.baddbmm((dlogp - mean_slope)[:, None], by_class, valid[:, None]))
    return value, change.scatter_add_(1, filled[:, None], (true_part - dlogp)[:, None])


def _by_label(table: Tensor, labels: Tensor) -> Tensor:
    """Look up each label (B, M) in a table (K or 256,)."""
    return table.index_select(0, labels.flatten()).view_as(labels)  # a quarter of the time of table[labels]


def _dice_sums(chunked: ChunkedLogits) -> Tensor:
    """Return sum(p y), sum(p) and sum(y) over the valid pixels of a micro-batch, (3, K) float64."""
    sums = torch.zeros((3, chunked.scores.shape[1]), dtype=torch.float64, device=chunked.scores.device)
    shared, predicted, present = sums
    for _, wide, labels, filled in chunked.images():
        for part, logits, _, _ in chunked.chunks(wide):
            p = torch.softmax(logits, dim=1).mul_((labels[part] != VOID).to(logits.dtype)[:, None])
            true_p = p.gather(1, filled[part][:, None]).flatten()
            shared.index_add_(0, filled[part].flatten(), true_p.double())
            predicted += p.sum(dim=(0, 2))
            present += torch.bincount(labels[part].flatten(), minlength=VOID + 1)[: len(present)]
    return sums


def _dice(sums: Tensor, table: Tensor, all_reduce: AllReduce | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return dice, and its derivatives by the probability of the true class and of every class, (K,) each."""
    shared, predicted, present = sums if all_reduce is None else all_reduce(sums)
    total = (predicted + present).clamp(min=1)  # at least that, in every class of the ground truth
    weights = table[: len(present)] * (present > 0)
    weights = weights / weights.sum().clamp(min=torch.finfo(torch.float64).tiny)
    loss = (weights * (1 - 2 * shared / total)).sum()
    return loss, -2 * weights / total, 2 * weights * shared / total**2
