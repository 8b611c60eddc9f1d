"""The demo: pictures that are made, and a first run on them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from fullconv.cli import demo, main
from fullconv.data import inspect, open_dataset
from fullconv.errors import RunError
from fullconv.labels import VOID, read_label_map


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FULLCONV_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def _small(monkeypatch):
    """A demo of seconds."""
    monkeypatch.setattr(demo, "PICTURES", {"train": 6, "val": 2, "test": 2})
    monkeypatch.setattr(demo, "SIZE", (64, 64))
    more = {"epochs": 1, "crop": "32x32", "batch_size": 2, "precision": "fp32", "workers": 0, "width": 0.25}
    monkeypatch.setattr(demo, "SETTINGS", {**demo.SETTINGS, **more})
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_picture_is_drawn_the_same_from_the_same_seed():
    one, other, next_one = (demo.draw(np.random.default_rng([0, seed]), (64, 80)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])
    assert (one[0] != next_one[0]).mean() > 0.5
    assert one[0].shape == (64, 80, 3)
    assert one[1].shape == (64, 80)
    assert one[0].dtype == one[1].dtype == np.uint8


def test_shapes_have_void_borders_and_every_class_occurs():
    masks = [demo.draw(np.random.default_rng([0, seed]), demo.SIZE)[1] for seed in range(12)]
    counts = np.bincount(np.concatenate([mask.ravel() for mask in masks]), minlength=256)
    assert set(np.flatnonzero(counts)) == {0, 1, 2, 3, VOID}
    assert counts[[1, 2, 3]].min() > 0.02 * counts.sum()
    for mask in masks:  # where two classes meet, void lies between them
        for a, b in ((mask[:, :-1], mask[:, 1:]), (mask[:-1], mask[1:])):
            assert not ((a != b) & (a != VOID) & (b != VOID)).any()


@pytest.mark.usefixtures("_small")
def test_the_data_set_that_is_made_has_nothing_wrong_with_it(tmp_path):
    demo.make_shapes(tmp_path / "data", (64, 64))
    dataset = open_dataset(tmp_path / "data")
    assert dataset.classes == demo.CLASSES
    assert {split: len(members) for split, members in dataset.splits.items()} == demo.PICTURES
    assert [found.code for found in inspect(dataset) if found.severity != "note"] == []


def test_the_demo_makes_120_pictures():
    assert sum(demo.PICTURES.values()) == 120
    assert len(demo.CLASSES) == len(demo.PALETTE) == 4


@pytest.mark.usefixtures("_small")
def test_the_demo_goes_from_nothing_to_predictions_and_says_where_to_look(tmp_path, capfd):
    out = tmp_path / "demo"
    assert main(["demo", "-o", str(out)]) == 0
    said = capfd.readouterr()
    for place in (out / "run/report.html", out / "predictions", out / "run/model.safetensors"):
        assert str(place) in said.err
        assert place.exists()
    assert said.out.startswith("mIoU")
    assert "triangle" in said.out
    assert len(list((out / "predictions").glob("*.overlay.png"))) == 2
    maps = [path for path in (out / "predictions").glob("*.png") if ".overlay" not in path.name]
    assert {read_label_map(path).shape for path in maps} == {(64, 64)}

    assert main(["demo", "-o", str(out)]) == 0  # once more: the run is finished, so it is only shown
    assert capfd.readouterr().out == said.out


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match=r"holds something that is no demo\. Give another folder with -o\."):
        demo.run_demo(tmp_path, print)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.slow
def test_the_whole_demo_takes_less_than_two_minutes_and_scores_090(tmp_path):
    start = time.monotonic()
    assert main(["demo", "-o", str(tmp_path / "demo")]) == 0
    assert time.monotonic() - start < 120
    lines = (tmp_path / "demo/run/metrics.jsonl").read_text().splitlines()
    assert max(json.loads(line)["val"]["mean_iou"] for line in lines) >= 0.90
    assert Path(tmp_path / "demo/run/report.html").stat().st_size < 20e6
