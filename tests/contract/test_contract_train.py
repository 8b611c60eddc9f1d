"""Section 4 of the interface: what a run prints, writes, rejects and survives."""

from __future__ import annotations

import html
import json
import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import contract_tools as tools
import numpy as np
import pytest
from contract_tools import QUICK, SMALL, STRAIGHT, assert_same_run, assert_user_error, call, pairs, spawn, start
from PIL import Image

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib


def wait_for(condition, process: subprocess.Popen | None = None, seconds: float = 120) -> bool:
    """Until the condition holds; False where the process ended before it did."""
    end = time.monotonic() + seconds
    while not condition():
        if process is not None and process.poll() is not None:
            return condition()
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    return True


def lines(run: Path) -> int:
    file = run / "metrics.jsonl"
    return len(file.read_text("utf-8").splitlines()) if file.exists() else 0


# --- what a run leaves -----------------------------------------------------------------------------------------------


def test_run_folder_files(run):
    assert {"model.safetensors", "recipe.toml", "metrics.jsonl", "report.html", "checkpoints"} <= {
        file.name for file in run.iterdir()
    }
    tools.last_checkpoint(run)
    assert not [file for file in run.rglob("*") if file.name.endswith((".tmp", ".part", "~"))]


def test_metrics_have_a_line_per_epoch_of_at_least_fifty_steps(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == 2
    for row in rows:
        assert set(row) >= {"epoch", "step", "train_loss", "lr", "seconds", "val"}
        assert row["seconds"] > 0
        assert row["train_loss"] > 0
        assert row["lr"] > 0
        if row["val"] is not None:
            assert set(row["val"]) >= tools.EVALUATE_KEYS
    assert rows[1]["epoch"] == rows[0]["epoch"] + 1
    assert rows[0]["step"] >= 49
    assert rows[1]["step"] - rows[0]["step"] >= 50
    assert rows[-1]["val"] is not None, "the full set is scored at the end"


def test_the_recipe_is_resolved(run):
    recipe = tomllib.loads((run / "recipe.toml").read_text("utf-8"))
    text = json.dumps(recipe)
    for name in ("variant", "backbone", "weights", "epochs", "batch_size", "crop", "scale", "lr", "seed", "augment"):
        assert f'"{name}"' in text, name
    assert recipe["variant"] == "fcn8s"
    assert recipe["backbone"] == "tiny"
    assert recipe["seed"] == 7
    assert recipe["epochs"] == 2
    assert "auto" not in json.dumps([recipe.get("precision"), recipe.get("batch_size"), recipe.get("device")])


def test_settings_and_forecast_are_printed(trained):
    _, answer = trained
    said = answer.err.lower()
    for word in ("fcn8s", "tiny", "32x32", "memory", "disk|disc", r"\d\s*(s|sec|seconds|min)\b"):
        assert re.search(word, said), word
    assert "model.safetensors" in answer.text


def test_report_is_one_small_file_with_the_facts_of_the_run(run):
    page = (run / "report.html").read_text("utf-8")
    assert len(page) < 20_000_000
    for word in ("disc", "box", "fcn8s", "tiny", "confusion", "truth", "best on val"):
        assert word in page.lower(), word


def test_model_is_the_best_on_val(run, model, shapes):
    rows = tools.metrics_of(run)
    best = max(row["val"]["mean_iou"] for row in rows if row["val"])
    found = call("evaluate", model, shapes, "--split", "val", "--json", "--precision", "fp32").json()
    assert found["mean_iou"] == pytest.approx(best, abs=2e-3)


# --- the same run ----------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_run_also_with_other_workers(run, shapes, tmp_path):
    answer = call("train", shapes, "-o", tmp_path / "again", *STRAIGHT, "--workers", 1)
    assert answer.rc == 0, str(answer)
    assert_same_run(run, tmp_path / "again")


def test_a_recipe_and_a_command_give_the_same_run_and_another_seed_another(shapes, tmp_path):
    answers = [
        call("train", shapes, "-o", tmp_path / "a", *QUICK, "--set", "seed=1", "--set", "deterministic=true"),
        call("train", shapes, "-o", tmp_path / "b", "--recipe", tmp_path / "a/recipe.toml"),
        call("train", shapes, "-o", tmp_path / "c", "--recipe", tmp_path / "a/recipe.toml", "--seed", 2),
    ]
    for answer in answers:
        assert answer.rc == 0, str(answer)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    recipe = tomllib.loads((tmp_path / "a/recipe.toml").read_text("utf-8"))
    assert (recipe["seed"], recipe["deterministic"]) == (1, True)
    hashes = [tools.card_of(tmp_path / name / "model.safetensors")["weights_sha256"] for name in "abc"]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("times", [1, pytest.param(12, marks=pytest.mark.slow)])
def test_a_killed_run_resumes_to_the_same_result(run, shapes, tmp_path, closing, times):
    target, log = tmp_path / "killed", tmp_path / "log"
    command = ("train", shapes, "-o", target, *STRAIGHT, "--workers", 0, "--checkpoint-every", "0.3", "--resume")
    draw = random.Random()
    for _ in range(times):
        process = start(*command, log=log)
        closing(process)
        wait_for(lambda: (target / "recipe.toml").exists(), process)
        time.sleep(draw.uniform(0, 2.0))
        process.kill()
        process.wait()
        if (target / "model.safetensors").exists():
            tools.card_of(target / "model.safetensors")
    answer = call(*command)
    assert answer.rc == 0, str(answer)
    assert_same_run(run, target)


def test_sigterm_exits_143_with_a_usable_model_and_resumes_to_the_same_result(run, shapes, tmp_path, closing):
    target, log = tmp_path / "stopped", tmp_path / "log"
    command = ("train", shapes, "-o", target, *STRAIGHT, "--workers", 0)
    process = start(*command, log=log)
    closing(process)
    wait_for(lambda: lines(target) >= 1, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143, log.read_text("utf-8")
    said = log.read_text("utf-8")
    assert "Traceback" not in said
    assert "--resume" in said
    assert call("info", target / "model.safetensors").rc == 0
    answer = call(*command, "--resume")
    assert answer.rc == 0, str(answer)
    assert_same_run(run, target)


def test_ctrl_c_exits_130_and_the_folder_is_locked_until_then(shapes, tmp_path, closing):
    target, log = tmp_path / "long", tmp_path / "log"
    command = ("train", shapes, "-o", target, *SMALL, "--epochs", 2000, "--workers", 1)
    process = start(*command, log=log)
    closing(process)
    assert wait_for(lambda: lines(target) >= 1, process), log.read_text("utf-8")
    assert_user_error(call(*command, "--resume"), r"process|running|in use|already")
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130, log.read_text("utf-8")
    said = log.read_text("utf-8")
    assert "Traceback" not in said
    assert "--resume" in said
    out = tmp_path / "out"
    assert call("predict", target / "model.safetensors", shapes / "val/images", "-o", out).rc == 0


@pytest.mark.slow
def test_stop_before_the_first_step_reports_how_to_resume(shapes, tmp_path, closing):
    target, log = tmp_path / "early", tmp_path / "log"
    process = start("train", shapes, "-o", target, *SMALL, "--epochs", 2000, "--workers", 0, log=log)
    closing(process)
    assert wait_for(lambda: (target / "recipe.toml").exists(), process), log.read_text("utf-8")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143, log.read_text("utf-8")
    assert "Traceback" not in log.read_text("utf-8")
    assert "--resume" in log.read_text("utf-8")


# --- resume ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option",
    [
        ("--seed", "8"),
        ("--epochs", "9"),
        ("--variant", "fcn32s"),
        ("--lr", "0.5"),
        ("--crop", "64x64"),
        ("--backbone", "resnet18"),
    ],
    ids=lambda option: option[0][2:],
)
def test_resume_reports_a_conflicting_option(run, shapes, option):
    before = tools.snapshot(run)
    name, value = option[0][2:], option[1].split("x")[0]
    assert_user_error(call("train", shapes, "-o", run, "--resume", *option), rf"\b{name}\b", re.escape(value))
    assert tools.snapshot(run) == before


def test_resume_of_a_finished_run_leaves_it_unchanged(run, tmp_path):
    other = pairs(tmp_path / "other", 8)
    before = tools.snapshot(run)
    answer = call("train", other, "-o", run, "--resume")
    assert answer.rc == 0, str(answer)
    assert "Traceback" not in answer.text
    assert tools.snapshot(run) == before


@pytest.mark.parametrize("content", ["run", "foreign"])
def test_filled_folder_is_rejected_untouched(run, shapes, tmp_path, content):
    target = run
    if content == "foreign":
        target = tmp_path / "mine"
        target.mkdir()
        (target / "thesis.txt").write_text("mine", "utf-8")
    before = tools.snapshot(target)
    assert_user_error(call("train", shapes, "-o", target, *QUICK), re.escape(target.name), "--resume|empty")
    assert tools.snapshot(target) == before


def test_the_data_is_never_written_to(run, model, predicted, shapes):
    assert {file.name for file in shapes.iterdir()} == {"data.toml", "train", "val", "test"}
    assert {file.suffix for file in shapes.rglob("*") if file.is_file()} == {".toml", ".png", ".jpg"}


# --- settings --------------------------------------------------------------------------------------------------------


def test_unknown_recipe_key_suggests_the_nearest(shapes, tmp_path):
    (tmp_path / "recipe.toml").write_text('variant = "fcn8s"\nbackbones = "tiny"\n', "utf-8")
    answer = call("train", shapes, "-o", tmp_path / "run", "--recipe", tmp_path / "recipe.toml")
    assert_user_error(answer, "backbones", r"\bbackbone\b")


def test_unavailable_imagenet_weights_are_reported_with_the_fix(shapes, tmp_path):
    answer = call("train", shapes, "-o", tmp_path / "run", "--backbone", "resnet18", "--epochs", "1")
    assert_user_error(answer, "resnet18", "--weights none")
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())


