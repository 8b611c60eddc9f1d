"""The batch job: list, load, predict in a pool of actors, write, record; in bounded memory at any size.

Ray Data streams: a task loads an image, an actor predicts it, and its row comes to the driver, which writes the manifest.
Ray restarts an actor that dies and predicts its images again; a driver that dies is resumed from the manifest. An image
may be predicted twice then: both times its file is written atomically with the same bytes, and the manifest keeps one row.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fullconv.errors import FullconvError, InputError, MissingExtraError, RunError
from fullconv.predict import Format, encode
from fullconv.preprocess import UNNAMED
from fullconv.profiling import duration
from fullconv.scale.manifest import Manifest, manifest_schema
from fullconv.scale.sources import Item, list_source, load_item
from fullconv.scale.storage import ResultFolder, import_arrow, is_url
from fullconv.segmenter import load
from fullconv.system import available_memory

BLOCK_SIZE = 32
"""Images in a block of Ray Data."""
STALL_SECONDS = 120.0
"""Time without a finished image after which, and every so often, a stall is reported."""


@dataclass(frozen=True)
class BatchJob:
    """What to predict, where, and on which workers."""

    model: str
    source: str
    """Folder, list, Parquet file or URL of one."""
    out: str
    """Folder or URL."""
    address: str | None = None
    """Of a Ray cluster; None starts Ray on this machine."""
    resume: bool = False
    actors: int | None = None
    """Worker processes with the model; None is one per CPU, or one per GPU with ``device="cuda"``."""
    format: Format = "index"
    device: str = "auto"
    precision: str = "auto"
    engine: str = "auto"


@dataclass
class BatchSummary:
    """Counts of images."""

    total: int = 0
    """In the source; Parquet rows count by row group until they are loaded."""
    done: int = 0
    failed: int = 0
    before: int = 0
    """Finished by an earlier attempt, including those that failed."""
    failed_before: int = 0
    """Failed in an earlier attempt; they are not retried, because the manifest has one row per image."""


def run_batch(
    job: BatchJob,
    on_failure: Callable[[str, str], None] = lambda path, reason: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    summary: BatchSummary | None = None,
    on_stall: Callable[[str], None] | None = None,
) -> BatchSummary:
    """Predict all images of a source, and count them in `summary` during the job, for a caller that is interrupted.

    Args:
        job: The settings.
        on_failure: Called with input and reason of each image that failed; all others are finished.
        progress: Called with the number of images finished and in the source.
        summary: New by default.
        on_stall: Called with a message when no image is finished for minutes.
    """
    summary = summary if summary is not None else BatchSummary()
    segmenter = load(job.model, device="cpu")
    items = list(list_source(job.source, job.out))
    if not items and not job.resume:  # before anything is written: OUT stays free for the right source
        raise InputError(f"{job.source}: has no images.")
    identity = {
        "weights_sha256": segmenter.card.weights_sha256, "source": job.source, "format": job.format,
        "precision": job.precision, "engine": job.engine,
    }  # fmt: skip
    manifest = Manifest(ResultFolder(job.out), identity, job.resume)
    summary.before, summary.failed_before = len(manifest.done), len(manifest.failures)
    for path, reason in manifest.failures:
        on_failure(path, reason)
    items = [item for item in items if item.group >= 0 or item.input not in manifest.done]
    summary.total = summary.before + len(items)
    if not summary.total:
        raise InputError(f"{job.source}: has no images.")
    if not items:
        return summary
    ray = _start_ray(job)
    try:
        with watchdog(on_stall, lambda: _explain_stall(ray)) as heartbeat:
            for row in _stream(ray, job, items, manifest):
                heartbeat()
                if not manifest.add(row):
                    continue
                summary.done += row["status"] == "done"
                summary.failed += row["status"] == "failed"
                finished = summary.before + summary.done + summary.failed
                summary.total = max(summary.total, finished)
                if row["status"] == "failed":
                    on_failure(row["input"], row["reason"])
                progress(finished, summary.total)
    finally:
        manifest.flush()
        ray.shutdown()
    return summary


def _explain_stall(ray: Any) -> str:
    node = ray._private.worker._global_node
    logs = "" if node is None else f" Ray writes its log to {node.get_logs_dir_path()}."
    return (
        f"{available_memory() / 2**30:.1f} GB of memory are free on this machine. When memory runs out, Ray ends and"
        f" restarts workers: lower --actors, or stop other programs.{logs}"
    )


@contextmanager
def watchdog(
    report: Callable[[str], None] | None, hint: Callable[[], str], stall_seconds: float = STALL_SECONDS
) -> Iterator[Callable[[], None]]:
    """Yield a heartbeat to call at each finished image; stalls are reported from a thread, with a hint.

    Workers that end again and again, out of memory, would otherwise be silent for ever.
    """
    last = time.monotonic()
    ended = threading.Event()

    def heartbeat() -> None:
        nonlocal last
        last = time.monotonic()

    def watch() -> None:
        reported = 0
        while not ended.wait(stall_seconds / 8):
            stalls = int((time.monotonic() - last) / stall_seconds)
            if stalls > reported and report is not None:
                report(f"No image was finished in the last {duration(stalls * stall_seconds)}. {hint()}")
            reported = stalls

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield heartbeat
    finally:
        ended.set()
        thread.join()


def _start_ray(job: BatchJob) -> Any:
    """Start or join Ray, without its usage reports."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_USAGE_STATS_REPORT_URL"] = "http://127.0.0.1:9"
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError("ray", "ray", "fullconv batch") from error
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "ignore_reinit_error": True}
    if job.address is None:
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        options |= {"num_cpus": cpus, "include_dashboard": False}
    try:
        with _block_cloud_detection() if job.address is None else nullcontext():
            ray.init(address=job.address, **options)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        token = "" if os.environ.get("RAY_AUTH_MODE") else " For a cluster with a token, set RAY_AUTH_MODE=token."
        raise RunError(
            f"no Ray cluster responds at {job.address} ({error}). Start one: ray start --head.{token}"
        ) from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = 0
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


