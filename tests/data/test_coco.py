from __future__ import annotations

import json

import numpy as np
import pytest
from pycocotools import mask as tools

from fullconv.data import inspect, open_dataset
from fullconv.errors import DataError
from synthetic.coco import SIZE, coco, square


def filled(rows, columns):
    mask = np.zeros(SIZE, np.uint8)
    mask[rows, columns] = 1
    return mask


def masks(root):
    data = open_dataset(root)
    return data, {sample.stem: data.read_mask(sample) for sample in data.samples("all")}


def test_polygons_and_run_lengths_are_drawn_later_ones_on_top(tmp_path):
    ring = filled(slice(2, 12), slice(2, 12))
    ring[5:8, 5:8] = 0  # a hole, which COCO says by run lengths
    packed = tools.encode(np.asfortranarray(ring))
    loose = {"size": [20, 30], "counts": [0, 3, 17, 3, 577]}  # rows 0 to 2 of columns 0 and 1
    coco(
        tmp_path,
        [
            {"image_id": 70, "category_id": 7, "segmentation": [square(1, 1, 6), square(20, 10, 40)]},
            {"image_id": 70, "category_id": 3, "segmentation": [square(4, 4, 6)]},
            {"image_id": 71, "category_id": 3, "segmentation": {"size": [20, 30], "counts": packed["counts"].decode()}},
            {"image_id": 71, "category_id": 7, "iscrowd": 1, "segmentation": loose},
            {"image_id": 72, "category_id": 7, "segmentation": [[-9, -9, 5, -9, 5, 5, -9, 5]]},
        ],
    )
    data, found = masks(tmp_path)
    assert (data.format, data.classes) == ("coco", ("background", "dog house", "Katze"))
    expected = np.zeros(SIZE, np.uint8)
    expected[1:7, 1:7] = 2
    expected[10:, 20:] = 2
    expected[4:10, 4:10] = 1
    np.testing.assert_array_equal(found["bild ü 0"], expected)
    expected = ring.copy()
    expected[:3, :2] = 255
    np.testing.assert_array_equal(found["bild ü 1"], expected)
    np.testing.assert_array_equal(found["bild ü 2"], 2 * filled(slice(0, 5), slice(0, 5)))
    told = next(p for p in inspect(data) if p.code != "class-missing-in-train")
    assert (told.code, told.severity) == ("unlabeled", "note")
    assert "'background'" in told.cause


def test_what_polygons_leave_over_can_be_void_or_another_class(tmp_path):
    coco(
        tmp_path,
        [{"image_id": i, "category_id": c, "segmentation": [square(1, 1, 6)]} for i, c in ((70, 3), (71, 7), (72, 3))],
    )
    (tmp_path / "data.toml").write_text('unlabeled = "void"', encoding="utf-8")
    data, found = masks(tmp_path)
    assert data.classes == ("dog house", "Katze")
    assert set(np.unique(found["bild ü 0"])) == {0, 255}
    assert {p.code for p in inspect(tmp_path)} <= {"unlabeled", "class-missing-in-train"}
    (tmp_path / "data.toml").write_text('classes = ["Katze", "dog house"]', encoding="utf-8")
    with pytest.raises(DataError, match="would be 'Katze', which shapes draw, too"):
        open_dataset(tmp_path)
    (tmp_path / "data.toml").write_text('classes = ["floor", "Katze"]', encoding="utf-8")
    told = {p.code: p for p in inspect(tmp_path)}
    assert told["unknown-class"].severity == "error"
    assert told["unknown-class"].stems == {"bild ü 0", "bild ü 2"}


def test_splits_are_those_of_the_files_and_roboflow_folders(tmp_path):
    for split, number in (("train", 2), ("valid", 1)):
        images = [{"id": i, "file_name": f"{split}{i}.png", "height": 20, "width": 30} for i in range(number)]
        drawn = [{"image_id": i, "category_id": 3, "segmentation": [square(1, 1, 6)]} for i in range(number)]
        coco(tmp_path, drawn, images, f"{split}/_annotations.coco.json")
        for image in images:
            (tmp_path / "images" / image["file_name"]).rename(tmp_path / split / image["file_name"])
    data = open_dataset(tmp_path)
    assert {split: [s.stem for s in members] for split, members in data.splits.items()} == {
        "train": ["train0", "train1"], "val": ["valid0"],
    }  # fmt: skip


