from __future__ import annotations

import numpy as np
import pytest

from fullconv.data import open_dataset
from synthetic.reading import problems, read_masks, split_sizes
from synthetic.shapes import save_image, save_mask

IDS = np.array([[0, 7, 8, 11], [33, 31, 4, 14]] * 4, np.uint8)
TRAIN_IDS = np.array([[255, 0, 1, 2], [18, 16, 255, 255]] * 4, np.uint8)
SPLITS = ("train", "train", "val", "test")


def write(root, splits=SPLITS, outer=("", ""), weather="", masks="gtFine", **arrays):
    """Write an image for each split, and masks of some types except for test."""
    for number, split in enumerate(splits):
        stem = f"{split}/köln/köln_00000{number}_000019"
        image = np.random.default_rng(number).integers(0, 256, (8, 4, 3), np.uint8)
        save_image(image, root / f"{outer[0]}leftImg8bit/{stem}_leftImg8bit{weather}.png")
        for name, array in arrays.items() if split != "test" else ():
            save_mask(array, root / f"{outer[1]}{masks}/{stem}_{masks}_{name}.png")
    return root


@pytest.mark.parametrize("train_ids", [{}, {"labelTrainIds": TRAIN_IDS}])
@pytest.mark.parametrize("outer", [("", ""), ("leftImg8bit_trainvaltest/", "gtFine_trainvaltest/")])
@pytest.mark.parametrize("weather", ["", "_foggy_beta_0.02"])
def test_the_19_classes_are_read_as_the_archives_unpack(tmp_path, train_ids, outer, weather):
    write(tmp_path, outer=outer, weather=weather, labelIds=IDS, instanceIds=IDS, **train_ids)
    data = open_dataset(tmp_path)
    assert (data.format, data.classes[0], data.classes[18], len(data.classes)) == ("cityscapes", "road", "bicycle", 19)
    assert split_sizes(tmp_path) == {"train": 2, "val": 1, "test": 0}
    assert all((mask == TRAIN_IDS).all() for mask in read_masks(tmp_path).values())
    found = problems(tmp_path)
    assert found["missing-mask"].severity == "note"  # the benchmark keeps the masks of test back
    assert "empty-split" not in found
    assert not [problem for problem in found.values() if problem.severity == "error"]


def test_missing_masks_of_val_are_an_error(tmp_path):
    write(tmp_path, labelIds=IDS)
    for path in (tmp_path / "gtFine" / "val" / "köln").iterdir():
        path.unlink()
    assert "error" in {found.severity for found in open_dataset(tmp_path, skip_bad=True).problems}


def test_coarse_masks_count_without_fine_ones(tmp_path):
    write(tmp_path, ("train", "train_extra", "val"), masks="gtCoarse", labelIds=np.full((8, 4), 7, np.uint8))
    assert split_sizes(tmp_path) == {"train": 2, "val": 1}
    assert not any(mask.any() for mask in read_masks(tmp_path).values())


def test_train_ids_under_the_name_of_label_ids_are_reported(tmp_path):
    write(tmp_path, ("train",) * 3, labelIds=np.array([[0, 10, 255, 0]] * 8, np.uint8))
    found = problems(tmp_path)["off-by-one"]
    assert "255" in found.cause
    assert "10 = " in found.remedy
