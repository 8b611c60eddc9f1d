"""Memory estimates: what scoring a whole image takes, and the tile that fits a budget.

Estimates count what a prediction takes beside the program and its model, which are loaded before it begins.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from fullconv.system import available_memory, trim_eagerly

if TYPE_CHECKING:
    from fullconv.nn import Network

SCRATCH = 8 * 2**20
"""Bytes that kernels work in at any size, and of maps too small to be returned to the system at once."""
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
    """Return the largest side of a tile that fits a budget, or None where the whole image does.

    Where tiles cannot be exact, only the whole image is right, unless tiles may be blended.
    """
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
