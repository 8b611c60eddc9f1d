from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fullconv.data import inspect, open_dataset
from made import save_picture

SIZE = (20, 30)
LABELMAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nRiß:250,50,83::\nhole: x:10,20,30::\n"


def codes(root):
    return {p.code for p in inspect(root)} - {"class-missing-in-train", "class-unused"}  # so few pictures


@pytest.mark.parametrize("place", ["JPEGImages", "fotos", "somewhere/else"])
def test_a_labelmap_says_what_the_colours_of_masks_mean(tmp_path, place):
    (tmp_path / "labelmap.txt").write_text(LABELMAP, encoding="utf-8")
    colors = np.array([(0, 0, 0), (250, 50, 83), (10, 20, 30)], np.uint8)
    expected = {}
    (tmp_path / "SegmentationClass").mkdir()
    for number in range(3):
        mask = np.zeros(SIZE, np.uint8)
        mask[2:9, 3:12] = 1
        mask[12:, number:9] = 2
        expected[f"bild ä {number}"] = mask
        Image.fromarray(colors[mask]).save(tmp_path / "SegmentationClass" / f"bild ä {number}.png")
        save_picture(np.full((*SIZE, 3), 50 + number, np.uint8), tmp_path / place / f"bild ä {number}.png")
    if place == "fotos":
        (tmp_path / "data.toml").write_text('images = "fotos"')
    data = open_dataset(tmp_path)
    assert (data.format, data.classes) == ("cvat-masks", ("background", "Riß", "hole: x"))
    for sample in data.samples("all"):
        np.testing.assert_array_equal(data.read_mask(sample), expected[sample.stem])
    assert codes(tmp_path) == set()
    next((tmp_path / place).iterdir()).unlink()
    assert codes(tmp_path) == {"missing-picture"}


def test_a_labelmap_that_is_none_is_refused(tmp_path):
    (tmp_path / "SegmentationClass").mkdir()
    (tmp_path / "labelmap.txt").write_text("cat;1;2;3")
    (told,) = inspect(tmp_path)
    assert "line 1: 'cat;1;2;3' is not label:r,g,b:parts:actions" in told.cause


def xml(root, *shapes):
    meta = "<meta><job><labels><label><name>car</name></label><label><name>Straße</name></label></labels></job></meta>"
    images = []
    for number in range(3):
        name = f"teil/bild ü {number}.png"
        save_picture(np.full((*SIZE, 3), 50 + number, np.uint8), root / "images" / name)
        inner = "".join(shapes) if number == 0 else '<polygon label="car" points="1,1;5,1;5,5" z_order="0"/>'
        images.append(f'<image id="{number}" name="{name}" width="30" height="20">{inner}</image>')
    text = f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>{meta}{"".join(images)}</annotations>'
    (root / "annotations.xml").write_text(text, encoding="utf-8")
    return root


def first_mask(root):
    data = open_dataset(root)
    return data.read_mask(next(s for s in data.samples("all") if s.stem == "teil/bild ü 0"))


def test_shapes_are_drawn_by_their_z_order(tmp_path):
    xml(
        tmp_path,
        '<polygon label="car" points="2.0,2.0;10.0,2.0;10.0,10.0;2.0,10.0" z_order="1"/>',
        '<polygon label="Straße" points="-40,-40;900,-40;900,5;-40,5" z_order="0"/>',
        '<mask label="Straße" rle="1, 2, 3" left="20" top="12" width="3" height="2" z_order="0"/>',
        '<ellipse label="car" cx="15" cy="15" rx="2" ry="3" z_order="0"/>',
    )
    data = open_dataset(tmp_path)
    assert (data.format, data.classes) == ("cvat", ("background", "car", "Straße"))
    mask = first_mask(tmp_path)
    assert (mask[3, 3], mask[8, 8], mask[0, 29], mask[18, 1]) == (1, 1, 2, 0)
    assert mask[12:14, 20:23].tolist() == [[0, 2, 2], [0, 0, 0]]
    assert mask[17, 15] == 1
    assert codes(tmp_path) == {"unlabeled"}


def test_boxes_are_filled_and_said(tmp_path):
    xml(tmp_path, '<box label="car" xtl="2" ytl="3" xbr="6" ybr="7"/>')
    assert first_mask(tmp_path)[3:8, 2:7].tolist() == np.ones((5, 5)).tolist()
    assert codes(tmp_path) == {"unlabeled", "box-only"}


@pytest.mark.parametrize(
    "wrong",
    [
        '<polygon label="car" points="1,1;2,2"/>', '<polygon label="car" points="1,1;2,x;3,3"/>',
        '<polygon label="car"/>', '<mask label="car" rle="1, 2" left="0" top="0" width="3" height="2"/>',
        '<mask label="car" rle="6" left="0" top="0" width="x" height="2"/>', '<box label="car" xtl="nan"/>',
    ],
)  # fmt: skip
def test_a_shape_that_cannot_be_drawn_is_named(tmp_path, wrong):
    xml(tmp_path, wrong)
    assert codes(tmp_path) == {"unlabeled", "bad-shape"}


@pytest.mark.parametrize(
    "text", ["<annotations><version>", "<!DOCTYPE a><annotations><version>1.1</version></annotations>"]
)
def test_a_damaged_file_is_one_problem(tmp_path, text):
    (tmp_path / "annotations.xml").write_text(text)
    (told,) = inspect(tmp_path)
    assert (told.code, told.remedy) == ("unusable", "Export it again.")
