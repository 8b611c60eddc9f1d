"""What one scan records of an image or a mask file; kept in the scan cache as JSON."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

THUMBNAIL_SIDE = 32
"""Cells along each side of a thumbnail."""

_EDGE_ROWS = 48  # rows of a mask whose edges are counted: hundreds of edges in tens of microseconds


def edge_row_step(height: int) -> int:
    """Return the step between the rows of a mask whose edges are counted."""
    return max(1, height // _EDGE_ROWS)


@dataclass
class EdgeStats:
    """Edges along some rows of a mask; a short run is one or two pixels of one label or color."""

    hard_edges: int = 0
    """Edges between labels that differ by two or more."""
    soft_runs: dict[int, int] = field(default_factory=dict)
    """Short runs between a smaller and a larger label, by their own label: interpolation makes them."""
    wide_runs: int = 0
    """Runs of three or four pixels between a smaller and a larger label: levels of a smooth field have these, too."""
    overshoots: dict[int, int] = field(default_factory=dict)
    """Short runs that differ from both sides by one or two, both down or both up: compression makes them."""
    runs: int = 0
    """Runs between two edges."""
    short: int = 0
    """Short ones among them."""
    short_values: int = 0
    """Different labels or colors of the short ones."""
    void_run: int = 0
    """Median length of the runs of 255; 0 without any."""


@dataclass
class ImageStats:
    """What one image holds."""

    digest: str = ""
    """SHA-256 of the file."""
    size: tuple[int, int] = (0, 0)
    """Height and width after EXIF orientation."""
    channels: int = 0
    dtype: str = ""
    total: list[float] = field(default_factory=list)
    """Sum by channel, over values with data."""
    squares: list[float] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    valid: list[int] = field(default_factory=list)
    """Number of values with data by channel."""
    notices: dict[str, str] = field(default_factory=dict)
    """Warnings about the image by code."""
    orientation: int = 1
    """EXIF orientation, 1 to 8; already applied to size and thumbnail."""
    max_unique: int = 0
    """Different values in the channel that has most; 0 where not counted."""
    frames: int = 1
    """Pages or frames of the file; the first is read."""
    thumbnail: str = ""
    """The image in 32x32 cells (`decode_thumbnail`)."""
    error: str = ""
    """Why it cannot be read; empty where it can."""
    code: str = ""
    """The check code of that error."""


@dataclass
class MaskStats:
    """What one mask holds."""

    digest: str = ""
    size: tuple[int, int] = (0, 0)
    format: str = ""
    """File format by Pillow's name."""
    in_color: bool = False
    """Whether `counts` is by color 0xrrggbb instead of label."""
    counts: dict[int, int] = field(default_factory=dict)
    """Pixels by label or color."""
    overflowed: bool = False
    """Whether there are more labels or colors than `counts` holds."""
    palette: dict[int, int] = field(default_factory=dict)
    """Label -> color 0xrrggbb of an indexed mask, for the labels that occur."""
    edges: EdgeStats = field(default_factory=EdgeStats)
    encoding: str = ""
    """"alpha" with an opaque alpha channel, "float" where labels are stored as floats; else empty."""
    drawn: dict[int, int] = field(default_factory=dict)
    """Pixels by class that shapes draw."""
    hidden: dict[int, dict[int, int]] = field(default_factory=dict)
    """Those of them that larger shapes drawn later hide, by class and the class that hides it."""
    frames: int = 1
    thumbnail: str = ""
    """The mask in 32x32 cells (`decode_thumbnail`)."""
    error: str = ""
    code: str = ""


Number = TypeVar("Number", int, float)
Stats = TypeVar("Stats", ImageStats, MaskStats)


def merge_bands(stats: Sequence[ImageStats]) -> ImageStats:
    """Return the stats of one image whose bands lie in several files of one size."""
    if len(stats) == 1:
        return stats[0]
    broken = next((found for found in stats if found.error), None)
    if broken is not None:
        return broken
    first = stats[0]
    dtype = np.result_type(*(np.dtype(found.dtype) for found in stats)).name
    merged = ImageStats(
        digest=hashlib.sha256("|".join(found.digest for found in stats).encode()).hexdigest(), size=first.size,
        channels=sum(found.channels for found in stats), dtype=dtype,
        orientation=first.orientation,
        max_unique=max(found.max_unique for found in stats), thumbnail=first.thumbnail,
        frames=max(found.frames for found in stats),
    )  # fmt: skip
    for found in stats:
        if found.size != first.size:
            (h, w), (height, width) = found.size, first.size
            merged.error, merged.code = f"is {w}x{h} pixels, its image {width}x{height}", "band-size"
        merged.notices |= found.notices
        merged.valid += found.valid
        merged.total += found.total
        merged.squares += found.squares
        merged.low += found.low
        merged.high += found.high
    return merged


def select_bands(stats: ImageStats, bands: Sequence[int], name: str) -> ImageStats:
    """Return the stats of some bands, from 1."""
    if stats.error or list(bands) == list(range(1, stats.channels + 1)):
        return stats
    if max(bands) > stats.channels:
        error = f"{name}: has {stats.channels} bands, data.toml asks for band {max(bands)}"
        return replace(stats, error=error, code="missing-band")
    chosen = [band - 1 for band in bands]

    def pick(values: list[Number]) -> list[Number]:
        return [values[index] for index in chosen]

    return replace(
        stats, channels=len(chosen), valid=pick(stats.valid), total=pick(stats.total), squares=pick(stats.squares),
        low=pick(stats.low), high=pick(stats.high),
    )  # fmt: skip


def to_json(stats: ImageStats | MaskStats) -> str:
    """Serialize stats for the scan cache."""
    return json.dumps(vars(stats), default=vars)


def from_json(kind: type[Stats], text: str) -> Stats:
    """Read stats from the scan cache."""
    stats = kind(**json.loads(text))
    stats.size = (stats.size[0], stats.size[1])
    if isinstance(stats, MaskStats):
        stats.counts = {int(value): n for value, n in stats.counts.items()}
        stats.palette = {int(value): color for value, color in stats.palette.items()}
        stats.drawn = {int(value): n for value, n in stats.drawn.items()}
        stats.hidden = {int(value): {int(by): n for by, n in found.items()} for value, found in stats.hidden.items()}
        edges: Any = stats.edges
        for key in ("soft_runs", "overshoots"):
            edges[key] = {int(value): n for value, n in edges[key].items()}
        stats.edges = EdgeStats(**edges)
    return stats


def encode_thumbnail(cells: NDArray[np.uint8]) -> str:
    """Write a thumbnail as text."""
    return base64.b64encode(np.ascontiguousarray(cells).tobytes()).decode("ascii")


def decode_thumbnail(text: str) -> NDArray[np.uint8]:
    """Read a thumbnail, (THUMBNAIL_SIDE, THUMBNAIL_SIDE) of a mask or (..., 3) of an image."""
    cells = np.frombuffer(binascii.a2b_base64(text), dtype=np.uint8)
    shape = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    return cells.reshape(shape if cells.size == THUMBNAIL_SIDE**2 else (*shape, 3))
