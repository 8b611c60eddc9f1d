"""From a raster to its label map: bands on disc as they finish, then the GeoTIFF, then polygons."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.errors import InputError
from fullconv.labels import VOID
from fullconv.modelfile import weights_sha256
from fullconv.rasters.bands import Bands
from fullconv.rasters.polygons import check_polygons, write_polygons
from fullconv.rasters.result import finished_counts, write_result
from fullconv.rasters.source import Raster, import_rasterio
from fullconv.rasters.spool import Spool, spooled_job
from fullconv.rasters.way import Way, choose_way
from fullconv.segmenter import Segmenter, Tile
from fullconv.timing import WRITING, part
from fullconv.views import parse_views

_READ = {"variant", "classes", "palette", "heads", "bands", "channel_order", "mean", "std", "range"}
"""What of a card the label map depends on."""
Progress = Callable[[int, int], None]
"""Called with the number of rows finished and of all rows."""


@dataclass(frozen=True)
class RasterResult:
    """What was written."""

    path: Path
    """The label map."""
    counts: NDArray[np.int64]
    """Pixels by class, (K,)."""
    void: int
    """Pixels without data."""
    polygons: Path | None = None


def predict_raster(
    segmenter: Segmenter,
    source: str | Path,
    out: str | Path,
    *,
    tile: Tile = "auto",
    memory: int | None = None,
    resume: bool = False,
    overviews: bool = False,
    polygons: str | Path | None = None,
    progress: Progress | None = None,
    head: str | None = None,
) -> RasterResult:
    """Label every pixel of a raster of any size in constant memory, with the labels of the whole at once.

    The result is a GeoTIFF on the same grid: tiled, compressed, with the classes' colours and names, and 255 where the
    raster holds no data (nodata value, alpha band, mask, not a number). It gets its name when it is complete.

    Args:
        segmenter: The model.
        source: A GeoTIFF, BigTIFF, VRT, or another raster that GDAL reads; 8 or 16 bits or floats.
        out: The label map, a name that ends in .tif or .tiff.
        tile: "auto" computes every cell once, by bands of rows, where network and engine can do that, else tiles; a
            number is the side of a tile's core in pixels, rounded up to the stride. The answer does not depend on it.
        memory: Bytes that the job may take beside the loaded program; None is the segmenter's, or a quarter of what is
            free.
        resume: Go on with a job that was stopped; the file is the same in the end. Nothing is done for a finished one.
        overviews: Also keep the label map at halved resolutions.
        polygons: Also write one polygon for each patch of a class: a .gpkg in the raster's coordinates, or a .geojson in
            longitude and latitude (RFC 7946).
        progress: Called after each band.
        head: Of several; the first by default.

    Returns:
        Where it is, and the pixels of each class.

    Raises:
        MissingExtraError: rasterio is not installed.
        InputError: The raster is missing, damaged, no raster, or has other bands than the card.
        NetworkError: Tiles cannot be exact, and the whole is too large.
        RunError: What is to go on was begun with another raster, model or tile.
        OutputError: The label map cannot be written; what is done stays for ``resume``.
    """
    rasterio = import_rasterio()
    target = _check(segmenter, Path(source), Path(out), None if polygons is None else Path(polygons))
    labels = segmenter.card.labels(head)
    with Raster(source, segmenter.card) as raster:
        spool_path = target.with_name(f".{target.name}.rows")
        begun = spooled_job(spool_path) if resume else None
        way = choose_way(segmenter, raster, tile, memory, begun)
        job = _describe(segmenter, raster, head, way)
        mark = hashlib.sha256(json.dumps([job, overviews], sort_keys=True).encode()).hexdigest()
        counts = finished_counts(target, mark) if resume and begun is None else None
        if counts is None:
            views = way.views(segmenter, raster, head or next(iter(segmenter.card.heads or [""])))
            spool = Spool(spool_path, job, resume)
            try:
                with rasterio.Env(GDAL_CACHEMAX=way.cache):
                    _label(Bands(segmenter, raster, views), spool, progress)
                with part(WRITING):
                    counts = write_result(target, spool.rows(), raster, labels, mark, overviews)
            except InputError:  # a damaged raster: there is nothing to go on with
                spool.drop()
                raise
            except BaseException:
                spool.close()
                raise
            spool.drop()
    if polygons is not None:
        write_polygons(target, Path(polygons), labels)
    return RasterResult(target, counts[: len(labels.classes)], int(counts[VOID]), Path(polygons) if polygons else None)


def _label(bands: Bands, spool: Spool, progress: Progress | None) -> None:
    """Compute the bands that the spool does not hold yet."""
    height = bands.size[0]
    while spool.state.band < bands.count:
        state, strips = bands.label(spool.state)
        spool.append(state, strips)
        if progress is not None:
            progress(state.row, height)


def _check(segmenter: Segmenter, source: Path, out: Path, polygons: Path | None) -> Path:
    """Refuse what cannot be done before anything is read."""
    if segmenter.card.scale != 1:
        raise InputError(
            f"{source}: the model works at {segmenter.card.scale:g} of a picture's resolution, rasters are predicted at"
            " their own. Resample the raster by this factor first, for example by gdalwarp -tr."
        )
    if segmenter.blend:
        raise InputError("rasters are predicted by exact tiles only: leave --blend away.")
    if any(view.scale != 1 for view in parse_views(segmenter.tta)):
        raise InputError(
            f"{source}: rasters are predicted at their own resolution, so of test-time augmentation they take --tta flip"
            f" only, not {segmenter.tta}."
        )
    if out.suffix.lower() not in (".tif", ".tiff"):
        raise InputError(f"{out}: the label map of a raster is a GeoTIFF. Give it a name that ends in .tif")
    if out.exists() and source.exists() and out.samefile(source):
        raise InputError(f"{out}: is the raster itself, which would be replaced. Choose another name.")
    if polygons is not None:
        check_polygons(polygons)
    return out


def _describe(segmenter: Segmenter, raster: Raster, head: str | None, way: Way) -> dict[str, Any]:
    """Return all that the labels depend on."""
    import fullconv

    weights = segmenter.network.state_dict()
    exported = any(value.is_meta for value in weights.values())  # its weights are in the engine
    hashed = segmenter.card.weights_sha256 if exported else weights_sha256(weights)
    card = segmenter.card.model_dump(mode="json", include=_READ)
    model = hashlib.sha256((hashed + json.dumps(card, sort_keys=True)).encode()).hexdigest()
    engine = segmenter.engine.at(raster.height, raster.width)
    return {
        "raster": raster.fingerprint(), "model": model, "head": head, "tile": way.tile, "rows": way.rows, "tta": segmenter.tta,
        "engine": engine.name, "precision": engine.precision, "device": segmenter.device.type, "version": fullconv.__version__,
    }  # fmt: skip
