"""Runs: folders, settings, resuming, signals and kills."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from runs import SMALL, identity, lines, state

import fullconv
from fullconv.errors import OutputError, RecipeError, RunError
from fullconv.modelfile import read_card
from fullconv.recipe import HeadSettings
from fullconv.training import train
from fullconv.training.run_dir import RunDir
from synthetic.shapes import make_shapes

SHORT = {**SMALL, "epochs": 1}


@pytest.fixture(scope="module")
def finished(shapes, tmp_path_factory) -> Path:
    """A finished run of one epoch; not to be changed."""
    run = tmp_path_factory.mktemp("runs") / "finished"
    train(shapes, run, **SHORT)
    return run


def copied(run: Path, to: Path) -> Path:
    import shutil

    return Path(shutil.copytree(run, to))


def test_run_writes_model_recipe_log_report_and_checkpoints(finished):
    names = {path.name for path in finished.iterdir()}
    assert names >= {"model.safetensors", "recipe.toml", "metrics.jsonl", "report.html", "checkpoints", "status.json"}
    (line,) = (json.loads(text) for text in (finished / "metrics.jsonl").read_text().splitlines())
    assert set(line) == {"epoch", "step", "train_loss", "lr", "seconds", "val"}
    assert (line["epoch"], line["step"]) == (1, 50)
    assert 0 <= line["val"]["mean_iou"] <= 1
    assert json.loads((finished / "status.json").read_text()) == {"status": "finished", "step": 50, "steps": 50}


def test_card_has_recipe_data_and_scores(finished, shapes):
    card = read_card(finished / "model.safetensors")
    assert card.recipe["lr"] == 2e-3
    assert card.recipe["epochs"] == 1
    assert card.scores["val"]["mean_iou"] == lines(finished)[-1]["val"]["mean_iou"]
    assert set(card.agreement) == {"bf16"}
    assert len(card.data["splits"]["train"]) == 9
    assert card.fullconv == fullconv.__version__


def test_same_recipe_gives_the_same_bits(finished, shapes, tmp_path):
    train(shapes, tmp_path / "again", recipe=finished / "recipe.toml")
    assert identity(tmp_path / "again") == identity(finished)


def test_returned_segmenter_equals_the_file(finished, shapes, tmp_path):
    import numpy as np

    returned = train(shapes, tmp_path / "run", **SHORT)
    image = next((shapes / "val").iterdir())
    loaded = fullconv.load(tmp_path / "run")
    assert np.array_equal(returned.predict(image).label_map, loaded.predict(image).label_map)
    assert np.array_equal(returned.logits(image), loaded.logits(image))


def test_filled_folder_is_rejected_untouched(shapes, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "precious.txt").write_text("mine")
    with pytest.raises(RunError, match=r"is not empty. Continue that run with --resume, or choose another -o"):
        train(shapes, run, **SHORT)
    assert [path.name for path in run.iterdir()] == ["precious.txt"]


def test_file_instead_of_folder_is_rejected(shapes, tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(OutputError, match="is a file, not a run folder"):
        train(shapes, tmp_path / "run", **SHORT)
    with pytest.raises(OutputError, match=r"one: cannot be created \(.*run is a file\)\. Choose another -o"):
        train(tmp_path / "no data", tmp_path / "run" / "deep" / "one", **SHORT)  # outputs before the data are looked at


def test_checkpoints_without_recipe_cannot_resume(shapes, tmp_path, finished):
    run = copied(finished, tmp_path / "run")
    (run / "recipe.toml").unlink()
    with pytest.raises(RunError, match=r"holds no run to resume \(recipe\.toml is missing\)"):
        train(shapes, run, resume=True, **SHORT)


def test_second_process_in_the_folder_is_rejected(shapes, tmp_path, finished):
    run = copied(finished, tmp_path / "run")
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


def test_resume_on_a_finished_run_does_nothing(shapes, finished, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    train(shapes, finished, resume=True, **SHORT)
    assert "this run is finished" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()} == before


def test_run_killed_while_finishing_makes_no_more_steps(shapes, tmp_path, finished):
    run = copied(finished, tmp_path / "run")
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


def test_finished_run_can_be_lengthened(shapes, tmp_path, finished):
    run = copied(finished, tmp_path / "run")
    with pytest.raises(RunError, match=r"this run has epochs = 1, not 2\..* add --lengthen"):
        train(shapes, run, resume=True, **{**SHORT, "epochs": 2})
    assert identity(run) == identity(finished)
    train(shapes, run, resume=True, lengthen=True, **{**SHORT, "epochs": 2})
    assert [line["step"] for line in lines(run)] == [50, 100]
    assert lines(run)[0] == lines(finished)[0]
    assert identity(run)[1] != identity(finished)[1]
    assert re.search(r"^epochs = 2$", (run / "recipe.toml").read_text(), re.M)
    train(shapes, run, resume=True)  # and is finished now, without a word of epochs
    assert len(lines(run)) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lr": 0.1}, r"this run has lr = 0\.002, not 0\.1\. Omit --lr"),
        ({"backbone": "resnet18"}, "this run has backbone = tiny, not resnet18"),
        ({"crop": "64x64"}, r"this run has crop = 32x32, not 64x64\. Omit --crop"),
        ({"ema": 0.5}, r"this run has ema = 0\.99, not 0\.5\. Omit --set ema"),
        ({"head": {"dropout": 0.1}}, r"this run has head\.dropout = 0\.5, not 0\.1\. Omit --set head\.dropout"),
        ({"epochs": 1, "seed": 5}, "this run has seed = 0, not 5. Omit --seed"),
    ],
)
def test_conflicting_setting_is_reported(shapes, finished, given, message):
    with pytest.raises(RunError, match=message):
        train(shapes, finished, resume=True, **{**SHORT, **given})


def test_fewer_epochs_are_a_conflict(shapes, tmp_path, finished):
    run = copied(finished, tmp_path / "run")
    text = (run / "recipe.toml").read_text().replace("epochs = 1\n", "epochs = 3\n")
    (run / "recipe.toml").write_text(text)
    with pytest.raises(RunError, match="this run has epochs = 3, not 1"):
        train(shapes, run, resume=True, **SHORT)


def test_resumable_settings_may_change(shapes, finished):
    train(shapes, finished, resume=True, **{**SHORT, "workers": 1, "checkpoint_every": 5.0})


def test_other_data_are_rejected(tmp_path, finished):
    other = make_shapes(tmp_path / "data", images=12, size=(40, 48), seed=1)
    run = copied(finished, tmp_path / "run")
    (run / "status.json").unlink()
    with pytest.raises(RunError, match="are not those that this run was started with"):
        train(other, run, resume=True, **SHORT)


@pytest.fixture(scope="module")
def saved_often(shapes, tmp_path_factory) -> Path:
    """A finished run with a checkpoint after every step; not to be changed."""
    run = tmp_path_factory.mktemp("runs") / "often"
    train(shapes, run, **{**SHORT, "checkpoint_every": 0.0})
    return run


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_damaged_checkpoint_falls_back_to_the_previous(shapes, tmp_path, capsys, saved_often, damage):
    run, before = copied(saved_often, tmp_path / "run"), identity(saved_often)
    last = run / "checkpoints" / "last"
    data = bytearray(last.read_bytes())
    data[-1000] ^= 4
    last.write_bytes({"flip": bytes(data), "cut": bytes(data[:-1000]), "empty": b""}[damage])
    (run / "status.json").unlink()
    capsys.readouterr()
    train(shapes, run, resume=True, **SHORT)
    stderr = capsys.readouterr().err
    assert re.search(r"last: .*Resuming from previous, step 49\.", stderr)
    assert identity(run) == before


@pytest.mark.slow  # the contract's tests of signals are not
@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "sigint"), (signal.SIGTERM, "sigterm")])
def test_signal_stops_a_run_with_a_usable_model(shapes, tmp_path, number, name):
    run = tmp_path / "run"
    code = (
        "import sys; from pathlib import Path; from fullconv.training import run;"
        f"print(run(Path(sys.argv[1]), Path(sys.argv[2]), { ({**SMALL, 'epochs': 200})!r}).status)"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(shapes), str(run)], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        end = time.monotonic() + 120
        while not (run / "metrics.jsonl").exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(number)
        out, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert out.strip() == name
    step = json.loads((run / "status.json").read_text())
    assert step["status"] == "stopped"
    assert f"Stopped after step {step['step']} of 10000." in stderr
    assert "--resume" in stderr
    assert fullconv.load(run).predict(next((shapes / "val").iterdir())).label_map.shape == (40, 48)
    assert state(run)["step"] == step["step"]


WILD = {**SHORT, "epochs": 3, "lr": 1e8, "optimizer": "sgd", "warmup": 0, "norm": "none"}


def test_nonfinite_loss_stops_the_run_and_reports_step_and_images(shapes, tmp_path):
    message = (
        r"the loss became (nan|inf) at step \d+ \(images shape\d+, shape\d+\)\. `fullconv debug .*run` shows where it began"
        r".*start a new run with --lr 2\.5e\+07 or --set clip=1\."
    )
    with pytest.raises(RunError, match=message):
        train(shapes, tmp_path / "run", **WILD)


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


def test_fullconv_model_starts_a_run_with_other_classes(tmp_path, finished, capsys):
    data = make_shapes(tmp_path / "data", images=8, size=(40, 48), classes=6)
    train(data, tmp_path / "run", **{**SHORT, "weights": str(finished / "model.safetensors")})
    stderr = capsys.readouterr().err
    assert re.search(
        r"Newly initialized, not from .*model\.safetensors: head\.score\.16, head\.score\.32, head\.score\.8\.", stderr
    )
    assert read_card(tmp_path / "run" / "model.safetensors").weights_origin == "model.safetensors"


def test_shapes_are_learned(tmp_path):
    data = make_shapes(tmp_path / "data", images=32, size=(64, 64), classes=3)
    settings = {
        **SMALL, "variant": "fcn4s", "crop": "64x64", "batch_size": 8, "epochs": 5, "augment": "aerial", "lr": 4e-3,
        "class_weights": "none",
    }  # fmt: skip
    segmenter = train(data, tmp_path / "run", **settings)
    report = fullconv.evaluate(segmenter, data, split="val")
    assert report.mean_iou > 0.95
    assert read_card(tmp_path / "run" / "model.safetensors").scores["val"]["mean_iou"] == report.mean_iou


def test_head_settings_may_be_an_object(shapes, tmp_path):
    settings = {"variant": "fcn8s", "backbone": "tiny", "weights": "none", "crop": (32, 32), "batch_size": 2}
    head = HeadSettings(upsampling="learned")
    first = train(shapes, tmp_path / "run", epochs=1, head=head, **settings)
    again = train(shapes, tmp_path / "run", epochs=1, head=head, resume=True, **settings)
    assert again.card.weights_sha256 == first.card.weights_sha256
    assert again.card.network["head"]["upsampling"] == "learned"


@pytest.mark.parametrize("variant", ["voc-fcn16s", "voc-fcn-alexnet"])
def test_published_networks_train(shapes, tmp_path, variant):
    settings = {"weights": "none", "width": 1 / 16, "crop": (32, 32), "batch_size": 2, "epochs": 1}
    trained = train(shapes, tmp_path / "run", variant=variant, **settings)
    again = fullconv.load(tmp_path / "run")
    assert again.card.weights_sha256 == trained.card.weights_sha256
    assert again.card.variant == variant
    image = np.random.default_rng(0).integers(0, 256, (33, 41, 3), dtype=np.uint8)
    assert again.predict(image).label_map.shape == (33, 41)


SETTINGS = {**SMALL, "epochs": 2, "seed": 3, "checkpoint_every": 0.2}


@pytest.fixture(scope="module")
def start():
    """Start a run in a process of its own; all are forked from one that has imported torch."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fullconv.training"])
    begun = []
    patch = pytest.MonkeyPatch()
    patch.setenv("OMP_NUM_THREADS", "1")

    def begin(data: Path, run: Path, **settings):
        process = context.Process(target=train, args=(str(data), str(run)), kwargs={**SETTINGS, **settings})
        process.start()
        begun.append(process)
        return process

    yield begin
    for process in begun:
        process.kill()
        process.join()
    patch.undo()