def test_missing_pictures_are_one_warning_and_foreign_paths_are_mended(tmp_path):
    coco(tmp_path, [{"image_id": 70, "category_id": 3, "segmentation": [square(1, 1, 6)]}])
    table = json.loads((tmp_path / "instances.json").read_text(encoding="utf-8"))
    table["images"] += [{"id": 900 + i, "file_name": f"lost{i}.png", "height": 9, "width": 9} for i in range(25)]
    table["images"][1]["file_name"] = "C:\\data\\bild ü 1.png"
    (tmp_path / "instances.json").write_text(json.dumps(table), encoding="utf-8")
    told = {p.code: p for p in inspect(tmp_path)}
    assert (told["missing-picture"].severity, told["missing-picture"].count) == ("warning", 25)
    assert told["path-mended"].count == 1
    assert len(open_dataset(tmp_path).samples("all")) == 3


@pytest.mark.parametrize(
    "outline",
    [
        [[1, 2, 3, 4]], [[1, 2, 3, 4, 5, "x"]], [[1, 2, 3, 4, 5, 1e300]], [[1, 2, 3, 4, 5, None]],
        {"size": [20, 30], "counts": [1, 2]}, {"size": [3, 3], "counts": [9]}, {"size": [20, 30], "counts": "zz€"},
        {"size": [20, 30], "counts": "PPPPPPPPP"}, {"size": [20, 30], "counts": [-1, 601]}, {"counts": 5}, "x", 7,
    ],
)  # fmt: skip
def test_an_outline_that_is_none_is_named_and_draws_nothing(tmp_path, outline):
    drawn = [{"image_id": 70, "category_id": 3, "segmentation": outline}]
    drawn += [{"image_id": i, "category_id": 7, "segmentation": [square(1, 1, 6)]} for i in (71, 72)]
    coco(tmp_path, drawn)
    told = {p.code: p for p in inspect(tmp_path)}
    assert (told["bad-shape"].severity, told["bad-shape"].stems) == ("error", {"bild ü 0"})


@pytest.mark.parametrize(("boxes", "value"), [(None, 255), ("void", 255), ("fill", 1), ("skip", 0)])
def test_a_box_without_an_outline_is_void_or_what_the_user_says(tmp_path, boxes, value):
    drawn = [{"image_id": 70, "category_id": 3, "segmentation": [], "bbox": [2, 3, 4, 5]}]
    drawn += [{"image_id": i, "category_id": 7, "segmentation": [square(1, 1, 6)]} for i in (71, 72)]
    coco(tmp_path, drawn)
    if boxes:
        (tmp_path / "data.toml").write_text(f'boxes = "{boxes}"')
    _, found = masks(tmp_path)
    np.testing.assert_array_equal(found["bild ü 0"], value * filled(slice(3, 8), slice(2, 6)))
    assert "box-only" in {p.code for p in inspect(tmp_path)}


def test_outlines_add_up_and_one_inside_another_is_said(tmp_path):
    drawn = [{"image_id": 70, "category_id": 7, "segmentation": [square(1, 1, 12), square(4, 4, 3)]}]
    keyhole = [1, 1, 13, 1, 13, 13, 1, 13, 1, 1, 4, 4, 4, 7, 7, 7, 7, 4, 4, 4]
    drawn += [{"image_id": 71, "category_id": 7, "segmentation": [keyhole]}]
    coco(tmp_path, drawn)
    data, found = masks(tmp_path)
    np.testing.assert_array_equal(found["bild ü 0"], 2 * filled(slice(1, 13), slice(1, 13)))
    assert (found["bild ü 1"][5, 5], found["bild ü 1"][9, 9]) == (0, 2)  # the usual way to write a hole
    (told,) = [p for p in inspect(data) if p.code == "outline-in-outline"]
    assert told.files == ("bild ü 0",)


def test_keys_may_stand_in_any_order_and_categories_differ_between_files(tmp_path):
    for split, name in (("train", "dog house"), ("val", "Hund")):
        images = [{"id": i, "file_name": f"{split}{i}.png", "height": 20, "width": 30} for i in range(2)]
        drawn = [{"image_id": i, "category_id": 3, "segmentation": [square(1, 1, 6)]} for i in range(2)]
        coco(tmp_path, drawn, images, f"annotations/{split}.json", categories=[{"id": 3, "name": name}])
        path = tmp_path / "annotations" / f"{split}.json"
        table = json.loads(path.read_text(encoding="utf-8"))
        turned = {"type": "instances", "dataset": "x", **dict(reversed(table.items()))}
        path.write_text(json.dumps(turned, indent=2), encoding="utf-8")
    data, found = masks(tmp_path)
    assert (data.format, data.classes) == ("coco", ("background", "dog house", "Hund"))
    assert (found["train0"][2, 2], found["val0"][2, 2]) == (1, 2)


@pytest.mark.parametrize(
    "text", ['{"images": [', '{"images": 5}', '{"images": [1], "annotations": [], "categories": []}']
)
def test_a_damaged_file_is_one_problem(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    (told,) = inspect(tmp_path)
    assert told.code == "unusable"
    assert "x.json" in told.cause
    assert "Export it again" in told.remedy
