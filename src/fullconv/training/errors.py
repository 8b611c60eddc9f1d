"""Errors of a training run, each with the settings that avoid it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from fullconv.data import Batch
from fullconv.errors import RunError, first_line
from fullconv.recipe import Recipe

_OOM_MESSAGE = re.compile(
    r"out of memory|can't allocate memory|bad_alloc|CUBLAS_STATUS_ALLOC_FAILED|could not (create|execute) a primitive(?! desc)"
)
"""The last one is oneDNN's, under a memory limit of the process."""


class PeerLostError(RunError):
    """Another process of the run is gone."""


class TrainOOMError(RunError):
    """There is too little memory for a step."""


class NonFiniteError(RunError):
    """The loss of a step or its gradient is not finite."""

    def __init__(self, value: float, step: int) -> None:
        what = "the gradient of the loss is not finite" if math.isfinite(value) else f"the loss became {value}"
        super().__init__(f"{what} at step {step + 1}")
        self.value, self.step = value, step

    def with_hint(self, recipe: Recipe, batches: Sequence[Batch], run: Path) -> NonFiniteError:
        """Add the images of the step and the fix to the message."""
        stems = [stem for batch in batches for stem in batch.stems]
        listed = ", ".join(stems[:8]) + (" ..." if len(stems) > 8 else "")
        self.args = (
            f"{self} (images {listed}). `fullconv debug {run}` shows where it began. Resuming would fail again: start a new"
            f" run with {suggest_settings(recipe)}.",
        )
        return self


def suggest_settings(recipe: Recipe) -> str:
    """Return the settings that keep a loss finite."""
    lower = f"--lr {(recipe.lr or 1e-3) / 4:.2g}"
    clipped = recipe.clip is not None and recipe.clip <= 1
    others = [*([] if clipped else ["--set clip=1"]), *([] if recipe.precision == "fp32" else ["--precision fp32"])]
    return " or ".join([lower, *others])


@contextmanager
def catch_oom() -> Iterator[None]:
    """Turn the out-of-memory errors of torch, CUDA, oneDNN and Python into a TrainOOMError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and not _OOM_MESSAGE.search(str(error)):
            raise
        raise TrainOOMError(first_line(error)[:300]) from error
