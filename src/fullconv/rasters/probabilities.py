"""The probabilities of all classes at every pixel of a raster, as a GeoTIFF that is written strip by strip."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fullconv.card import Labels
from fullconv.errors import OutputError
from fullconv.rasters.bands import Bands, State
from fullconv.rasters.result import JOB, grid_profile, raster_reason
from fullconv.rasters.source import Raster, import_rasterio, quiet, raster_errors
from fullconv.rasters.spool import Spool

ROWS = 16
"""Height of the file's blocks: a row of them is held for every class, and is to stay small beside a wide raster."""


class SpooledScores:
    """Scores that a job has kept on disc, band by band; those of the mirror image behind those of the raster.

    Args:
        spool: Where they are.
        bands: What they came from.
    """

    def __init__(self, spool: Spool, bands: Bands) -> None:
        self.spool, self.device = spool, bands.segmenter.device
        self.bands, self.rows = bands.count, bands.total

    def scores(self, band: int, known: int) -> Tensor | None:
        """Read the scores that a band added."""
        found = self.spool.found(band)
        return None if found is None else torch.from_numpy(found)[None].to(self.device)

    def total(self) -> int:
        """Return the rows of all scores."""
        return self.rows


def write_probabilities(path: Path, bands: Bands, spool: Spool, labels: Labels, job: str) -> None:
    """Write probabilities under a temporary name, and give the file its own name when it is complete.

    The file lies on the raster's grid and has a band for each class: float32 rounded to the precision of float16, as in
    the .npz of a picture, so that it compresses; NaN, its nodata value, where the raster holds no data.

    Args:
        path: The GeoTIFF.
        bands: How the raster was labelled.
        spool: Holds all scores.
        labels: The classes, one a band.
        job: Put into its tags, so that a finished job is known.

    Raises:
        OutputError: It cannot be written.
    """
    rasterio = import_rasterio()
    temporary = path.with_name(f".{path.name}.part")
    bands = Bands(bands.segmenter, bands.raster, [SpooledScores(spool, bands)])
    raster, count = bands.raster, len(labels.classes)
    profile = {**grid_profile(raster), "dtype": "float32", "count": count, "nodata": float("nan"), "blockysize": ROWS,
               "predictor": 3, "interleave": "band"}  # fmt: skip
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        cache = 2 * ROWS * 4 * count * (raster.width + 512)
        with rasterio.Env(GDAL_CACHEMAX=cache, GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"), quiet():
            temporary.unlink(missing_ok=True)
            with rasterio.open(temporary, "w", **profile) as file:
                file.update_tags(**{JOB: job})
                for index, name in enumerate(labels.classes, 1):
                    file.set_band_description(index, name)
                row = 0
                for block in _aligned(_strips(bands), raster):
                    file.write(block, window=rasterio.windows.Window(0, row, raster.width, block.shape[1]))
                    row += block.shape[1]
            assert row == raster.height
            with rasterio.open(temporary) as file:  # a full disc may show only when the file is closed
                file.read(count, window=rasterio.windows.Window(0, max(0, row - 1), raster.width, 1))
        temporary.replace(path)
    except raster_errors() as error:
        raise OutputError(
            f"{path}: cannot be written ({raster_reason(error)}). Make room, or choose another place. With --resume the"
            " job goes on from what is there."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _strips(bands: Bands) -> Iterator[NDArray[np.float32]]:
    """Yield the probabilities of all rows in order, (K, rows, W)."""
    state = State()
    while state.band < bands.count:
        state, strips = bands.probabilities(state)
        yield from strips


def _aligned(strips: Iterable[NDArray[np.float32]], raster: Raster) -> Iterator[NDArray[np.float32]]:
    """Cut strips so that all but the last end where a row of blocks does."""
    held: NDArray[np.float32] | None = None
    for strip in strips:
        rows = strip if held is None else np.concatenate([held, strip], axis=1)
        whole = rows.shape[1] // ROWS * ROWS
        if whole:
            yield rows[:, :whole]
        held = rows[:, whole:].copy()
    if held is not None and held.shape[1]:
        yield held
