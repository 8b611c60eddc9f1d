"""A network row by row: each layer keeps the few rows that its next ones read, so every cell is computed once.

Tiles compute their halo again; here an image runs through the network from top to bottom, some rows at a time. A layer
computes the rows that its input suffices for, and branches that meet wait for one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import cast

import torch.nn.functional as F
from torch import Tensor

from fullconv.geometry import EXAMPLE_SIZE, map_aggregate, tree_leaves
from fullconv.nn import Network, Scores
from fullconv.nn.upsample import half_pixel_coords, interp2d
from fullconv.tiling.plan import explain_inexact, upsamples_by_size
from fullconv.tiling.streaming.lowering import UnsupportedOpError, lower
from fullconv.tiling.streaming.row_ops import NEVER, RowBuffer

CHUNK_SCRATCH = 32 * 2**20
"""Bytes that kernels work in, and of maps whose kept rows lie between others that come and go."""
MIN_CHUNK_ROWS = 64
"""Rows of a chunk, so that few inner maps get one row high, where oneDNN's bf16 convolutions go wrong."""
MAX_CHUNK_PIXELS = 4 * 2**20
"""Larger chunks are not faster, and only hold more."""


def upsample_rows(
    network: Network, scores: Tensor, first: int, total: int, size: tuple[int, int], rows: tuple[int, int]
) -> Tensor:
    """Upsample some rows of the scores to rows of the logits: the same bits as of the whole image's scores.

    Args:
        network: The network.
        scores: (N, K, n, w): rows ``first`` to ``first + n`` of the whole image's scores, all that the rows read.
        first: Place of the first row.
        total: RowBuffer of the whole image's scores.
        size: (H, W) of the image.
        rows: (a, b) of the image.

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
    """A network as operations that work on a few rows at a time.

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
            for order, source in enumerate(node.inputs):
                self.readers[source].append((place, order))
        self.results = {leaf for leaf in tree_leaves(self.returned) if isinstance(leaf, int)}

    def totals(self, height: int) -> list[int]:
        """Return the rows of each node's map, for a padded image of some rows."""
        totals: list[int] = []
        for node in self.nodes:
            totals.append(height if node.op is None else node.op.total([totals[i] for i in node.inputs]))
        return totals

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
    """Runs one image through a network, from top to bottom.

    Args:
        graph: The network.
        height: Rows of the image.
        width: Its columns.
        start: Begin at this row, a multiple of the stride, as if the image began there.
    """

    def __init__(self, graph: RowGraph, height: int, width: int, start: int = 0) -> None:
        padded = graph.network.padded_size(height, width)
        self.graph, self.height, self.width = graph, height - start, width
        self.padded = padded[0] - start, padded[1]
        totals = graph.totals(self.padded[0])
        self.maps = [RowBuffer(node.dim, total) for node, total in zip(graph.nodes, totals, strict=True)]
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


def estimate_chunk_bytes(graph: RowGraph, height: int, width: int, rows: int, item_bytes: int = 4) -> int:
    """Estimate the memory that scoring takes by chunks of rows, by a run over the rows of all maps without their values."""
    nodes, columns = graph.nodes, graph.network.padded_size(height, width)[1]
    per_row = [prod(node.shape) / node.shape[node.dim] * columns / EXAMPLE_SIZE[1] * item_bytes for node in nodes]
    maps = [RowBuffer(node.dim, total) for node, total in zip(nodes, graph.totals(height), strict=True)]
    sizes, peak = [0.0] * len(nodes), 0.0
    for known in range(rows, min(height, 64 * rows) + rows, rows):
        sizes[0] += (min(known, height) - maps[0].stop) * per_row[0]
        maps[0].stop = min(known, height)
        for place in range(1, len(nodes)):
            kept = maps[place].stop > maps[place].start
            first, maps[place].stop = graph.next_rows(maps, place)
            new = (maps[place].stop - first) * per_row[place]
            scratch = new / item_bytes * getattr(nodes[place].op, "scratch", 0)
            peak = max(peak, sum(sizes) + (0 if nodes[place].shared else new) + scratch)
            graph.release(maps, place)
            for source in nodes[place].inputs:
                sizes[source] = (maps[source].stop - maps[source].start) * per_row[source]
            if graph.readers[place]:
                sizes[place] += new
                peak = max(peak, sum(sizes) + (new if kept else 0))  # kept and new rows become one map: a copy
    image = rows * columns * graph.network.in_channels * (2 + 4)
    return CHUNK_SCRATCH + int(peak) + image


def choose_chunk_rows(graph: RowGraph, height: int, width: int, budget: int, item_bytes: int = 4) -> int | None:
    """Return the rows of a chunk that fit a budget, a multiple of the stride; None where not even the least do."""
    align = graph.network.stride
    few = -(-MIN_CHUNK_ROWS // align) * align
    least, more = (estimate_chunk_bytes(graph, height, width, rows, item_bytes) for rows in (few, 2 * few))
    if least > budget:
        return None
    rows = few + int((budget - least) / max(1, (more - least) / few))  # kept rows do not grow with the chunk
    rows = max(few, min(rows, MAX_CHUNK_PIXELS // width) // align * align)
    while rows > few and estimate_chunk_bytes(graph, height, width, rows, item_bytes) > budget:
        rows -= align
    return rows
