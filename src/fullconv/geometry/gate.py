"""Tracing alone: torch.fx changes how every module of the process is called while it traces, in all threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_changed = threading.Condition()
_running = 0
_tracing = threading.RLock()


@contextmanager
def computing() -> Iterator[None]:
    """Let a network compute; several threads may at a time, but not while another one traces."""
    global _running
    with _tracing, _changed:
        _running += 1
    try:
        yield
    finally:
        with _changed:
            _running -= 1
            _changed.notify_all()


@contextmanager
def tracing() -> Iterator[None]:
    """Trace a network while no other computes."""
    with _tracing:
        with _changed:
            _changed.wait_for(lambda: _running == 0)
        yield
