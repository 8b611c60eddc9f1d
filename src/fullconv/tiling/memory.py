"""Memory estimates: what scoring takes, and the tile or the chunk of rows that fits a budget.

Estimates count what a prediction takes beside the program and its model, which are loaded before it begins.
"""

from __future__ import annotations

from bisect import bisect_right
from math import prod
from typing import TYPE_CHECKING

from fullconv.system import available_memory, trim_eagerly

if TYPE_CHECKING:
    from fullconv.nn import Network
    from fullconv.tiling.streaming import RowGraph

SCRATCH = 8 * 2**20
"""Bytes that kernels work in at any size, and of maps too small to be returned to the system at once."""
CHUNK_SCRATCH = 32 * 2**20
"""Bytes that kernels work in, and of maps whose kept rows lie between others that come and go."""
MIN_CHUNK_ROWS = 64
"""Rows of a chunk, so that few inner maps get one row high, where oneDNN's bf16 convolutions go wrong."""
MAX_CHUNK_PIXELS = 4 * 2**20
"""Larger chunks are not faster, and only hold more."""
MIN_TILE_SIZE = 256
"""Smaller tiles would compute little but halo."""


def default_budget() -> int:
    """Return the bytes that a prediction may take by default: a quarter of what is available."""
    return available_memory() // 4


def fits(needed: int, budget: int) -> bool:
    """Whether so many bytes fit a budget; above half of it, a command line that retains freed memory stops doing so."""
    if 2 * needed > budget:
        trim_eagerly()
    return needed <= budget


def estimate_bytes(network: Network, height: int, width: int, item_bytes: int = 4) -> int:
    """Estimate the memory that scoring a whole image takes.

    Counted are the maps that are held at once, with the image as the network takes it, and the image as stored and
    normalised in single precision. Measured peaks are up to a tenth above, where kernels work in memory of their own.
    """
    high, wide = network.padded_size(height, width)
    image = high * wide * network.in_channels * (1 + 4)
    return SCRATCH + int(1.05 * (network.activation_bytes(high, wide, item_bytes) + image))


def choose_tile_size(
    network: Network, height: int, width: int, budget: int, item_bytes: int = 4, blend: bool = False
) -> int | None:
    """Return the largest side of a tile that fits a budget, or None where the whole image does."""
    if (network.halo is None and not blend) or estimate_bytes(network, height, width, item_bytes) <= budget:
        return None
    left, top, right, bottom = network.halo or (0, 0, 0, 0)
    margin = max(left + right, top + bottom)
    align = network.stride
    sizes = range(align, max(height, width) + align, align)
    fitting = bisect_right(sizes, budget, key=lambda side: estimate_bytes(network, *(side + margin,) * 2, item_bytes))
    return max(align, MIN_TILE_SIZE // align * align, fitting * align)


def memory_warning(
    network: Network, height: int, width: int, tile_size: int | None, budget: int, item_bytes: int = 4
) -> str | None:
    """Return a sentence where even the result of `choose_tile_size` exceeds the budget; else None."""
    left, top, right, bottom = network.halo or (0, 0, 0, 0)
    whole = (height, width)
    sides = (
        whole if tile_size is None else (min(height, tile_size + top + bottom), min(width, tile_size + left + right))
    )
    needed = estimate_bytes(network, *sides, item_bytes)
    if needed <= budget:
        return None
    size = f"{sides[0]}x{sides[1]}"
    what = f"an image of {size}" if sides == whole else f"the smallest tile, {size},"
    uncut = ", which cannot use tiles" * (network.halo is None)
    return (
        f"{budget / 1e6:.3g} MB are less than {what} takes with this network{uncut}: about {needed / 1e6:.0f} MB."
        " Continuing anyway."
    )


def estimate_chunk_bytes(graph: RowGraph, height: int, width: int, rows: int, item_bytes: int = 4) -> int:
    """Estimate the memory that scoring takes by chunks of rows, by a run over the rows of all maps without their values."""
    nodes, columns = graph.nodes, graph.network.padded_size(height, width)[1]
    per_row = [prod(node.shape) / node.shape[node.dim] * columns / nodes[0].shape[-1] * item_bytes for node in nodes]
    maps = graph.buffers(height)
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
