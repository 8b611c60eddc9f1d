"""RowBuffer of logits from rows of scores: which are enough, and which are needed.

A network row by row: each layer keeps the few rows that its next ones need, so that every cell is computed once.

Tiles compute their margins again; here a picture runs through the network from top to bottom, some rows at a time. A
layer computes the rows that its input is known for. Branches that meet wait for one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor

from fullconv.geometry.layout import leaves, rebuild
from fullconv.nn import Network, Scores
from fullconv.nn.upsample import half_pixel_coords, interp2d
from fullconv.tiling.plan import explain_inexact, upsamples_by_size
from fullconv.tiling.streaming.lowering import UnsupportedOpError, lower
from fullconv.tiling.streaming.row_ops import NEVER, RowBuffer


def upsample_rows(
    network: Network, scores: Tensor, first: int, total: int, size: tuple[int, int], rows: tuple[int, int]
) -> Tensor:
    """Grow some rows of the scores to rows of the logits: the same bits as of the whole picture's scores.

    Args:
        network: The network.
        scores: (N, K, n, w): rows ``first`` to ``first + n`` of the whole picture's scores, all that the rows read.
        first: Place of the first row.
        total: RowBuffer of the whole picture's scores.
        size: (H, W) of the picture.
        rows: (a, b) of the picture.

    Returns:
        Logits (N, K, b - a, W).
    """
    a, b = rows
    if not upsamples_by_size(network):
        shift = first * network.score_stride
        return cast(Tensor, network.upsample(scores, size, (a - shift, b - shift), clamp=False))
    down = half_pixel_coords(a, b, total, size[0], scores.device)
    across = half_pixel_coords(0, size[1], scores.shape[-1], size[1], scores.device)
    return interp2d(scores, down - first, across, network.border)


class RowGraph:
    """A network as steps that work on a few rows at a time.

    Args:
        network: Of bounded geometry.

    Raises:
        UnsupportedOpError: One of its operations has no form by rows.
    """

    def __init__(self, network: Network) -> None:
        if network.halo is None:
            raise UnsupportedOpError(explain_inexact(network))
        self.network = network
        self.nodes, self.returned = lower(*network.graph())
        self.readers: list[list[tuple[int, int]]] = [[] for _ in self.nodes]
        for place, node in enumerate(self.nodes):
            for order, given in enumerate(node.inputs):
                self.readers[given].append((place, order))
        self.results = {leaf for leaf in leaves(self.returned) if isinstance(leaf, int)}

    def totals(self, height: int) -> list[int]:
        """Return the rows of each node's map for a picture, already padded, of some rows."""
        totals: list[int] = []
        for node in self.nodes:
            totals.append(height if node.step is None else node.step.total([totals[i] for i in node.inputs]))
        return totals

    def next_rows(self, maps: Sequence[RowBuffer], place: int) -> tuple[int, int]:
        """Return the first row of a map that is not computed, and the one behind the last that can be now."""
        step, rows = self.nodes[place].step, maps[place]
        assert step is not None
        return rows.stop, step.ready([maps[given] for given in self.nodes[place].inputs], rows.total)

    def release(self, maps: Sequence[RowBuffer], place: int) -> None:
        """Drop the rows of a map's inputs that nobody reads again, once all who read them have had their turn."""
        for given in self.nodes[place].inputs:
            if self.readers[given][-1][0] == place:
                maps[given].drop(self._needed(maps, given))

    def _needed(self, maps: Sequence[RowBuffer], given: int) -> int:
        """Return the first row of a map that is still to be read."""
        needed = NEVER
        for place, order in self.readers[given]:
            rows, step = maps[place], self.nodes[place].step
            if rows.stop < rows.total and step is not None:
                needed = min(needed, step.reads(rows.stop, order)[0])
        return needed


class RowExecutor:
    """One picture on its way through a network, from top to bottom.

    Args:
        program: The network.
        height: RowBuffer of the picture.
        width: Its columns.
        start: Begin at this row, a multiple of the stride, as if the picture began there.
    """

    def __init__(self, program: RowGraph, height: int, width: int, start: int = 0) -> None:
        padded = program.network.padded_size(height, width)
        self.program, self.height, self.width = program, height - start, width
        self.padded = padded[0] - start, padded[1]
        totals = program.totals(self.padded[0])
        self.maps = [RowBuffer(node.dim, total) for node, total in zip(program.nodes, totals, strict=True)]
        self.known = 0

    @property
    def total(self) -> int:
        """RowBuffer of the picture's scores."""
        return self.maps[min(self.program.results)].total

    def push(self, rows: Tensor) -> Scores | None:
        """Take the next rows of the picture, and return the rows of scores that they complete.

        Args:
            rows: (1, C, h, W) as the network takes them.

        Returns:
            (1, K, n, w), or a dict of them by head; None where they complete none.
        """
        self.known += rows.shape[-2]
        assert self.known <= self.height
        below = self.padded[0] - self.height if self.known == self.height else 0
        beside = self.padded[1] - self.width
        picture = self.maps[0]
        picture.stop = self.known + below
        picture.append(F.pad(rows, (0, beside, 0, below)) if below or beside else rows)
        del rows
        new: dict[int, Tensor] = {}
        for place in range(1, len(self.maps)):
            made = self._advance(place)
            if made is None:
                continue
            if place in self.program.results:
                new[place] = made
            if self.program.readers[place]:
                self.maps[place].append(made)
            del made
        return cast(Scores, rebuild(self.program.returned, new.__getitem__)) if new else None

    def _advance(self, place: int) -> Tensor | None:
        """Compute the rows of one map that can be, and let go of what nobody reads again."""
        node, rows = self.program.nodes[place], self.maps[place]
        first, last = self.program.next_rows(self.maps, place)
        assert node.step is not None
        made = node.step.compute(first, last, [self.maps[given] for given in node.inputs]) if last > first else None
        rows.stop = last
        self.program.release(self.maps, place)
        return made
