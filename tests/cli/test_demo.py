"""`fullconv demo`, and its synthetic images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fullconv.cli import demo, main, synthetic
from fullconv.data import inspect, open_dataset
from fullconv.labels import VOID, read_label_map


@pytest.fixture
def _small(monkeypatch):
    """A demo of seconds."""
    monkeypatch.setattr(synthetic, "IMAGES", {"train": 6, "val": 2, "test": 2})
    monkeypatch.setattr(synthetic, "SIZE", (64, 64))
    more = {"epochs": 1, "crop": "32x32", "batch_size": 2, "precision": "fp32", "workers": 0, "width": 0.25}
    monkeypatch.setattr(demo, "SETTINGS", {**demo.SETTINGS, **more})
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_same_seed_draws_the_same_image():
    one, other, next_one = (synthetic.draw(np.random.default_rng([0, seed]), (64, 80)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])
    assert (one[0] != next_one[0]).mean() > 0.5
    assert one[0].shape == (64, 80, 3)
    assert one[1].shape == (64, 80)
    assert one[0].dtype == one[1].dtype == np.uint8


def test_shapes_have_void_borders_and_every_class_occurs():
    masks = [synthetic.draw(np.random.default_rng([0, seed]), synthetic.SIZE)[1] for seed in range(12)]
    counts = np.bincount(np.concatenate([mask.ravel() for mask in masks]), minlength=256)
    assert set(np.flatnonzero(counts)) == {0, 1, 2, 3, VOID}
    assert counts[[1, 2, 3]].min() > 0.02 * counts.sum()
    for mask in masks:  # where two classes meet, void lies between them
        for a, b in ((mask[:, :-1], mask[:, 1:]), (mask[:-1], mask[1:])):
            assert not ((a != b) & (a != VOID) & (b != VOID)).any()


@pytest.mark.usefixtures("_small")
def test_the_data_set_passes_all_checks(tmp_path):
    synthetic.make_shapes(tmp_path / "data", (64, 64))
    dataset = open_dataset(tmp_path / "data")
    assert dataset.classes == synthetic.CLASSES
    assert {split: len(members) for split, members in dataset.splits.items()} == synthetic.IMAGES
    assert [found.code for found in inspect(dataset) if found.severity != "note"] == []


@pytest.mark.usefixtures("_small")
def test_the_demo_trains_predicts_and_lists_its_results(tmp_path, capfd):
    out = tmp_path / "demo"
    assert main(["demo", "-o", str(out)]) == 0
    first = capfd.readouterr()
    for place in (out / "run/report.html", out / "predictions", out / "run/model.safetensors"):
        assert str(place) in first.err
        assert place.exists()
    assert first.out.splitlines()[1].startswith("mIoU")
    assert "triangle" in first.out
    assert len(list((out / "predictions").glob("*.overlay.png"))) == 2
    maps = [path for path in (out / "predictions").glob("*.png") if ".overlay" not in path.name]
    assert {read_label_map(path).shape for path in maps} == {(64, 64)}

    assert main(["demo", "-o", str(out)]) == 0  # the run is finished: only its results are shown
    assert capfd.readouterr().out == first.out


def test_a_folder_with_other_files_is_refused(tmp_path, capfd):
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["demo", "-o", str(tmp_path)]) == 2
    assert "is not empty and holds no demo. Choose another folder with -o." in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