def test_nonfinite_loss_stops_the_run_and_reports_the_step(shapes, tmp_path):
    answer = call("train", shapes, "-o", tmp_path / "run", *QUICK, "--lr", "1e30")
    assert_user_error(answer, r"\bstep\b", r"nan|not a number|finite|inf")


def test_model_with_other_classes_as_pretrained_weights(model, tmp_path):
    data = pairs(tmp_path / "data", 8, 'classes = ["background", "disc", "box", "lorry"]\n')
    arguments = [model if value == "none" else value for value in QUICK]
    answer = call("train", data, "-o", tmp_path / "run", *arguments)
    assert answer.rc == 0, str(answer)
    assert re.search("anew|afresh|from scratch|fresh|new", answer.err, flags=re.IGNORECASE)
    card = tools.card_of(tmp_path / "run/model.safetensors")
    assert len(card["classes"]) == 4


def test_permuted_classes_keep_their_scores_and_are_evaluated_by_name(model, shapes, tmp_path):
    """The same images, whose masks number the classes in another order, give the same scores; so does a run on them."""
    own = tools.card_of(model)["classes"]
    order = [2, 0, 1]  # index in the new list of each class
    data = tmp_path / "data"
    shutil.copytree(shapes, data)
    for path in data.glob("*/masks/*.png"):
        table = np.arange(256, dtype=np.uint8)
        table[:3] = order
        Image.fromarray(table[tools.read(path)]).save(path)
    names = [own[order.index(index)] for index in range(3)]
    (data / "data.toml").write_text(f"classes = {json.dumps(names)}\n", "utf-8")
    right, found = (call("evaluate", model, folder, "--json") for folder in (shapes, data))
    assert "matched by name" in found.err
    assert [row["name"] for row in found.json()["classes"]] == own
    for key in ("confusion", "mean_iou", "classes", "mean_iou_interval"):
        assert found.json()[key] == right.json()[key]
    still = [model if value == "none" else value for value in QUICK]
    answer = call("train", data, "-o", tmp_path / "run", *still, "--lr", "1e-6", "--augment", "none")
    assert answer.rc == 0, str(answer)
    moved = [f"{name} ({own.index(name)} to {names.index(name)})" for name in names]
    sentence = f"by name: carried over from another index: {', '.join(moved)}."
    assert sentence in answer.err
    assert sentence in html.unescape((tmp_path / "run" / "report.html").read_text("utf-8"))
    again = call("evaluate", tmp_path / "run", shapes, "--json").json()
    assert abs(again["mean_iou"] - right.json()["mean_iou"]) < 0.1  # batch norm moves, the weights hardly do


