"""The run over many pictures: the next are read and the last are written while the network works."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from fullconv.errors import FullconvError, InputError, MissingExtraError, NetworkError, OutputError, RunError
from fullconv.predict.bands import MoreBands
from fullconv.predict.inputs import Found, expand, read_list, why_empty
from fullconv.predict.names import Picture, Plan
from fullconv.predict.outputs import Counts, Format, Tables, Writer, written_labels
from fullconv.predict.rasters import StoppedError, check_single_raster, predict_georeferenced
from fullconv.preprocess import PLAIN
from fullconv.profiling import WAITING_IN, WAITING_OUT, part
from fullconv.rasters import is_georeferenced
from fullconv.segmenter import Segmenter, Tile

BEHIND = 5
"""Steps of priority that threads for files stand behind the network's."""

Progress = Callable[[int, int], None]
"""Called with the number of pictures finished and of all pictures."""


@dataclass(frozen=True)
class Job:
    """What to predict and what to write."""

    inputs: Sequence[str]
    """Files, folders and globs."""
    out: Path
    listed: str | None = None
    """A text file with a path a line, or "-"."""
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
    """Threads that read and write; None is one a core, at most four."""
    batch_size: int = 1
    """Pictures that go through the network together, where those that follow each other have one size."""
    polygons: Path | None = None
    """GeoPackage or GeoJSON of the patches of the one raster that is given."""
    bands_from: Path | None = None
    """Folder with pictures of the same names, whose bands follow those of the inputs."""


@dataclass
class Tally:
    """How many pictures were finished, and how."""

    done: int = 0
    skipped: int = 0
    failed: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.done + self.skipped + self.failed


def predict_files(
    segmenter: Segmenter,
    job: Job,
    on_failure: Callable[[str, str], None] | None = None,
    progress: Progress | None = None,
    tally: Tally | None = None,
    stop: Callable[[], bool] | None = None,
) -> Tally:
    """Predict pictures and write their label maps, `predictions.jsonl` and `summary.csv`.

    Args:
        segmenter: The model.
        job: What to predict and what to write.
        on_failure: Called with input and reason of each picture that failed; all others are finished.
        progress: Called after each picture.
        tally: Counted up on the way, for callers that want to know how far an interrupted run came.
        stop: Asked before each picture whether to end; what was begun is finished then.

    Returns:
        How many pictures were done, skipped (their results existed) and failed.

    Raises:
        InputError: There is nothing to predict, or a result would replace an input; nothing was written.
        OutputError: The folder of results cannot be written.
    """
    more = MoreBands(job.bands_from) if job.bands_from is not None else None
    writer = Writer(job.out, written_labels(segmenter.card, job.head), job.format, job.overlay, job.probabilities)
    count = tally if tally is not None else Tally()
    with Plan(job.out, job.shard) as plan:
        empty = _collect(plan, job, stop or _never)
        plan.settle(writer.endings)
        total = plan.count() + len(empty)
        if job.polygons is not None:
            check_single_raster([picture.path for picture in islice(plan, 2)], job.polygons)
        _make_folder(job.out)
        tables = Tables(writer, job.shard)
        run = _Run(segmenter, job, writer, tables, count, on_failure, stop or _never, more)
        try:
            for text in empty:
                run.fail(text, why_empty(text))
            with closing(run.pictures(plan)) as finished:
                for _ in finished:
                    if progress is not None:
                        progress(count.total, total)
        except BaseException:
            with suppress(OutputError):  # as on a full disc; what stopped the run is what to tell
                tables.close()
            tables.drop()
            raise
        tables.close()
    return count


def _never() -> bool:
    return False


