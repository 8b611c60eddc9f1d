"""From a raster to its label map: bands on disk as they finish, then the GeoTIFF, then polygons."""

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
from fullconv.images import import_rasterio
from fullconv.interpolation import ScoreLayout
from fullconv.labels import VOID
from fullconv.modelfile import weights_sha256
from fullconv.notices import Notice
from fullconv.profiling import WRITING, timed
from fullconv.rasters.journal import StripJournal, read_job
from fullconv.rasters.labeler import StripLabeler
from fullconv.rasters.reader import RasterReader
from fullconv.rasters.strategy import Strategy, choose_strategy
from fullconv.rasters.vector import check_polygons, write_polygons
from fullconv.rasters.writer import finished_counts, is_finished, write_probabilities, write_result
from fullconv.segmenter import Segmenter, Tile

LABELS_VERSION = "0.1.0"
"""The first version that gave these labels: a stopped job of it resumes. Changes only when labels do."""

_CARD_KEYS = {"variant", "classes", "palette", "heads", "bands", "channel_order", "mean", "std", "range"}
"""Keys of a card that the label map depends on."""
Progress = Callable[[int, int], None]
"""Called with the numbers of finished rows and of all rows."""


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
    notices: tuple[Notice, ...] = ()
    """Warnings about the raster."""


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
    """Label every pixel of a raster of any size in constant memory, as if it were computed at once.

    The result is a GeoTIFF on the same grid: tiled, compressed, with the classes' colours and names, and 255 where the
    raster has no data (nodata value, alpha band, mask, NaN). It gets its name when it is complete.

    Args:
        segmenter: The model.
        source: A GeoTIFF, BigTIFF, VRT, or another raster that GDAL reads; 8 or 16 bits or floats.
        out: The label map, a name that ends in .tif or .tiff.
        tile: "auto" computes every cell once, by bands of rows, where network and engine support it, otherwise tiles; a
            number is the side of a tile's core in pixels, rounded up to the stride. The result does not depend on it.
        memory: Bytes that the job may take besides the loaded program; None is the segmenter's budget.
        resume: Continue a stopped job; the file is the same in the end. Does nothing for a finished one.
        overviews: Also store the label map at halved resolutions.
        polygons: Also write one polygon for each connected area of a class: a .gpkg in the raster's coordinates, or a
            .geojson in longitude and latitude (RFC 7946).
        progress: Called after each band.
        head: Of several; the first by default.
        probabilities: Also write the probabilities of all classes: a .tif with a band of float32 for each, NaN where
            the raster has no data. They take 4 bytes a pixel and class before compression.

    Returns:
        Where it is, and the pixels of each class.

    Raises:
        MissingExtraError: rasterio is not installed.
        InputError: The raster is missing, damaged, no raster, or has other bands than the card.
        NetworkError: Tiles cannot be exact, and the whole is too large.
        RunError: The job to resume had another raster, model or tile.
        OutputError: The label map cannot be written; finished bands are kept for ``resume``.
    """
    import_rasterio()
    target = Path(out)
    patches, chances = (None if path is None else Path(path) for path in (polygons, probabilities))
    _check(segmenter, Path(source), target, patches, chances)
    labels = segmenter.card.labels(head)
    mirrored = segmenter.mirror_notice(head)
    with RasterReader(source, segmenter.card) as raster:
        journal_path = target.with_name(f".{target.name}.rows")
        stopped = read_job(journal_path) if resume else None
        strategy = choose_strategy(segmenter, raster, tile, memory, stopped)
        for notice in strategy.notices:
            segmenter.log(notice)
        job = _describe(segmenter, raster, head, strategy, chances is not None)
        # A finished file is recognized without tile and rows, which depend on the memory that is available now.
        lasting = {key: value for key, value in job.items() if key not in ("tile", "rows")}
        mark = hashlib.sha256(json.dumps([lasting, overviews], sort_keys=True).encode()).hexdigest()
        counts = None
        if resume and stopped is None and (chances is None or is_finished(chances, mark)):
            counts = finished_counts(target, mark)
        existed = counts is not None
        if counts is None:
            sources = strategy.sources(segmenter, raster, head or next(iter(segmenter.card.heads or [""])))
            labeler = StripLabeler(segmenter, raster, sources, labels, keep=chances is not None)
            with StripJournal(journal_path, job, resume) as journal:
                with import_rasterio().Env(GDAL_CACHEMAX=strategy.cache):
                    while journal.state.band < labeler.count:
                        state, strips = labeler.label(journal.state)
                        journal.append(state, strips)
                        if progress is not None:
                            progress(state.row, raster.height)
                with timed(WRITING):
                    if chances is not None:
                        write_probabilities(chances, labeler, journal, labels, mark)
                    counts = write_result(target, journal.rows(), raster, labels, mark, overviews)
        found = raster.notices()
    if patches is not None:
        write_polygons(target, patches, labels)
    for notice in found:
        segmenter.log(notice)
    notices = (*found, *(() if mirrored is None else (mirrored,)), *strategy.notices)
    return RasterResult(target, counts[: len(labels.classes)], int(counts[VOID]), patches, chances, existed, notices)