def test_scale_is_in_the_card_and_results_have_the_image_size(shapes, tmp_path):
    run = tmp_path / "run"
    answer = call("train", shapes, "-o", run, *QUICK, "--scale", "0.5")
    assert answer.rc == 0, str(answer)
    assert tools.card_of(run / "model.safetensors")["scale"] == 0.5
    out = tmp_path / "out"
    assert call("predict", run / "model.safetensors", shapes / "val/images", "-o", out).rc == 0
    pairs_found = [(tools.read(m), tools.read(out / m.name)) for m in sorted((shapes / "val/masks").iterdir())]
    found = call("evaluate", run / "model.safetensors", shapes, "--split", "val", "--json").json()
    assert found["confusion"] == tools.confusion_from(pairs_found, 3).tolist()


@pytest.mark.parametrize("augment", ["street", "aerial", "microscopy", "none"])
@pytest.mark.slow
def test_every_augmentation_preset_trains(shapes, tmp_path, augment):
    assert call("train", shapes, "-o", tmp_path / "run", *QUICK, "--augment", augment).rc == 0


def test_full_disk_leaves_no_partial_model(shapes, tmp_path):
    limited = tools.file_size_limit()
    run = tmp_path / "run"
    answer = spawn("train", shapes, "-o", run, *QUICK, limit=limited(5000))
    assert_user_error(answer, "written|space|too large|write")
    assert not (run / "model.safetensors").exists()
    assert not list((run / "checkpoints").glob("last*.safetensors")) if (run / "checkpoints").exists() else True


