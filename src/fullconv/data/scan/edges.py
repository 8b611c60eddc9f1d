"""What tells how a file came to be: small looks to compare, and the traces that compression and resizing leave."""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fullconv.data.label_mapping import pack_colors
from fullconv.labels import VOID

SIDE = 32
"""Cells along each side of a look."""

_LINES = 48
"""Rows of a mask that are searched for traces: enough to count hundreds of edges in tens of microseconds."""

_SHORT = 2
"""Pixels up to which a run of one number may be a step of a ramp; a mask that was doubled has longer ones."""


@dataclass
class Traces:
    """What the rows of a mask say about its edges."""

    jumps: int = 0
    """Edges between numbers that differ by two or more."""
    ramps: dict[int, int] = field(default_factory=dict)
    """Runs of a pixel or two between a smaller and a larger number, by their own: interpolation makes them."""
    rings: dict[int, int] = field(default_factory=dict)
    """Such runs that differ from both sides by one or two, both down or both up: compression makes them."""
    runs: int = 0
    """Runs of one number or colour, from edge to edge."""
    short: int = 0
    """Those of a pixel or two."""
    kinds: int = 0
    """Different numbers or colours of these."""
    void_run: int = 0
    """Median length of the runs of 255; 0 where there are none."""


def lines_apart(height: int) -> int:
    """Return every how many-th row of a mask is searched."""
    return max(1, height // _LINES)


def find_traces(numbers: NDArray[Any]) -> Traces:
    """Look at some rows of a mask of numbers, (H, W)."""
    height, width = numbers.shape
    step = lines_apart(height)
    flat = np.ascontiguousarray(numbers[step // 2 :: step]).ravel()
    starts = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    found = Traces()
    if len(starts) < 2:
        return found
    values = flat[starts].astype(np.int32)
    inside = starts % width != 0  # the others go from the end of a row to the next one
    whole = inside[:-1] & inside[1:]
    length = starts[1:] - starts[:-1]
    found.jumps = int(np.count_nonzero((np.abs(values - flat[starts - 1]) >= 2) & inside))
    found.runs = int(np.count_nonzero(whole))
    short = np.flatnonzero((length <= _SHORT) & whole)
    found.short = len(short)
    if found.short:
        own = values[short]
        left, right = flat[starts[short] - 1] - own, values[short + 1] - own
        found.kinds = len(set(own.tolist()))
        found.ramps = _value_counts(own[(left < 0) != (right < 0)])
        small = (np.abs(left) <= 2) & (np.abs(right) <= 2)
        found.rings = _value_counts(own[small & ((left < 0) == (right < 0))])
    if len(lengths := length[values[:-1] == VOID]):
        found.void_run = int(np.median(lengths))
    return found


def find_color_traces(planes: NDArray[np.uint8]) -> Traces:
    """Look at some rows of a mask in colour, (H, W, 3); each edge is a jump, and a ramp lies between in all channels."""
    height, width = planes.shape[:2]
    step = lines_apart(height)
    rows = np.ascontiguousarray(planes[step // 2 :: step]).reshape(-1, 3)
    flat = pack_colors(rows)
    starts = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    found = Traces()
    if len(starts) < 2:
        return found
    inside = starts % width != 0
    found.jumps = int(inside.sum())
    short = np.flatnonzero((np.diff(starts) <= _SHORT) & inside[:-1] & inside[1:])
    found.runs, found.short = int((inside[:-1] & inside[1:]).sum()), len(short)
    if len(short):
        found.kinds = len(np.unique(flat[starts[short]]))
        left, own = rows[starts[short] - 1].astype(np.int16), rows[starts[short]].astype(np.int16)
        right = rows[starts[short + 1]].astype(np.int16)
        between = ((left - own) * (right - own) <= 0).all(axis=1)
        found.ramps = _value_counts(flat[starts[short]][between])
    return found


def _value_counts(values: NDArray[Any]) -> dict[int, int]:
    return dict(Counter(values.tolist()).most_common(64))


def look_of(image: Image.Image) -> str:
    """Return a loaded 8-bit grey or RGB picture as SIDE x SIDE cells in text; the picture is not turned."""
    small = _shrunk(image)
    return to_text(np.asarray(small.convert("RGB") if small.mode != "RGB" else small))


def look_of_array(array: NDArray[Any]) -> str:
    """Return up to three bands of a picture (H, W, C) of any type as SIDE x SIDE cells in text."""
    bands = array[..., :3] if array.shape[2] >= 3 else array[..., :1]
    bands = np.nan_to_num(bands.astype(np.float32), posinf=0, neginf=0)
    planes = [_shrunk(Image.fromarray(np.ascontiguousarray(bands[..., i]))) for i in range(bands.shape[2])]
    cells = np.stack([np.asarray(planes[i % len(planes)]) for i in range(3)], axis=-1)
    if array.dtype != np.uint8:
        low, high = float(cells.min()), float(cells.max())
        cells = (cells - low) * (255 / (high - low) if high > low else 1)
    return to_text(cells.round().clip(0, 255).astype(np.uint8))


def _shrunk(image: Image.Image) -> Image.Image:
    # not BOX: which of two cells gets a pixel between them would depend on which way round the picture is
    return image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)


def look_of_mask(numbers: NDArray[Any]) -> str:
    """Return a mask of numbers (H, W) or colours (H, W, 3) as SIDE x SIDE cells in text, others than 8 bits by rank."""
    height, width = numbers.shape[:2]
    cells = numbers[_places(height)[:, None], _places(width)]
    if cells.ndim == 3:
        cells = pack_colors(cells)
    if cells.dtype != np.uint8:
        ranks = np.unique(cells, return_inverse=True)[1].reshape(cells.shape)
        cells = np.minimum(ranks, 255).astype(np.uint8)
    return to_text(cells)


@lru_cache(64)
def _places(side: int) -> NDArray[np.intp]:
    return ((2 * np.arange(SIDE) + 1) * side // (2 * SIDE)).astype(np.intp)


def to_text(cells: NDArray[np.uint8]) -> str:
    """Write cells as text."""
    return base64.b64encode(np.ascontiguousarray(cells).tobytes()).decode("ascii")


def from_text(text: str) -> NDArray[np.uint8]:
    """Read cells, (SIDE, SIDE) or (SIDE, SIDE, 3)."""
    cells = np.frombuffer(binascii.a2b_base64(text), dtype=np.uint8)
    return cells.reshape(SIDE, SIDE, -1).squeeze(-1) if cells.size == SIDE * SIDE else cells.reshape(SIDE, SIDE, -1)


def share_of_ramps(traces: Traces, void: frozenset[int]) -> float:
    """Return which part of a mask's edges goes over a number in between, 0 to 1."""
    ramps = sum(count for value, count in traces.ramps.items() if value not in void)
    return ramps / (ramps + traces.jumps) if ramps else 0.0
