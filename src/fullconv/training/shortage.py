"""Too little memory for a step: noticed, and answered with the settings that would fit."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from fullconv.errors import RunError
from fullconv.recipe import Recipe


class OutOfMemoryError(RunError):
    """There is too little memory for what a run was about to do."""


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn what torch, CUDA and Python say of too little memory into an OutOfMemoryError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        words = str(error).strip().splitlines() or ["MemoryError"]
        told = ("out of memory", "can't allocate memory", "bad_alloc", "CUBLAS_STATUS_ALLOC_FAILED")
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and not any(t in str(error) for t in told):
            raise
        raise OutOfMemoryError(words[0][:300]) from error


def fitting(recipe: Recipe, error: OutOfMemoryError, works: Callable[[int, tuple[int, int]], bool]) -> OutOfMemoryError:
    """Return the error with the settings to lower, and by how much: what `works` was tried on.

    Args:
        recipe: Resolved.
        error: What was said; the memory that its frames hold is let go.
        works: Tries so many crops of a size, forward and back.
    """
    cause: BaseException | None = error
    while cause is not None:
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__cause__
    assert recipe.batch_size is not None
    assert recipe.crop is not None
    if recipe.crop == "whole":
        words = f"too little memory for {recipe.batch_size} whole pictures ({error})."
        return OutOfMemoryError(f"{words} Train on crops (--crop 288x384), or on smaller pictures (--scale 0.5).")
    crops, size, accumulate = recipe.batch_size, (recipe.crop[0], recipe.crop[1]), recipe.accumulate
    words = f"too little memory for {crops} crops of {size[0]}x{size[1]} ({error})."
    while crops > 1:
        crops //= 2
        if works(crops, size):
            more = -(-recipe.batch_size // crops) * accumulate
            return OutOfMemoryError(
                f"{words} {crops} did fit just now: --batch-size {crops} --set accumulate={more} makes steps of as many"
                " crops in less memory."
            )
    while min(size) >= 64:
        size = (size[0] // 2, size[1] // 2)
        if works(1, size):
            return OutOfMemoryError(
                f"{words} One of {size[0]}x{size[1]} did fit just now: --batch-size 1 --crop {size[0]}x{size[1]}"
                f" --set accumulate={recipe.batch_size * accumulate}, or a smaller --backbone."
            )
    return OutOfMemoryError(f"{words} Not even one of {size[0]}x{size[1]} fits: take a smaller --backbone.")
