"""What a person sees while a run goes on: a bar on a terminal, plain lines elsewhere. All of it on stderr."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from fullconv.profiling import duration

SECONDS_BETWEEN_LINES = 30.0
"""Of progress where stderr is no terminal."""


class Console:
    """Progress of a run.

    Args:
        batch_size: Pictures a step, for pictures/s.
        quiet: Show nothing but what `say` says.
    """

    def __init__(self, batch_size: int = 1, quiet: bool = False) -> None:
        self.rich = RichConsole(stderr=True)
        self.batch_size = batch_size
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        self.quiet = quiet
        self.mean_iou: float | None = None
        self._clock = (time.monotonic(), 0)
        self._last = time.monotonic()  # of the latest step
        self._speed = 0.0
        self._loss: float | None = None

    def say(self, text: str) -> None:
        """Say a sentence."""
        if self.rich.is_terminal:
            self.rich.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def looking(self, done: int, total: int) -> None:
        """Show how far the data have been looked at: a bar, or a line each half a minute."""
        if self.quiet:
            return
        if not self.rich.is_terminal:
            if time.monotonic() - self._last >= SECONDS_BETWEEN_LINES and done < total:
                self._last = time.monotonic()
                self.say(f"looked at {done} of {total} pictures")
            return
        if self.bar is None:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, console=self.rich, transient=True)
            self.bar.start()
            self.task = self.bar.add_task("looking at the data", total=total)
        if self.task is not None:
            self.bar.update(self.task, completed=done)
        if done == total:
            self.stop()

    def start(self, step: int, steps: int) -> None:
        """Begin to show progress."""
        self._clock = (time.monotonic(), step)
        if self.rich.is_terminal and not self.quiet:
            self.bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[words]}"),
                TimeRemainingColumn(), console=self.rich, transient=True,
            )  # fmt: skip
            self.bar.start()
            self.task = self.bar.add_task("training", total=steps, completed=step, words="")

    def step(self, step: int, steps: int, loss: float) -> None:
        """Show a step."""
        now = self._last = time.monotonic()
        self._loss = loss if self._loss is None else 0.9 * self._loss + 0.1 * loss
        since, then = self._clock
        if now - since >= 2:
            self._speed = (step - then) * self.batch_size / (now - since)
            self._clock = (now, step)
        if self.bar is not None and self.task is not None:
            score = "" if self.mean_iou is None else f"  val mean IU {self.mean_iou:.3f}"
            self.bar.update(
                self.task, completed=step, words=f"loss {self._loss:.3f}  {self._speed:.0f} pictures/s{score}"
            )

    def validating(self, done: int, total: int) -> None:
        """Show how far a validation is."""
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, words=f"validating {done} of {total}")
        if done == total:  # the clock of the steps stood still meanwhile
            now = time.monotonic()
            self._clock, self._last = (self._clock[0] + now - self._last, self._clock[1]), now

    def epoch(self, line: dict[str, Any], best: float | None, is_best: bool) -> None:
        """Show an epoch's line."""
        since, then = self._clock
        if self._speed == 0 and line["step"] > then:
            self._speed = (line["step"] - then) * self.batch_size / max(self._last - since, 1e-3)
        words = f"epoch {line['epoch']}: loss {line['train_loss']:.4f}, lr {line['lr']:.2e}"
        if line["val"] is not None and line["val"]["mean_iou"] is not None:
            self.mean_iou = line["val"]["mean_iou"]
            words += f", val mean IU {self.mean_iou:.4f}" + (" (best)" if is_best else f" (best {best:.4f})")
        words += f", {self._speed:.0f} pictures/s, {duration(line['seconds'])}"
        self._clock = (time.monotonic(), line["step"])
        if not self.quiet:
            self.say(words)

    def stop(self) -> None:
        """Stop showing progress."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


class NullConsole(Console):
    """The console of every process but the first."""

    def __init__(self) -> None:
        super().__init__(quiet=True)

    def say(self, text: str) -> None:
        """Say nothing: the first process does."""

    def start(self, step: int, steps: int) -> None:
        """Show nothing."""


def format_bytes(count: float) -> str:
    """Write bytes as people do.

    >>> format_bytes(1.5e9), format_bytes(2e6)
    ('1.5 GB', '2 MB')
    """
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
