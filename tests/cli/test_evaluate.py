"""`fullconv evaluate`."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest

CLASSES = ["ground", "disc", "box", "triangle"]


def test_evaluate_prints_a_table_or_one_object_and_writes_a_csv(run, data, model, tmp_path):
    done = run("evaluate", model, data, "--split", "all", "--per-image", tmp_path / "each.csv")
    assert done.code == 0
    found = json.loads(run("evaluate", model, data, "--split", "all", "--json").out)
    assert found["images"] == 10
    assert f"{found['mean_iou']:.4f}" in done.out
    assert f"computed by        {found['engine']}, {found['precision']}\n" in done.out
    assert all(name in done.out for name in CLASSES)
    with (tmp_path / "each.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40
    assert sum(int(row["tp"]) for row in rows) == sum(found["confusion"][k][k] for k in range(4))
    options = ("--workers", 2, "--batch-size", 3, "--precision", "fp32", "--engine", "torch", "--device", "cpu")
    batched = json.loads(run("evaluate", model, data, "--split", "all", "--json", *options).out)
    assert np.abs(np.array(batched["confusion"]) - found["confusion"]).sum() <= 20  # a batch may round otherwise
    present = json.loads(run("evaluate", model, data, "--policy", "present_only", "--json").out)
    assert present["policy"] == "present_only"


def test_evaluate_reports_failures_and_exits_with_3(run, data, model, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(data, root)
    bad = min((root / "val").iterdir())
    bad.write_bytes(b"")
    done = run("evaluate", model, root, "--split", "val", "--json")
    assert done.code == 3
    found = json.loads(done.out)
    assert found["images"] == 1
    assert found["failed"][0]["input"] == bad.as_posix()
    assert f"fullconv: {bad}: is empty" in done.err
    bad.unlink()
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(
        bad.with_suffix(".tif"), np.zeros((32, 40, 5), np.uint8), planarconfig="contig", photometric="minisblack"
    )
    done = run("evaluate", model, root, "--split", "val", "--batch-size", 2)
    assert done.code == 3
    assert f"fullconv: {bad.with_suffix('.tif')}: has 5 bands, the model expects 3." in done.err
    for path in (root / "val").iterdir():
        path.write_bytes(b"")
    done = run("evaluate", model, root, "--split", "val", "--json")
    assert done.code == 2
    assert "none of 2 images could be scored" in json.loads(done.out)["error"]


def test_test_is_scored_where_the_data_have_it_and_the_table_names_its_split(run, data, model):
    for options, split in (((), "test"), (("--split", "val"), "val")):
        done = run("evaluate", model, data, *options)
        assert done.code == 0
        assert f" of {split}, " in done.out.splitlines()[0]
        found = json.loads(run("evaluate", model, data, *options, "--json").out)
        assert found["baseline"]["class"] in [row["name"] for row in found["classes"]]
