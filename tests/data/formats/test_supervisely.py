from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from fullconv.data import open_dataset
from synthetic.images import as_text
from synthetic.reading import codes, edit_json, problems, read_mask
from synthetic.supervisely import bitmap, make, polygon, square


def test_polygons_with_holes_and_bitmaps_are_drawn(tmp_path):
    make(tmp_path, [polygon("Straße", square(-5, 0, 17), square(4, 4, 4)), bitmap(np.eye(3), 28, 17)])
    data = open_dataset(tmp_path)
    assert (data.format, data.classes) == ("supervisely", ("background", "Straße", "car"))
    mask = read_mask(tmp_path, "0")
    assert (mask[0, 0], mask[6, 6], mask[12, 12], mask[13, 13]) == (1, 0, 1, 0)
    assert mask[17:, 28:].tolist() == [[2, 0], [0, 2], [0, 0]]
    assert codes(tmp_path) == {"unlabeled"}


@pytest.mark.parametrize(
    "wrong",
    [
        polygon("car", [[1, 1]]), polygon("car", square(0, 0, 9), [[1, "x"]]), {"classTitle": "car"}, "x",
        {"classTitle": "car", "geometryType": "bitmap", "bitmap": {"data": "eJw=", "origin": [0, 0]}},
    ],
)  # fmt: skip
def test_an_invalid_shape_is_an_error(tmp_path, wrong):
    make(tmp_path, [wrong])
    assert codes(tmp_path) == {"unlabeled", "bad-shape", "constant-mask"}


def test_alpha_masks_parts_and_rotated_boxes_are_drawn(tmp_path):
    parts = {"classTitle": "car", "geometryType": "multipolygon", "parts": [
        {"exterior": square(0, 0, 6), "interior": [square(2, 2, 2)]},
        {"exterior": square(20, 0, 3), "interior": []}]}  # fmt: skip
    turned = {
        "classTitle": "Straße",
        "geometryType": "oriented_bbox",
        "points": [[8, 10], [16, 12]],
        "angle": math.pi / 2,
    }
    alpha = bitmap(np.eye(3), 27, 17)
    alpha["geometryType"] = "alpha_mask"
    make(tmp_path, [parts, turned, alpha])
    mask = read_mask(tmp_path, "0")
    assert (mask[0, 0], mask[3, 3], mask[1, 22]) == (2, 0, 2)
    assert np.argwhere(mask == 1).min(0).tolist() == [7, 11]
    assert np.argwhere(mask == 1).max(0).tolist() == [15, 13]
    assert mask[17:, 27:].tolist() == [[2, 0, 0], [0, 2, 0], [0, 0, 2]]


@pytest.mark.parametrize("kind", ["P", "RGBA", "L"])
def test_bitmaps_are_the_opaque_pixels_compressed_or_not(tmp_path, kind):
    bits = np.eye(3, dtype=np.uint8)
    options = {}
    if kind == "P":  # as the SDK writes it
        image = Image.fromarray(bits)
        image.putpalette([0, 0, 0, 255, 255, 255])
        options = {"transparency": 0}
    elif kind == "RGBA":
        image = Image.fromarray(np.dstack([np.zeros((3, 3, 3), np.uint8), bits * 255]))
    else:
        image = Image.fromarray(bits)
    for compress in (True, False):
        entry = bitmap(np.eye(3), 1, 1)
        entry["bitmap"]["data"] = as_text(image, compress, **options)
        make(tmp_path, [entry])
        np.testing.assert_array_equal(read_mask(tmp_path, "0")[1:4, 1:4] == 2, bits > 0)


def test_data_sets_in_data_sets_and_shapes_without_an_area(tmp_path):
    points = {"exterior": [[1, 1], [5, 5]], "interior": []}
    make(tmp_path, [{"classTitle": "car", "geometryType": "line", "points": points}])
    (tmp_path / "ds0").rename(tmp_path / "inner")
    (tmp_path / "top" / "datasets").mkdir(parents=True)
    (tmp_path / "inner").rename(tmp_path / "top" / "datasets" / "train")
    data = open_dataset(tmp_path)
    assert (data.format, len(data.samples("all"))) == ("supervisely", 3)
    assert "no-area" in codes(tmp_path)


def test_a_missing_image_is_one_warning(tmp_path):
    make(tmp_path, [])
    (tmp_path / "ds0" / "img" / "bild ü 0.png").unlink()
    assert codes(tmp_path) == {"unlabeled", "missing-picture"}


def test_an_annotation_without_its_list_of_objects_is_unreadable(tmp_path):
    make(tmp_path, [])
    place = tmp_path / "ds0" / "ann"
    for path in list(place.iterdir()):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")  # left behind by macOS
    edit_json(place / "bild ü 1.png.json", lambda table: table.pop("objects"))
    assert problems(tmp_path)["unreadable"].files == ("ds0/ann/bild ü 1.png.json",)
