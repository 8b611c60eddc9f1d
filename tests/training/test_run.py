"""Runs: folders, settings, resuming, signals and kills."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

import pytest
from runs import SMALL, identity, lines, state

import fullconv
from fullconv.errors import OutputError, RecipeError, RunError
from fullconv.modelfile import read_card
from fullconv.recipe import HeadSettings
from fullconv.training import train
from fullconv.training.run_dir import RunDir

SHORT = {**SMALL, "epochs": 1}


@pytest.fixture(scope="module")
def finished(shapes, tmp_path_factory) -> Path:
    """A finished run of one epoch; not to be changed."""
    run = tmp_path_factory.mktemp("runs") / "finished"
    train(shapes, run, **SHORT)
    return run


def test_card_has_recipe_data_and_scores(finished, shapes):
    card = read_card(finished / "model.safetensors")
    assert card.recipe["lr"] == 2e-3
    assert card.recipe["epochs"] == 1
    assert card.scores["val"]["mean_iou"] == lines(finished)[-1]["val"]["mean_iou"]
    assert set(card.agreement) == {"bf16"}
    assert len(card.data["splits"]["train"]) == 9
    assert card.fullconv == fullconv.__version__


def test_file_instead_of_folder_is_rejected(shapes, tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(OutputError, match="is a file, not a run folder"):
        train(shapes, tmp_path / "run", **SHORT)
    with pytest.raises(OutputError, match=r"one: cannot be created \(.*run is a file\)\. Choose another -o"):
        train(tmp_path / "no data", tmp_path / "run" / "deep" / "one", **SHORT)  # outputs before the data are looked at


def test_checkpoints_without_recipe_cannot_resume(shapes, tmp_path, finished):
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "recipe.toml").unlink()
    with pytest.raises(RunError, match=r"holds no run to resume \(recipe\.toml is missing\)"):
        train(shapes, run, resume=True, **SHORT)


def test_second_process_in_the_folder_is_rejected(shapes, tmp_path, finished):
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "status.json").unlink()
    with (run / ".lock").open("a+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(RunError, match=rf"another process \(process {os.getpid()}\) trains in this folder"):
            train(shapes, run, resume=True, **SHORT)


def test_partial_files_of_a_killed_process_are_removed(tmp_path):
    folder = RunDir(tmp_path)
    folder.checkpoints.mkdir()
    for part in (tmp_path / ".model.safetensors.17.part", folder.checkpoints / ".last.17.part"):
        part.write_bytes(b"half")
    with folder.locked():
        assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [".lock"]


def test_resume_starts_a_run_that_has_not_started(shapes, tmp_path, finished):
    (tmp_path / "new" / "checkpoints").mkdir(parents=True)  # killed before its first step, while it wrote its recipe
    (tmp_path / "new" / ".recipe.toml.17.part").write_text("variant = ")
    train(shapes, tmp_path / "new", resume=True, **SHORT)
    assert identity(tmp_path / "new") == identity(finished)


def test_run_killed_while_finishing_makes_no_more_steps(shapes, tmp_path, finished):
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "status.json").write_text('{"status": "running", "step": 50, "steps": 50}')
    (run / "model.safetensors").unlink()
    train(shapes, run, resume=True, **SHORT)
    assert identity(run) == identity(finished)


def test_early_stopped_run_killed_while_finishing_makes_no_more_steps(shapes, tmp_path):
    settings = {**SMALL, "epochs": 9, "early_stop": 1, "lr": 1e-8, "ema": 0.0}
    train(shapes, tmp_path / "run", **settings)
    before = identity(tmp_path / "run")
    assert state(tmp_path / "run")["step"] < 450
    (tmp_path / "run" / "status.json").write_text('{"status": "running"}')
    train(shapes, tmp_path / "run", resume=True, **settings)
    assert identity(tmp_path / "run") == before


def test_resumable_settings_may_change(shapes, finished):
    train(shapes, finished, resume=True, **{**SHORT, "workers": 1, "checkpoint_every": 5.0})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "tiny", "weights": "imagenet"}, "the backbone tiny has no ImageNet weights: add --weights none"),
        ({"width": 0.5, "weights": "imagenet"}, r"width = 0\.5 fits no pretrained weights: add --weights none"),
        ({"weights": "none", "momentum": 0.5}, r"momentum = 0\.5 does nothing with adamw: add --set optimizer=sgd"),
        ({"weights": "none", "focal_gamma": 3}, "focal_gamma = 3 does nothing without a focal loss"),
        ({"epoch": 1}, r"settings: there is no setting 'epoch'\. Did you mean 'epochs'"),
    ],
)
def test_invalid_settings_are_rejected_before_anything_is_read(tmp_path, settings, message):
    with pytest.raises(RecipeError, match=message):
        train(tmp_path / "no data", tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_invalid_measured_table_is_rejected(shapes, tmp_path):
    (tmp_path / "r.toml").write_text("epochs = 1\n[measured]\nspeed = 3\n")
    with pytest.raises(RecipeError, match=r"r\.toml: \[measured\] is invalid"):
        train(shapes, tmp_path / "run", recipe=tmp_path / "r.toml")


def test_head_settings_may_be_an_object(shapes, tmp_path):
    settings = {"variant": "fcn8s", "backbone": "tiny", "weights": "none", "crop": (32, 32), "batch_size": 2}
    head = HeadSettings(upsampling="learned")
    first = train(shapes, tmp_path / "run", epochs=1, head=head, **settings)
    again = train(shapes, tmp_path / "run", epochs=1, head=head, resume=True, **settings)
    assert again.card.weights_sha256 == first.card.weights_sha256
    assert again.card.network["head"]["upsampling"] == "learned"


@pytest.mark.parametrize("hashes", [True, False], ids=["hashes", "names alone, as of 0.1.0"])
def test_start_weights_that_were_trained_on_val_are_warned_of_in_train_evaluate_and_report(
    finished, shapes, tmp_path, capfd, hashes
):
    segmenter = fullconv.load(finished / "model.safetensors")
    if not hashes:
        del segmenter.card.data["hashes"]
    segmenter.save(tmp_path / "start.safetensors")
    run = tmp_path / "run"
    start = str(tmp_path / "start.safetensors")
    train(shapes, run, **{**SMALL, "weights": start, "steps": 2, "folds": 3, "fold": 1})
    splits = fullconv.open_dataset(shapes, folds=3, fold=1).splits
    seen = {sample.stem for sample in splits["val"]} & set(segmenter.card.data["splits"]["train"])
    assert seen
    warned = f"was trained on {len(seen)} of {len(splits['val'])} images of val, so scores on val are too good"
    assert capfd.readouterr().err.count(warned) == 1
    assert f"start.safetensors {warned}" in (run / "report.html").read_text()
    assert [warning["count"] for warning in lines(run)[-1]["val"]["warnings"]] == [len(seen)]
    (notice,) = fullconv.evaluate(fullconv.load(run / "model.safetensors"), shapes, "val").warnings
    assert (notice.code, notice.count) == ("trained-on", len(seen))


def test_start_weights_that_saw_no_image_of_val_are_not_warned_of(finished, shapes, tmp_path, capfd):
    weights = str(finished / "model.safetensors")
    train(shapes, tmp_path / "run", **{**SMALL, "weights": weights, "steps": 2})
    assert "trained on" not in capfd.readouterr().err
