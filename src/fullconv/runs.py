"""Run folders on disk: what each reached, with which settings, and how they differ."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fullconv.errors import FullconvError, InputError
from fullconv.modelfile import read_card
from fullconv.recipe import read_toml
from fullconv.storage import locked_elsewhere

RECIPE, METRICS, MODEL, STATUS, LOCK = "recipe.toml", "metrics.jsonl", "model.safetensors", "status.json", ".lock"

MEASURED_SETTINGS = ("steps", "precision", "processes")
"""Measured before a run's first step, and compared like settings: they change the result."""


@dataclass(frozen=True)
class Run:
    """A run, finished or not."""

    path: Path
    name: str
    """Path relative to the folder that was searched, with ``/``."""
    status: str
    """"finished", "running", "killed" (its process is gone), "stopped", "failed", or "unknown"."""
    step: int
    steps: int
    settings: dict[str, Any]
    """The recipe, flat: ``head.dropout`` for a key of a table."""
    history: list[dict[str, Any]]
    """The lines of metrics.jsonl."""
    modified: float
    """When the log was last written, seconds since 1970."""
    data: str = ""
    fingerprint: str = ""
    """Of the data: scores are comparable only between runs with the same."""
    scores: dict[str, Any] = field(default_factory=dict)
    """By split, from the model file, keys of `evaluate`; empty until the run is finished."""

    @property
    def final(self) -> Mapping[str, Any] | None:
        """Scores of the finished model on val, else of the best validation so far; None if there is none."""
        if "val" in self.scores:
            return dict(self.scores["val"])
        logged = [val for line in self.history if isinstance(val := line.get("val"), Mapping)]
        validated = [val for val in logged if isinstance(val.get("mean_iou"), (int, float))]
        return max(validated, key=lambda val: val["mean_iou"], default=None)

    @property
    def mean_iou(self) -> float | None:
        """Of `final`."""
        return None if self.final is None else self.final.get("mean_iou")

    @property
    def epochs(self) -> int:
        """Epochs done."""
        return len(self.history)

    @property
    def seconds(self) -> float:
        """Time spent until the last epoch ended."""
        return float(self.history[-1].get("seconds") or 0.0) if self.history else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return what `fullconv runs --json` prints of the run."""
        final = self.final or {}
        interval = final.get("mean_iou_interval")
        return {
            "name": self.name,
            "status": self.status,
            "variant": self.settings.get("variant"),
            "backbone": self.settings.get("backbone"),
            "step": self.step,
            "steps": self.steps,
            "epochs": self.epochs,
            "seconds": self.seconds,
            "data": self.data,
            "fingerprint": self.fingerprint,
            "mean_iou": self.mean_iou,
            "mean_iou_interval": None if interval is None else list(interval),
            "pixel_accuracy": final.get("pixel_accuracy"),
            "settings": self.settings,
        }


def find_runs(folder: str | Path) -> tuple[list[Run], list[str]]:
    """Find all runs below a folder, or the one that it is."""
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder. Give the folder that holds your runs.")
    runs, unread = [], []
    for place, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name != "checkpoints" and not name.startswith("."))
        if RECIPE not in files or not {METRICS, STATUS} & set(files):
            continue
        path = Path(place)
        name = path.relative_to(root).as_posix() if path != root else path.resolve().name
        try:
            runs.append(read_run(path, name))
        except (FullconvError, OSError) as error:
            unread.append(f"{path}: skipped, {error}")
    if not runs and not unread:
        raise InputError(
            f"{root}: holds no run (a folder with {RECIPE} and {METRICS}). Create one: fullconv train DATA -o RUN."
        )
    return runs, unread


def read_run(path: Path, name: str) -> Run:
    """Read one run folder."""
    tables = read_toml(path / RECIPE)
    origin = tables.pop("origin", {})
    measured = tables.pop("measured", None) or {}
    tables.pop("decided", None)
    tables["measured"] = {key: measured[key] for key in MEASURED_SETTINGS if key in measured}
    log = path / METRICS
    status = read_status(path / STATUS)
    history = _read_lines(log)
    scores: dict[str, Any] = {}
    with suppress(FullconvError):
        scores = dict(read_card(path / MODEL).scores) if (path / MODEL).is_file() else {}
    if status.get("status") == "running" and locked_elsewhere(path / LOCK) is False:
        status["status"] = "killed"
    return Run(
        path=path,
        name=name,
        status=str(status.get("status", "unknown")),
        step=int(status.get("step") or (history[-1].get("step", 0) if history else 0)),
        steps=int(status.get("steps") or 0),
        settings=flatten(tables),
        history=history,
        modified=(log if log.exists() else path).stat().st_mtime,
        data=str(origin.get("data", "")),
        fingerprint=str(origin.get("fingerprint", "")),
        scores=scores,
    )


def flatten(tables: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested tables, with dotted keys.

    >>> flatten({"lr": 0.1, "head": {"fc": True}})
    {'lr': 0.1, 'head.fc': True}
    """
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def differing_settings(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Return the settings in which runs differ, with each run's value (None where it has none)."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    rows = {key: [run.settings.get(key) for run in runs] for key in keys}
    return {key: values for key, values in rows.items() if any(value != values[0] for value in values)}


def read_status(path: Path) -> dict[str, Any]:
    """Return the content of a status.json; empty where it is missing or damaged."""
    try:
        status = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the intact lines of a log."""
    values: list[Any] = []
    with suppress(OSError, UnicodeDecodeError):
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):
                values.append(json.loads(line))
    return [value for value in values if isinstance(value, dict) and isinstance(value.get("epoch"), (int, float))]
