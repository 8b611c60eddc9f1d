"""Rows of logits from rows of scores: which are enough, and which are needed."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator
from typing import cast

from torch import Tensor

from fullconv.nn import Network, Variant
from fullconv.nn.upsampling import half_pixel, sample_plane


def rows_ready(network: Network, known: int, height: int, total: int) -> int:
    """Return how many rows of the logits the first rows of the scores are enough for.

    Args:
        network: The network, for how it grows scores.
        known: Rows of the scores, from the top.
        height: Rows of the picture.
        total: Rows of the whole picture's scores; only networks that grow scores by the picture's size look at it.
    """
    return bisect_left(range(height), known, key=lambda row: _cells_around(network, row, height, total)[1])


def first_needed(network: Network, row: int, height: int, total: int) -> int:
    """Return the first row of the scores that a row of the logits or one below it reads."""
    return max(0, _cells_around(network, row, height, total)[0])


def grows_by_size(network: Network) -> bool:
    """Say whether a network grows its scores to the picture's size, so that their number matters."""
    row = _variant(network)
    return row is not None and row.rule == "size"


def _variant(network: Network) -> Variant | None:
    """Return the row of a network in the table of variants; a network from outside has none."""
    return getattr(network, "row", None)


def _cells_around(network: Network, row: int, height: int, total: int) -> tuple[int, int]:
    """Return the two rows of the scores between which a row of the logits lies; beyond a border, where it lies there."""
    if _variant(network) is None:  # its scores are its logits
        return row, row
    if grows_by_size(network):
        low = math.floor(max((row + 0.5) * total / height - 0.5, 0))
    else:
        low = (row - math.ceil(network.geometry.y.offset)) // network.score_stride
    return low, low + 1


def upsample_rows(
    network: Network, scores: Tensor, first: int, total: int, size: tuple[int, int], rows: tuple[int, int]
) -> Tensor:
    """Grow some rows of the scores to rows of the logits: the same bits as of the whole picture's scores.

    Args:
        network: The network.
        scores: (N, K, n, w): rows ``first`` to ``first + n`` of the whole picture's scores, all that the rows read.
        first: Place of the first row.
        total: Rows of the whole picture's scores.
        size: (H, W) of the picture.
        rows: (a, b) of the picture.

    Returns:
        Logits (N, K, b - a, W).
    """
    a, b = rows
    if not grows_by_size(network):
        shift = first * network.score_stride
        return cast(Tensor, network.grow(scores, size, (a - shift, b - shift)))
    down = half_pixel(a, b, total, size[0], scores.device)
    across = half_pixel(0, size[1], scores.shape[-1], size[1], scores.device)
    return sample_plane(scores, down - first, across, network.border)


def strips(height: int, width: int, num_classes: int, budget: int = 8 * 2**20) -> Iterator[tuple[int, int]]:
    """Cut a picture's rows so that a strip of logits (K, rows, W) float32 stays within a budget of bytes."""
    rows = max(1, budget // (4 * num_classes * width))
    for start in range(0, height, rows):
        yield start, min(height, start + rows)
