"""Report when a job has stalled: workers that end again and again, out of memory, would otherwise be silent for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fullconv.profiling import duration

STALL_SECONDS = 120.0
"""Time without a finished image after which, and every so often, a stall is reported."""


@contextmanager
def watchdog(
    report: Callable[[str], None] | None, hint: Callable[[], str], stall_seconds: float = STALL_SECONDS
) -> Iterator[Callable[[], None]]:
    """Watch a job from a thread.

    Args:
        report: Receives a message each time that `stall_seconds` have passed without a heartbeat; None drops it.
        hint: Returns what to check; called when a stall is reported.
        stall_seconds: Time without a heartbeat that counts as a stall.

    Yields:
        The heartbeat: a function to call at each sign of progress.
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
