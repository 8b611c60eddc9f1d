"""A non-finite loss: what is dumped, where it is reported to have begun, and that it cannot be resumed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from runs import SMALL

from fullconv.checkpoint import read_state, write_state
from fullconv.cli import main
from fullconv.errors import RunError
from fullconv.modelfile import read_model
from fullconv.training import train
from fullconv.training.nan_debug import debug, first_nonfinite, load_failed_step, replay
from model_files import flipped

WILD = {**SMALL, "epochs": 3, "lr": 1e8, "optimizer": "sgd", "warmup": 0, "norm": "none"}


@pytest.fixture(scope="module")
def failed(shapes, tmp_path_factory) -> Path:
    """A run whose loss became NaN; not to be changed."""
    run = tmp_path_factory.mktemp("runs") / "failed"
    message = (
        r"the loss became (nan|inf) at step \d+ \(images shape\d+, shape\d+\)\. `fullconv debug .*failed` shows where it"
        r" began.*start a new run with --lr 2\.5e\+07 or --set clip=1\."
    )
    with pytest.raises(RunError, match=message):
        train(shapes, run, **WILD)
    return run


def test_status_has_the_reason(failed):
    status = json.loads((failed / "status.json").read_text())
    assert status["status"] == "failed"
    assert re.match(r"the loss became (nan|inf) at step \d+; `fullconv debug` shows where it began\.", status["reason"])


def test_failed_run_cannot_be_resumed(shapes, failed):
    before = {path: path.stat().st_mtime_ns for path in failed.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match=r"this run failed: the loss became .*start a new run with --lr"):
        train(shapes, failed, resume=True, **WILD)
    assert {path: path.stat().st_mtime_ns for path in failed.rglob("*") if path.is_file()} == before


def test_replay_reproduces_the_step(failed):
    failed_step = load_failed_step(failed)
    assert failed_step.step == json.loads((failed / "status.json").read_text())["step"]
    assert len(failed_step.batches[0].stems) == 2
    assert all(torch.isfinite(value).all() for value in failed_step.tensors.values() if value.is_floating_point())
    assert str(replay(failed_step, "fp32").loss) == str(failed_step.value)


def test_command_reports_layer_images_and_fix(failed, capsys):
    assert main(["debug", str(failed)]) == 0
    stderr = capsys.readouterr().out
    assert re.search(
        r"^Step \d+ of 150: the loss was (nan|inf) \(fp32 on cpu\); replayed, it is (nan|inf)\.$", stderr, re.M
    )
    assert re.search(r"^Where it began: the (weight|output of the layer) (backbone|head)\S+ \(\w+\): ", stderr, re.M)
    for stem in load_failed_step(failed).batches[0].stems:
        assert re.search(rf"^  {stem}: values up to [\d.]+, \d+ % labeled$", stderr, re.M)
    assert "What to change: start a new run with --lr 2.5e+07 or --set clip=1" in stderr


def with_state(failed: Path, run: Path, change) -> Path:
    """The run with another state before its last step."""
    shutil.copytree(failed, run)
    path = run / "debug" / "state.safetensors"
    tensors, numbers = read_state(path)
    change(tensors)
    write_state(path, tensors, numbers)
    return run


def test_nonfinite_weight_is_reported(failed, tmp_path):
    def wrong(tensors):
        for name, value in tensors.items():
            if value.is_floating_point() and name.startswith("network."):
                value.mul_(0)  # all is well but one
        tensors["network.head.score.16.bias"][1] = float("nan")

    run = with_state(failed, tmp_path / "run", wrong)
    assert debug(run)[1] == "Where it began: the weight head.score.16.bias (weight): 1 non-finite value."


def test_first_exploding_layer_is_reported(failed, tmp_path):
    torch.manual_seed(0)

    def wrong(tensors):
        for name, value in tensors.items():
            if value.is_floating_point() and name.startswith("network."):
                value.copy_(torch.randn(value.shape) * 0.01)
        tensors["network.backbone.stages.2.0.weight"].fill_(9e3)

    run = with_state(failed, tmp_path / "run", wrong)
    assert "Where it began: the output of the layer backbone.stages.2.0 (Conv2d): values up to" in "\n".join(debug(run))


def test_image_with_nan_is_reported(failed):
    failed_step = load_failed_step(failed)
    failed_step.batches[0].images = failed_step.batches[0].images.float()
    failed_step.batches[0].images[1, 3, 4] = float("nan")
    found = first_nonfinite(replay(failed_step, "fp32"))
    assert found == f"the image {failed_step.batches[0].stems[1]} (image): 3 non-finite values."


def test_healthy_run_has_nothing_to_debug(tmp_path, capsys):
    assert main(["debug", str(tmp_path / "none")]) == 2
    assert "none: not a run folder (recipe.toml is missing)" in capsys.readouterr().err
    (tmp_path / "recipe.toml").write_text("")
    assert main(["debug", str(tmp_path)]) == 2
    assert "holds no failed step" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["state", "batch"])
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_damaged_dump_is_reported(failed, tmp_path, name, damage):
    run = Path(shutil.copytree(failed, tmp_path / "run"))
    path = run / "debug" / f"{name}.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9] if damage == "cut" else flipped(whole, len(whole) - 9, 1))
    with pytest.raises(RunError, match="damaged, so the step cannot be replayed"):
        debug(run)


def test_best_model_is_kept(shapes, tmp_path, capsys):
    run, settings = tmp_path / "run", {**SMALL, "ema": 0.0}
    train(shapes, run, epochs=1, **settings)
    tensors, numbers = read_state(run / "checkpoints" / "last")
    tensors["network.head.score.8.bias"][0] = float("inf")
    write_state(run / "checkpoints" / "last", tensors, numbers)
    (run / "model.safetensors").unlink()
    with pytest.raises(RunError, match="the loss became nan at step 51"):
        train(shapes, run, epochs=2, resume=True, lengthen=True, **settings)
    assert f"The model of the best step, 50, is {run / 'model.safetensors'}" in capsys.readouterr().err
    assert all(torch.isfinite(value).all() for value in read_model(run / "model.safetensors")[1].values())
