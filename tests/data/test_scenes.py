from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fullconv.data import inspect, open_dataset
from made import save_picture


def save(array, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_cityscapes_gives_its_19_classes(tmp_path, kind):
    ids = np.array([[0, 7, 8, 11], [33, 31, 4, 14]] * 4, np.uint8)
    train_ids = np.array([[255, 0, 1, 2], [18, 16, 255, 255]] * 4, np.uint8)
    for split, number in (("train", 0), ("train", 1), ("val", 2), ("test", 3)):
        stem = f"{split}/köln/köln_00000{number}_000019"
        save_picture(np.full((8, 4, 3), number, np.uint8), tmp_path / "leftImg8bit" / f"{stem}_leftImg8bit.png")
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
        save_picture(np.full((2, 3, 3), number, np.uint8), root / "images" / split / f"ADE_{number}.jpg")
        save(mask, root / "annotations" / split / f"ADE_{number}.png")
    return root


def test_ade20k_shifts_its_150_classes_and_0_is_void(tmp_path):
    data = open_dataset(ade(tmp_path))
    assert (data.format, len(data.classes), data.classes[0]) == ("ade20k", 150, "class1")
    assert {split: len(s) for split, s in data.splits.items()} == {"train": 2, "val": 1}
    assert data.read_mask(data.samples("val")[0]).tolist() == [[255, 0, 1], [149, 2, 255]]
    assert {p.severity for p in inspect(tmp_path)} == {"note"}
    rows = [f"{i}\t0.1\t5\t5\t{'wall, side' if i == 1 else f'thing{i}, x'}" for i in range(1, 151)]
    (tmp_path / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tName\n" + "\n".join(rows))
    assert open_dataset(tmp_path).classes[:2] == ("wall", "thing2")


def test_masks_of_the_full_ade20k_release_are_refused(tmp_path):
    ade(tmp_path)
    save(np.zeros((2, 3, 3), np.uint8), tmp_path / "annotations" / "training" / "ADE_1_seg.png")
    (told,) = inspect(tmp_path)
    assert "full ADE20K release" in told.cause
    assert "Take the scene-parsing release" in told.remedy
