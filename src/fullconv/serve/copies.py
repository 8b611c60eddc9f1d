"""One copy of a model as the service sees it: a process, what it was given, its death, and its restart."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fullconv.card import Card
from fullconv.errors import ModelFileError
from fullconv.serve.frames import LENGTHS, pack
from fullconv.serve.problems import Refusal

if TYPE_CHECKING:
    from fullconv.serve.pool import Pool

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