def _collect(plan: Plan, job: Job, stop: Callable[[], bool]) -> list[str]:
    """Put all pictures into the plan, until a stop is asked for; returns the inputs that stand for none.

    Raises:
        InputError: There is nothing at all to predict.
    """
    if not job.inputs and job.listed is None:
        raise InputError("nothing to predict: name pictures, folders or patterns, or give --list FILE.")

    def until_stopped(found: Iterator[Found]) -> Iterator[Found]:
        return takewhile(lambda _: not stop(), found)

    empty = [text for text in job.inputs if not plan.add(until_stopped(expand(text, job.out)))]
    found = plan.add(until_stopped(read_list(job.listed))) if job.listed is not None else 0
    if stop():
        return []
    if job.listed is not None and not found and not job.inputs:
        raise InputError(f"--list {job.listed}: names no picture. Write a path a line.")
    if len(empty) == len(job.inputs) and not found:
        raise InputError(why_empty(empty[0]))
    return empty


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OutputError(f"{out}: is a file. Name a folder with -o.") from error
    except OSError as error:
        raise OutputError(
            f"{out}: cannot be made ({error.strerror or error}). Choose another folder with -o."
        ) from error


@dataclass(frozen=True)
class _Outcome:
    """What came of a picture, to be recorded in its turn."""

    path: str
    status: Literal["done", "skipped", "failed"]
    name: str | None = None
    """Of its results."""
    counts: Counts | Future[Counts] | None = None
    """Pixels by class; those of a label map that is still written come when it is."""
    reason: str | None = None
    last: str = ".png"

    @property
    def known(self) -> bool:
        """Whether nothing has to be waited for."""
        return not isinstance(self.counts, Future) or self.counts.done()