@contextmanager
def _block_cloud_detection() -> Iterator[None]:
    """Start Ray's own processes with a home folder whose cluster file names no cluster.

    Without that file in the home folder, Ray asks a cloud's metadata address what machine it is on, also when its usage
    reports are off. Workers get the user's home back.
    """
    home = Path(tempfile.gettempdir()) / f"fullconv-ray-{os.getpid()}"
    home.mkdir(exist_ok=True)
    (home / "ray_bootstrap_config.yaml").write_text("{}\n", encoding="utf-8")
    before = _home_variables()
    os.environ.update(dict.fromkeys(before, str(home)))
    try:
        yield
    finally:
        os.environ.update(before)
        atexit.register(shutil.rmtree, home, ignore_errors=True)


def _home_variables() -> dict[str, str]:
    """Return the environment variables that locate the user's home."""
    return {name: os.environ[name] for name in ("HOME", "USERPROFILE") if name in os.environ}


def _stream(ray: Any, job: BatchJob, items: list[Item], manifest: Manifest) -> Iterator[dict[str, Any]]:
    """Yield the row of each image as it is finished, in any order."""
    rows = [vars(item) for item in items]
    table = import_arrow().Table
    blocks = [table.from_pylist(rows[start : start + BLOCK_SIZE]) for start in range(0, len(rows), BLOCK_SIZE)]
    finished_rows = ray.put(frozenset(name for name in manifest.done if "#" in name))
    model = Path(job.model)
    reachable = str(model.resolve()) if model.exists() and not is_url(job.model) else job.model  # from any folder
    gpu = job.device.startswith("cuda")
    actors = job.actors or max(1, int(ray.cluster_resources().get("GPU" if gpu else "CPU", 1)))
    # Loading needs CPUs, too, and waits more than it computes.
    loaded = ray.data.from_arrow(blocks).flat_map(_Loader(finished_rows, _home_variables()), num_cpus=0.25)
    predicted = loaded.map_batches(
        _Predictor,
        fn_constructor_kwargs={"job": job, "model": reachable, "home": _home_variables()},
        compute=ray.data.ActorPoolStrategy(size=min(actors, len(blocks))),
        batch_size=8,
        batch_format="pyarrow",
        num_cpus=0 if gpu else 0.75,
        num_gpus=1 if gpu else 0,
    )
    for block in predicted.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from block.to_pylist()


class _Loader:
    """Loads the images of an item, in a task of Ray's."""

    def __init__(self, finished_rows: Any, home: dict[str, str]) -> None:
        self.finished_rows, self.home = finished_rows, home

    def __call__(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        import ray

        os.environ.update(self.home)  # credentials for URLs lie there
        return list(load_item(row, ray.get(self.finished_rows) if row["group"] >= 0 else frozenset()))


class _Predictor:
    """A worker with the model: takes encoded images, writes label maps, returns rows of the manifest."""

    def __init__(self, job: BatchJob, model: str, home: dict[str, str]) -> None:
        import torch

        os.environ.update(home)
        torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
        self.segmenter = load(model, precision=job.precision, engine=job.engine, device=job.device)
        self.folder, self.format = ResultFolder(job.out), job.format
        self.labels = self.segmenter.card.labels()

    def __call__(self, batch: Any) -> Any:
        rows = [self.predict(image) for image in batch.to_pylist()]
        return import_arrow().Table.from_pylist(rows, schema=manifest_schema())

    def predict(self, image: dict[str, Any]) -> dict[str, Any]:
        """Predict an image and write its label map; returns its row."""
        start = time.perf_counter()
        row = {"input": image["input"], "output": None, "status": "failed", "reason": image["reason"] or None,
               "pixels": None, "warnings": []}  # fmt: skip
        if not image["reason"]:
            try:
                prediction = self.segmenter.predict(image["content"])
                label_map = prediction.label_map
                row["warnings"] = [f"{notice.code}: {notice.message}" for notice in prediction.notices]
                row["output"] = self.folder.write(f"{image['output']}.png", encode(label_map, self.labels, self.format))
                row["pixels"] = np.bincount(label_map.reshape(-1), minlength=len(self.labels.classes)).tolist()
                row["status"] = "done"
            except FullconvError as error:
                message = str(error).removeprefix("bytes: ").removeprefix(f"{UNNAMED} ")
                row["reason"] = f"{image['input']}: {message}"
        return row | {"seconds": time.perf_counter() - start}
