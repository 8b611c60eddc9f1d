from __future__ import annotations

import numpy as np
import pytest

from fullconv.data import inspect, open_dataset
from synthetic.labelme import SIZE, box, labelme, packed, shape


def codes(root):
    return {p.code for p in inspect(root)} - {"class-missing-in-train", "class-unused"}  # so few pictures


@pytest.fixture
def data(tmp_path):
    labelme(tmp_path, "ein bild", [box("Straße", 2, 2, 9, 9)])
    labelme(tmp_path, "zwei", [box("car", 0, 0, 5, 5)])
    labelme(tmp_path, "drei", [])
    return tmp_path


def mask_of(root, stem):
    opened = open_dataset(root)
    return opened.read_mask(next(s for s in opened.samples("all") if s.stem == stem))


def test_pictures_are_found_beside_and_classes_are_the_names(data):
    opened = open_dataset(data)
    assert (opened.format, opened.classes) == ("labelme", ("background", "Straße", "car"))
    expected = np.zeros(SIZE, np.uint8)
    expected[2:10, 2:10] = 1
    np.testing.assert_array_equal(mask_of(data, "ein bild"), expected)
    assert codes(data) - {"constant-mask"} == {"unlabeled"}


@pytest.mark.parametrize(
    ("drawn", "inside", "outside"),
    [
        (shape("car", [[4, 4], [20, 4], [20, 20], [4, 20]]), (10, 10), (2, 2)),
        (shape("car", [[-50, -50], [500, -50], [500, 10], [-50, 10]]), (0, 31), (12, 0)),
        (shape("car", [[12, 12], [12, 18]], "circle"), (16, 14), (20, 20)),
        (shape("car", [[4, 10], [28, 10]], "line"), (10, 20), (20, 20)),
        (shape("car", [[4, 4], [20, 4], [20, 20]], "linestrip"), (15, 20), (15, 4)),
        (shape("car", [[10, 12]], "point"), (12, 14), (12, 17)),
        (shape("car", [[4, 4], [20, 4], [20, 20], [4, 20]], "oriented_rectangle"), (10, 10), (2, 2)),
        (shape("car", [[10, 12], [25, 12]], "points"), (12, 25), (12, 17)),
        (
            shape("car", [[30.8, 20.7], [40.8, 29.7]], "mask", mask=packed(np.full((10, 11), 255, np.uint8))),
            (20, 30),
            (19, 29),
        ),
        (shape("car", [[30, 20], [40, 29]], "mask", mask=packed(np.full((10, 11), 1, np.uint8))), (23, 31), (19, 29)),
    ],
)
def test_every_kind_of_shape_is_drawn(data, drawn, inside, outside):
    labelme(data, "drei", [drawn])
    mask = mask_of(data, "drei")
    assert (mask[inside], mask[outside]) == (2, 0)
    assert codes(data) == {"unlabeled"}


@pytest.mark.parametrize(("boxes", "value"), [("fill", 2), ("void", 255), ("skip", 0)])
def test_rectangles_are_shapes_unless_the_user_says_otherwise(data, boxes, value):
    (data / "data.toml").write_text(f'boxes = "{boxes}"\nclasses = ["background", "Straße", "car"]', encoding="utf-8")
    assert mask_of(data, "zwei")[3, 3] == value
    assert "box-only" in codes(data)


def test_later_shapes_lie_on_top_and_ignore_is_void(data):
    labelme(data, "drei", [box("car", 0, 0, 9, 9), box("Straße", 5, 5, 7, 7), box("__ignore__", 7, 7, 20, 20)])
    mask = mask_of(data, "drei")
    assert (mask[0, 0], mask[6, 6], mask[8, 8]) == (2, 1, 255)


def test_a_picture_in_the_file_is_read(data):
    labelme(data, "vier", [box("car", 0, 0, 9, 9)], data=packed(np.full((*SIZE, 3), 77, np.uint8)))
    opened = open_dataset(data)
    (sample,) = [s for s in opened.samples("all") if s.stem == "vier"]
    assert opened.read_image(sample).tolist() == np.full((*SIZE, 3), 77).tolist()
    assert codes(data) - {"constant-mask"} == {"unlabeled"}


@pytest.mark.parametrize("path", ["C:\\Users\\x\\drei.png", "../elsewhere/drei.png", "vanished.jpg", "zwei.png"])
def test_a_wrong_path_is_mended_by_the_stem_and_said(data, path):
    labelme(data, "drei", [box("car", 0, 0, 9, 9)], path)
    opened = open_dataset(data)
    (sample,) = [s for s in opened.samples("all") if s.stem == "drei"]
    assert sample.image.name == "drei.png"
    told = {p.code: p for p in inspect(data)}
    assert told["path-mended"].files == ("drei.json",)
    assert "missing-picture" not in told


def test_a_missing_picture_is_a_warning(data):
    (data / "drei.png").unlink()
    told = {p.code: p for p in inspect(data)}
    assert (told["missing-picture"].severity, told["missing-picture"].files) == ("warning", ("drei.json",))


@pytest.mark.parametrize(
    "wrong",
    [
        shape("car", [[1, 2]]), shape("car", "x"), shape("car", [[1, 2], [3, "y"], [4, 5]]), shape("car", [[0, 0]], "blob"),
        shape("car", [[0, 0], [4, 4]], "mask", mask="%%"), shape("car", [[0, 0], [4, 4]], "mask", mask="aGFsbG8="),
    ],
)  # fmt: skip
def test_a_shape_that_cannot_be_drawn_is_named(data, wrong):
    labelme(data, "drei", [wrong])
    told = {p.code: p for p in inspect(data)}
    assert (told["bad-shape"].severity, told["bad-shape"].stems) == ("error", {"drei"})
