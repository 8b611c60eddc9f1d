"""The finished label map: a tiled, compressed GeoTIFF on the raster's own grid, checked before it gets its name."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fullconv.card import Labels
from fullconv.errors import OutputError
from fullconv.labels import VOID, full_palette
from fullconv.rasters.source import Raster, import_rasterio, quiet, raster_errors

BLOCK = 512
JOB = "FULLCONV_JOB"
CLASSES = "FULLCONV_CLASSES"
_CACHE = 64 * 2**20


def write_result(
    path: Path, pieces: Iterable[bytes], raster: Raster, labels: Labels, job: str, overviews: bool
) -> NDArray[np.int64]:
    """Write all labels under a temporary name, read them back, and give the file its own name.

    Args:
        path: The GeoTIFF.
        pieces: The labels (H, W) uint8 in order, in pieces of any length.
        raster: Whose grid it has.
        labels: Classes and colours.
        job: Put into its tags, so that a finished job is known.
        overviews: Also keep it at halved resolutions (nearest).

    Returns:
        Pixels by value, (256,).

    Raises:
        OutputError: It cannot be written.
    """
    rasterio = import_rasterio()
    temporary = path.with_name(f".{path.name}.part")
    try:
        with rasterio.Env(GDAL_CACHEMAX=_CACHE, GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"), quiet():
            temporary.unlink(missing_ok=True)
            checksum = _write(temporary, pieces, raster, labels, job)
            if overviews:
                _add_overviews(temporary, raster)
            found, counts = _read_back(temporary)
        if found != checksum:
            raise OutputError(f"{path}: cannot be written whole: what was written reads back otherwise. Make room.")
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OutputError:
        raise
    except raster_errors() as error:
        raise OutputError(
            f"{path}: cannot be written ({raster_reason(error)}). Make room, or choose another place."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()
    return counts


def _write(temporary: Path, pieces: Iterable[bytes], raster: Raster, labels: Labels, job: str) -> int:
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


def grid_profile(raster: Raster) -> dict[str, Any]:
    """Return what the file is made with; a place on Earth only where the raster has one."""
    source = raster.dataset
    profile: dict[str, Any] = {
        "driver": "GTiff", "dtype": "uint8", "count": 1, "height": raster.height, "width": raster.width,
        "nodata": VOID, "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "compress": "deflate",
        "BIGTIFF": "IF_SAFER", "crs": source.crs,
    }  # fmt: skip
    points, system = source.gcps
    if not source.transform.is_identity:
        profile["transform"] = source.transform
    elif points:
        profile |= {"gcps": points, "crs": system}
    if source.rpcs is not None:
        profile["rpcs"] = source.rpcs
    return profile


def _blocks(pieces: Iterable[bytes], width: int) -> Iterator[NDArray[np.uint8]]:
    """Cut labels into full rows of blocks, (512, W) and a rest."""
    size, held = BLOCK * width, bytearray()
    for piece in pieces:
        held += piece
        while len(held) >= size:
            yield np.frombuffer(bytes(held[:size]), np.uint8).reshape(BLOCK, width)
            del held[:size]
    if held:
        yield np.frombuffer(bytes(held), np.uint8).reshape(-1, width)


def _add_overviews(temporary: Path, raster: Raster) -> None:
    rasterio = import_rasterio()
    factors = [2**n for n in range(1, 12) if max(raster.height, raster.width) > BLOCK * 2 ** (n - 1)]
    if factors:
        with rasterio.open(temporary, "r+") as result:
            result.build_overviews(factors, rasterio.enums.Resampling.nearest)


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
    """Return the pixels by value of a label map that a job has finished, or None."""
    rasterio = import_rasterio()
    if not path.is_file():
        return None
    try:
        with quiet():
            with rasterio.open(path) as result:
                if result.tags().get(JOB) != job:
                    return None
            return _read_back(path)[1]
    except raster_errors():
        return None


def is_label_map(path: Path) -> bool:
    """Say whether a file is a label map, or probabilities, that this program has written for a raster."""
    return _job_of(path) is not None


def is_finished(path: Path, job: str) -> bool:
    """Say whether a file is what a job has written."""
    return _job_of(path) == job


def _job_of(path: Path) -> str | None:
    try:
        with quiet(), import_rasterio().open(path) as result:
            return cast("str | None", result.tags().get(JOB))
    except raster_errors():
        return None


def raster_reason(error: BaseException) -> str:
    """Return the first line of what the system or GDAL says."""
    text = getattr(error, "strerror", None) or str(error.__cause__ or error).strip() or type(error).__name__
    return str(text).splitlines()[0][:200].rstrip(".")
