"""Memory: what is free, what scoring takes, and the tile that fits."""

from __future__ import annotations

from pathlib import Path

from fullconv.nn import Network


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


def memory_allowed() -> int:
    """Return the bytes that a prediction may take by default: a quarter of what is free."""
    return memory_free() // 4


def bytes_per_pixel(network: Network, item_bytes: int = 4) -> float:
    """Estimate the memory that scoring takes, in bytes a pixel of the working picture.

    Three maps of the largest layer are held at a time (input, output, and what a kernel works in), beside the
    normalised picture.
    """
    largest = max(network.map_sizes(), default=float(network.in_channels))
    return 3 * largest * item_bytes + 2 * network.in_channels * 4


def tile_core(network: Network, height: int, width: int, allowed: int, item_bytes: int = 4) -> int | None:
    """Return the largest core of a tile that keeps to the memory allowed, or None where the whole picture does.

    Where tiles cannot be exact, the whole picture is the only answer.
    """
    padded = network.padded_size(height, width)
    cost = bytes_per_pixel(network, item_bytes)
    if network.halo is None or padded[0] * padded[1] * cost <= allowed:
        return None
    left, top, right, bottom = network.halo
    margin = max(left + right, top + bottom)
    side = int((allowed / cost) ** 0.5) - margin
    align = network.stride
    return max(align, 256 // align * align, side // align * align)
