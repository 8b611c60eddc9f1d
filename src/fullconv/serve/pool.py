"""The worker processes of a model: a bounded queue, dispatch, retries, restarts."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from fullconv.card import Card
from fullconv.errors import ModelFileError
from fullconv.serve.errors import ApiError
from fullconv.serve.ipc import pack_frame, receive_frame
from fullconv.serve.monitoring import JsonLog, Metrics
from fullconv.serve.settings import Settings

PIPE_BUFFER_BYTES = 2**23
MIN_RESTART_DELAY, MAX_RESTART_DELAY = 0.05, 30.0
"""Seconds before a restart; doubled while a worker dies before it has returned any result."""
MAX_STARTS = 3
"""Starts of a worker that was never ready, where it does not report why."""
EXIT_GRACE_SECONDS = 1.0
"""Time for a process whose output has ended to exit by itself."""
STOP_GRACE_SECONDS = 3.0
MAX_ATTEMPTS = 2
"""Workers that may die with a request before it gets an error."""
HUNG_TIMEOUTS = 2.0
"""A worker with requests is killed after so many time limits without a frame from it."""

_numbers = itertools.count(1)


@dataclass
class Request:
    """One image, from its acceptance to its result."""

    params: dict[str, Any]
    body: bytes
    future: asyncio.Future[Result]
    number: int = field(default_factory=lambda: next(_numbers))
    attempts: int = 0
    sent: float = 0.0
    dropped: bool = False


@dataclass(frozen=True)
class Result:
    """What a worker computed."""

    payload: bytes
    pixels: int
    batch: int
    """Images in the batch."""
    seconds: float
    """Of the batch in the network."""
    engine: str
    precision: str
    warnings: list[str]
    """Codes of what a user should know about the result."""


class WorkerProcess:
    """One process with the model, restarted whenever it ends."""

    def __init__(self, pool: Pool, index: int) -> None:
        self.pool, self.index = pool, index
        self.process: asyncio.subprocess.Process | None = None
        self.ready = False
        self.requests: dict[int, Request] = {}
        self.failure: str | None = None
        """The error that the process reported before it ended."""
        self._has_responded = False
        self._last_frame = 0.0

    async def run(self) -> None:
        """Start the process, and restart it, until the pool stops."""
        delay = MIN_RESTART_DELAY
        for starts in itertools.count(1):
            self._has_responded = False
            code = await self._run_once()
            if self.pool.stopping:
                return
            if not self.pool.started.done() and (self.failure is not None or starts >= MAX_STARTS):
                model = self.pool.settings.models[self.pool.name]
                message = self.failure or f"{model}: the process that loads it exited with code {code}."
                self.pool.started.set_exception(ModelFileError(message))
            self.pool.metrics.restarts.labels(self.pool.name).inc()
            delay = MIN_RESTART_DELAY if self._has_responded else min(MAX_RESTART_DELAY, delay * 2)
            await asyncio.sleep(delay)

    async def _run_once(self) -> int:
        settings, name = self.pool.settings, self.pool.name
        self.process = process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "fullconv.serve.worker",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=PIPE_BUFFER_BYTES,
        )  # fmt: skip
        self._write({
            "model": settings.models[name], "device": settings.device, "precision": settings.precision,
            "engine": settings.engine, "copies": settings.copies, "batch_size": settings.batch_size,
            "max_pixels": settings.max_pixels, "chosen": self.pool.chosen,
        })  # fmt: skip
        try:
            await self._receive()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.ready = False
            # A signal sent at the moment of the exit would take the exit status away from the event loop.
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(process.wait(), EXIT_GRACE_SECONDS)
            self.kill()
        code = await process.wait()
        self.pool.metrics.ready_workers.labels(name).set(self.pool.ready)
        if not self.pool.stopping:
            reason = {"reason": self.failure} if self.failure else {}
            self.pool.log.write("copy-ended", level="error", model=name, copy=self.index, code=code, **reason)
        requests, self.requests = self.requests, {}
        self.pool.requeue(list(requests.values()))
        return code

    async def _receive(self) -> None:
        """Handle frames until the process reports a failure or closes its output."""
        assert self.process is not None
        assert self.process.stdout is not None
        while True:
            header, payload = await receive_frame(self.process.stdout)
            self._last_frame = time.monotonic()
            if "failed" in header:
                self.failure = str(header["failed"])
                return
            if "ready" in header:
                self.ready, self.failure = True, None
                card = Card.from_json(payload.decode())
                self.pool.on_ready(card, header["ready"], header["chosen"], self.index)
                continue
            self._has_responded = True
            request = self.requests.pop(int(header["id"]), None)
            if "traceback" in header and request is not None:
                self.pool.log.write(
                    "bug", level="error", request_id=request.params.get("request_id"), model=self.pool.name,
                    traceback=header["traceback"],
                )  # fmt: skip
            if request is not None and not request.future.done():
                if "error" in header:
                    request.future.set_exception(ApiError(*header["error"]))
                else:
                    fields = (header[key] for key in ("pixels", "batch", "seconds", "engine", "precision", "warnings"))
                    request.future.set_result(Result(payload, *fields))
            self.pool.dispatch()

    def send(self, request: Request) -> None:
        """Send a request to the process."""
        self.requests[request.number] = request
        request.attempts += 1
        request.sent = time.monotonic()
        self._write({**request.params, "id": request.number}, request.body)

    def drop(self, request: Request) -> None:
        """Cancel a request that it holds; a batch that is in the network is finished nevertheless."""
        if self.requests.get(request.number) is request and not request.dropped:
            request.dropped = True
            self._write({"id": request.number, "drop": True})

    def is_hung(self, limit: float) -> bool:
        """Whether it holds requests and has sent nothing for so many seconds."""
        if not self.requests:
            return False
        oldest = min(request.sent for request in self.requests.values())
        return time.monotonic() - max(self._last_frame, oldest) > limit

    def close(self) -> None:
        """Close its input, at which it exits."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()

    def kill(self) -> None:
        """Kill the process."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()

    def _write(self, header: dict[str, Any], payload: bytes = b"") -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        # No drain: the buffer holds at most a window of bodies.
        self.process.stdin.writelines(pack_frame(header, payload))


class Pool:
    """The worker processes of one model, and the queue before them."""

    def __init__(self, name: str, settings: Settings, metrics: Metrics, log: JsonLog) -> None:
        self.name, self.settings, self.metrics, self.log = name, settings, metrics, log
        self.card: Card | None = None
        self.running: dict[str, str] = {}
        """Engine, precision and device of the workers."""
        self.chosen: dict[str, Any] | None = None
        """"engines": what the first worker chose for each class of image sizes, for all later ones; "weights_sha256"."""
        self.stopping = False
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.window = 2 * settings.batch_size + 2  # one batch in the network, one decoded, two on the way
        self._queue: deque[Request] = deque()
        self._workers = [WorkerProcess(self, index) for index in range(settings.copies)]
        self._tasks: list[asyncio.Task[None]] = []
        self._watchdog: asyncio.Task[None] | None = None
        self._seconds_per_image = 0.0
        """In the network, smoothed."""

    @property
    def ready(self) -> int:
        """Workers that accept requests."""
        return sum(worker.ready for worker in self._workers)

    @property
    def heads(self) -> list[str]:
        """Names of the model's heads; empty where it has one without a name."""
        return list(self.card.heads or ()) if self.card is not None else []

    @property
    def load(self) -> int:
        """Images that are queued or computed."""
        return len(self._queue) + sum(len(worker.requests) for worker in self._workers)

    @property
    def engines(self) -> list[dict[str, Any]]:
        """Engine and precision by the maximum number of pixels of an image; None where there is no limit."""
        chosen = self.chosen["engines"] if self.chosen is not None else {}
        rows = [(int(side) ** 2, *choice) for side, choice in chosen.items()]
        if not rows:
            rows = [(0, self.running.get("engine", ""), self.running.get("precision", ""))]
        rows = [row for row, after in itertools.zip_longest(rows, rows[1:]) if after is None or row[1:] != after[1:]]
        rows[-1] = (None, *rows[-1][1:])
        return [dict(zip(("max_pixels", "engine", "precision"), row, strict=True)) for row in rows]

    async def start(self) -> None:
        """Start the first worker and wait until it has chosen its engine, with the machine to itself."""
        self.log.write("loading", model=self.name, copies=len(self._workers))
        self._tasks = [asyncio.create_task(self._workers[0].run())]
        self._watchdog = asyncio.create_task(self._kill_hung())
        await self.started

    def start_others(self) -> None:
        """Start the other workers, which take over the choice of the first."""
        self._tasks += [asyncio.create_task(worker.run()) for worker in self._workers[1:]]

    def on_ready(self, card: Card, running: dict[str, str], chosen: dict[str, list[str]], index: int) -> None:
        """Accept a worker that has loaded the model; `chosen` is what `worker.choose_engines` returned."""
        changed = self.card is not None and self.card.weights_sha256 != card.weights_sha256
        if changed:
            self.log.write("model-changed", level="warning", model=self.name, weights_sha256=card.weights_sha256)
        self.card, self.running = card, running
        if self.chosen is None or changed:
            self.chosen = {"weights_sha256": card.weights_sha256, "engines": chosen}
            self.log.write("engine-chosen", model=self.name, engines=self.engines)
        self.metrics.ready_workers.labels(self.name).set(self.ready)
        self.log.write("copy-ready", model=self.name, copy=index, **running)
        if not self.started.done():
            self.started.set_result(None)
        self.dispatch()

    async def predict(self, params: dict[str, Any], body: bytes, deadline: float) -> Result:
        """Predict an image file with the parameters of a request; `deadline` is in seconds of `time.monotonic`."""
        self.check_queue()
        request = Request(params, body, asyncio.get_running_loop().create_future())
        self._queue.append(request)
        self.dispatch()
        try:
            result = await asyncio.wait_for(asyncio.shield(request.future), max(0.0, deadline - time.monotonic()))
        except asyncio.TimeoutError:
            limit = f"{self.settings.timeout:g} s"
            if not request.sent:
                message = f"timed out after {limit} in the queue. Try again later."
                raise ApiError(503, "waited-too-long", message, self._retry_after()) from None
            message = f"the image was not done within {limit}, the limit of this service. Send a smaller one, or a smaller scale."
            raise ApiError(408, "too-slow", message) from None
        finally:
            request.future.cancel()  # no effect where it is done
            for worker in self._workers:
                worker.drop(request)
            with contextlib.suppress(ValueError):
                self._queue.remove(request)
            self.metrics.queue.labels(self.name).set(self.load)
        seconds = result.seconds / result.batch
        self._seconds_per_image = 0.9 * self._seconds_per_image + 0.1 * seconds if self._seconds_per_image else seconds
        return result

    def check_queue(self) -> None:
        """Require room in the queue."""
        if self.load >= self.settings.queue:
            message = f"the queue is full ({self.load}). Try again in a moment."
            raise ApiError(503, "queue-full", message, self._retry_after())

    def _retry_after(self) -> int:
        """Return the seconds after which half of the queue is likely to be done."""
        return max(1, min(60, math.ceil(self._seconds_per_image * self.load / max(1, self.ready) / 2)))

    def dispatch(self) -> None:
        """Send queued requests to the workers with the fewest, as far as these have room."""
        self.metrics.queue.labels(self.name).set(self.load)
        while self._queue:
            free = [worker for worker in self._workers if worker.ready and len(worker.requests) < self.window]
            if not free:
                return
            request = self._queue.popleft()
            if not request.future.done():
                min(free, key=lambda worker: len(worker.requests)).send(request)

    def requeue(self, requests: list[Request]) -> None:
        """Put the requests of a dead worker at the front of the queue; one whose second worker has died gets an error."""
        for request in reversed(requests):
            if request.future.done():
                continue
            if request.attempts >= MAX_ATTEMPTS or self.stopping:
                message = "the process that computed this image ended, twice. Try again, or send another image."
                request.future.set_exception(ApiError(503, "copy-ended", message, max(5, self._retry_after())))
            else:
                self._queue.appendleft(request)
        self.dispatch()

    async def stop(self) -> None:
        """End all workers."""
        self.stopping = True
        for worker in self._workers:
            worker.close()
        if self._watchdog is not None:
            self._watchdog.cancel()
        if self._tasks:
            _, pending = await asyncio.wait(self._tasks, timeout=STOP_GRACE_SECONDS)
            if pending:
                for worker in self._workers:
                    worker.kill()
                await asyncio.wait(pending, timeout=STOP_GRACE_SECONDS)
        for task in self._tasks:
            task.cancel()

    async def _kill_hung(self) -> None:
        limit = HUNG_TIMEOUTS * self.settings.timeout
        while True:
            await asyncio.sleep(min(1.0, limit / 4))
            for worker in self._workers:
                if worker.is_hung(limit):
                    self.log.write("copy-stuck", level="error", model=self.name, copy=worker.index)
                    worker.kill()
