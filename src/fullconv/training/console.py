"""Progress of a run on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from fullconv.errors import plural
from fullconv.profiling import duration
from fullconv.tracking import EpochRecord, Validation

LINE_INTERVAL_S = 30.0
"""Between progress lines where stderr is no terminal."""


class Console:
    """Progress of a run; observes its epochs. Quiet in every process but the main one."""

    def __init__(self, quiet: bool = False) -> None:
        self.rich = RichConsole(stderr=True)
        self.batch_size = 1
        self.bar: Progress | None = None
        self.task = TaskID(0)
        self.quiet = quiet
        self.mean_iou: float | None = None
        self._clock = (time.monotonic(), 0)
        self._last_step_time = time.monotonic()
        self._speed = 0.0
        self._loss: float | None = None

    def info(self, text: str) -> None:
        """Print a sentence."""
        if self.quiet:
            return
        if self.rich.is_terminal:
            self.rich.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def scan_progress(self, done: int, total: int) -> None:
        """Show the progress of the scan of the data: a bar, or a line every half minute."""
        if self.quiet:
            return
        if not self.rich.is_terminal:
            if time.monotonic() - self._last_step_time >= LINE_INTERVAL_S and done < total:
                self._last_step_time = time.monotonic()
                self.info(f"scanned {done} of {plural(total, 'image')}")
            return
        if self.bar is None:
            self.bar = self._start_bar("scanning the data", total)
        self.bar.update(self.task, completed=done)
        if done == total:
            self.stop()

    def start(self, step: int, steps: int, batch_size: int) -> None:
        """Start the bar of the steps, of so many crops each."""
        self.batch_size = batch_size
        self._clock = (time.monotonic(), step)
        if self.rich.is_terminal and not self.quiet:
            self.bar = self._start_bar("training", steps, step)

    def _start_bar(self, name: str, total: int, done: int = 0) -> Progress:
        bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(), console=self.rich, transient=True,
        )  # fmt: skip
        bar.start()
        self.task = bar.add_task(name, total=total, completed=done, status="")
        return bar

    def step(self, step: int, steps: int, loss: float) -> None:
        """Show a step."""
        now = self._last_step_time = time.monotonic()
        self._loss = loss if self._loss is None else 0.9 * self._loss + 0.1 * loss
        since, first = self._clock
        if now - since >= 2:
            self._speed = (step - first) * self.batch_size / (now - since)
            self._clock = (now, step)
        if self.bar is not None:
            score = "" if self.mean_iou is None else f"  val mIoU {self.mean_iou:.3f}"
            status = f"loss {self._loss:.3f}  {self._speed:.0f} images/s{score}"
            self.bar.update(self.task, completed=step, status=status)

    def validation_progress(self, done: int, total: int) -> None:
        """Show the progress of a validation."""
        if self.bar is not None:
            self.bar.update(self.task, status=f"validating {done} of {total}")
        if done == total:  # the clock of the steps stood still meanwhile
            now = time.monotonic()
            self._clock = (self._clock[0] + now - self._last_step_time, self._clock[1])
            self._last_step_time = now

    def on_validation(self, validation: Validation) -> None:
        """Ignore it: the epoch has its scores."""

    def on_epoch(self, record: EpochRecord) -> None:
        """Print an epoch's line and its warnings."""
        since, first = self._clock
        line, val = record.line, record.line["val"]
        if self._speed == 0 and line["step"] > first:
            self._speed = (line["step"] - first) * self.batch_size / max(self._last_step_time - since, 1e-3)
        text = f"epoch {line['epoch']}: loss {line['train_loss']:.4f}, lr {line['lr']:.2e}"
        if val is not None and val["mean_iou"] is not None:
            self.mean_iou = val["mean_iou"]
            text += f", val mIoU {self.mean_iou:.4f}" + (" (best)" if record.is_best else f" (best {record.best:.4f})")
        self._clock = (time.monotonic(), line["step"])
        self.info(f"{text}, {self._speed:.0f} images/s, {duration(line['seconds'])}")
        for warning in record.warnings:
            self.info(warning)

    def stop(self) -> None:
        """Stop the bar."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def format_bytes(count: float) -> str:
    """Write a number of bytes for people.

    >>> format_bytes(1.5e9), format_bytes(2e6)
    ('1.5 GB', '2 MB')
    """
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