@pytest.mark.slow
def test_file_that_breaks_during_training_stops_the_run(tmp_path, closing):
    data = pairs(tmp_path / "data", 12)
    target, log = tmp_path / "run", tmp_path / "log"
    process = start("train", data, "-o", target, *SMALL, "--epochs", 500, "--workers", 0, log=log)
    closing(process)
    assert wait_for(lambda: lines(target) >= 1, process), log.read_text("utf-8")
    for file in (data / "images").iterdir():
        file.write_bytes(b"")
    try:
        assert process.wait(30) == 2, log.read_text("utf-8")
    except subprocess.TimeoutExpired:
        pytest.skip("pictures this small are kept in memory")
    assert re.search(r"p\d\d\.png", log.read_text("utf-8"))


@pytest.mark.slow
def test_folds_partition_the_images(tmp_path):
    data = pairs(tmp_path / "data", 20, size=(16, 16))
    seen = []
    for k in range(5):
        run = tmp_path / f"run{k}"
        answer = call("train", data, "-o", run, *QUICK, "--set", "folds=5", "--set", f"fold={k}")
        assert answer.rc == 0, str(answer)
        table = tmp_path / "table.csv"
        answer = call("evaluate", run / "model.safetensors", data, "--per-image", table)
        assert answer.rc == 0, str(answer)
        seen.append({line.split(",")[0] for line in table.read_text("utf-8").splitlines()[1:]})
    assert sum(map(len, seen)) == len(set().union(*seen)) == 20


@pytest.mark.slow
def test_minutes_are_kept_within_ten_percent(shapes, tmp_path):
    began = time.monotonic()
    options = [o for o in SMALL if o != "--epochs"]
    answer = spawn("train", shapes, "-o", tmp_path / "run", *options, "--minutes", "0.5")
    took = time.monotonic() - began
    assert answer.rc == 0, str(answer)
    assert 27 <= took <= 33
    assert (tmp_path / "run/report.html").exists()


@pytest.mark.slow
def test_synthetic_data_are_learned(tmp_path):
    data = pairs(tmp_path / "data", 40)
    run = tmp_path / "run"
    options = ("--variant", "fcn8s", "--backbone", "tiny", "--weights", "none", "--minutes", "0.5")
    answer = spawn("train", data, "-o", run, *options)
    assert answer.rc == 0, str(answer)
    assert max(row["val"]["mean_iou"] for row in tools.metrics_of(run) if row["val"]) > 0.9
    shutil.rmtree(run)
