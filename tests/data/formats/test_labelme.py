from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from fullconv.data import open_dataset
from synthetic.images import as_text
from synthetic.labelme import SIZE, box, labelme, packed, shape
from synthetic.reading import codes, edit_json, problems, read_mask

SQUARE = [[4, 4], [20, 4], [20, 20], [4, 20]]


@pytest.fixture
def data(tmp_path):
    labelme(tmp_path, "ein bild", [box("Straße", 2, 2, 9, 9)])
    labelme(tmp_path, "zwei", [box("car", 0, 0, 5, 5)])
    labelme(tmp_path, "drei", [])
    return tmp_path


def edit_all(root, edit):
    for path in root.glob("*.json"):
        edit_json(path, edit)


def test_images_are_found_beside_and_classes_are_the_names(data):
    opened = open_dataset(data)
    assert (opened.format, opened.classes) == ("labelme", ("background", "Straße", "car"))
    expected = np.zeros(SIZE, np.uint8)
    expected[2:10, 2:10] = 1
    np.testing.assert_array_equal(read_mask(data, "ein bild"), expected)
    assert codes(data) == {"unlabeled", "constant-mask"}


@pytest.mark.parametrize(
    ("drawn", "inside", "outside"),
    [
        *((shape("car", SQUARE, kind), (10, 10), (2, 2))
          for kind in ("polygon", "oriented_rectangle", "rotation", "quadrilateral")),  # the last two are X-AnyLabeling's
        (shape("car", [[-50, -50], [500, -50], [500, 10], [-50, 10]]), (0, 31), (12, 0)),
        (shape("car", [[12, 12], [12, 18]], "circle"), (16, 14), (20, 20)),
        (shape("car", [[4, 10], [28, 10]], "line"), (10, 20), (20, 20)),
        (shape("car", [[4, 4], [20, 4], [20, 20]], "linestrip"), (15, 20), (15, 4)),
        (shape("car", [[10, 12]], "point"), (12, 14), (12, 17)),
        (shape("car", [[10, 12], [25, 12]], "points"), (12, 25), (12, 17)),
        *((shape("car", [[x, y], [40.8, 29.7]], "mask", mask=packed(np.full((10, 11), value, np.uint8))), (23, 31), (19, 29))
          for x, y, value in ((30.8, 20.7, 255), (30, 20, 1))),
    ],
)  # fmt: skip
def test_every_type_of_shape_is_drawn(data, drawn, inside, outside):
    labelme(data, "drei", [drawn])
    mask = read_mask(data, "drei")
    assert (mask[inside], mask[outside]) == (2, 0)
    assert codes(data) == {"unlabeled"}


@pytest.mark.parametrize(("boxes", "value"), [("fill", 2), ("void", 255), ("skip", 0)])
def test_rectangles_are_filled_or_what_data_toml_sets(data, boxes, value):
    (data / "data.toml").write_text(f'boxes = "{boxes}"\nclasses = ["background", "Straße", "car"]', encoding="utf-8")
    assert read_mask(data, "zwei")[3, 3] == value
    assert "box-only" in codes(data)


def test_later_shapes_are_on_top_and_ignore_is_void(data):
    labelme(data, "drei", [box("car", 0, 0, 9, 9), box("Straße", 5, 5, 7, 7), box("__ignore__", 7, 7, 20, 20)])
    mask = read_mask(data, "drei")
    assert (mask[0, 0], mask[6, 6], mask[8, 8]) == (2, 1, 255)


def test_an_image_in_the_file_is_read(data):
    labelme(data, "vier", [box("car", 0, 0, 9, 9)], data=packed(np.full((*SIZE, 3), 77, np.uint8)))
    opened = open_dataset(data)
    (sample,) = [s for s in opened.samples("all") if s.stem == "vier"]
    assert (opened.read_image(sample) == 77).all()
    assert codes(data) == {"unlabeled", "constant-mask"}