def give_way() -> None:
    """Let other threads of the process go first on the cores: those of the network wait for each other, layer by layer.

    Only Linux has priorities of threads.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + BEHIND)


class _Run:
    """The pipeline: reading threads, the network in this one, writing threads; a bounded number on the way."""

    def __init__(
        self,
        segmenter: Segmenter,
        job: Job,
        writer: Writer,
        tables: Tables,
        tally: Tally,
        on_failure: Callable[[str, str], None] | None,
        stop: Callable[[], bool],
        more: MoreBands | None = None,
    ) -> None:
        self.segmenter, self.job, self.writer, self.tables, self.tally = segmenter, job, writer, tables, tally
        self.on_failure, self.stop = on_failure, stop
        self.more = more
        self.threads = max(1, job.workers if job.workers is not None else min(4, os.cpu_count() or 1))
        self._batch: list[tuple[Picture, NDArray[Any]]] = []
        self._outcomes: deque[_Outcome] = deque()
        """In the order of the pictures, however long each takes."""

    def pictures(self, plan: Plan) -> Generator[None, None, None]:
        """Work through a plan; yields after each picture that is finished."""
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="fullconv", initializer=give_way)
        reading: deque[tuple[Picture, Future[NDArray[Any] | Counts | None]]] = deque()
        try:
            for picture in takewhile(lambda _: not self.stop(), plan):
                reading.append((picture, pool.submit(self._read, picture)))
                if len(reading) > max(self.threads, self.job.batch_size):
                    yield from self._take(*reading.popleft(), pool)
            while reading and not self.stop():
                yield from self._take(*reading.popleft(), pool)
            if self._batch and not self.stop():
                yield from self._predict(pool)
            yield from self._finish(0)
        finally:
            for _, pending in reading:
                pending.cancel()
            pool.shutdown(wait=True)
            with suppress(OutputError):  # after a stop: record what was written until then
                deque(self._finish(0), maxlen=0)

    def fail(self, path: str, reason: str) -> None:
        """Record a picture that cannot be predicted."""
        self._record(_Outcome(path, "failed", reason=reason))

    def _read(self, picture: Picture) -> NDArray[Any] | Counts | None:
        """Return the pixels, or the counts of results that exist; None for a raster, which is read by windows."""
        if is_georeferenced(picture.path):
            if self.more is not None:
                raise InputError(f"{picture.path}: --bands-from is for plain pictures. Put all bands into the raster.")
            return None
        existing = self.writer.existing(picture.name) if self.job.skip_existing else None
        if existing is not None:
            return existing
        if self.more is not None:
            return self.more.read(picture.path, picture.name, self.segmenter.card)
        return self.segmenter.read(picture.path)

    def _take(
        self, picture: Picture, pending: Future[NDArray[Any] | Counts | None], pool: ThreadPoolExecutor
    ) -> Generator[None, None, None]:
        """Take a picture that was read into the batch, or record why there is nothing to predict."""
        try:
            with part(WAITING_IN):
                found = pending.result()
        except FullconvError as error:
            yield from self._predict(pool)
            yield from self._then(_Outcome(picture.path, "failed", reason=_named(picture, error)))
            return
        if found is None:
            yield from self._predict(pool)
            yield from self._raster(picture)
            return
        if isinstance(found, dict):
            yield from self._predict(pool)
            yield from self._then(_Outcome(picture.path, "skipped", picture.name, found))
            return
        self._batch.append((picture, found))
        if len(self._batch) >= self.job.batch_size:
            yield from self._predict(pool)

    def _raster(self, picture: Picture) -> Generator[None, None, None]:
        """Label a georeferenced raster by windows; what a stop leaves is gone on with by the same command."""
        try:
            counts, existed = predict_georeferenced(self.segmenter, self.job, self.writer, picture, self.stop)
        except StoppedError:
            return
        except (InputError, NetworkError, RunError, MissingExtraError) as error:
            yield from self._then(_Outcome(picture.path, "failed", reason=_named(picture, error)))
            return
        status: Literal["done", "skipped"] = "skipped" if existed else "done"
        yield from self._then(_Outcome(picture.path, status, picture.name, counts, last=".tif"))

    def _predict(self, pool: ThreadPoolExecutor) -> Generator[None, None, None]:
        """Predict the batch, if there is one, and hand its pictures to be written."""
        batch, self._batch = self._batch, []
        if not batch:
            return
        job = self.job
        try:
            pixels = [found for _, found in batch]
            predictions = self.segmenter.predict_many(pixels, job.tile, job.probabilities, job.head)
        except InputError as error:
            if len(batch) > 1:  # one of them; each by itself tells which
                for item in batch:
                    self._batch = [item]
                    yield from self._predict(pool)
                return
            yield from self._then(_Outcome(batch[0][0].path, "failed", reason=_named(batch[0][0], error)))
            return
        for (picture, _), prediction in zip(batch, predictions, strict=True):
            written = pool.submit(self.writer.write, picture.name, prediction)
            self._outcomes.append(_Outcome(picture.path, "done", picture.name, written))
        yield from self._finish(self.threads)

    def _then(self, outcome: _Outcome) -> Generator[None, None, None]:
        """Record an outcome after those of the pictures before it."""
        self._outcomes.append(outcome)
        yield from self._finish(self.threads)

    def _finish(self, leave: int) -> Generator[None, None, None]:
        """Record what is known, waiting for the oldest while more than a number are under way."""
        while len(self._outcomes) > leave or (self._outcomes and self._outcomes[0].known):
            self._record(self._outcomes.popleft())
            yield

    def _record(self, outcome: _Outcome) -> None:
        counts = outcome.counts
        if isinstance(counts, Future):
            with part(WAITING_OUT):
                counts = counts.result()
        setattr(self.tally, outcome.status, getattr(self.tally, outcome.status) + 1)
        self.tables.add(outcome.path, outcome.status, outcome.name, outcome.reason, outcome.last)
        if counts is not None:
            self.tables.count(outcome.path, counts)
        if outcome.reason is not None and self.on_failure is not None:
            self.on_failure(outcome.path, outcome.reason)


def _named(picture: Picture, error: FullconvError) -> str:
    """Return why a picture failed, with its path; the network knows it only as an array."""
    text = str(error)
    for word in (f"{PLAIN} ", "array: "):
        text = text.removeprefix(word)
    return text if text.startswith(picture.path) else f"{picture.path}: {text}"
