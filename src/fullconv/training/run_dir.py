"""The run folder: who may write into it, and what stands in it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fullconv.errors import OutputError, RunError
from fullconv.storage import lock_file, write_text


class RunDir:
    """RUN: recipe.toml, metrics.jsonl, model.safetensors, report.html, checkpoints/, status.json; maybe stages/."""

    def __init__(self, path: Path, staged: bool = False) -> None:
        self.path = path
        self.staged = staged
        """Whether the folder of earlier stages in it is this run's."""
        self.stages = path / "stages"
        self.recipe = path / "recipe.toml"
        self.metrics = path / "metrics.jsonl"
        self.model = path / "model.safetensors"
        self.report = path / "report.html"
        self.checkpoints = path / "checkpoints"
        self.status = path / "status.json"
        self.debug = path / "debug"

    def prepare(self, resume: bool) -> None:
        """Make the folder, or refuse one that holds something.

        Raises:
            RunError: It is not empty and this is no --resume.
            OutputError: It cannot be made or written.
        """
        self.refuse_filled(resume)
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be made ({error.strerror or error}). Give another -o.") from error

    def refuse_filled(self, resume: bool) -> None:
        """Refuse a folder that holds something, and touch nothing.

        Raises:
            RunError: It is not empty and this is no --resume, or there is nothing there to go on with.
            OutputError: It is a file, or cannot be made where it is to be.
        """
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"{self.path}: is a file, not a folder for a run. Give another -o.")
        if not self.path.exists():
            above = next(path for path in self.path.absolute().parents if path.exists())
            if not above.is_dir() or not os.access(above, os.W_OK):
                why = "cannot be written" if above.is_dir() else "is a file"
                raise OutputError(f"{self.path}: cannot be made ({above} {why}). Give another -o.")
        inside = list(self.path.iterdir()) if self.path.is_dir() else []
        filled = any(not self._ours(path) for path in inside) or (self.stages in inside and not resume)
        if filled and not resume:
            raise RunError(f"{self.path}: is not empty. Go on with that run by --resume, or give another -o.")
        if filled and not self.recipe.exists():
            raise RunError(f"{self.path}: holds no run that could go on (there is no recipe.toml). Give another -o.")

    def _ours(self, path: Path) -> bool:
        """Say whether a path is what a run that never began leaves behind."""
        half = path.name.startswith(".") and path.name.endswith(".part")  # killed while it wrote recipe.toml
        if self.staged and path == self.stages:
            return True
        return path.name == ".lock" or half or (path == self.checkpoints and path.is_dir() and not any(path.iterdir()))

    def forget(self) -> None:
        """Take away what `prepare` made, where the run never began."""
        if self.recipe.exists():
            return
        with suppress(OSError):
            (self.path / ".lock").unlink(missing_ok=True)
            self.checkpoints.rmdir()
            self.path.rmdir()

    def write_metrics(self, history: Sequence[dict[str, Any]]) -> None:
        """Write metrics.jsonl anew, a line an epoch: no line twice, none missing."""
        write_text(self.metrics, "".join(json.dumps(line) + "\n" for line in history))

    def write_status(self, status: str, step: int, steps: int, reason: str | None = None) -> None:
        """Say how far the run is: "running", "stopped", "finished" or, with its reason, "failed"."""
        why = {} if reason is None else {"reason": reason}
        write_text(self.status, json.dumps({"status": status, "step": step, "steps": steps, **why}) + "\n")

    def read_status(self) -> dict[str, Any]:
        """Return what `write_status` wrote; empty where it did not."""
        try:
            status: dict[str, Any] = json.loads(self.status.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return status if isinstance(status, dict) else {}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process off the folder; the system lets go of it however this one ends.

        Raises:
            RunError: Another process has it.
        """
        try:
            file = (self.path / ".lock").open("a+", encoding="utf-8")
        except OSError as error:
            raise OutputError(
                f"{self.path}: cannot be written ({error.strerror or error}). Give another -o."
            ) from error
        with file:
            if not lock_file(file):
                file.seek(0)
                raise RunError(
                    f"{self.path}: another process ({file.read().strip() or 'unknown'}) trains in this folder."
                    " Wait for it, or give another -o."
                )
            file.truncate(0)
            file.write(f"process {os.getpid()}")
            file.flush()
            self._sweep()
            yield

    def _sweep(self) -> None:
        """Remove half-written files that a killed process left."""
        for folder in (self.path, self.checkpoints):
            for part in folder.glob(".*.part"):
                part.unlink(missing_ok=True)