@pytest.mark.parametrize("sort_keys", [False, True])
@pytest.mark.parametrize("corners", [4, 400])
@pytest.mark.parametrize("embedded", [False, True])
def test_files_are_recognized_whatever_lies_between_their_keys(tmp_path, sort_keys, corners, embedded):
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    outline = [[150 + 80 * float(np.cos(a)), 100 + 60 * float(np.sin(a))] for a in angles]
    for number in range(3):
        image = np.random.default_rng(number).integers(0, 255, (200, 300, 3)).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / f"{number}.png")
        text = as_text(Image.fromarray(image)) if embedded else None
        table = {"version": "5.4.1", "flags": {}, "shapes": [shape("a", outline)], "imagePath": f"{number}.png",
                 "imageData": text, "imageHeight": 200, "imageWidth": 300}  # fmt: skip
        (tmp_path / f"{number}.json").write_text(json.dumps(table, indent=2, sort_keys=sort_keys))
    opened = open_dataset(tmp_path)
    assert (opened.format, opened.classes) == ("labelme", ("background", "a"))
    y, x = np.mgrid[:200, :300]
    circle = ((x - 150) / 80) ** 2 + ((y - 100) / 60) ** 2
    mask = read_mask(tmp_path, "1")
    if corners == 400:
        assert (mask[circle < 0.95] == 1).all()
    assert (mask[circle > 1.05] == 0).all()


@pytest.mark.parametrize("path", ["C:\\Users\\x\\drei.png", "../elsewhere/drei.png", "vanished.jpg", "zwei.png"])
def test_a_wrong_path_is_resolved_by_the_stem_and_reported(data, path):
    labelme(data, "drei", [box("car", 0, 0, 9, 9)], path)
    (sample,) = [s for s in open_dataset(data).samples("all") if s.stem == "drei"]
    assert sample.image.name == "drei.png"
    found = problems(data)
    assert found["path-mended"].files == ("drei.json",)
    assert "missing-picture" not in found


def test_a_missing_image_is_a_warning(data):
    (data / "drei.png").unlink()
    found = problems(data)["missing-picture"]
    assert (found.severity, found.files) == ("warning", ("drei.json",))


@pytest.mark.parametrize(
    "wrong",
    [
        shape("car", [[1, 2]]), shape("car", "x"), shape("car", [[1, 2], [3, "y"], [4, 5]]), shape("car", [[0, 0]], "blob"),
        shape("car", [[0, 0], [4, 4]], "mask", mask="%%"), shape("car", [[0, 0], [4, 4]], "mask", mask="aGFsbG8="),
        shape(None, SQUARE),
    ],
)  # fmt: skip
def test_an_invalid_shape_is_an_error_of_its_image(data, wrong):
    labelme(data, "drei", [wrong])
    found = problems(data)["bad-shape"]
    assert (found.severity, found.stems) == ("error", {"drei"})
    assert "None" not in open_dataset(data).classes


@pytest.mark.parametrize(
    "text", ["{", '{"imagePath": "drei.png", "imageData": null}', '{"shapes": 5, "imagePath": ""}']
)
def test_a_file_that_cannot_be_read_does_not_affect_the_others(data, text):
    (data / "drei.json").write_text(text)
    found = problems(data)["unreadable"]
    assert (found.files, found.stems) == (("drei.json",), {"drei"})
    assert len(open_dataset(data).samples("all")) == 2
    (data / "drei.json").write_text('{"version": "of another program"}')
    assert "unreadable" not in problems(data)


def test_annotations_without_a_shape_are_reported_as_such(data):
    edit_all(data, lambda table: table.update(shapes=[]))
    assert "draw nothing" in problems(data)["few-classes"].cause
    (data / "data.toml").write_text('unlabeled = "void"', encoding="utf-8")
    assert "few-classes" in problems(data)


def test_class_names_that_differ_only_in_case_are_reported(data):
    labelme(data, "drei", [box("Car ", 0, 0, 9, 9)])
    assert "'Car ' and 'car'" in problems(data)["similar-classes"].cause


def test_outlines_in_fractions_of_the_image_are_an_error(data):
    def edit(table):
        table["shapes"] = [shape("car", [[0.1, 0.1], [0.9, 0.1], [0.9, 0.9]])]

    edit_all(data, edit)
    assert "fractions of the image" in problems(data)["bad-shape"].cause
