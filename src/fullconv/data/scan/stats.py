"""What a picture or a mask holds, as it is counted, kept in the cache, and judged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from fullconv.data.scan.edges import Traces


@dataclass
class PictureFacts:
    """What one picture holds."""

    digest: str = ""
    """SHA-256 of the file."""
    size: tuple[int, int] = (0, 0)
    """Height and width after EXIF orientation."""
    channels: int = 0
    dtype: str = ""
    total: list[float] = field(default_factory=list)
    """Sum by channel, over finite numbers."""
    squares: list[float] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    strange: int = 0
    """How many numbers are NaN or infinite."""
    orientation: int = 1
    """EXIF's, 1 to 8; it has been applied to size and look."""
    levels: int = 0
    """Different numbers in the channel with most of them; 0 where not counted."""
    frames: int = 1
    """Pages or frames of the file; the first is read."""
    look: str = ""
    """The picture in 32x32 cells, for comparing (`traces.from_text`)."""
    error: str = ""
    """Why it cannot be read; empty where it can."""
    code: str = ""
    """The code of that problem."""


@dataclass
class MaskFacts:
    """What one mask holds."""

    digest: str = ""
    size: tuple[int, int] = (0, 0)
    format: str = ""
    """Of the file, as Pillow calls it."""
    in_color: bool = False
    """Whether `counts` is by colour 0xrrggbb instead of number."""
    counts: dict[int, int] = field(default_factory=dict)
    """Pixels by number or colour."""
    many: bool = False
    """Whether there are more than MANY."""
    palette: dict[int, int] = field(default_factory=dict)
    """Of an indexed picture: number -> colour 0xrrggbb, of those that occur."""
    traces: Traces = field(default_factory=Traces)
    """What its edges tell; empty for colours."""
    kind: str = ""
    """"alpha" with an alpha channel that is opaque, "float" where numbers are stored as fractions; else empty."""
    frames: int = 1
    look: str = ""
    """The mask in 32x32 cells, for comparing (`traces.from_text`)."""
    error: str = ""
    code: str = ""


Facts = TypeVar("Facts", PictureFacts, MaskFacts)


def together(facts: Sequence[PictureFacts]) -> PictureFacts:
    """Return what a picture holds whose bands lie in several files of one size."""
    if len(facts) == 1:
        return facts[0]
    wrong = next((found for found in facts if found.error), None)
    if wrong is not None:
        return wrong
    first = facts[0]
    dtype = np.result_type(*(np.dtype(found.dtype) for found in facts)).name
    both = PictureFacts(
        digest=hashlib.sha256("|".join(found.digest for found in facts).encode()).hexdigest(), size=first.size,
        channels=sum(found.channels for found in facts), dtype=dtype, strange=sum(found.strange for found in facts),
        orientation=first.orientation, levels=max(found.levels for found in facts), look=first.look,
        frames=max(found.frames for found in facts),
    )  # fmt: skip
    for found in facts:
        if found.size != first.size:
            (h, w), (height, width) = found.size, first.size
            both.error, both.code = f"is {w}x{h} pixels, its picture {width}x{height}", "band-size"
        both.total += found.total
        both.squares += found.squares
        both.low += found.low
        both.high += found.high
    return both


def to_text(facts: PictureFacts | MaskFacts) -> str:
    """Write facts as JSON."""
    return json.dumps(vars(facts), default=vars)


def from_text(kind: type[Facts], text: str) -> Facts:
    """Read facts from JSON."""
    facts = kind(**json.loads(text))
    facts.size = (facts.size[0], facts.size[1])
    if isinstance(facts, MaskFacts):
        facts.counts = {int(value): n for value, n in facts.counts.items()}
        facts.palette = {int(value): color for value, color in facts.palette.items()}
        traces: Any = facts.traces
        for key in ("ramps", "rings"):
            traces[key] = {int(value): n for value, n in traces[key].items()}
        facts.traces = Traces(**traces)
    return facts
