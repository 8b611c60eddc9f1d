"""The prediction run over many images: the next are read and the last are written while the network computes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from itertools import islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fullconv.data import IMAGE_SUFFIXES
from fullconv.errors import FullconvError, InputError, MissingExtraError, NetworkError, OutputError, RunError
from fullconv.notices import Notice, NoticeCollector
from fullconv.predict.inputs import ExtraBands, Found, expand, is_url, read_list, why_empty
from fullconv.predict.names import ImageList, InputImage
from fullconv.predict.outputs import Counts, Format, Tables, Writer, written_labels
from fullconv.preprocess import UNNAMED, NetworkInput
from fullconv.profiling import WAITING_IN, WAITING_OUT, timed, timed_iter
from fullconv.rasters import check_polygons, is_georeferenced, is_label_map, predict_raster
from fullconv.storage import MAX_NAME_BYTES
from fullconv.system import ordered_map

if TYPE_CHECKING:
    from fullconv.segmenter import Segmenter, Tile

Progress = Callable[[int, int], None]
"""Called with the number of images finished and of all images."""


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


def predict_files(
    segmenter: Segmenter,
    job: PredictJob,
    on_failure: Callable[[str, str], None] = lambda path, reason: None,
    progress: Progress = lambda done, total: None,
    summary: RunSummary | None = None,
    stop: Callable[[], bool] = lambda: False,
    initializer: Callable[[], None] | None = None,
) -> RunSummary:
    """Predict images and write their label maps, `predictions.jsonl` and `summary.csv`.

    Args:
        segmenter: The model.
        job: What to predict and what to write.
        on_failure: Called with input and reason of each image that failed; all others are finished.
        progress: Called after each image.
        summary: Updated after each image, for callers that report how far an interrupted run came.
        stop: Called before each image; True ends the run when what was begun is finished.
        initializer: Called at the start of each thread that reads and writes files.

    Returns:
        Number of images done, skipped (their results existed) and failed.

    Raises:
        InputError: There is nothing to predict, or a result would overwrite an input; nothing was written.
        OutputError: The output folder cannot be written.
    """
    extra = ExtraBands(job.bands_from) if job.bands_from is not None else None
    writer = Writer(job.out, written_labels(segmenter.card, job.head), job.format, job.overlay, job.probabilities)
    images = ImageList(job.out, job.shard)
    empty = _collect(images, job, stop)
    images.assign_names(writer.endings)
    if job.polygons is not None:
        check_polygons(job.polygons)
        paths = [image.path for image in islice(images, 2)]
        if len(paths) != 1 or not is_georeferenced(paths[0]):
            found = "several images are given" if len(paths) > 1 else f"{paths[0] if paths else 'nothing'} is none"
            raise InputError(f"--polygons: takes one georeferenced raster, and {found}. Predict it by itself.")
    _check_out(job.out, job.inputs)
    try:
        job.out.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OutputError(f"{job.out}: is a file. Name a folder with -o.") from error
    except OSError as error:
        raise OutputError(
            f"{job.out}: cannot be created ({error.strerror or error}). Choose another folder with -o."
        ) from error
    tables = Tables(writer, job.shard)
    total = len(images) + len(empty)
    summary = RunSummary() if summary is None else summary

    def record(outcome: _Outcome) -> None:
        counts = outcome.counts
        if isinstance(counts, Future):
            with timed(WAITING_OUT):
                counts = counts.result()
        summary.collector.extend(replace(notice, file=outcome.path) for notice in outcome.notices)
        setattr(summary, outcome.status, getattr(summary, outcome.status) + 1)
        tables.add(outcome.path, outcome.status, outcome.name, outcome.reason, outcome.last, outcome.notices)
        if counts is not None:
            tables.count(outcome.path, counts)
        if outcome.reason is not None:
            on_failure(outcome.path, outcome.reason)
        progress(summary.total, total)

    try:
        for text in empty:
            record(_Outcome(text, "failed", reason=why_empty(text)))
        _Run(segmenter, job, writer, extra, record, stop).predict_all(images, initializer)
    except BaseException:
        with suppress(OutputError):  # as on a full disk; what stopped the run is the error to report
            tables.close()
        tables.discard()
        raise
    tables.close()
    return summary


def _check_out(out: Path, inputs: Sequence[str]) -> None:
    """Refuse an output folder that has the name of an image file, or that is an input itself."""
    if out.suffix.lower() in IMAGE_SUFFIXES and not out.exists():
        raise InputError(f"-o {out}: results are several files in a folder. Name a folder, for example {out.stem}.")
    for text in inputs:
        if Path(text).expanduser().is_dir() and os.path.realpath(Path(text).expanduser()) == os.path.realpath(out):
            raise InputError(
                f"-o {out}: is the input folder, where the results would be inputs of the next run. Choose another folder."
            )


def _collect(images: ImageList, job: PredictJob, stop: Callable[[], bool]) -> list[str]:
    """Add all inputs to the list until a stop is requested; returns the inputs without images."""
    if not job.inputs and job.listed is None:
        raise InputError("nothing to predict: name images, folders or patterns, or give --list FILE.")

    def until_stopped(found: Iterator[Found]) -> Iterator[Found]:
        return takewhile(lambda _: not stop(), found)

    empty = [text for text in job.inputs if not images.add(until_stopped(expand(text, job.out)))]
    found = images.add(until_stopped(read_list(job.listed))) if job.listed is not None else 0
    if stop():
        return []
    if job.listed is not None and not found and not job.inputs:
        raise InputError(f"--list {job.listed}: contains no paths. Write one path per line.")
    if len(empty) == len(job.inputs) and not found:
        raise InputError(why_empty(empty[0]))
    return empty


@dataclass(frozen=True)
class _Outcome:
    """The result of an image, to be recorded in its turn."""

    path: str
    status: Literal["done", "skipped", "failed"]
    name: str | None = None
    """Of its results."""
    counts: Counts | Future[Counts] | None = None
    """Pixels by class; a future while the label map is being written."""
    reason: str | None = None
    last: str = ".png"
    notices: tuple[Notice, ...] = ()


class _StoppedError(Exception):
    """A stop was requested between two strips of a raster."""


@dataclass
class _Run:
    """The pipeline: reading threads, the network in this thread, writing threads; a bounded number of images in it."""

    segmenter: Segmenter
    job: PredictJob
    writer: Writer
    extra: ExtraBands | None
    record: Callable[[_Outcome], None]
    stop: Callable[[], bool]
    outcomes: deque[_Outcome] = field(default_factory=deque)
    """Not yet recorded, in the order of the images, however long each takes."""

    @property
    def threads(self) -> int:
        """Threads that read and write files."""
        return max(1, self.job.workers if self.job.workers is not None else min(4, os.cpu_count() or 1))

    def predict_all(self, images: Iterable[InputImage], initializer: Callable[[], None] | None) -> None:
        """Predict images until a stop is requested, and record their outcomes."""
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="fullconv", initializer=initializer)
        ahead = 1 + max(self.threads, self.job.batch_size)
        reading = ordered_map(self._read, takewhile(lambda _: not self.stop(), images), pool=pool, ahead=ahead)
        batch: list[tuple[InputImage, NetworkInput]] = []
        try:
            with closing(reading):
                for image, found in timed_iter(WAITING_IN, reading):
                    if self.stop():
                        break
                    if isinstance(found, NetworkInput):
                        batch.append((image, found))
                        if len(batch) < self.job.batch_size:
                            continue
                    self._predict_batch(batch, pool)
                    batch = []
                    if isinstance(found, FullconvError):
                        self.outcomes.append(_failed(image, found))
                    elif isinstance(found, dict):
                        self.outcomes.append(_Outcome(image.path, "skipped", image.name, found))
                    elif found is None:
                        self._predict_raster(image)
                    self._record_finished(self.threads)
            if not self.stop():
                self._predict_batch(batch, pool)
            self._record_finished(0)
        finally:
            pool.shutdown(wait=True)
            with suppress(OutputError):  # after a stop: record what was written until then
                self._record_finished(0)

    def _read(self, image: InputImage) -> tuple[InputImage, NetworkInput | Counts | FullconvError | None]:
        """Return an image with its pixels, the counts of results that exist, None for a raster, or why it cannot be read."""
        try:
            if is_url(image.path):
                raise InputError(f"{image.path}: is an address, not a file. Download the image first.")
            ending = max(self.writer.endings, key=len)
            if len(os.fsencode(image.name.rpartition("/")[2] + ending)) > MAX_NAME_BYTES:
                raise InputError(
                    f"{image.path}: its name is too long for its results, which end in {ending}: a file name has at most"
                    f" {MAX_NAME_BYTES} bytes. Rename it."
                )
            if is_georeferenced(image.path):
                if self.extra is not None:
                    raise InputError(f"{image.path}: --bands-from is for plain images. Put all bands into the raster.")
                return image, None
            existing = self.writer.existing(image.name) if self.job.skip_existing else None
            if existing is not None:
                return image, existing
            if self.extra is not None:
                stacked = self.extra.read(image.path, image.name, self.segmenter.card)
                return image, self.segmenter.read(stacked, image.path)
            return image, self.segmenter.read(image.path)
        except FullconvError as error:
            return image, error

    def _predict_batch(self, batch: list[tuple[InputImage, NetworkInput]], pool: ThreadPoolExecutor) -> None:
        """Predict images, and submit their results to be written."""
        if not batch:
            return
        job = self.job
        try:
            predictions = self.segmenter.predict_many(
                [pixels for _, pixels in batch], job.tile, job.probabilities, job.head
            )
        except InputError as error:
            if len(batch) == 1:
                self.outcomes.append(_failed(batch[0][0], error))
            else:  # the error is of one of them: predict each alone
                for item in batch:
                    self._predict_batch([item], pool)
            return
        for (image, _), prediction in zip(batch, predictions, strict=True):
            written = pool.submit(self.writer.write, image.name, prediction)
            self.outcomes.append(_Outcome(image.path, "done", image.name, written, notices=prediction.notices))
        self._record_finished(self.threads)

    def _predict_raster(self, image: InputImage) -> None:
        """Predict a georeferenced TIFF as GeoTIFFs, strip by strip; after a stop, the same command resumes it."""
        job = self.job
        unsupported = [f"--format {job.format}"] if job.format != "index" else []
        unsupported += ["--overlay"] if job.overlay else []

        def progress(done: int, total: int) -> None:
            if done < total and self.stop():
                raise _StoppedError

        counts: Counts = {}
        existed, notices = True, NoticeCollector()
        try:
            if unsupported:
                raise InputError(
                    f"{image.path}: is georeferenced, so its result is a GeoTIFF of labels."
                    f" Omit {' and '.join(unsupported)}."
                )
            for head in self.writer.labels:
                target = Path(self.writer.path(image.name, head, ".tif"))
                scores = target.with_name(f"{target.stem}.probabilities.tif") if job.probabilities else None
                for path in (target, scores):
                    if path is not None and path.exists() and not is_label_map(path):  # perhaps another input
                        raise InputError(
                            f"{path}: exists and was not written by fullconv. Choose another folder with -o."
                        )
                result = predict_raster(
                    self.segmenter, image.path, target, tile=job.tile, resume=job.skip_existing, polygons=job.polygons,
                    progress=progress, head=head or job.head, probabilities=scores,
                )  # fmt: skip
                counts[head] = result.counts
                existed = existed and result.existed
                notices = NoticeCollector(result.notices)
        except _StoppedError:
            return
        except (InputError, NetworkError, RunError, MissingExtraError) as error:
            self.outcomes.append(_failed(image, error))
            return
        status: Literal["done", "skipped"] = "skipped" if existed else "done"
        self.outcomes.append(_Outcome(image.path, status, image.name, counts, last=".tif", notices=tuple(notices)))

    def _record_finished(self, leave: int) -> None:
        """Record finished outcomes in order, waiting for the oldest while more than `leave` are pending."""
        while self.outcomes:
            counts = self.outcomes[0].counts
            if len(self.outcomes) <= leave and isinstance(counts, Future) and not counts.done():
                return
            self.record(self.outcomes.popleft())


def _failed(image: InputImage, error: FullconvError) -> _Outcome:
    """Return the outcome of an image that failed, with its path in the reason; the network knows it only as an array."""
    text = str(error).removeprefix(f"{UNNAMED} ").removeprefix("array: ")
    return _Outcome(image.path, "failed", reason=text if text.startswith(image.path) else f"{image.path}: {text}")
