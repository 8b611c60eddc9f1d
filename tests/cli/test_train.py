"""`fullconv check` and `fullconv train`."""

from __future__ import annotations

import json

import pytest

from fullconv.cli.train import collect_settings, exit_code
from fullconv.errors import RecipeError


def test_check_summarizes_the_data(run, data):
    done = run("check", data)
    assert done.code == 0
    for words in ("4 classes, 6 train, 2 val, 2 test images", "triangle", "Ready for train."):
        assert words in done.out


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
