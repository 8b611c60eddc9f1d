"""Observers of a run, and the trackers behind one of them: TensorBoard, Weights & Biases, MLflow.

`metrics.jsonl` is always written and complete; a tracker is a view of it. No tracker sends anything unless the user's own
environment asks for it (WANDB_MODE, MLFLOW_TRACKING_URI).
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from fullconv.data import Dataset, Sample
from fullconv.errors import MissingExtraError
from fullconv.evaluation import Report
from fullconv.labels import colorize
from fullconv.prediction import to_rgb8
from fullconv.runs import flatten
from fullconv.segmenter import Segmenter

MAX_PANEL_WIDTH = 1440
"""Pixels of a logged image, all its panels together."""


@dataclass(frozen=True)
class EpochRecord:
    """The end of an epoch."""

    line: Mapping[str, Any]
    """Of metrics.jsonl."""
    best: float | None
    """Best val mIoU so far."""
    is_best: bool
    """Whether this epoch reached it."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Validation:
    """A validation, while the validated weights are loaded."""

    segmenter: Segmenter
    reports: Mapping[str, Report]
    """By head."""
    step: int
    """Steps done."""


class Observer(Protocol):
    """Watches a run in its main process; must not change it."""

    def on_validation(self, validation: Validation) -> None:
        """Called after a validation, before the epoch's record."""

    def on_epoch(self, record: EpochRecord) -> None:
        """Called when an epoch's line is written."""


class Tracker(Protocol):
    """A destination for numbers and images of a run."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers by name at a step."""

    def image(self, name: str, image: Image.Image, step: int) -> None:
        """Log an RGB image at a step."""

    def close(self) -> None:
        """Flush."""


@dataclass
class TrackingObserver:
    """Logs each epoch's numbers, and image, ground truth and prediction of some val images, to trackers."""

    trackers: Sequence[Tracker]
    dataset: Dataset
    samples: Sequence[Sample]

    def on_validation(self, validation: Validation) -> None:
        """Log the panels."""
        head = next(iter(self.dataset.labels))
        palette = self.dataset.labels[head].palette
        for sample in self.samples:
            prediction = validation.segmenter.predict(self.dataset.read_pixels(sample))
            masks = (self.dataset.read_mask(sample, head), prediction.label_map)
            panels = [to_rgb8(prediction.image), *(colorize(mask, palette) for mask in masks)]
            row = Image.fromarray(np.concatenate(panels, axis=1))
            if row.width > MAX_PANEL_WIDTH:
                row = row.resize((MAX_PANEL_WIDTH, max(1, round(row.height * MAX_PANEL_WIDTH / row.width))))
            for tracker in self.trackers:
                tracker.image(f"val/{sample.stem}", row, validation.step)

    def on_epoch(self, record: EpochRecord) -> None:
        """Log the numbers."""
        line = record.line
        val = line.get("val") or {}
        values = {"train/loss": line["train_loss"], "train/lr": line["lr"]}
        scores = ("mean_iou", "pixel_accuracy", "mean_accuracy", "freq_weighted_iou")
        values |= {f"val/{key}": val.get(key) for key in scores}
        values |= {f"val_iou/{row['name']}": row["iou"] for row in val.get("classes", [])}
        numbers = {key: float(value) for key, value in values.items() if value is not None}
        for tracker in self.trackers:
            tracker.scalars(numbers, int(line["step"]))


def require_trackers(names: Sequence[str]) -> None:
    """Check that trackers are installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(name, "track", f"--set track={name}")


def open_trackers(names: Sequence[str], folder: Path, settings: Mapping[str, Any], step: int) -> list[Tracker]:
    """Open the trackers of a run after `step` steps: what was logged of later ones is dropped or overwritten."""
    return [TRACKERS[name](folder, flatten(settings), step) for name in names]


class _TensorBoard:
    """Events in RUN/tensorboard; `tensorboard --logdir` on the folder of all runs compares them."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Drops what a killed attempt had logged of later steps.
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)
        if not step:
            rows = "".join(f"| {key} | {value} |\n" for key, value in settings.items())
            self._writer.add_text("recipe", "| setting | value |\n|---|---|\n" + rows, 0)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def image(self, name: str, image: Image.Image, step: int) -> None:
        self._writer.add_image(name, np.asarray(image), step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """A run of Weights & Biases in RUN/wandb, offline unless WANDB_MODE is set; `wandb sync` uploads it."""

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

    def image(self, name: str, image: Image.Image, step: int) -> None:
        self._run.log({name: self._wandb.Image(image)}, step=step)

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    """A run of MLflow in RUN/mlflow.db and RUN/mlflow, or at MLFLOW_TRACKING_URI."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], step: int) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("DO_NOT_TRACK", "true")
        from mlflow.tracking import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)  # they log how they create their tables
        own = (folder / "mlflow.db").resolve().as_posix()  # MLflow's file store is deprecated
        place = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{own}"
        self._client = MlflowClient(tracking_uri=place)
        experiment = self._client.get_experiment_by_name("fullconv")
        artifacts = None if "MLFLOW_TRACKING_URI" in os.environ else (folder / "mlflow").resolve().as_uri()
        number = experiment.experiment_id if experiment else self._client.create_experiment("fullconv", artifacts)
        digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()
        earlier = self._client.search_runs([number], f"tags.folder = '{digest}'")
        if earlier and step:
            self._run = earlier[0].info.run_id
            return
        tags = {"folder": digest, "mlflow.runName": folder.name}
        self._run = self._client.create_run(number, tags=tags).info.run_id
        for key, value in settings.items():
            self._client.log_param(self._run, key, value)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._client.log_metric(self._run, _safe(name), value, step=step)

    def image(self, name: str, image: Image.Image, step: int) -> None:
        self._client.log_image(self._run, np.asarray(image), f"{_safe(name)}/{step:08}.png")

    def close(self) -> None:
        self._client.set_terminated(self._run)


def _safe(name: str) -> str:
    """Replace what MLflow does not allow in a name."""
    return "".join(c if c.isalnum() or c in "_-. /" else "_" for c in name)


TRACKERS: dict[str, Callable[[Path, Mapping[str, Any], int], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
    "mlflow": _MLflow,
}
