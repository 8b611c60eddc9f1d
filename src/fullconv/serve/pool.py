"""One copy of a model as the service sees it: a process, what it was given, its death, and its restart.

The copies of one model together: a bounded queue before them, and whose turn it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from fullconv.card import Card
from fullconv.errors import ModelFileError
from fullconv.serve.errors import Refusal
from fullconv.serve.ipc import LENGTHS, pack
from fullconv.serve.logging import Journal
from fullconv.serve.metrics import Measures
from fullconv.serve.settings import Settings

BUFFER = 2**23
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 30.0
"""Seconds before a restart; doubled while a copy dies before it has answered anything."""
STARTS = 3
"""Tries of a copy that has never been ready, where it does not say what is wrong."""
LAST_WORDS = 1.0
"""Seconds for a process whose output has ended to end by itself."""

_numbers = itertools.count(1)


@dataclass
class Job:
    """One picture, from its acceptance to its answer."""

    order: dict[str, Any]
    body: bytes
    future: asyncio.Future[Answer]
    number: int = field(default_factory=lambda: next(_numbers))
    attempts: int = 0
    sent: float = 0.0
    dropped: bool = False


@dataclass(frozen=True)
class Answer:
    """What a copy made of a picture."""

    payload: bytes
    pixels: int
    batch: int
    """Pictures that went through the network with it."""
    seconds: float
    """In the network."""
    engine: str
    precision: str


class Copy:
    """One process with the model, started again whenever it ends.

    Args:
        pool: Whose jobs it does.
        place: Its number, for the log.
    """

    def __init__(self, pool: Pool, place: int) -> None:
        self.pool, self.place = pool, place
        self.process: asyncio.subprocess.Process | None = None
        self.ready = False
        self.jobs: dict[int, Job] = {}
        self.failure: str | None = None
        self._answered = False
        self._heard = 0.0

    async def keep(self) -> None:
        """Run the process, and run it again, until the pool stops."""
        pause, deaths = FIRST_PAUSE, 0
        while True:
            self._answered = False
            code = await self._once()
            deaths += 1
            if self.pool.stopping:
                return
            if not self.pool.started.done() and (self.failure is not None or deaths >= STARTS):
                words = (
                    f"{self.pool.settings.models[self.pool.name]}: the process that loads it ended with code {code}."
                )
                self.pool.started.set_exception(ModelFileError(self.failure or words))
            self.pool.measures.restarts.labels(self.pool.name).inc()
            pause = FIRST_PAUSE if self._answered else min(LONGEST_PAUSE, pause * 2)
            await asyncio.sleep(pause)

    async def _once(self) -> int:
        settings, name = self.pool.settings, self.pool.name
        command = [sys.executable, "-m", "fullconv.serve.worker"]
        self.process = process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=BUFFER
        )
        told = {
            "model": settings.models[name], "device": settings.device, "precision": settings.precision,
            "engine": settings.engine, "copies": settings.copies, "batch_size": settings.batch_size,
            "max_pixels": settings.max_pixels, "chosen": self.pool.chosen,
        }  # fmt: skip
        self._write(told, b"")
        try:
            await self._listen()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.ready = False
            # a signal sent at the moment of the end would take the exit status away from the event loop
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(process.wait(), LAST_WORDS)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        code = await process.wait()
        self.pool.measures.copies.labels(name).set(self.pool.ready)
        if not self.pool.stopping:
            words = {"reason": self.failure} if self.failure else {}
            self.pool.journal.write("copy-ended", level="error", model=name, copy=self.place, code=code, **words)
        jobs, self.jobs = self.jobs, {}
        self.pool.take_back(list(jobs.values()))
        return code

    async def _listen(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        while True:
            head, payload = await _read(self.process.stdout)
            self._heard = time.monotonic()
            if "failed" in head:
                self.failure = str(head["failed"])
                return
            if "ready" in head:
                self.ready, self.failure = True, None
                self.pool.welcome(Card.from_json(payload.decode()), head["ready"], head["chosen"], self.place)
                continue
            self._answered = True
            job = self.jobs.pop(int(head["id"]), None)
            if job is not None and "traceback" in head:
                facts = {"request_id": job.order.get("request_id"), "model": self.pool.name}
                self.pool.journal.write("bug", level="error", **facts, traceback=head["traceback"])
            if job is not None and not job.future.done():
                if "refused" in head:
                    job.future.set_exception(Refusal(*head["refused"]))
                else:
                    told = (head[key] for key in ("pixels", "batch", "seconds", "engine", "precision"))
                    job.future.set_result(Answer(payload, *told))
            self.pool.dispatch()

    def send(self, job: Job) -> None:
        """Hand a job over."""
        self.jobs[job.number] = job
        job.attempts += 1
        job.sent = time.monotonic()
        self._write({**job.order, "id": job.number}, job.body)

    def drop(self, job: Job) -> None:
        """Say that nobody waits for a job any more; what is in the network is finished all the same."""
        if self.jobs.get(job.number) is job and not job.dropped:
            job.dropped = True
            self._write({"id": job.number, "drop": True}, b"")

    def is_stuck(self, limit: float) -> bool:
        """Whether it has a job and has said nothing for so many seconds."""
        return bool(self.jobs) and time.monotonic() - max(self._heard, min(j.sent for j in self.jobs.values())) > limit

    def end(self) -> None:
        """Close its input, at which it ends by itself."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()

    def kill(self) -> None:
        """End the process at once."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()

    def _write(self, head: dict[str, Any], payload: bytes) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        packed = pack(head)
        # no drain: what waits in the buffer is at most a window of bodies
        self.process.stdin.writelines([LENGTHS.pack(len(packed), len(payload)), packed, payload])


async def _read(source: asyncio.StreamReader) -> tuple[dict[str, Any], bytes]:
    head, payload = LENGTHS.unpack(await source.readexactly(LENGTHS.size))
    return json.loads(await source.readexactly(head)), await source.readexactly(payload) if payload else b""


ATTEMPTS = 2
"""Copies that a request may take with it before it is refused."""
STUCK = 2.0
"""A copy that says nothing for so many time limits, although it has pictures, is ended."""


class Pool:
    """All copies of one model, and what waits for them.

    Args:
        name: Of the model.
        settings: Of the service.
        measures: Counted up on the way.
        journal: The log.
    """

    def __init__(self, name: str, settings: Settings, measures: Measures, journal: Journal) -> None:
        self.name, self.settings, self.measures, self.journal = name, settings, measures, journal
        self.card: Card | None = None
        self.running: dict[str, str] = {}
        """Engine, precision and device that the copies say they use."""
        self.chosen: dict[str, Any] | None = None
        """What the first copy has chosen for each class of picture sizes, for which weights; told to all that follow."""
        self.stopping = False
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.window = 2 * settings.batch_size + 2  # one batch in the network, one decoded, two on the way
        self._waiting: deque[Job] = deque()
        self._copies = [Copy(self, place) for place in range(settings.copies)]
        self._tasks: list[asyncio.Task[None]] = []
        self._watcher: asyncio.Task[None] | None = None
        self._pace = 0.0
        """Seconds a picture in the network, smoothed."""

    @property
    def ready(self) -> int:
        """Copies that take jobs."""
        return sum(copy.ready for copy in self._copies)

    @property
    def pids(self) -> list[int]:
        """Processes of the copies that run."""
        return [copy.process.pid for copy in self._copies if copy.ready and copy.process is not None]

    @property
    def load(self) -> int:
        """Pictures that wait or are computed."""
        return len(self._waiting) + sum(len(copy.jobs) for copy in self._copies)

    @property
    def engines(self) -> list[dict[str, Any]]:
        """Engine and precision by the most pixels of a picture; None where there is no limit."""
        found = self.chosen["engines"] if self.chosen is not None else {}
        rows = [(int(side) ** 2, *choice) for side, choice in found.items()]
        if not rows:
            rows = [(0, self.running.get("engine", ""), self.running.get("precision", ""))]
        rows = [row for row, after in itertools.zip_longest(rows, rows[1:]) if after is None or row[1:] != after[1:]]
        limits = [pixels for pixels, *_ in rows[:-1]] + [None]
        return [
            {"max_pixels": limit, "engine": engine, "precision": precision}
            for limit, (_, engine, precision) in zip(limits, rows, strict=True)
        ]

    async def start(self) -> None:
        """Start the first copy and wait until it has chosen its engine, with the machine to itself.

        Raises:
            ModelFileError: The model cannot be loaded.
        """
        self.journal.write("loading", model=self.name, copies=len(self._copies))
        self._tasks = [asyncio.create_task(self._copies[0].keep())]
        self._watcher = asyncio.create_task(self._watch())
        await self.started

    def complete(self) -> None:
        """Start the other copies, which are told what the first has chosen."""
        self._tasks += [asyncio.create_task(copy.keep()) for copy in self._copies[1:]]

    def welcome(self, card: Card, running: dict[str, str], chosen: dict[str, list[str]], place: int) -> None:
        """Take a copy that has loaded the model.

        Args:
            card: Of the model.
            running: Engine, precision and device.
            chosen: Engine and precision by the side of a square of as many pixels as pictures have at most; empty where
                one engine computes all.
            place: The copy's number.
        """
        changed = self.card is not None and self.card.weights_sha256 != card.weights_sha256
        if changed:
            self.journal.write("model-changed", level="warning", model=self.name, weights_sha256=card.weights_sha256)
        self.card, self.running = card, running
        if self.chosen is None or changed:
            self.chosen = {"weights_sha256": card.weights_sha256, "engines": chosen}
            self.journal.write("engine-chosen", model=self.name, engines=self.engines)
        self.measures.copies.labels(self.name).set(self.ready)
        self.journal.write("copy-ready", model=self.name, copy=place, **running)
        if not self.started.done():
            self.started.set_result(None)
        self.dispatch()

    async def ask(self, order: dict[str, Any], body: bytes, seconds: float) -> Answer:
        """Have a picture predicted.

        Args:
            order: answer, tile, head, scale, include, request_id.
            body: The picture's file.
            seconds: How long it may take.

        Raises:
            Refusal: The queue is full, the time is over, or the picture cannot be predicted.
        """
        if self.load >= self.settings.queue:
            raise self.full()
        job = Job(order, body, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self.dispatch()
        try:
            answer = await asyncio.wait_for(asyncio.shield(job.future), seconds)
        except asyncio.TimeoutError:
            raise self._too_late(job) from None
        finally:
            self._forget(job)
        own = answer.seconds / answer.batch
        self._pace = 0.9 * self._pace + 0.1 * own if self._pace else own
        return answer

    def full(self) -> Refusal:
        """Return the answer where the queue is full."""
        words = f"{self.load} pictures are waiting already. Try again in a moment."
        return Refusal(503, "queue-full", words, self.retry_after())

    def retry_after(self) -> int:
        """Return the seconds after which half of what waits is likely to be done."""
        return max(1, min(60, math.ceil(self._pace * self.load / max(1, self.ready) / 2)))

    def dispatch(self) -> None:
        """Hand waiting jobs to the copies with the fewest, as far as these have room."""
        self.measures.queue.labels(self.name).set(self.load)
        while self._waiting:
            free = [copy for copy in self._copies if copy.ready and len(copy.jobs) < self.window]
            if not free:
                return
            job = self._waiting.popleft()
            if not job.future.done():
                min(free, key=lambda copy: len(copy.jobs)).send(job)

    def take_back(self, jobs: list[Job]) -> None:
        """Put what a dead copy had at the front of the queue; what has died with two is refused."""
        for job in reversed(jobs):
            if job.future.done():
                continue
            if job.attempts >= ATTEMPTS or self.stopping:
                words = "the process that computed this picture ended, twice. Try again, or send another picture."
                job.future.set_exception(Refusal(503, "copy-ended", words, max(5, self.retry_after())))
            else:
                self._waiting.appendleft(job)
        self.dispatch()

    async def stop(self) -> None:
        """End all copies."""
        self.stopping = True
        for copy in self._copies:
            copy.end()
        if self._watcher is not None:
            self._watcher.cancel()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=3)
            if late:
                for copy in self._copies:
                    copy.kill()
                await asyncio.wait(late, timeout=3)
        for task in self._tasks:
            task.cancel()

    def _too_late(self, job: Job) -> Refusal:
        limit = f"{self.settings.timeout:g} seconds"
        if not job.sent:
            words = f"the picture waited for {limit} and its turn did not come. Try again later."
            return Refusal(503, "waited-too-long", words, self.retry_after())
        words = f"the picture was not done within {limit}, the limit of this service. Send a smaller one, or a smaller scale."
        return Refusal(408, "too-slow", words)

    def _forget(self, job: Job) -> None:
        """Take a job that has its answer, or that nobody waits for, out of the queue."""
        if not job.future.done():
            job.future.cancel()
        for copy in self._copies:
            copy.drop(job)
        with contextlib.suppress(ValueError):
            self._waiting.remove(job)
        self.measures.queue.labels(self.name).set(self.load)

    async def _watch(self) -> None:
        """End a copy that hangs."""
        limit = STUCK * self.settings.timeout
        while True:
            await asyncio.sleep(min(1.0, limit / 4))
            for copy in self._copies:
                if copy.is_stuck(limit):
                    self.journal.write("copy-stuck", level="error", model=self.name, copy=copy.place)
                    copy.kill()
