from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from pycocotools import mask as coco_masks

from fullconv.data import open_dataset
from fullconv.errors import DataError
from synthetic.coco import SIZE, coco, square
from synthetic.reading import codes, edit_json, problems, read_mask, read_masks
from synthetic.shapes import save_image


def filled(rows, columns):
    mask = np.zeros(SIZE, np.uint8)
    mask[rows, columns] = 1
    return mask


def squares(root, categories=(7, 7, 3), first=None):
    """Write three images with a square each, the first with another segmentation."""
    drawn = [
        {"image_id": 70 + i, "category_id": category, "segmentation": first if first and i == 0 else [square(1, 1, 6)]}
        for i, category in enumerate(categories)
    ]
    return coco(root, drawn)


def test_polygons_and_rle_are_drawn_later_ones_on_top(tmp_path):
    ring = filled(slice(2, 12), slice(2, 12))
    ring[5:8, 5:8] = 0  # a hole, which only RLE can express
    packed = coco_masks.encode(np.asfortranarray(ring))["counts"].decode()
    uncompressed = {"size": [20, 30], "counts": [0, 3, 17, 3, 577]}  # rows 0 to 2 of columns 0 and 1
    drawn = [
        (70, 7, [square(1, 1, 6), square(20, 10, 40)]), (70, 3, [square(4, 4, 6)]),
        (71, 3, {"size": [20, 30], "counts": packed}), (71, 7, uncompressed), (72, 7, [[-9, -9, 5, -9, 5, 5, -9, 5]]),
    ]  # fmt: skip
    keys = ("image_id", "category_id", "segmentation")
    annotations = [dict(zip(keys, row, strict=True)) for row in drawn]
    annotations[3]["iscrowd"] = 1
    data = open_dataset(coco(tmp_path, annotations))
    assert (data.format, data.classes) == ("coco", ("background", "dog house", "Katze"))
    masks = read_masks(tmp_path)
    expected = np.zeros(SIZE, np.uint8)
    expected[1:7, 1:7] = expected[10:, 20:] = 2
    expected[4:10, 4:10] = 1
    np.testing.assert_array_equal(masks["bild ü 0"], expected)
    ring[:3, :2] = 255
    np.testing.assert_array_equal(masks["bild ü 1"], ring)
    np.testing.assert_array_equal(masks["bild ü 2"], 2 * filled(slice(0, 5), slice(0, 5)))
    assert codes(tmp_path) == {"unlabeled"}
    assert "'background'" in problems(tmp_path)["unlabeled"].cause


def test_unlabeled_pixels_can_be_void_or_another_class(tmp_path):
    squares(tmp_path, (3, 7, 3))
    settings = tmp_path / "data.toml"
    settings.write_text('unlabeled = "void"', encoding="utf-8")
    assert open_dataset(tmp_path).classes == ("dog house", "Katze")
    assert set(np.unique(read_mask(tmp_path, "0"))) == {0, 255}
    assert codes(tmp_path) == {"unlabeled"}
    settings.write_text('classes = ["Katze", "dog house"]', encoding="utf-8")
    with pytest.raises(DataError, match="would be 'Katze', which shapes draw, too"):
        open_dataset(tmp_path)
    settings.write_text('classes = ["floor", "Katze"]', encoding="utf-8")
    unknown = problems(tmp_path)["unknown-class"]
    assert (unknown.severity, unknown.stems) == ("error", {"bild ü 0", "bild ü 2"})


def test_splits_are_those_of_the_files_and_roboflow_folders(tmp_path):
    for split, number in (("train", 2), ("valid", 1)):
        images = [{"id": i, "file_name": f"{split}{i}.png", "height": 20, "width": 30} for i in range(number)]
        drawn = [{"image_id": i, "category_id": 3, "segmentation": [square(1, 1, 6)]} for i in range(number)]
        coco(tmp_path, drawn, images, f"{split}/_annotations.coco.json")
        for image in images:
            (tmp_path / "images" / image["file_name"]).rename(tmp_path / split / image["file_name"])
    splits = {split: [s.stem for s in members] for split, members in open_dataset(tmp_path).splits.items()}
    assert splits == {"train": ["train0", "train1"], "val": ["valid0"]}


def test_missing_images_are_one_warning_and_foreign_paths_are_resolved(tmp_path):
    def edit(table):
        table["images"] += [{"id": 900 + i, "file_name": f"lost{i}.png", "height": 9, "width": 9} for i in range(25)]
        table["images"][1]["file_name"] = "C:\\data\\bild ü 1.png"

    edit_json(squares(tmp_path) / "instances.json", edit)
    found = problems(tmp_path)
    assert (found["missing-picture"].severity, found["missing-picture"].count) == ("warning", 25)
    assert found["path-mended"].count == 1
    assert len(open_dataset(tmp_path).samples("all")) == 3


@pytest.mark.parametrize(
    "outline",
    [
        [[1, 2, 3, 4]], [[1, 2, 3, 4, 5, "x"]], [[1, 2, 3, 4, 5, 1e300]], [[1, 2, 3, 4, 5, None]],
        {"size": [20, 30], "counts": [1, 2]}, {"size": [3, 3], "counts": [9]}, {"size": [20, 30], "counts": "zz€"},
        {"size": [20, 30], "counts": "PPPPPPPPP"}, {"size": [20, 30], "counts": [-1, 601]}, {"counts": 5}, "x", 7,
    ],
)  # fmt: skip
def test_an_invalid_segmentation_is_an_error_of_its_image(tmp_path, outline):
    bad = problems(squares(tmp_path, first=outline))["bad-shape"]
    assert (bad.severity, bad.stems) == ("error", {"bild ü 0"})