def _check(segmenter: Segmenter, source: Path, out: Path, polygons: Path | None, probabilities: Path | None) -> None:
    """Refuse what cannot be done before anything is read."""
    options = segmenter.options
    if segmenter.short_side is not None:
        raise InputError(
            f"{source}: the model resizes each image to a shorter side of {segmenter.short_side} pixels, so its labels would"
            " depend on where the raster ends. Use --scale 1 to predict rasters at their own resolution."
        )
    if segmenter.scale != 1:
        raise InputError(
            f"{source}: the model works at {segmenter.scale:g} of an image's resolution, rasters are predicted at"
            " their own. Resample the raster by this factor first, for example with gdalwarp -tr."
        )
    if options.blend:
        raise InputError("rasters are predicted with exact tiles only: omit --blend.")
    if any(view.scale != 1 for view in options.views):
        raise InputError(
            f"{source}: rasters are predicted at their own resolution, so of test-time augmentation only --tta flip is"
            f" possible, not {options.tta}."
        )
    for path, what in ((out, "the label map of a raster is"), (probabilities, "the probabilities of a raster are")):
        if path is not None and path.suffix.lower() not in (".tif", ".tiff"):
            raise InputError(f"{path}: {what} a GeoTIFF. Use a name that ends in .tif")
        if path is not None and path.exists() and source.exists() and path.samefile(source):
            raise InputError(f"{path}: is the raster itself, which would be replaced. Choose another name.")
    if probabilities is not None and probabilities.resolve() == out.resolve():
        raise InputError(f"{out}: is given for both labels and probabilities. Choose another name for one of them.")
    if polygons is not None:
        check_polygons(polygons)


def _describe(
    segmenter: Segmenter, raster: RasterReader, head: str | None, strategy: Strategy, probabilities: bool
) -> dict[str, Any]:
    """Return all that the labels, and what is kept of them, depend on."""
    labels = segmenter.card.labels(head)
    weights = {} if isinstance(segmenter.network, ScoreLayout) else segmenter.network.state_dict()
    hashed = segmenter.card.weights_sha256  # of an exported file, whose weights are in the engine
    if weights and not any(value.is_meta for value in weights.values()):
        hashed = weights_sha256(weights)
    card = segmenter.card.model_dump(mode="json", include=_CARD_KEYS)
    model = hashlib.sha256((hashed + json.dumps(card, sort_keys=True)).encode()).hexdigest()
    engine = segmenter.engine.for_size(raster.height, raster.width)
    return {
        "raster": raster.fingerprint(), "model": model, "head": head, "tile": strategy.tile, "rows": strategy.rows,
        "tta": segmenter.options.tta, "engine": engine.name, "precision": engine.precision,
        "device": segmenter.device.type, "version": LABELS_VERSION,
        **({"probabilities": True} if probabilities else {}),
        **({"mirror_pairs": labels.mirror_pairs} if labels.mirror_pairs else {}),
    }  # fmt: skip
