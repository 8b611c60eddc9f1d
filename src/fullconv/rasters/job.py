"""From a raster to its label map: bands on disc as they finish, then the GeoTIFF, then polygons."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.errors import InputError
from fullconv.labels import VOID
from fullconv.modelfile import weights_sha256
from fullconv.preprocess import range_remark
from fullconv.profiling import WRITING, timed
from fullconv.rasters.journal import Spool, spooled_job
from fullconv.rasters.labeler import Bands
from fullconv.rasters.reader import Raster, import_rasterio
from fullconv.rasters.strategy import Way, choose_way
from fullconv.rasters.vector import check_polygons, write_polygons
from fullconv.rasters.writer import finished_counts, is_finished, write_probabilities, write_result
from fullconv.segmenter import Segmenter, Tile
from fullconv.tta import parse_views

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
    probabilities: Path | None = None
    existed: bool = False
    """Whether the label map was finished before, and was left as it is."""


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
    probabilities: str | Path | None = None,
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
        probabilities: Also write the probabilities of all classes: a .tif with a band of float32 for each, NaN where
            the raster holds no data. They take 4 bytes a pixel and class before compression.

    Returns:
        Where it is, and the pixels of each class.

    Raises:
        MissingExtraError: rasterio is not installed.
        InputError: The raster is missing, damaged, no raster, or has other bands than the card.
        NetworkError: Tiles cannot be exact, and the whole is too large.
        RunError: What is to go on was begun with another raster, model or tile.
        OutputError: The label map cannot be written; what is done stays for ``resume``.
    """
    import_rasterio()
    target, patches, chances = Path(out), _path(polygons), _path(probabilities)
    _check(segmenter, Path(source), target, patches, chances)
    labels = segmenter.card.labels(head)

    def look(window: NDArray[Any]) -> None:
        segmenter.remark("range", lambda: range_remark(window, segmenter.card, str(source)))

    with Raster(source, segmenter.card, look) as raster:
        spool_path = target.with_name(f".{target.name}.rows")
        begun = spooled_job(spool_path) if resume else None
        way = choose_way(segmenter, raster, tile, memory, begun)
        job = _describe(segmenter, raster, head, way, chances is not None)
        mark = _mark(job, overviews)
        counts = None
        if resume and begun is None and (chances is None or is_finished(chances, mark)):
            counts = finished_counts(target, mark)
        existed = counts is not None
        if counts is None:
            views = way.views(segmenter, raster, head or next(iter(segmenter.card.heads or [""])))
            bands = Bands(segmenter, raster, views, keep=chances is not None)
            with _spooled(spool_path, job, resume) as spool:
                _label(bands, spool, way.cache, progress)
                with timed(WRITING):
                    if chances is not None:
                        write_probabilities(chances, bands, spool, labels, mark)
                    counts = write_result(target, spool.rows(), raster, labels, mark, overviews)
    if patches is not None:
        write_polygons(target, patches, labels)
    return RasterResult(target, counts[: len(labels.classes)], int(counts[VOID]), patches, chances, existed)


def _mark(job: dict[str, Any], overviews: bool) -> str:
    """Return what a finished file is known by: without tile and band, which depend on the memory that is free now."""
    lasting = {key: value for key, value in job.items() if key not in ("tile", "rows")}
    return hashlib.sha256(json.dumps([lasting, overviews], sort_keys=True).encode()).hexdigest()


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


@contextmanager
def _spooled(path: Path, job: dict[str, Any], resume: bool) -> Iterator[Spool]:
    """Open what a job grows; it is dropped when the job is done, and kept for the next time when it is stopped."""
    spool = Spool(path, job, resume)
    try:
        yield spool
    except InputError:  # a damaged raster: there is nothing to go on with
        spool.drop()
        raise
    except BaseException:
        spool.close()
        raise
    spool.drop()


def _label(bands: Bands, spool: Spool, cache: int, progress: Progress | None) -> None:
    """Compute the bands that the spool does not hold yet; GDAL keeps so many bytes of decoded blocks."""
    with import_rasterio().Env(GDAL_CACHEMAX=cache):
        while spool.state.band < bands.count:
            state, strips = bands.label(spool.state)
            spool.append(state, strips)
            if progress is not None:
                progress(state.row, bands.size[0])


def _check(segmenter: Segmenter, source: Path, out: Path, polygons: Path | None, probabilities: Path | None) -> None:
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
    for path, what in ((out, "the label map of a raster is"), (probabilities, "the probabilities of a raster are")):
        if path is not None and path.suffix.lower() not in (".tif", ".tiff"):
            raise InputError(f"{path}: {what} a GeoTIFF. Give it a name that ends in .tif")
        if path is not None and path.exists() and source.exists() and path.samefile(source):
            raise InputError(f"{path}: is the raster itself, which would be replaced. Choose another name.")
    if probabilities is not None and probabilities.resolve() == out.resolve():
        raise InputError(f"{out}: is to hold labels and probabilities. Choose another name for one of them.")
    if polygons is not None:
        check_polygons(polygons)


def _describe(segmenter: Segmenter, raster: Raster, head: str | None, way: Way, chances: bool) -> dict[str, Any]:
    """Return all that the labels, and what is kept of them, depend on."""
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
        **({"probabilities": True} if chances else {}),
    }  # fmt: skip
