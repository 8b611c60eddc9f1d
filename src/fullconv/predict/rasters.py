"""Georeferenced TIFFs among the images: each becomes a GeoTIFF, strip by strip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fullconv.errors import InputError
from fullconv.notices import Notice, NoticeCollector
from fullconv.predict.job import PredictJob
from fullconv.predict.names import InputImage
from fullconv.predict.outputs import Counts, Writer
from fullconv.rasters import check_polygons, is_georeferenced, is_label_map, predict_raster

if TYPE_CHECKING:
    from fullconv.segmenter import Segmenter


class StoppedError(Exception):
    """A stop was requested between two strips of a raster."""


def predict_georeferenced(
    segmenter: Segmenter, job: PredictJob, writer: Writer, image: InputImage, stop: Callable[[], bool]
) -> tuple[Counts, bool, tuple[Notice, ...]]:
    """Predict one raster; with `skip_existing`, resume or keep what an earlier run has written.

    Returns:
        Pixels by class, whether all label maps existed, and warnings about the raster.

    Raises:
        InputError: It cannot be read, or an option does not apply to rasters.
        StoppedError: A stop was requested.
    """
    unsupported = [f"--format {job.format}"] if job.format != "index" else []
    unsupported += ["--overlay"] if job.overlay else []
    if unsupported:
        raise InputError(
            f"{image.path}: is georeferenced, so its result is a GeoTIFF of labels. Omit {' and '.join(unsupported)}."
        )

    def progress(done: int, total: int) -> None:
        if done < total and stop():
            raise StoppedError

    counts: Counts = {}
    existed, notices = True, NoticeCollector()
    for head in writer.labels:
        target = Path(writer.path(image.name, head, ".tif"))
        scores = target.with_name(f"{target.stem}.probabilities.tif") if job.probabilities else None
        for path in (target, scores):
            if path is not None and path.exists() and not is_label_map(path):  # perhaps another input
                raise InputError(f"{path}: exists and was not written by fullconv. Choose another folder with -o.")
        result = predict_raster(
            segmenter, image.path, target, tile=job.tile,
            resume=job.skip_existing, polygons=job.polygons, progress=progress, head=head or job.head,
            probabilities=scores,
        )  # fmt: skip
        counts[head] = result.counts
        existed = existed and result.existed
        notices = NoticeCollector(result.notices)
    return counts, existed, tuple(notices)


def check_single_raster(paths: Sequence[str], polygons: Path) -> None:
    """Raise InputError unless there is one input, a raster, and its polygons go to a known format."""
    check_polygons(polygons)
    if len(paths) != 1 or not is_georeferenced(paths[0]):
        found = "several images are given" if len(paths) > 1 else f"{paths[0] if paths else 'nothing'} is none"
        raise InputError(f"--polygons: takes one georeferenced raster, and {found}. Predict it by itself.")