def finish(process) -> None:
    process.join(timeout=300)
    assert process.exitcode == 0


def wait(process, condition, seconds: float = 120) -> bool:
    """Wait for a condition, and say whether it came before the process ended."""
    end = time.monotonic() + seconds
    while process.is_alive() and time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.001)
    return False


def kill(process) -> None:
    process.kill()
    process.join()


def writing(run: Path) -> bool:
    return any((run / "checkpoints").glob(".*.part"))


def at_a_random_moment(rng):
    """Some steps after a new checkpoint, wherever the run then is."""

    def strike(process, run: Path) -> None:
        last = run / "checkpoints" / "last"
        before = last.stat().st_mtime_ns if last.exists() else None
        wait(process, lambda: last.exists() and last.stat().st_mtime_ns != before)
        time.sleep(rng.uniform(0, 0.3))
        kill(process)

    return strike


def while_it_writes_a_checkpoint(process, run: Path) -> None:
    wait(process, lambda: writing(run))
    kill(process)


def before_the_first_step(process, run: Path) -> None:
    wait(process, lambda: (run / "recipe.toml").exists())
    kill(process)


def while_it_ends(process, run: Path) -> None:
    wait(process, lambda: (run / "model.safetensors").exists())
    kill(process)


def killed(start, data: Path, run: Path, strikes, **settings) -> int:
    """Run to the end through all the strikes; return the number of kills that met a living process."""
    met = 0
    for strike in strikes:
        process = start(data, run, resume=run.exists(), **settings)
        strike(process, run)
        met += process.exitcode == -9
    finish(start(data, run, resume=True, **settings))
    return met


