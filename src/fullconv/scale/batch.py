"""The job: list, load, predict in a pool of actors, write, note; at any size in bounded memory.

Ray Data streams: a picture is loaded by a task, labelled by an actor, and its row comes to the driver, which writes
the manifest. An actor that dies is started anew and its pictures are done again; a driver that dies goes on by the
manifest. A picture may be predicted twice then, and is written whole both times with the same bytes; its row is there once.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fullconv.errors import FullconvError, InputError, MissingExtraError, RunError
from fullconv.predict import Format, encode
from fullconv.preprocess import PLAIN
from fullconv.scale.manifest import Manifest
from fullconv.scale.sources import Item, list_source, load_item
from fullconv.scale.storage import Place, is_url
from fullconv.scale.watchdog import overseen
from fullconv.segmenter import Segmenter, load
from fullconv.system import available_memory

BLOCK = 32
"""Pictures that travel together."""


@dataclass(frozen=True)
class BatchJob:
    """What to predict, where, and by whom."""

    model: str
    source: str
    """Folder, list, Parquet file or URL of one."""
    out: str
    """Folder or URL."""
    address: str | None = None
    """Of a Ray cluster; None starts Ray on this machine."""
    resume: bool = False
    actors: int | None = None
    """Copies of the model; None is one a processor, or one a GPU with ``device="cuda"``."""
    format: Format = "index"
    device: str = "auto"
    precision: str = "auto"
    engine: str = "auto"


@dataclass
class BatchTally:
    """How many pictures were done, and how."""

    total: int = 0
    """In the source, pictures of Parquet rows by row group until they are loaded."""
    done: int = 0
    failed: int = 0
    before: int = 0
    """Done by an earlier attempt, or failed in it."""
    failed_before: int = 0
    """Failed in an earlier attempt; they are not tried again, as the manifest has a row a picture."""


def run_batch(
    job: BatchJob,
    on_failure: Callable[[str, str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    tally: BatchTally | None = None,
    on_silence: Callable[[str], None] | None = None,
) -> BatchTally:
    """Predict all pictures of a source.

    Args:
        job: What to do.
        on_failure: Called with input and reason of each picture that failed; all others are finished.
        progress: Called with pictures done and in the source.
        tally: Counted up on the way.
        on_silence: Called with a sentence where no picture is finished for minutes.

    Returns:
        How many were done and failed.

    Raises:
        InputError: The source cannot be listed or holds nothing.
        RunError: The folder of results belongs to another job.
        MissingExtraError: Ray is not installed.
    """
    tally = tally if tally is not None else BatchTally()
    segmenter = load(job.model, device="cpu")
    place = Place(job.out)
    items = list(list_source(job.source, job.out))
    if not items and not job.resume:  # before anything is written: OUT stays free for the right source
        raise InputError(f"{job.source}: holds no picture.")
    manifest = Manifest(place, _identity(job, segmenter), job.resume)
    tally.before, tally.failed_before = len(manifest.done), len(manifest.failures)
    if on_failure is not None:
        for path, reason in manifest.failures:
            on_failure(path, reason)
    items = [item for item in items if item.group >= 0 or item.input not in manifest.done]
    tally.total = tally.before + len(items)
    if not tally.total:
        raise InputError(f"{job.source}: holds no picture.")
    if not items:
        return tally
    ray = _start_ray(job)
    try:
        with overseen(on_silence, lambda: _where_to_look(ray)) as sign:
            for row in _stream(ray, job, items, manifest):
                sign()
                if not manifest.add(row):
                    continue
                tally.done += row["status"] == "done"
                tally.failed += row["status"] == "failed"
                tally.total = max(tally.total, tally.before + tally.done + tally.failed)
                if row["status"] == "failed" and on_failure is not None:
                    on_failure(row["input"], row["reason"])
                if progress is not None:
                    progress(tally.before + tally.done + tally.failed, tally.total)
    finally:
        manifest.flush()
        ray.shutdown()
    return tally


def _where_to_look(ray: Any) -> str:
    """Say what may keep a job from going on."""
    node = ray._private.worker._global_node
    logs = "" if node is None else f" Ray writes its log in {node.get_logs_dir_path()}."
    free = available_memory() / 2**30
    words = (
        f"{free:.1f} GB of memory are free here; where it runs short Ray ends copies of the model and starts them again"
    )
    return f"{words}: lower --actors, or end what else takes it.{logs}"


def _identity(job: BatchJob, segmenter: Segmenter) -> dict[str, Any]:
    return {
        "weights_sha256": segmenter.card.weights_sha256, "source": job.source, "format": job.format,
        "precision": job.precision, "engine": job.engine,
    }  # fmt: skip


def _start_ray(job: BatchJob) -> Any:
    """Start or join Ray, without its usage reports.

    Raises:
        MissingExtraError: It is not installed.
        RunError: The cluster does not answer.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_USAGE_STATS_REPORT_URL"] = "http://127.0.0.1:9"
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError("ray", "ray", "fullconv batch") from error
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "ignore_reinit_error": True}
    if job.address is None:
        options |= {"num_cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()}
        options |= {"include_dashboard": False}
    try:
        with _nothing_to_ask() if job.address is None else nullcontext():
            ray.init(address=job.address, **options)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        token = (
            "" if os.environ.get("RAY_AUTH_MODE") else " One with a token is joined where RAY_AUTH_MODE=token is set."
        )
        words = f"no Ray cluster answers at {job.address} ({error}). Start one: ray start --head.{token}"
        raise RunError(words) from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = 0
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


@contextmanager
def _nothing_to_ask() -> Iterator[None]:
    """Start Ray's own processes with a home folder that says which cluster this is: none.

    Without that file in the home folder, Ray asks a cloud's metadata address what machine it is on, also when its reports
    are switched off. Workers get the user's home back.
    """
    home = Path(tempfile.gettempdir()) / f"fullconv-ray-{os.getpid()}"
    home.mkdir(exist_ok=True)
    (home / "ray_bootstrap_config.yaml").write_text("{}\n", encoding="utf-8")
    before = _homes()
    os.environ.update(dict.fromkeys(before, str(home)))
    try:
        yield
    finally:
        os.environ.update(before)
        atexit.register(shutil.rmtree, home, ignore_errors=True)


def _homes() -> dict[str, str]:
    """Return the variables that say where the user's home is."""
    return {name: os.environ[name] for name in ("HOME", "USERPROFILE") if name in os.environ}


def _stream(ray: Any, job: BatchJob, items: list[Item], manifest: Manifest) -> Iterator[dict[str, Any]]:
    """Yield the row of each picture as it is finished, in any order."""
    import pyarrow

    rows = [vars(item) for item in items]
    tables = [pyarrow.Table.from_pylist(rows[a : a + BLOCK]) for a in range(0, len(rows), BLOCK)]
    done = frozenset(name for name in manifest.done if "#" in name)
    known = ray.put(done)
    gpu = job.device.startswith("cuda")
    actors = job.actors or max(1, int(ray.cluster_resources().get("GPU" if gpu else "CPU", 1)))
    # Loading needs processors, too, and waits more than it computes.
    loading = ray.data.from_arrow(tables).flat_map(_Load(known, _homes()), num_cpus=0.25)
    predicted = loading.map_batches(
        _Predictor,
        fn_constructor_kwargs={"job": job, "model": _reachable(job.model), "homes": _homes()},
        compute=ray.data.ActorPoolStrategy(size=min(actors, max(1, len(tables)))),
        batch_size=8,
        batch_format="pyarrow",
        num_cpus=0 if gpu else 0.75,
        num_gpus=1 if gpu else 0,
    )
    for block in predicted.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from block.to_pylist()


def _reachable(model: str) -> str:
    """Return a path that other processes of this machine find, whatever folder they work in."""
    path = Path(model)
    return str(path.resolve()) if path.exists() and not is_url(model) else model


class _Load:
    """Loads the pictures of an item, where Ray runs it."""

    def __init__(self, done: Any, homes: dict[str, str]) -> None:
        self.done, self.homes = done, homes

    def __call__(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        import ray

        os.environ.update(self.homes)  # credentials for URLs lie there

        done = ray.get(self.done) if row["group"] >= 0 else frozenset()
        return list(load_item(row, done))


class _Predictor:
    """A copy of the model: encoded pictures in, rows of the manifest out; the label maps are written on the way."""

    def __init__(self, job: BatchJob, model: str, homes: dict[str, str]) -> None:
        import torch

        os.environ.update(homes)

        torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
        self.segmenter = load(model, precision=job.precision, engine=job.engine, device=job.device)
        self.place, self.format = Place(job.out), job.format
        self.labels = self.segmenter.card.labels()

    def __call__(self, batch: Any) -> Any:
        import pyarrow

        schema = pyarrow.schema([
            ("input", pyarrow.string()), ("output", pyarrow.string()), ("status", pyarrow.string()),
            ("reason", pyarrow.string()), ("pixels", pyarrow.list_(pyarrow.int64())), ("seconds", pyarrow.float64()),
        ])  # fmt: skip
        return pyarrow.Table.from_pylist([self.row(picture) for picture in batch.to_pylist()], schema=schema)

    def row(self, picture: dict[str, Any]) -> dict[str, Any]:
        """Predict one picture and write its label map."""
        start = time.perf_counter()
        result = {"input": picture["input"], "output": None, "status": "failed", "reason": picture["reason"] or None,
                  "pixels": None}  # fmt: skip
        if not picture["reason"]:
            try:
                label_map = self.segmenter.predict(picture["content"]).label_map
                name = f"{picture['output']}.png"
                result["output"] = self.place.write(name, encode(label_map, self.labels, self.format))
                result["pixels"] = np.bincount(label_map.reshape(-1), minlength=len(self.labels.classes)).tolist()
                result["status"] = "done"
            except FullconvError as error:
                words = str(error).removeprefix("bytes: ").removeprefix(f"{PLAIN} ")
                result["reason"] = f"{picture['input']}: {words}"
        return result | {"seconds": time.perf_counter() - start}
