"""Output of the commands: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from fullconv.errors import plural
from fullconv.profiling import profile
from fullconv.system import handle_signals

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from fullconv.notices import Notice

SIGTERM_CODE = 143
PROGRESS_INTERVAL_S = 30.0
"""Between lines of progress where stderr is not a terminal."""


class TerminatedError(BaseException):
    """The process got SIGTERM; like KeyboardInterrupt, no error to be handled on the way."""


def print_error(text: str) -> None:
    """Print an error on stderr."""
    print(f"fullconv: {text}", file=sys.stderr, flush=True)


def status(text: str) -> None:
    """Print a line that is not a result on stderr."""
    print(text, file=sys.stderr, flush=True)


def print_counts(notices: Iterable[Notice]) -> None:
    """Print of how many files a warning is, which was printed at the first."""
    for notice in notices:
        if notice.count > 1:
            status(f"Warning {notice.code}: {notice.count} files, the first {notice.file}.")


class _StatusHandler(logging.Handler):
    """Prints the library's log as status lines, for example which engine it uses."""

    def emit(self, record: logging.LogRecord) -> None:
        status(self.format(record))


def show_log() -> None:
    """Print the library's log on stderr."""
    logger = logging.getLogger("fullconv")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _StatusHandler) for handler in logger.handlers):
        logger.addHandler(_StatusHandler())


def print_json(value: Any) -> None:
    """Print one JSON object on stdout."""
    print(json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False))


def print_rich(*parts: RenderableType) -> None:
    """Print tables and text on stdout; as wide as they need where that is not a terminal."""
    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=160)
    with console.capture() as captured:
        for part in parts:
            console.print(part, highlight=False)
    lines = captured.get().splitlines()
    print("\n".join(line.rstrip() for line in lines))  # not by rich, which ends the program where a pipe is closed


def make_table(*columns: str, title: str | None = None, line: bool = True) -> Table:
    """Return an empty table; a column whose name begins with ">" is right-aligned."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD if line else None, pad_edge=False, title=title, title_justify="left")
    for name in columns:
        table.add_column(name.removeprefix(">"), justify="right" if name.startswith(">") else "left", overflow="fold")
    return table


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Keep the output of libraries off stdout."""
    with redirect_stdout(sys.stderr):
        yield


def count_images(done: int, others: Mapping[str, int]) -> str:
    """Return the number of images predicted, and those of other outcomes that occurred."""
    return ", ".join([f"{plural(done, 'image')} predicted", *(f"{n} {outcome}" for outcome, n in others.items() if n)])


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a request to finish what was begun, and raise for it at the end.

    Yields whether a stop was requested. A second signal stops at once.
    """
    requests: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if requests:
            _raise_for(number)
        requests.append(number)
        with suppress(OSError):  # not print: this may interrupt another one
            os.write(2, b"Stopping after this image; press Ctrl-C again to stop at once.\n")

    with handle_signals(handle, signal.SIGINT, signal.SIGTERM):
        yield lambda: bool(requests)
    if requests:
        _raise_for(requests[0])


def _raise_for(number: int) -> NoReturn:
    raise KeyboardInterrupt if number == signal.SIGINT else TerminatedError


@contextmanager
def timing(enabled: bool) -> Iterator[None]:
    """Print where the time went at the end, also after a stop."""
    if not enabled:
        yield
        return
    try:
        with profile() as times:
            yield
    finally:
        status("\n".join(times.lines()))


class Progress:
    """Progress of a command: a bar on a terminal, otherwise a line now and then."""

    def __init__(self, noun: str = "images") -> None:
        self.noun = noun
        self._start = self._last_line = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        """Show that so many are done."""
        now = time.monotonic()
        if not sys.stderr.isatty():
            if now - self._last_line >= PROGRESS_INTERVAL_S and done < total:
                self._last_line = now
                speed = done / (now - self._start)
                minutes = (total - done) / speed / 60
                status(f"{done} of {total} {self.noun}, {speed:.1f} per second, about {minutes:.0f} min left")
            return
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self.noun, total=total)
        self._bar.update(self._task, completed=done, total=total)
