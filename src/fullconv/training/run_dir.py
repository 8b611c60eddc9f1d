"""The run folder: its files, and the lock of the process that writes into it."""

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
        self.path, self.staged = path, staged
        self.stages = path / "stages"
        self.recipe = path / "recipe.toml"
        self.metrics = path / "metrics.jsonl"
        self.model = path / "model.safetensors"
        self.report = path / "report.html"
        self.checkpoints = path / "checkpoints"
        self.status = path / "status.json"
        self.debug = path / "debug"

    def prepare(self, resume: bool) -> None:
        """Create the folder."""
        self.check_empty(resume)
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{self.path}: cannot be created ({error.strerror or error}). Choose another -o."
            ) from error

    def check_empty(self, resume: bool) -> None:
        """Refuse a folder that is in use, without touching it."""
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"{self.path}: is a file, not a run folder. Choose another -o.")
        if not self.path.exists():
            parent = next(path for path in self.path.absolute().parents if path.exists())
            if not parent.is_dir() or not os.access(parent, os.W_OK):
                reason = "is not writable" if parent.is_dir() else "is a file"
                raise OutputError(f"{self.path}: cannot be created ({parent} {reason}). Choose another -o.")
        entries = list(self.path.iterdir()) if self.path.is_dir() else []
        leftovers = {self.path / ".lock", *self.path.glob(".*.part")}  # of a run that never started
        if self.staged:
            leftovers.add(self.stages)
        if self.checkpoints.is_dir() and not any(self.checkpoints.iterdir()):
            leftovers.add(self.checkpoints)
        filled = bool(set(entries) - leftovers) or (self.stages in entries and not resume)
        if filled and not resume:
            raise RunError(f"{self.path}: is not empty. Continue that run with --resume, or choose another -o.")
        if filled and not self.recipe.exists():
            raise RunError(f"{self.path}: holds no run to resume (recipe.toml is missing). Choose another -o.")

    def remove_if_unused(self) -> None:
        """Remove what `prepare` created if the run never started."""
        if self.recipe.exists():
            return
        with suppress(OSError):
            (self.path / ".lock").unlink(missing_ok=True)
            self.checkpoints.rmdir()
            self.path.rmdir()

    def write_metrics(self, history: Sequence[dict[str, Any]]) -> None:
        """Write all of metrics.jsonl, a line per epoch."""
        write_text(self.metrics, "".join(json.dumps(line) + "\n" for line in history))

    def write_status(self, status: str, step: int, steps: int, reason: str | None = None) -> None:
        """Write status.json: "running", "stopped", "finished" or, with its reason, "failed"."""
        why = {} if reason is None else {"reason": reason}
        write_text(self.status, json.dumps({"status": status, "step": step, "steps": steps, **why}) + "\n")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock, which the system releases however the process ends."""
        try:
            file = (self.path / ".lock").open("a+", encoding="utf-8")
        except OSError as error:
            raise OutputError(
                f"{self.path}: is not writable ({error.strerror or error}). Choose another -o."
            ) from error
        with file:
            if not lock_file(file):
                file.seek(0)
                raise RunError(
                    f"{self.path}: another process ({file.read().strip() or 'unknown'}) trains in this folder."
                    " Wait for it, or choose another -o."
                )
            file.truncate(0)
            file.write(f"process {os.getpid()}")
            file.flush()
            for folder in (self.path, self.checkpoints):  # partial files of a killed process
                for partial in folder.glob(".*.part"):
                    partial.unlink(missing_ok=True)
            yield
