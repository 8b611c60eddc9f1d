"""Memory: what is free, what scoring takes, and the tile or the band of rows that fits.

What is counted is what a prediction takes beside the program and its model, which are loaded before it begins.
"""

from __future__ import annotations

import ctypes
import sys
from bisect import bisect_right
from math import prod
from pathlib import Path

from fullconv.geometry import EXAMPLE
from fullconv.nn import Network
from fullconv.system import trim_eagerly
from fullconv.tiling.streaming.executor import RowProgram
from fullconv.tiling.streaming.row_ops import Rows

SCRATCH = 8 * 2**20
"""Bytes that kernels work in, whatever the picture, and maps too small to be given back at once."""
BAND_SCRATCH = 32 * 2**20
"""The same for bands of rows, whose kept rows lie between what comes and goes."""
FEWEST_ROWS = 64
"""Of a band, so that few inner maps get one row high, where oneDNN's bf16 convolutions go wrong."""
LARGEST_BAND = 4 * 2**20
"""Pixels of a band of rows; larger ones are not faster and only hold more."""


def memory_free() -> int:
    """Return the bytes of memory that are free, as far as the system says; 4 GiB where it does not."""
    try:
        with Path("/proc/meminfo").open(encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 4 * 2**30


def hand_back() -> None:
    """Give memory that was freed back to the system, where the C library can: between bands it would pile up in pieces."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def memory_allowed() -> int:
    """Return the bytes that a prediction may take by default: a quarter of what is free."""
    return memory_free() // 4


def fits(needed: int, allowed: int) -> bool:
    """Say whether so many bytes are allowed; where it is more than half of them, freed memory goes back at once from here on."""
    if 2 * needed > allowed:
        trim_eagerly()
    return needed <= allowed


def whole_bytes(network: Network, height: int, width: int, item_bytes: int = 4) -> int:
    """Estimate the memory that scoring a whole picture takes.

    The maps that are held at once, with the picture as the network takes it, and the picture as stored and normalised in
    single precision. Measured peaks are up to a tenth above, where kernels work in memory of their own.
    """
    high, wide = network.padded_size(height, width)
    picture = high * wide * network.in_channels * (1 + 4)
    return SCRATCH + int(1.05 * (network.activation_bytes(high, wide, item_bytes) + picture))


def tile_core(
    network: Network, height: int, width: int, allowed: int, item_bytes: int = 4, blend: bool = False
) -> int | None:
    """Return the largest core of a tile that keeps to the memory allowed, or None where the whole picture does.

    Where tiles cannot be exact, the whole picture is the only answer, unless tiles may be blended.
    """
    if (network.halo is None and not blend) or whole_bytes(network, height, width, item_bytes) <= allowed:
        return None
    left, top, right, bottom = network.halo or (0, 0, 0, 0)
    margin = max(left + right, top + bottom)
    align = network.stride
    cores = range(align, max(height, width) + align, align)
    fitting = bisect_right(cores, allowed, key=lambda side: whole_bytes(network, *(side + margin,) * 2, item_bytes))
    return max(align, 256 // align * align, fitting * align)


def memory_remark(
    network: Network, height: int, width: int, core: int | None, allowed: int, item_bytes: int = 4
) -> str | None:
    """Return a sentence where what `tile_core` gave takes more than is allowed, as nothing smaller can be; else None."""
    left, top, right, bottom = network.halo or (0, 0, 0, 0)
    whole = (height, width)
    sides = whole if core is None else (min(height, core + top + bottom), min(width, core + left + right))
    least = whole_bytes(network, *sides, item_bytes)
    if least <= allowed:
        return None
    size = f"{sides[0]}x{sides[1]}"
    what = f"a picture of {size}" if sides == whole else f"the smallest tile, {size},"
    uncut = ", which cannot cut it" * (network.halo is None)
    return (
        f"{allowed / 1e6:.3g} MB are less than {what} takes with this network{uncut}: about {least / 1e6:.0f} MB."
        " It is computed all the same."
    )


def band_bytes(program: RowProgram, height: int, width: int, rows: int, item_bytes: int = 4) -> int:
    """Estimate the memory that scoring takes by rows, by running through the rows of all maps without their values."""
    nodes, columns = program.nodes, program.network.padded_size(height, width)[1]
    per_row = [prod(node.shape) / node.shape[node.dim] * columns / EXAMPLE[1] * item_bytes for node in nodes]
    maps = [Rows(node.dim, total) for node, total in zip(nodes, program.totals(height), strict=True)]
    sizes, peak = [0.0] * len(nodes), 0.0
    for known in range(rows, min(height, 64 * rows) + rows, rows):
        sizes[0] += (min(known, height) - maps[0].stop) * per_row[0]
        maps[0].stop = min(known, height)
        for place in range(1, len(nodes)):
            kept = maps[place].stop > maps[place].start
            first, maps[place].stop = program.next_rows(maps, place)
            made = (maps[place].stop - first) * per_row[place]
            beside = made / item_bytes * getattr(nodes[place].step, "scratch", 0)
            peak = max(peak, sum(sizes) + (0 if nodes[place].shared else made) + beside)
            program.let_go(maps, place)
            for given in nodes[place].inputs:
                sizes[given] = (maps[given].stop - maps[given].start) * per_row[given]
            if program.readers[place]:
                sizes[place] += made
                peak = max(peak, sum(sizes) + (made if kept else 0))  # kept and new rows become one map: a copy
    picture = rows * columns * program.network.in_channels * (2 + 4)
    return BAND_SCRATCH + int(peak) + picture


def band_rows(program: RowProgram, height: int, width: int, allowed: int, item_bytes: int = 4) -> int | None:
    """Return the rows of a band that keep to the memory allowed, a multiple of the stride; None where not even few do."""
    align = program.network.stride
    few = -(-FEWEST_ROWS // align) * align
    least, more = (band_bytes(program, height, width, rows, item_bytes) for rows in (few, 2 * few))
    if least > allowed:
        return None
    rows = few + int((allowed - least) / max(1, (more - least) / few))  # what is kept does not grow with the band
    rows = max(few, min(rows, LARGEST_BAND // width) // align * align)
    while rows > few and band_bytes(program, height, width, rows, item_bytes) > allowed:
        rows -= align
    return rows
