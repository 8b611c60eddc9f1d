"""The results: the label map as a tiled, compressed GeoTIFF, read back before it gets its name, and probabilities."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fullconv.card import Labels
from fullconv.errors import OutputError
from fullconv.images import import_rasterio, quiet, raster_errors, raster_reason
from fullconv.labels import VOID, full_palette
from fullconv.rasters.journal import StripJournal
from fullconv.rasters.labeler import StripLabeler, StripState
from fullconv.rasters.reader import RasterReader
from fullconv.storage import atomic_path

BLOCK = 512
JOB = "FULLCONV_JOB"
CLASSES = "FULLCONV_CLASSES"
_CACHE = 64 * 2**20


def write_result(
    path: Path, pieces: Iterable[bytes], raster: RasterReader, labels: Labels, job: str, overviews: bool
) -> NDArray[np.int64]:
    """Write labels (H, W) uint8, in pieces of any length; returns the pixels by value, (256,).

    They are written under a temporary name, read back, and the file is renamed. ``job`` is stored in its tags.
    """
    rasterio = import_rasterio()
    with _temporary(path, _CACHE) as temporary:
        checksum = _write(temporary, pieces, raster, labels, job)
        factors = [2**n for n in range(1, 12) if max(raster.height, raster.width) > BLOCK * 2 ** (n - 1)]
        if overviews and factors:
            with rasterio.open(temporary, "r+") as result:
                result.build_overviews(factors, rasterio.enums.Resampling.nearest)
        found, counts = _read_back(temporary)
        if found != checksum:
            raise OutputError(f"{path}: cannot be written: it reads back differently. Free disk space.")
    return counts


@contextmanager
def _temporary(path: Path, cache: int, hint: str = "") -> Iterator[Path]:
    """Yield the temporary name of a file that is complete at the end; GDAL may hold ``cache`` bytes of its blocks."""
    try:
        with (
            import_rasterio().Env(GDAL_CACHEMAX=cache, GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"),
            quiet(),
            atomic_path(path, temporary=f".{path.name}.part") as temporary,
        ):
            temporary.unlink(missing_ok=True)
            yield temporary
    except OutputError:
        raise
    except raster_errors() as error:
        raise OutputError(
            f"{path}: cannot be written ({raster_reason(error)}). Free disk space, or choose another folder.{hint}"
        ) from error


def _write(temporary: Path, pieces: Iterable[bytes], raster: RasterReader, labels: Labels, job: str) -> int:
    """Write blocks from top to bottom; returns the checksum of all labels."""
    rasterio = import_rasterio()
    window = rasterio.windows.Window
    checksum = 0
    with rasterio.open(temporary, "w", **grid_profile(raster)) as result:
        result.write_colormap(1, {index: (*color, 255) for index, color in enumerate(full_palette(labels.palette))})
        result.update_tags(**{CLASSES: json.dumps(list(labels.classes), ensure_ascii=False), JOB: job})
        result.update_tags(1, **{f"CLASS_{index}": name for index, name in enumerate(labels.classes)})
        result.set_band_description(1, "class")
        row = 0
        for block in _blocks(pieces, raster.width):
            result.write(block, 1, window=window(0, row, raster.width, len(block)))
            checksum = zlib.crc32(block.tobytes(), checksum)
            row += len(block)
    assert row == raster.height
    return checksum


def grid_profile(raster: RasterReader) -> dict[str, Any]:
    """Return the file's creation options; georeferencing only where the raster has it."""
    source = raster.dataset
    profile: dict[str, Any] = {
        "driver": "GTiff", "dtype": "uint8", "count": 1, "height": raster.height, "width": raster.width,
        "nodata": VOID, "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "compress": "deflate",
        "BIGTIFF": "IF_SAFER", "crs": source.crs,
    }  # fmt: skip
    points, system = source.gcps
    if not raster.transform.is_identity:
        profile["transform"] = raster.transform
    elif points and raster.orientation == 1:
        profile |= {"gcps": points, "crs": system}
    if source.rpcs is not None and raster.orientation == 1:
        profile["rpcs"] = source.rpcs
    return profile


def _blocks(pieces: Iterable[bytes], width: int) -> Iterator[NDArray[np.uint8]]:
    """Cut labels into full rows of blocks, (512, W), and a rest."""
    size, held = BLOCK * width, bytearray()
    for piece in pieces:
        held += piece
        while len(held) >= size:
            yield np.frombuffer(bytes(held[:size]), np.uint8).reshape(BLOCK, width)
            del held[:size]
    if held:
        yield np.frombuffer(bytes(held), np.uint8).reshape(-1, width)


