"""What a prediction run is asked to do, and its summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fullconv.notices import Notice, NoticeCollector
from fullconv.predict.outputs import Format

if TYPE_CHECKING:
    from fullconv.segmenter import Tile


@dataclass(frozen=True)
class PredictJob:
    """What to predict and what to write."""

    inputs: Sequence[str]
    """Files, folders and globs."""
    out: Path
    listed: str | None = None
    """A text file with one path per line, or "-"."""
    format: Format = "index"
    overlay: bool = False
    probabilities: bool = False
    skip_existing: bool = False
    shard: tuple[int, int] | None = None
    """(i, n) with i from 1."""
    head: str | None = None
    """Only this head of several."""
    tile: Tile = "auto"
    workers: int | None = None
    """Threads that read and write; None is one per core, at most four."""
    batch_size: int = 1
    """Images that go through the network together, where consecutive ones have one size."""
    polygons: Path | None = None
    """GeoPackage or GeoJSON of the polygons of a single raster."""
    bands_from: Path | None = None
    """Folder of images with the same names, whose bands follow those of the inputs."""


@dataclass
class RunSummary:
    """Number of images by outcome."""

    done: int = 0
    skipped: int = 0
    failed: int = 0

    collector: NoticeCollector = field(default_factory=NoticeCollector)

    @property
    def total(self) -> int:
        """All of them."""
        return self.done + self.skipped + self.failed

    @property
    def notices(self) -> tuple[Notice, ...]:
        """Warnings about the images, one per code, with the first file and the number of files."""
        return tuple(self.collector)
