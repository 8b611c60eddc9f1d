"""The log of a run for others to show: TensorBoard, Weights & Biases, MLflow, behind one small protocol.

`metrics.jsonl` is always written and holds everything; a tracker is a view of it. None of them sends anything anywhere
unless the user's own environment says so (WANDB_MODE, MLFLOW_TRACKING_URI).
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from fullconv.errors import MissingExtraError
from fullconv.runs import flatten

WIDEST = 1440
"""Pixels of a logged picture, all its panels together."""


class Tracker(Protocol):
    """Where numbers and pictures of a run go."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers by name at a step."""

    def picture(self, name: str, image: Image.Image, step: int) -> None:
        """Log an RGB picture at a step."""

    def close(self) -> None:
        """Write what is still held back."""


def require_trackers(names: Sequence[str]) -> None:
    """Make sure that trackers are installed, before anything is spent.

    Raises:
        MissingExtraError: One of them is not.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(name, "track", f"--set track={name}")


def open_trackers(names: Sequence[str], folder: Path, settings: Mapping[str, Any], step: int) -> list[Tracker]:
    """Open the trackers of a run.

    Args:
        names: Of `TRACKERS`.
        folder: The run folder; each writes into a folder of its own in it.
        settings: The recipe.
        step: Steps that the run has done; later ones of an earlier attempt are dropped or written again.
    """
    return [TRACKERS[name](folder, flatten(settings), step) for name in names]


def log_epoch(trackers: Sequence[Tracker], line: Mapping[str, Any]) -> None:
    """Log a line of `metrics.jsonl`."""
    values = {"train/loss": line["train_loss"], "train/lr": line["lr"]}
    val = line.get("val") or {}
    for key in ("mean_iou", "pixel_accuracy", "mean_accuracy", "freq_weighted_iou"):
        values[f"val/{key}"] = val.get(key)
    for row in val.get("classes", []):
        values[f"val_iou/{row['name']}"] = row["iou"]
    numbers = {key: float(value) for key, value in values.items() if value is not None}
    for tracker in trackers:
        tracker.scalars(numbers, int(line["step"]))


def log_panels(trackers: Sequence[Tracker], name: str, panels: Sequence[np.ndarray[Any, Any]], step: int) -> None:
    """Log pictures (H, W, 3) uint8 of one size side by side."""
    row = Image.fromarray(np.concatenate(list(panels), axis=1))
    if row.width > WIDEST:
        row = row.resize((WIDEST, max(1, round(row.height * WIDEST / row.width))))
    for tracker in trackers:
        tracker.picture(name, row, step)


class _TensorBoard:
    """Events in RUN/tensorboard; `tensorboard --logdir` on the folder of all runs lays them over each other."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # TensorBoard then forgets what an attempt that was killed had logged of later steps.
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)
        if not step:
            rows = "".join(f"| {key} | {value} |\n" for key, value in settings.items())
            self._writer.add_text("recipe", "| setting | value |\n|---|---|\n" + rows, 0)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def picture(self, name: str, image: Image.Image, step: int) -> None:
        self._writer.add_image(name, np.asarray(image), step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """A run of Weights & Biases in RUN/wandb, offline unless WANDB_MODE says otherwise; `wandb sync` uploads it."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], step: int) -> None:
        # Its own telemetry would start with the import, offline or not.
        os.environ.setdefault("WANDB_MODE", "offline")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self._wandb = wandb
        where = str(folder.resolve())
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "fullconv"),
            name=folder.name,
            id=hashlib.sha256(where.encode()).hexdigest()[:16],
            resume="allow",
            dir=where,
            config=dict(settings),
            mode=os.environ["WANDB_MODE"],  # type: ignore[arg-type]
            settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
        )

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, name: str, image: Image.Image, step: int) -> None:
        self._run.log({name: self._wandb.Image(image)}, step=step)

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    """A run of MLflow in RUN/mlflow.db and RUN/mlflow, or where MLFLOW_TRACKING_URI says."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], step: int) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("DO_NOT_TRACK", "true")
        from mlflow.tracking import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)  # they tell how they make their tables
        own = (folder / "mlflow.db").resolve().as_posix()  # MLflow keeps files in folders no longer
        place = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{own}"
        self._client = MlflowClient(tracking_uri=place)
        experiment = self._client.get_experiment_by_name("fullconv")
        artifacts = None if "MLFLOW_TRACKING_URI" in os.environ else (folder / "mlflow").resolve().as_uri()
        number = experiment.experiment_id if experiment else self._client.create_experiment("fullconv", artifacts)
        where = str(folder.resolve())
        earlier = self._client.search_runs([number], f"tags.folder = '{hashlib.sha256(where.encode()).hexdigest()}'")
        if earlier and step:
            self._run = earlier[0].info.run_id
            return
        tags = {"folder": hashlib.sha256(where.encode()).hexdigest(), "mlflow.runName": folder.name}
        self._run = self._client.create_run(number, tags=tags).info.run_id
        for key, value in settings.items():
            self._client.log_param(self._run, key, value)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._client.log_metric(self._run, _safe(name), value, step=step)

    def picture(self, name: str, image: Image.Image, step: int) -> None:
        self._client.log_image(self._run, np.asarray(image), f"{_safe(name)}/{step:08}.png")

    def close(self) -> None:
        self._client.set_terminated(self._run)


def _safe(name: str) -> str:
    """Keep what MLflow allows in a name: letters, digits and a few signs."""
    return "".join(c if c.isalnum() or c in "_-. /" else "_" for c in name)


TRACKERS: dict[str, Callable[[Path, Mapping[str, Any], int], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
    "mlflow": _MLflow,
}
