"""Too little memory for a step: noticed, and answered with the settings that would fit."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from fullconv.data.loader import Batch
from fullconv.errors import RunError, first_line
from fullconv.recipe import Recipe

_TOLD = re.compile(
    r"out of memory|can't allocate memory|bad_alloc|CUBLAS_STATUS_ALLOC_FAILED|could not (create|execute) a primitive(?! desc)"
)
"""The last is oneDNN's word for it, with a limit on a process's memory."""


class TrainOOMError(RunError):
    """There is too little memory for what a run was about to do."""


@contextmanager
def catch_oom() -> Iterator[None]:
    """Turn what torch, CUDA and Python say of too little memory into an TrainOOMError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and not _TOLD.search(str(error)):
            raise
        raise TrainOOMError(first_line(error)[:300]) from error


def next_batch(batches: Iterator[Batch]) -> Batch | None:
    """Return the next batch, or None at the end.

    Raises:
        TrainOOMError: Its crops alone do not fit.
    """
    with catch_oom():
        return next(batches, None)


def suggest_smaller_batch(
    recipe: Recipe, error: TrainOOMError, works: Callable[[int, tuple[int, int]], bool], ranks: int = 1
) -> TrainOOMError:
    """Return the error with the settings to lower, and by how much: what `works` was tried on.

    Fewer crops at a time are tried first, as many as make the very same step by accumulation; then smaller ones.

    Args:
        recipe: Resolved.
        error: What was said; the memory that its frames hold is let go.
        works: Tries so many crops of a size, forward and back.
        ranks: Processes that share a batch, each on as much memory.
    """
    cause: BaseException | None = error
    while cause is not None:
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__cause__
    batch, accumulate = recipe.batch_size, recipe.accumulate
    assert batch is not None
    assert recipe.crop is not None
    if recipe.crop == "whole":
        words = f"too little memory for {_counted(batch, ranks)} whole pictures ({error})."
        return TrainOOMError(f"{words} Train on crops (--crop 288x384), or on smaller pictures (--scale 0.5).")
    height, width = recipe.crop
    words = f"too little memory for {_counted(batch, ranks)} crops of {height}x{width} ({error})."
    for crops in (part for part in range(batch - 1, 0, -1) if batch % part == 0 and part >= ranks):
        if works(-(-crops // ranks), (height, width)):
            return TrainOOMError(
                f"{words} {_counted(crops, ranks)} did fit just now: --batch-size {crops}"
                f" --set accumulate={batch // crops * accumulate} makes steps of as many crops in less memory."
            )
    more = -(-batch // ranks) * accumulate
    while min(height, width) >= 64:
        height, width = height // 2, width // 2
        if works(1, (height, width)):
            return TrainOOMError(
                f"{words} One of {height}x{width} did fit just now: --batch-size {ranks} --crop {height}x{width}"
                f" --set accumulate={more}, or a smaller --backbone."
            )
    return TrainOOMError(f"{words} Not even one of {height}x{width} fits: take a smaller --backbone.")


def _counted(crops: int, ranks: int) -> str:
    """Say how many crops there are, and among how many processes."""
    return f"{crops}" if ranks == 1 else f"{crops} (in {ranks} processes)"
