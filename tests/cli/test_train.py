"""`fullconv check` and `fullconv train`."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from fullconv.cli.train import collect_settings, exit_code
from fullconv.errors import RecipeError
from fullconv.labels import read_label_map

CLASSES = ["ground", "disc", "box", "triangle"]


def test_check_summarizes_the_data(run, data):
    done = run("check", data)
    assert done.code == 0
    for words in ("4 classes, 6 train, 2 val, 2 test images", "triangle", "Ready for train."):
        assert words in done.out
    found = json.loads(run("check", data, "--json").out)
    assert (found["ok"], found["splits"]) == (True, {"train": 6, "val": 2, "test": 2})
    assert [row["name"] for row in found["classes"]] == CLASSES


@pytest.mark.parametrize("name", ["flat", "nowhere"])
def test_check_with_a_format_that_does_not_fit_still_prints_its_object(run, data, name):
    done = run("check", data, "--format", name, "--json")
    assert done.code == 2
    found = json.loads(done.out)
    assert found["ok"] is False
    assert found["problems"][0]["severity"] == "error"
    assert json.loads(run("check", data, "--format", "camvid", "--json").out)["ok"] is True


def test_settings_are_those_that_the_user_gave():
    given = {"epochs": 3, "lr": None, "skip_bad": None, "seed": 0}
    settings = collect_settings(given, ["optimizer=sgd", "head.fc=false", "class_weights=[1, 2]", "seed=0"])
    assert settings == {"epochs": 3, "seed": 0, "optimizer": "sgd", "head.fc": False, "class_weights": [1, 2]}
    with pytest.raises(RecipeError, match=r"--set epochs=4: epochs was given before as 3"):
        collect_settings(given, ["epochs=4"])


def test_the_exit_code_depends_on_the_status():
    assert [exit_code(status, []) for status in ("done", "sigint", "sigterm")] == [0, 130, 143]
    assert [exit_code(status, ["a"]) for status in ("done", "sigint", "sigterm")] == [3, 130, 143]


def test_a_run_from_data_to_label_maps(run, data, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(data, root)
    next((root / "train").iterdir()).write_bytes(b"")
    out = tmp_path / "run"
    options = ("--backbone", "tiny", "--weights", "none", "--epochs", 1, "--crop", "32x32", "--batch-size", 2,
               "--precision", "fp32", "--device", "cpu", "--workers", 0, "--set", "width=0.25")  # fmt: skip
    done = run("train", root, "-o", out, *options, "--skip-bad")
    assert done.code == 3
    assert done.out == ""
    assert "skipped: shape00" in done.err
    assert {"model.safetensors", "recipe.toml", "metrics.jsonl", "report.html"} <= {p.name for p in out.iterdir()}
    assert run("train", root, "-o", out, *options).code == 2  # not empty
    assert run("train", root, "-o", out, "--skip-bad", "--resume").code in (0, 3)  # finished

    card = json.loads(run("info", out, "--json").out)
    assert card["classes"] == CLASSES
    assert card["recipe"]["width"] == 0.25
    done = run("info", out / "model.safetensors")
    assert "fcn8s on tiny" in done.out
    assert "5 train, 2 val, 2 test" in done.out

    scored = json.loads(run("evaluate", out, root, "--split", "test", "--json").out)
    assert scored["mean_iou"] == pytest.approx(card["scores"]["test"]["mean_iou"], abs=1e-9)
    assert run("predict", out, root / "test", "-o", tmp_path / "maps").code == 0
    masks = [
        (np.asarray(Image.open(root / "testannot" / p.name)), read_label_map(p))
        for p in (tmp_path / "maps").glob("*.png")
    ]
    hits = sum(int(((t == m) & (t < 4)).sum()) for t, m in masks)
    assert hits == sum(scored["confusion"][k][k] for k in range(4))