@pytest.mark.parametrize(("boxes", "value"), [(None, 255), ("void", 255), ("fill", 1), ("skip", 0)])
def test_a_box_without_an_outline_is_void_or_what_data_toml_sets(tmp_path, boxes, value):
    squares(tmp_path, (3, 7, 7))
    edit_json(tmp_path / "instances.json", lambda t: t["annotations"][0].update(segmentation=[], bbox=[2, 3, 4, 5]))
    if boxes:
        (tmp_path / "data.toml").write_text(f'boxes = "{boxes}"')
    np.testing.assert_array_equal(read_mask(tmp_path, "0"), value * filled(slice(3, 8), slice(2, 6)))
    assert "box-only" in codes(tmp_path)


def test_polygons_are_united_and_one_inside_another_is_reported(tmp_path):
    keyhole = [1, 1, 13, 1, 13, 13, 1, 13, 1, 1, 4, 4, 4, 7, 7, 7, 7, 4, 4, 4]
    squares(tmp_path, first=[square(1, 1, 12), square(4, 4, 3)])
    edit_json(tmp_path / "instances.json", lambda t: t["annotations"][1].update(segmentation=[keyhole]))
    np.testing.assert_array_equal(read_mask(tmp_path, "0"), 2 * filled(slice(1, 13), slice(1, 13)))
    mask = read_mask(tmp_path, "1")
    assert (mask[5, 5], mask[9, 9]) == (0, 2)  # the usual way to write a hole
    assert problems(tmp_path)["outline-in-outline"].files == ("bild ü 0",)


def test_keys_may_be_in_any_order_and_categories_differ_between_files(tmp_path):
    for split, name in (("train", "dog house"), ("val", "Hund")):
        images = [{"id": i, "file_name": f"{split}{i}.png", "height": 20, "width": 30} for i in range(2)]
        drawn = [{"image_id": i, "category_id": 3, "segmentation": [square(1, 1, 6)]} for i in range(2)]
        coco(tmp_path, drawn, images, f"annotations/{split}.json", categories=[{"id": 3, "name": name}])
        path = tmp_path / "annotations" / f"{split}.json"
        table = json.loads(path.read_text(encoding="utf-8"))
        reversed_table = {"type": "instances", "dataset": "x", **dict(reversed(table.items()))}
        path.write_text(json.dumps(reversed_table, indent=2), encoding="utf-8")
    data = open_dataset(tmp_path)
    assert (data.format, data.classes) == ("coco", ("background", "dog house", "Hund"))
    assert (read_mask(tmp_path, "train0")[2, 2], read_mask(tmp_path, "val0")[2, 2]) == (1, 2)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_of_windows_are_read(tmp_path, encoding):
    squares(tmp_path)
    expected = read_masks(tmp_path)
    path = tmp_path / "instances.json"
    text = json.dumps(json.loads(path.read_text(encoding="utf-8")), indent=1)
    path.write_bytes(text.replace("\n", "\r\n").encode(encoding))
    np.testing.assert_equal(read_masks(tmp_path), expected)


@pytest.mark.parametrize(
    "keys", [("images.id",), ("annotations.image_id", "annotations.category_id"), ("categories.id",)]
)
def test_ids_may_be_text_in_one_place_and_numbers_in_another(tmp_path, keys):
    def edit(table):
        for key, name in (pair.split(".") for pair in keys):
            for entry in table[key]:
                entry[name] = str(entry[name])

    squares(tmp_path)
    expected = read_masks(tmp_path)
    edit_json(tmp_path / "instances.json", edit)
    np.testing.assert_equal(read_masks(tmp_path), expected)


@pytest.mark.parametrize(
    ("edit", "cause"),
    [
        (lambda t: t["images"].append(dict(t["images"][0])), None),
        (lambda t: t["images"][1].update(id=70), "several images of instances.json have the same id"),
        (lambda t: t["categories"].append({"id": 7, "name": "x"}), "several categories of instances.json have the same id"),
        (lambda t: t["images"].append({**t["images"][0], "id": 99}), "have several ids in"),
        (lambda t: t["annotations"][0].update(segments_info=[]), "is a panoptic file"),
    ],
)  # fmt: skip
def test_ambiguous_ids_are_refused_and_a_repeated_entry_counts_once(tmp_path, edit, cause):
    edit_json(squares(tmp_path) / "instances.json", edit)
    errors = [found.cause for found in problems(tmp_path).values() if found.severity == "error"]
    assert any(cause in error for error in errors) if cause else not errors
    if cause is None:
        assert len(open_dataset(tmp_path).samples("all")) == 3


def test_one_file_in_both_splits_is_reported(tmp_path):
    squares(tmp_path)
    for number, path in enumerate((tmp_path / "images").iterdir()):
        save_image(np.random.default_rng(number).integers(0, 256, (*SIZE, 3), np.uint8), path)
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        shutil.copy(tmp_path / "instances.json", tmp_path / "annotations" / f"instances_{split}.json")
    (tmp_path / "instances.json").unlink()
    assert problems(tmp_path)["duplicate-across-splits"].count == 3


def test_outlines_in_fractions_of_the_image_are_an_error(tmp_path):
    def edit(table):
        for entry in table["annotations"]:
            entry["segmentation"] = [[value / 30 for value in entry["segmentation"][0]]]

    edit_json(squares(tmp_path) / "instances.json", edit)
    assert "fractions of the image" in problems(tmp_path)["bad-shape"].cause


@pytest.mark.parametrize(
    "text", ['{"images": [', '{"images": 5}', '{"images": [1], "annotations": [], "categories": []}']
)
def test_a_damaged_file_is_one_problem(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    (found,) = problems(tmp_path).values()
    assert found.code == "unusable"
    assert "x.json" in found.cause
    assert "Export it again" in found.remedy
