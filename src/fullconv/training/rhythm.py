"""When a checkpoint is written: at its interval, and after an epoch where that is cheap."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

CHECKPOINT_SHARE = 0.02
"""Of the time since the one before, that a checkpoint at the end of an epoch may take."""
DISK_SPEED = 200e6
"""Bytes a second at which the first checkpoint is expected to be written."""


@dataclass
class Rhythm:
    """Says when a checkpoint is due.

    One at the end of an epoch may take as long as the one before did, and that is at most 2 % of the time since then. So
    those at ends of epochs, but for the newest, together take no more than 2 % of the time in between.
    """

    every: float
    """Seconds after which one is due whatever it costs."""
    size: Callable[[], int]
    """Returns the bytes that one takes."""
    clock: Callable[[], float] = time.monotonic
    saved: float = field(default=0.0, init=False)
    """When the latest one was written, or the run began."""
    cost: float | None = field(default=None, init=False)
    """Seconds that it took; None before the first."""

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Count from now."""
        self.saved = self.clock()

    def due(self, epoch_ended: bool) -> bool:
        """Say whether one is due after a step, which may have ended an epoch."""
        since = self.clock() - self.saved
        return since >= self.every or (epoch_ended and self.expected() <= CHECKPOINT_SHARE * since)

    def expected(self) -> float:
        """Return the seconds that the next one will take."""
        return self.size() / DISK_SPEED if self.cost is None else self.cost

    def written(self, since: float) -> None:
        """Take down that one was written, beginning at a moment of the clock."""
        self.saved = self.clock()
        self.cost = self.saved - since
