"""What TensorBoard, Weights & Biases and MLflow read back of a run."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from runs import SMALL, identity, lines

from fullconv import train
from fullconv.errors import RecipeError
from fullconv.recipe import parse_recipe

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries that are asked here


def trained(shapes, run, **settings):
    train(shapes, run, **(SMALL | {"epochs": 2, "validate_every": 1} | settings))
    return run


def expected(run, key):
    """Values of the log by step."""
    return {line["step"]: line["val"][key] if line["val"] else None for line in lines(run)}


def test_tensorboard_holds_the_numbers_of_the_log_and_pictures_and_the_run_is_the_same(shapes, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = trained(shapes, tmp_path / "a", track="tensorboard")
    assert identity(run) == identity(trained(shapes, tmp_path / "b"))
    events = accumulator.EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    found = {event.step: event.value for event in events.Scalars("val/mean_iou")}
    assert found == pytest.approx(expected(run, "mean_iou"), rel=1e-6)
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(
        [line["train_loss"] for line in lines(run)], rel=1e-6
    )
    named = [row["name"] for row in lines(run)[0]["val"]["classes"]]
    assert {f"val_iou/{name}" for name in named} <= set(events.Tags()["scalars"])
    images = events.Tags()["images"]
    assert len(images) == 3  # of three in val
    image = events.Images(images[0])
    assert [image.step for image in image] == [line["step"] for line in lines(run)]
    assert (image[0].height, image[0].width) == (40, 3 * 48)


@pytest.mark.slow
def test_a_run_that_goes_on_has_no_number_twice(shapes, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = trained(shapes, tmp_path / "a", track="tensorboard", epochs=1)
    train(shapes, run, resume=True, lengthen=True, epochs=2)
    events = accumulator.EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [line["step"] for line in lines(run)]


@pytest.mark.slow
def test_mlflow_holds_the_numbers_of_the_log(shapes, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow.tracking")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = trained(shapes, tmp_path / "a", track="mlflow", epochs=1)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{run}/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("fullconv").experiment_id])
    assert found.data.params["variant"] == "fcn8s"
    assert found.data.params["head.dropout"] == "0.5"
    history = {metric.step: metric.value for metric in client.get_metric_history(found.info.run_id, "val/mean_iou")}
    assert history == pytest.approx(expected(run, "mean_iou"))
    assert list((run / "mlflow").rglob("*.png"))


def test_wandb_logs_offline(shapes, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run = trained(shapes, tmp_path / "a", track="wandb", epochs=1)
    (log,) = (run / "wandb").glob("offline-run-*/*.wandb")
    written = log.read_bytes()
    assert b"val/mean_iou" in written
    value = json.dumps(lines(run)[0]["val"]["mean_iou"])
    assert value[:12].encode() in written
    assert list((run / "wandb").rglob("*.png"))


LOGGING = """
import sys
from pathlib import Path
from fullconv.tracking import open_trackers
(tracker,) = open_trackers([sys.argv[1]], Path(sys.argv[2]), {"lr": 0.1}, 0)
tracker.scalars({"loss": 1.0}, 1)
tracker.close()
"""


@pytest.mark.parametrize("name", ["wandb", pytest.param("mlflow", marks=pytest.mark.slow)])
def test_a_process_that_logged_sends_nothing_when_it_ends(name, tmp_path, monkeypatch):
    """What these libraries tell of themselves is sent in the background, or at the end; `socket_attempts` looks on."""
    pytest.importorskip(name)
    for variable in ("WANDB_MODE", "WANDB_ERROR_REPORTING", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    done = subprocess.run(
        [sys.executable, "-c", LOGGING, name, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_several_are_named_with_commas_and_others_refused():
    assert parse_recipe({"track": "tensorboard, mlflow"}).track == ("tensorboard", "mlflow")
    with pytest.raises(RecipeError, match="tensorboard"):
        parse_recipe({"track": "tensorbord"})
