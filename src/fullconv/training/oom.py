"""Out of memory: find the settings that would fit."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator

from fullconv.data import Batch
from fullconv.recipe import Recipe
from fullconv.training.errors import TrainOOMError, catch_oom


def next_batch(batches: Iterator[Batch]) -> Batch | None:
    """Return the next batch, or None at the end."""
    with catch_oom():
        return next(batches, None)


def suggest_smaller_batch(
    recipe: Recipe, error: TrainOOMError, try_batch: Callable[[int, tuple[int, int]], bool], world_size: int = 1
) -> TrainOOMError:
    """Return the error with settings that were tried and fit.

    Fewer crops at a time are tried first: with accumulation they make the same step. Then smaller crops.
    """
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
