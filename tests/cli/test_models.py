"""`fullconv models`, and the table behind it."""

from __future__ import annotations

import json

import pytest

from fullconv.cli import models


def test_models_prints_the_layers_of_a_variant(run):
    found = json.loads(run("models", "fcn8s", "--backbone", "tiny", "--size", "100x130", "--json").out)
    assert (found["size"], found["padded"]) == ([100, 130], [128, 160])
    rows = {row["name"]: row for row in found["layers"]}
    first = rows["backbone.stages.0.0"]
    assert (first["shape"], first["stride"], first["receptive_field"]) == ([1, 16, 64, 80], 2, 3)
    assert rows["head.score.32"]["shape"] == [1, 21, 4, 5]
    done = run("models", "fcn8s", "--backbone", "tiny")
    assert "backbone.stages.0.0" in done.out
    assert "computed on 224x224" in done.out


@pytest.mark.parametrize(
    "key", [("fcn8s", "tiny"), ("fcn8s", "vgg16"), ("fcn-os8", "resnet18"), ("voc-fcn8s", "vgg")], ids=str
)
def test_the_table_equals_measurements(key):
    assert models.measure(key[0], None if key[1] == "vgg" else key[1]) == models.MEASURED[key]


@pytest.mark.slow
@pytest.mark.parametrize("key", models.MEASURED, ids=str)
def test_the_whole_table_equals_measurements(key):
    variant, backbone = key
    own = backbone in ("vgg", "caffenet") or variant == "voc-fcn-googlenet"
    assert models.measure(variant, None if own else backbone) == models.MEASURED[key]