def test_run_killed_repeatedly_ends_with_the_same_bits(start, shapes, tmp_path):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    finish(start(shapes, straight))
    rng = np.random.default_rng(0)
    strikes = [before_the_first_step, at_a_random_moment(rng), while_it_writes_a_checkpoint, while_it_ends]
    assert killed(start, shapes, broken, strikes) >= 3
    assert identity(broken) == identity(straight)
    assert {**state(broken), "seconds": 0, "history": 0} == {**state(straight), "seconds": 0, "history": 0}
    assert not [path.name for path in broken.rglob("*.part")]


@pytest.mark.slow  # the contract's test of seeds is not
def test_other_seed_gives_other_bits(start, shapes, tmp_path):
    first, second = start(shapes, tmp_path / "a", epochs=1), start(shapes, tmp_path / "b", epochs=1, seed=4)
    finish(first)
    finish(second)
    assert identity(tmp_path / "a")[:2] != identity(tmp_path / "b")[:2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "sgd", "accumulate": 3, "ema": 0.0, "augment": "microscopy", "schedule": "cosine"},
        {"backbone": "resnet18", "width": 0.25, "workers": 2, "loss": "cross_entropy + dice", "sampling": "rare"},
        {"backbone": "vgg16", "width": 0.0625, "head": {"upsampling": "learned"}, "precision": "bf16", "clip": 1.0},
        {"early_stop": 1, "epochs": 6, "lr": 1e-7},
    ],
    ids=["sgd", "resnet-workers", "vgg-dropout", "early-stop"],
)
def test_training_modes_survive_twelve_kills(start, shapes, tmp_path, settings):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    settings = {"epochs": 4, **settings}
    finish(start(shapes, straight, **settings))
    rng = np.random.default_rng(1)
    strikes = [before_the_first_step]
    for _ in range(5):
        strikes += [at_a_random_moment(rng), while_it_writes_a_checkpoint]
    killed(start, shapes, broken, [*strikes, while_it_ends], **settings)
    assert identity(broken) == identity(straight)
