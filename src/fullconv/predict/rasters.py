"""Georeferenced TIFFs among the pictures: each becomes a GeoTIFF, by windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fullconv.errors import InputError
from fullconv.predict.names import Picture
from fullconv.predict.outputs import Counts, Writer
from fullconv.rasters import check_polygons, is_georeferenced, is_label_map, predict_raster
from fullconv.segmenter import Segmenter

if TYPE_CHECKING:
    from fullconv.predict.run import Job


class StoppedError(Exception):
    """A stop was asked for between two bands of a raster."""


def predict_georeferenced(
    segmenter: Segmenter, job: Job, writer: Writer, picture: Picture, stop: Callable[[], bool]
) -> tuple[Counts, bool]:
    """Label one raster; one that another run has begun or finished is gone on with where existing results are kept.

    Returns:
        Its counts, and whether all of its label maps were there already.

    Raises:
        InputError: It cannot be read, or options do not go with a raster.
        StoppedError: A stop was asked for.
    """
    extra = [f"--format {job.format}"] if job.format != "index" else []
    extra += ["--overlay"] if job.overlay else []
    if extra:
        raise InputError(
            f"{picture.path}: is georeferenced, so its result is a GeoTIFF of labels. Leave {' and '.join(extra)} away."
        )

    def progress(done: int, total: int) -> None:
        if done < total and stop():
            raise StoppedError

    counts: Counts = {}
    existed = True
    for head in writer.labels:
        target = Path(writer.path(picture.name, head, ".tif"))
        chances = target.with_name(f"{target.stem}.probabilities.tif") if job.probabilities else None
        for path in (target, chances):
            if path is not None and path.exists() and not is_label_map(path):  # another input, it may be
                raise InputError(f"{path}: is there already, and no result of this program. Choose another folder.")
        result = predict_raster(
            segmenter, picture.path, target, tile=job.tile,
            resume=job.skip_existing, polygons=job.polygons, progress=progress, head=head or job.head,
            probabilities=chances,
        )  # fmt: skip
        counts[head] = result.counts
        existed = existed and result.existed
    return counts, existed


def check_single_raster(paths: Sequence[str], polygons: Path) -> None:
    """Raise InputError unless the pictures are one raster, whose polygons are asked for in a format that is written."""
    check_polygons(polygons)
    if len(paths) != 1 or not is_georeferenced(paths[0]):
        what = "several pictures are given" if len(paths) > 1 else f"{paths[0] if paths else 'nothing'} is none"
        raise InputError(f"--polygons: takes one georeferenced raster, and {what}. Predict it by itself.")
