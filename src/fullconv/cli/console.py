"""What commands say and how: words and progress on stderr, results on stdout, both in UTF-8."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from fullconv.errors import RecipeError, nearest
from fullconv.profiling import profile

if TYPE_CHECKING:
    from rich.console import RenderableType

SIGTERM_CODE = 143

SECONDS_BETWEEN_LINES = 30.0
"""Of progress where stderr is no terminal."""


class TerminatedError(BaseException):
    """The process got SIGTERM; like KeyboardInterrupt no error that anything should handle on the way."""


def complain(text: str) -> None:
    """Say what went wrong."""
    print(f"fullconv: {text}", file=sys.stderr, flush=True)


def say(text: str) -> None:
    """Say something that is no result."""
    print(text, file=sys.stderr, flush=True)


class _Said(logging.Handler):
    """Says what the library has to tell, as it chooses an engine for example."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


def listen() -> None:
    """Say on stderr what the library tells while it works."""
    logger = logging.getLogger("fullconv")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _Said) for handler in logger.handlers):
        logger.addHandler(_Said())


def print_json(value: Any) -> None:
    """Print one JSON object."""
    print(json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False))


def print_rich(*parts: RenderableType) -> None:
    """Print tables and text on stdout; where that is no terminal, as wide as they need."""
    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=160)
    with console.capture() as captured:
        for part in parts:
            console.print(part, highlight=False)
    lines = captured.get().splitlines()
    print("\n".join(line.rstrip() for line in lines))  # here, as rich ends the program where a pipe is closed


@contextmanager
def results_only() -> Iterator[None]:
    """Keep what libraries print out of stdout."""
    with redirect_stdout(sys.stderr):
        yield


def choose(option: str, value: str, known: Sequence[str]) -> str:
    """Return the value of an option that has a few words to choose from.

    Raises:
        RecipeError: It is none of them.
    """
    if value not in known:
        raise RecipeError(f"{option} {value}: choose {', '.join(known[:-1])} or {known[-1]}.{nearest(value, known)}")
    return value


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a request, so that what was begun is finished; a second one stops at once.

    Yields:
        Whether a stop was asked for.

    Raises:
        KeyboardInterrupt, TerminatedError: At the end, where it was.
    """
    asked: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if asked:
            _raise_for(number)
        asked.append(number)
        with suppress(OSError):  # not print: it may be in the middle of another one
            os.write(2, b"Stopping after this picture; once more stops at once.\n")

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:
        _raise_for(asked[0])


def _raise_for(number: int) -> NoReturn:
    raise KeyboardInterrupt if number == signal.SIGINT else TerminatedError


@contextmanager
def tell_times(wanted: bool) -> Iterator[None]:
    """Say at the end, also of a stop, where the time went; nothing is measured where nobody wants to know."""
    if not wanted:
        yield
        return
    times = None
    try:
        with profile() as times:
            yield
    finally:
        if times is not None:
            say("\n".join(times.lines()))


class Progress:
    """How far a command is: a bar on a terminal, else a line now and then.

    Args:
        what: Of what there are so many, for example "pictures".
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._start = self._told = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        """Show that so many are done."""
        if sys.stderr.isatty():
            self._draw(done, total)
            return
        now = time.monotonic()
        if now - self._told >= SECONDS_BETWEEN_LINES and done < total:
            self._told = now
            speed = done / (now - self._start)
            say(
                f"{done} of {total} {self.what}, {speed:.1f} a second, about {(total - done) / speed / 60:.0f} min left"
            )

    def _draw(self, done: int, total: int) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self.what, total=total)
        self._bar.update(self._task, completed=done, total=total)
