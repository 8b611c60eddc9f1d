"""A network row by row: each layer keeps the few rows that its next ones read, so every cell is computed once.

Tiles compute their halo again; here an image runs through the network from top to bottom, some rows at a time. A layer
computes the rows that its input suffices for, and branches that meet wait for one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor

from fullconv.geometry import map_aggregate, tree_leaves
from fullconv.nn import Network, Scores
from fullconv.nn.upsample import half_pixel_coords, interp2d
from fullconv.tiling.plan import explain_inexact, upsamples_by_size
from fullconv.tiling.streaming.lowering import UnsupportedOpError, lower
from fullconv.tiling.streaming.row_ops import NEVER, RowBuffer


def upsample_rows(
    network: Network, scores: Tensor, first: int, total: int, size: tuple[int, int], rows: tuple[int, int]
) -> Tensor:
    """Upsample some rows of the scores to rows of the logits: the same bits as of the whole image's scores.

    Args:
        network: The network.
        scores: (N, K, n, w): rows ``first`` to ``first + n`` of the whole image's scores, all that the rows read.
        first: Place of the first row.
        total: Rows of the whole image's scores.
        size: (H, W) of the image.
        rows: (a, b) of the image.

    Returns:
        Logits (N, K, b - a, W).
    """
    a, b = rows
    if not upsamples_by_size(network):
        shift = first * network.score_stride
        return cast(Tensor, network.upsample(scores, size, (a - shift, b - shift), check=False))
    down = half_pixel_coords(a, b, total, size[0], scores.device)
    across = half_pixel_coords(0, size[1], scores.shape[-1], size[1], scores.device)
    return interp2d(scores, down - first, across, network.border)


class RowGraph:
    """A network as operations that work on a few rows at a time."""

    def __init__(self, network: Network) -> None:
        if network.halo is None:
            raise UnsupportedOpError(explain_inexact(network))
        self.network = network
        self.nodes, self.returned = lower(*network.graph())
        self.readers: list[list[tuple[int, int]]] = [[] for _ in self.nodes]
        for place, node in enumerate(self.nodes):
            for order, source in enumerate(node.inputs):
                self.readers[source].append((place, order))
        self.results = {leaf for leaf in tree_leaves(self.returned) if isinstance(leaf, int)}

    def totals(self, height: int) -> list[int]:
        """Return the rows of each node's map, for a padded image of some rows."""
        totals: list[int] = []
        for node in self.nodes:
            totals.append(height if node.op is None else node.op.total([totals[i] for i in node.inputs]))
        return totals

    def buffers(self, height: int) -> list[RowBuffer]:
        """Return an empty buffer for each node's map, for a padded image of some rows."""
        return [RowBuffer(node.dim, total) for node, total in zip(self.nodes, self.totals(height), strict=True)]

    def next_rows(self, maps: Sequence[RowBuffer], place: int) -> tuple[int, int]:
        """Return the first row of a map that is not computed, and the one behind the last that can be now."""
        op, rows = self.nodes[place].op, maps[place]
        assert op is not None
        return rows.stop, op.available([maps[source] for source in self.nodes[place].inputs], rows.total)

    def release(self, maps: Sequence[RowBuffer], place: int) -> None:
        """Drop the rows of a map's inputs that no operation reads again, once all its readers have had their turn."""
        for source in self.nodes[place].inputs:
            if self.readers[source][-1][0] == place:
                required = NEVER
                for reader, order in self.readers[source]:
                    rows, op = maps[reader], self.nodes[reader].op
                    if rows.stop < rows.total and op is not None:
                        required = min(required, op.reads(rows.stop, order)[0])
                maps[source].drop(required)


class RowExecutor:
    """Runs one image through a network, from top to bottom."""

    def __init__(self, graph: RowGraph, height: int, width: int, start: int = 0) -> None:
        padded = graph.network.padded_size(height, width)
        self.graph, self.height, self.width = graph, height - start, width
        self.padded = padded[0] - start, padded[1]
        self.maps = graph.buffers(self.padded[0])
        self.known = 0

    @property
    def total(self) -> int:
        """Rows of the image's scores."""
        return self.maps[min(self.graph.results)].total

    def push(self, rows: Tensor) -> Scores | None:
        """Take the next rows of the image, and return the rows of scores that they complete.

        Args:
            rows: (1, C, h, W) as the network takes them.

        Returns:
            (1, K, n, w), or a dict of them by head; None where they complete none.
        """
        self.known += rows.shape[-2]
        assert self.known <= self.height
        below = self.padded[0] - self.height if self.known == self.height else 0
        beside = self.padded[1] - self.width
        image = self.maps[0]
        image.stop = self.known + below
        image.append(F.pad(rows, (0, beside, 0, below)) if below or beside else rows)
        del rows
        results: dict[int, Tensor] = {}
        for place in range(1, len(self.maps)):
            node, (first, last) = self.graph.nodes[place], self.graph.next_rows(self.maps, place)
            assert node.op is not None
            new = node.op.compute(first, last, [self.maps[source] for source in node.inputs]) if last > first else None
            self.maps[place].stop = last
            self.graph.release(self.maps, place)
            if new is None:
                continue
            if place in self.graph.results:
                results[place] = new
            if self.graph.readers[place]:
                self.maps[place].append(new)
            del new
        return cast(Scores, map_aggregate(self.graph.returned, results.__getitem__)) if results else None
