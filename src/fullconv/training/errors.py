"""Errors of a training run that several of its modules raise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from fullconv.data.loader import Batch
from fullconv.errors import RunError
from fullconv.recipe import Recipe


class NonFiniteError(RunError):
    """The loss of a step or its gradient is not a number any more."""

    def __init__(self, value: float, step: int) -> None:
        what = "the gradient of the loss is not a number" if math.isfinite(value) else f"the loss became {value}"
        super().__init__(f"{what} at step {step + 1}")
        self.value, self.step = value, step

    def explained(self, recipe: Recipe, batches: Sequence[Batch], run: Path) -> NonFiniteError:
        """Return the error with its pictures and what to do."""
        stems = [stem for batch in batches for stem in batch.stems]
        listed = ", ".join(stems[:8]) + (" ..." if len(stems) > 8 else "")
        self.args = (
            f"{self} (pictures {listed}). `fullconv debug {run}` shows where it began. Going on would come to the same:"
            f" start again, in a new folder, with {suggest_settings(recipe)}.",
        )
        return self


def suggest_settings(recipe: Recipe) -> str:
    """Return the settings that keep a loss finite."""
    lower = f"--lr {(recipe.lr or 1e-3) / 4:.2g}"
    clipped = recipe.clip is not None and recipe.clip <= 1
    others = [*([] if clipped else ["--set clip=1"]), *([] if recipe.precision == "fp32" else ["--precision fp32"])]
    return " or ".join([lower, *others])
