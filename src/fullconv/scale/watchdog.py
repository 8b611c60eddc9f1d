"""Says when nothing comes any more: a job whose copies end again and again, for want of memory, would be silent for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fullconv.profiling import duration

PATIENCE = 120.0
"""Seconds without a picture after which, and every so often, it is said."""


@contextmanager
def overseen(
    say: Callable[[str], None] | None, hint: Callable[[], str], patience: float = PATIENCE
) -> Iterator[Callable[[], None]]:
    """Watch over a job from a thread.

    Args:
        say: Gets a sentence each time that so many seconds have passed without a sign of life; None for nobody.
        hint: Returns what to look at; asked when it is said.
        patience: Those seconds.

    Yields:
        A function to call at each sign of life.
    """
    last = time.monotonic()
    over = threading.Event()

    def sign() -> None:
        nonlocal last
        last = time.monotonic()

    def watch() -> None:
        said = 0
        while not over.wait(patience / 8):
            quiet = int((time.monotonic() - last) / patience)
            if quiet > said and say is not None:
                say(f"No picture was finished in the last {duration(quiet * patience)}. {hint()}")
            said = quiet

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield sign
    finally:
        over.set()
        thread.join()
