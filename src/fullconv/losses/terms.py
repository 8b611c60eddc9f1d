"""Which losses a recipe may name, and their sums."""

from __future__ import annotations

import math
import re

from fullconv.errors import RecipeError, nearest

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
