"""A loss on logits or on coarse scores, as a numerator and a denominator."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor

from fullconv.errors import RecipeError, nearest
from fullconv.labels import VOID
from fullconv.losses.gradients import AddUp, CrossEntropy, Dice, Part, whole_denominator
from fullconv.losses.strips import Ratio, StripLoss
from fullconv.losses.terms import parse_loss


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
