"""Where time goes: parts of the work are timed where they are done, and recorded only while a profile is open.

A part excludes the parts within it: decoding an image does not count the time of reading its file. The parts of the
profiling thread add up to the elapsed time; other threads have sums of their own.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO, TypeVar

Item = TypeVar("Item")

STARTING = "starting, loading the model"
CHOOSING = "comparing engines"
PREPARING = "preparing the engine"
READING = "reading"
DECODING = "decoding"
RESIZING = "resizing"
NETWORK = "network"
UPSAMPLING = "upsampling + argmax"
COUNTING = "counting"
ENCODING = "encoding"
WRITING = "writing"
WAITING_IN = "waiting for images"
WAITING_OUT = "waiting for files"
REST = "the rest"


class Times:
    """Seconds by part, of the profiling thread and of all others together."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.seconds = 0.0
        """From start to end; 0 until then."""
        self.main: dict[str, float] = {}
        self.beside: dict[str, float] = {}
        self._thread = threading.get_ident()
        self._lock = threading.Lock()

    def add(self, name: str, seconds: float) -> None:
        """Add to a part of the calling thread."""
        with self._lock:
            parts = self.main if threading.get_ident() == self._thread else self.beside
            parts[name] = parts.get(name, 0.0) + seconds

    def end(self) -> None:
        """Stop the clock; what the profiling thread did outside all parts is the rest."""
        self.seconds = time.perf_counter() - self.start
        self.main[REST] = max(0.0, self.seconds - sum(self.main.values()))

    def lines(self) -> list[str]:
        """Return a table as text: parts of the profiling thread with their share of the time, then those of other threads."""
        width = max(len(name) for name in (*self.main, *self.beside))
        lines = [f"Where {self.seconds:.2f} s went:"]
        for name, seconds in self.main.items():
            lines.append(f"  {name:{width}}  {seconds:8.2f} s  {100 * seconds / max(self.seconds, 1e-9):5.1f} %")
        if self.beside:
            lines.append("Meanwhile, in other threads (in total, including their waits for a core):")
            lines += [f"  {name:{width}}  {seconds:8.2f} s" for name, seconds in self.beside.items()]
        return lines


_current: Times | None = None
_stacks = threading.local()
"""Of each thread: seconds spent in parts within the parts it is in."""


@contextmanager
def profile() -> Iterator[Times]:
    """Collect the times of all parts, on all threads, until the block ends; one profile is open at a time."""
    global _current
    before, _current = _current, Times()
    times = _current
    try:
        yield times
    finally:
        _current = before
        times.end()


def is_profiling() -> bool:
    """Return whether a profile is open."""
    return _current is not None


def timed(name: str) -> AbstractContextManager[None]:
    """Time a block as a part, without the parts within it; next to free while no profile is open."""
    times = _current
    return nullcontext() if times is None else _timed(name, times)


def timed_iter(name: str, items: Iterable[Item]) -> Iterator[Item]:
    """Yield items, timing the wait for each as a part."""
    iterator = iter(items)
    while True:
        with timed(name):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item


@contextmanager
def _timed(name: str, times: Times) -> Iterator[None]:
    stack: list[float] = _stacks.__dict__.setdefault("stack", [])
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
    """Open a file for reading; reads are timed while a profile is open."""
    return io.BufferedReader(_TimedFile(path)) if is_profiling() else path.open("rb")


class _TimedFile(io.FileIO):
    """A file whose reads are timed."""

    def readinto(self, buffer: bytearray | memoryview) -> int | None:  # type: ignore[override]
        with timed(READING):
            return super().readinto(buffer)

    def readall(self) -> bytes:
        with timed(READING):
            return super().readall() or b""


def duration(seconds: float) -> str:
    """Format seconds.

    >>> duration(95), duration(7300), duration(12)
    ('1 min 35 s', '2 h 2 min', '12 s')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
