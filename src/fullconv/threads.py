"""Threads that wait for one another give the processor back soon.

Every convolution ends in a barrier. There the threads of GNU's OpenMP, with which PyTorch is built on Linux, go round
in a loop for milliseconds before they sleep. Where other work wants the same cores, the thread that all wait for
cannot run, because those that wait do: a training step on two cores beside another one took five times as long as it
had to. Sleeping at once is no answer: on cores of its own a small network's step then takes a third longer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

SPIN_COUNT = "GOMP_SPINCOUNT"
USERS_OWN = (SPIN_COUNT, "OMP_WAIT_POLICY")
"""Variables of the environment by which a user has said how threads are to wait."""
TURNS = "10000"
"""Times round the loop, some tens of microseconds; libgomp's own number is 300,000, and 1000 as soon as it knows of more
threads than cores, which it does not of other processes."""


@contextmanager
def short_waits() -> Iterator[None]:
    """Have PyTorch's threads sleep after a short while, if it is loaded in such a block: libgomp asks only then.

    Processes that are started in the block are told, too. What the user has set is left alone.
    """
    if any(name in os.environ for name in USERS_OWN):
        yield
        return
    os.environ[SPIN_COUNT] = TURNS
    try:
        yield
    finally:
        os.environ.pop(SPIN_COUNT, None)
