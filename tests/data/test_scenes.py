from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from fullconv.data import inspect, open_dataset
from synthetic.shapes import save_image


def save(array, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_cityscapes_gives_its_19_classes(tmp_path, kind):
    ids = np.array([[0, 7, 8, 11], [33, 31, 4, 14]] * 4, np.uint8)
    train_ids = np.array([[255, 0, 1, 2], [18, 16, 255, 255]] * 4, np.uint8)
    for split, number in (("train", 0), ("train", 1), ("val", 2), ("test", 3)):
        stem = f"{split}/köln/köln_00000{number}_000019"
        save_image(np.full((8, 4, 3), number, np.uint8), tmp_path / "leftImg8bit" / f"{stem}_leftImg8bit.png")
        if split != "test":
            save(ids, tmp_path / "gtFine" / f"{stem}_gtFine_labelIds.png")
            save(ids, tmp_path / "gtFine" / f"{stem}_gtFine_instanceIds.png")
            if kind == "labelTrainIds":
                save(train_ids, tmp_path / "gtFine" / f"{stem}_gtFine_labelTrainIds.png")
    data = open_dataset(tmp_path)
    assert (data.format, data.classes[0], data.classes[18], len(data.classes)) == ("cityscapes", "road", "bicycle", 19)
    assert {split: len(s) for split, s in data.splits.items()} == {"train": 2, "val": 1, "test": 0}
    for sample in data.samples("all"):
        np.testing.assert_array_equal(data.read_mask(sample), train_ids)
    assert not [p for p in inspect(tmp_path) if p.severity == "error"]
    for path in (tmp_path / "gtFine" / "val" / "köln").iterdir():
        path.unlink()
    assert [p.severity for p in inspect(tmp_path) if p.code == "missing-mask" and "val" in p.files[0]] == ["error"]


def ade(root):
    mask = np.array([[0, 1, 2], [150, 3, 0]], np.uint8)
    for split, number in (("training", 1), ("training", 2), ("validation", 3)):
        save_image(np.full((2, 3, 3), number, np.uint8), root / "images" / split / f"ADE_{number}.jpg")
        save(mask, root / "annotations" / split / f"ADE_{number}.png")
    return root


def test_ade20k_shifts_its_150_classes_and_0_is_void(tmp_path):
    data = open_dataset(ade(tmp_path))
    assert (data.format, len(data.classes), data.classes[0]) == ("ade20k", 150, "class1")
    assert {split: len(s) for split, s in data.splits.items()} == {"train": 2, "val": 1}
    assert data.read_mask(data.samples("val")[0]).tolist() == [[255, 0, 1], [149, 2, 255]]
    assert {p.severity for p in inspect(tmp_path) if p.code != "same-mask"} == {"note"}
    rows = [f"{i}\t0.1\t5\t5\t{'wall, side' if i == 1 else f'thing{i}, x'}" for i in range(1, 151)]
    (tmp_path / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tName\n" + "\n".join(rows))
    assert open_dataset(tmp_path).classes[:2] == ("wall", "thing2")


def test_masks_of_the_full_ade20k_release_are_refused(tmp_path):
    ade(tmp_path)
    save(np.zeros((2, 3, 3), np.uint8), tmp_path / "annotations" / "training" / "ADE_1_seg.png")
    (told,) = inspect(tmp_path)
    assert "full ADE20K release" in told.cause
    assert "use the scene-parsing release" in told.remedy


def test_cityscapes_coarse_masks_count_where_there_are_no_fine_ones(tmp_path):
    for split in ("train", "train_extra", "val"):
        stem = f"{split}/ulm/ulm_000000_00001{len(split)}"
        save_image(np.full((8, 4, 3), 9, np.uint8), tmp_path / "leftImg8bit" / f"{stem}_leftImg8bit.png")
        save(np.full((8, 4), 7, np.uint8), tmp_path / "gtCoarse" / f"{stem}_gtCoarse_labelIds.png")
    data = open_dataset(tmp_path)
    assert {split: len(s) for split, s in data.splits.items()} == {"train": 2, "val": 1}
    assert data.read_mask(data.samples("val")[0]).max() == 0


NAMES = {1: "wall, side", 401: "car, auto", 2836: "traffic light, traffic signal", 3050: "window", 64: "wall"}


def ade_full(root, numbers=(1, 401, 2836), pictures=3, tables=True):
    for number in range(pictures):
        split = "validation" if number == 2 else "training"
        base = root / "images" / "ADE" / split / "urban" / "street" / f"ADE_train_0000{number}"
        save_image(np.full((4, 8, 3), number, np.uint8), base.with_suffix(".jpg"))
        mask = np.zeros((4, 8, 3), np.uint8)
        for i, index in enumerate(numbers):
            mask[i % 4, i // 4 + 1, :] = (index // 256 * 10, index % 256, i + 1)  # blue counts the instances
        save(mask, base.with_name(base.name + "_seg.png"))
        save(mask, base.with_name(base.name + "_parts_1.png"))
        save(np.full((4, 8), 255, np.uint8), base / f"instance_000_{base.name}.png")
        if tables:
            rows = [{"id": i, "name": NAMES.get(n, f"thing {n}"), "name_ndx": n, "parts": {"part_level": 0}}
                    for i, n in enumerate(numbers)]  # fmt: skip
            base.with_suffix(".json").write_text(json.dumps({"annotation": {"object": rows}}))
    return root


def test_the_code_of_the_full_ade20k_release_is_read(tmp_path):
    data = open_dataset(ade_full(tmp_path))
    assert (data.format, data.classes) == ("ade20k", ("wall", "car", "traffic light"))
    assert {split: len(s) for split, s in data.splits.items()} == {"train": 2, "val": 1}
    mask = data.read_mask(data.samples("val")[0])
    assert mask[:, 1].tolist() == [0, 1, 2, 255]
    assert set(mask[:, 2:].ravel()) == {255}
    assert not [p for p in inspect(tmp_path) if p.severity == "error"]


def test_classes_of_the_full_ade20k_release_can_be_chosen_and_without_tables_are_numbers(tmp_path):
    ade_full(tmp_path / "a", numbers=(1, 64, 401))
    (tmp_path / "a" / "data.toml").write_text('classes = ["car", "wall, side"]')
    data = open_dataset(tmp_path / "a")
    assert data.read_mask(data.samples("val")[0])[:, 1].tolist() == [1, 255, 0, 255]
    assert [p.files for p in data.problems if p.code == "other-class"] == [("wall",)]
    (tmp_path / "a" / "data.toml").write_text('classes = ["car", "wal"]')
    (told,) = inspect(tmp_path / "a")
    assert "no mask holds 'wal'" in told.cause
    assert told.remedy == "Did you mean 'wall'? Correct classes in data.toml."
    assert open_dataset(ade_full(tmp_path / "b", tables=False)).classes == ("object1", "object401", "object2836")


def test_more_classes_than_fit_are_refused_with_the_line_to_write(tmp_path):
    ade_full(tmp_path, numbers=range(1, 20), pictures=3)
    mask = np.zeros((16, 20, 3), np.uint8)
    index = np.arange(320).reshape(16, 20)
    mask[..., 0], mask[..., 1] = index // 256 * 10, index % 256
    place = next(tmp_path.rglob("ADE_train_00000_seg.png"))
    save(mask, place)
    (told,) = inspect(tmp_path)
    assert "hold 319 classes, more than 255" in told.cause
    assert 'classes = ["wall, side", ' in told.cause + told.remedy or 'classes = ["' in told.cause + told.remedy