def _read_back(path: Path) -> tuple[int, NDArray[np.int64]]:
    """Return the checksum of a label map's rows, and its pixels by value (256,)."""
    rasterio = import_rasterio()
    checksum, counts = 0, np.zeros(256, np.int64)
    with rasterio.open(path) as result:
        for row in range(0, result.height, BLOCK):
            rows = min(BLOCK, result.height - row)
            block = result.read(1, window=rasterio.windows.Window(0, row, result.width, rows))
            checksum = zlib.crc32(block.tobytes(), checksum)
            counts += np.bincount(block.reshape(-1), minlength=256)
    return checksum, counts


def finished_counts(path: Path, job: str) -> NDArray[np.int64] | None:
    """Return the pixels by value of a label map that a job has finished; None without one."""
    try:
        with quiet():
            return _read_back(path)[1] if path.is_file() and is_finished(path, job) else None
    except raster_errors():
        return None


def is_label_map(path: Path) -> bool:
    """Return whether a file is a label map, or probabilities, that this program wrote for a raster."""
    return _job_of(path) is not None


def is_finished(path: Path, job: str) -> bool:
    """Return whether a file was written by a job."""
    return _job_of(path) == job


def _job_of(path: Path) -> str | None:
    try:
        with quiet(), import_rasterio().open(path) as result:
            return cast("str | None", result.tags().get(JOB))
    except raster_errors():
        return None


PROBABILITY_ROWS = 16
"""Block height of the probabilities: a row of blocks is held for every class, and must stay small for wide rasters."""


class JournaledScores:
    """Scores that a job has journaled, band by band; those of further views follow along the class axis."""

    def __init__(self, journal: StripJournal, labeler: StripLabeler) -> None:
        self.journal, self.bands, self._total = journal, labeler.count, labeler.total

    def scores(self, band: int, known: int) -> NDArray[np.float32] | None:
        """Read the scores that a band added."""
        added = self.journal.added_scores(band)
        return None if added is None else added[None]

    def total(self) -> int:
        """Return the rows of all scores."""
        return self._total


def write_probabilities(path: Path, labeler: StripLabeler, journal: StripJournal, labels: Labels, job: str) -> None:
    """Write probabilities under a temporary name, and rename the file when it is complete.

    The file has the raster's grid and a band for each class: float32 rounded to float16, as in the .npz of an image, so
    that it compresses; NaN, its nodata value, where the raster has no data.
    """
    rasterio = import_rasterio()
    raster, count, rows = labeler.raster, len(labels.classes), PROBABILITY_ROWS
    again = StripLabeler(labeler.segmenter, raster, [JournaledScores(journal, labeler)], labels)
    profile = {**grid_profile(raster), "dtype": "float32", "count": count, "nodata": float("nan"), "blockysize": rows,
               "predictor": 3, "interleave": "band"}  # fmt: skip
    cache = 2 * rows * 4 * count * (raster.width + 512)
    with _temporary(path, cache, " With --resume the job continues from what is there.") as temporary:
        with rasterio.open(temporary, "w", **profile) as file:
            file.update_tags(**{JOB: job})
            for index, name in enumerate(labels.classes, 1):
                file.set_band_description(index, name)
            row = 0
            for block in _probability_blocks(again):
                file.write(block, window=rasterio.windows.Window(0, row, raster.width, block.shape[1]))
                row += block.shape[1]
        assert row == raster.height
        with rasterio.open(temporary) as file:  # a full disk may show only when the file is closed
            file.read(count, window=rasterio.windows.Window(0, max(0, row - 1), raster.width, 1))


def _probability_blocks(labeler: StripLabeler) -> Iterator[NDArray[np.float32]]:
    """Yield the probabilities of all rows in order, (K, rows, W); all but the last end with a row of blocks."""
    state, held = StripState(), None
    while state.band < labeler.count:
        state, strips = labeler.probabilities(state)
        for strip in strips:
            rows = strip if held is None else np.concatenate([held, strip], axis=1)
            whole = rows.shape[1] // PROBABILITY_ROWS * PROBABILITY_ROWS
            if whole:
                yield rows[:, :whole]
            held = rows[:, whole:].copy()
    if held is not None and held.shape[1]:
        yield held
