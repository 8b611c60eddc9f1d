"""Where time goes: parts of the work, timed by whoever does them, kept only while somebody watches.

A part within another one counts for itself: of decoding a picture, the time that reading its file takes is reading. What
the watching thread does adds up to the time that passes; threads beside it have sums of their own.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO

STARTING = "starting, loading the model"
CHOOSING = "trying engines"
PREPARING = "preparing the engine"
READING = "reading"
DECODING = "decoding"
RESIZING = "resizing"
NETWORK = "network"
UPSAMPLING = "upsampling + argmax"
COUNTING = "counting"
ENCODING = "encoding"
WRITING = "writing"
WAITING_IN = "waiting for pictures"
WAITING_OUT = "waiting for files"
REST = "the rest"


class Times:
    """Seconds by part, of the thread that watches and of all others together."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.seconds = 0.0
        """From start to end; 0 as long as it is watched."""
        self.main: dict[str, float] = {}
        self.beside: dict[str, float] = {}
        self._thread = threading.get_ident()
        self._lock = threading.Lock()

    def add(self, name: str, seconds: float) -> None:
        """Add to a part of the thread that calls."""
        with self._lock:
            parts = self.main if threading.get_ident() == self._thread else self.beside
            parts[name] = parts.get(name, 0.0) + seconds

    def end(self) -> None:
        """Stop the clock; what the watching thread did without a name is the rest."""
        self.seconds = time.perf_counter() - self.start
        self.main[REST] = max(0.0, self.seconds - sum(self.main.values()))

    def lines(self) -> list[str]:
        """Return a table in words: parts of the watching thread with their share of the time, then those beside it."""
        width = max(len(name) for name in (*self.main, *self.beside))
        told = [f"Where {self.seconds:.2f} s went:"]
        for name, seconds in self.main.items():
            told.append(f"  {name:{width}}  {seconds:8.2f} s  {100 * seconds / max(self.seconds, 1e-9):5.1f} %")
        if self.beside:
            told.append("Meanwhile, in threads beside it (together, with what they waited for a core):")
            told += [f"  {name:{width}}  {seconds:8.2f} s" for name, seconds in self.beside.items()]
        return told


class _Watch:
    """Who watches, and the parts that each thread is in."""

    def __init__(self) -> None:
        self.times: Times | None = None
        self.inner = threading.local()


_watch = _Watch()


@contextmanager
def watch() -> Iterator[Times]:
    """Collect what the program times from here on, on all threads; one at a time."""
    before, _watch.times = _watch.times, Times()
    times = _watch.times
    try:
        yield times
    finally:
        _watch.times = before
        times.end()


def watched() -> bool:
    """Say whether anybody wants to know."""
    return _watch.times is not None


def part(name: str) -> AbstractContextManager[None]:
    """Time what is done within, under a name, without the parts inside it; next to nothing where nobody watches."""
    times = _watch.times
    return nullcontext() if times is None else _timed(name, times)


@contextmanager
def _timed(name: str, times: Times) -> Iterator[None]:
    stack: list[float] = _watch.inner.__dict__.setdefault("stack", [])
    stack.append(0.0)
    start = time.perf_counter()
    try:
        yield
    finally:
        took = time.perf_counter() - start
        times.add(name, took - stack.pop())
        if stack:
            stack[-1] += took


def open_binary(path: Path) -> IO[bytes]:
    """Open a file for reading, the reading being timed where somebody watches."""
    return io.BufferedReader(_TimedFile(path)) if watched() else path.open("rb")


class _TimedFile(io.FileIO):
    """A file that tells how long reading from it takes."""

    def readinto(self, buffer: bytearray | memoryview) -> int | None:  # type: ignore[override]
        with part(READING):
            return super().readinto(buffer)

    def readall(self) -> bytes:
        with part(READING):
            return super().readall() or b""


def duration(seconds: float) -> str:
    """Write seconds as people do.

    >>> duration(95), duration(7300), duration(12)
    ('1 min 35 s', '2 h 2 min', '12 s')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
