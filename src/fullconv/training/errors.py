"""Errors of a training run, each with the settings that avoid it."""

from __future__ import annotations

import math
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
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


def next_batch(batches: Iterator[Batch]) -> Batch | None:
    """Return the next batch, or None at the end."""
    with catch_oom():
        return next(batches, None)


def suggest_smaller_batch(
    recipe: Recipe, error: TrainOOMError, try_batch: Callable[[int, tuple[int, int]], bool], world_size: int = 1
) -> TrainOOMError:
    """Return the error with settings that were tried and fit: fewer crops, accumulated to the same step; then smaller crops."""
    cause: BaseException | None = error
    while cause is not None:
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__cause__
    batch, accumulate = recipe.batch_size, recipe.accumulate
    assert batch is not None
    assert recipe.crop is not None
    shared = "" if world_size == 1 else f" (in {world_size} processes)"
    if recipe.crop == "whole":
        return TrainOOMError(
            f"out of memory for {batch}{shared} full images ({error}). Train on crops (--crop 288x384) or on smaller images"
            " (--scale 0.5)."
        )
    height, width = recipe.crop
    message = f"out of memory for {batch}{shared} crops of {height}x{width} ({error})."
    for crops in (part for part in range(batch - 1, 0, -1) if batch % part == 0 and part >= world_size):
        if try_batch(-(-crops // world_size), (height, width)):
            return TrainOOMError(
                f"{message} {crops}{shared} did fit: --batch-size {crops} --set accumulate={batch // crops * accumulate}"
                " makes steps of as many crops in less memory."
            )
    while min(height, width) >= 64:
        height, width = height // 2, width // 2
        if try_batch(1, (height, width)):
            return TrainOOMError(
                f"{message} One of {height}x{width} did fit: --batch-size {world_size} --crop {height}x{width}"
                f" --set accumulate={-(-batch // world_size) * accumulate}, or use a smaller --backbone."
            )
    return TrainOOMError(f"{message} Not even one of {height}x{width} fits: use a smaller --backbone.")
