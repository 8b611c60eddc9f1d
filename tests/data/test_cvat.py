from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fullconv.data import inspect, open_dataset
from synthetic.shapes import save_image

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
        save_image(np.full((*SIZE, 3), 50 + number, np.uint8), tmp_path / place / f"bild ä {number}.png")
    if place == "fotos":
        (tmp_path / "data.toml").write_text('images = "fotos"')
    data = open_dataset(tmp_path)
    assert (data.format, data.classes) == ("cvat-masks", ("background", "Riß", "hole: x"))
    for sample in data.samples("all"):
        np.testing.assert_array_equal(data.read_mask(sample), expected[sample.stem])
    assert codes(tmp_path) <= {"same-mask"}
    next((tmp_path / place).iterdir()).unlink()
    assert codes(tmp_path) == {"missing-picture"}


def test_a_labelmap_that_is_none_is_refused(tmp_path):
    (tmp_path / "SegmentationClass").mkdir()
    (tmp_path / "labelmap.txt").write_text("cat;1;2;3")
    (told,) = inspect(tmp_path)
    assert "line 1: 'cat;1;2;3' is not label:r,g,b:parts:actions" in told.cause


def test_grey_masks_count_the_lines_of_the_labelmap(tmp_path):
    (tmp_path / "labelmap.txt").write_text(LABELMAP, encoding="utf-8")
    (tmp_path / "SegmentationClass").mkdir()
    mask = np.zeros(SIZE, np.uint8)
    mask[2:9, 3:12], mask[12:, 1:9] = 1, 2
    for number in range(3):
        Image.fromarray(mask).save(tmp_path / "SegmentationClass" / f"{number}.png")
        save_image(np.full((*SIZE, 3), 50 + number, np.uint8), tmp_path / "JPEGImages" / f"{number}.jpg")
    data = open_dataset(tmp_path)
    assert (data.format, data.classes) == ("cvat-masks", ("background", "Riß", "hole: x"))
    assert data.labels[""].palette[1] == (250, 50, 83)
    np.testing.assert_array_equal(data.read_mask(data.samples("all")[0]), mask)


def test_masks_named_jpg_that_are_png_are_read_as_what_they_are(tmp_path):
    (tmp_path / "labelmap.txt").write_text(LABELMAP, encoding="utf-8")
    (tmp_path / "SegmentationClass").mkdir()
    colors = np.array([(0, 0, 0), (250, 50, 83), (10, 20, 30)], np.uint8)
    mask = np.arange(600).reshape(SIZE).astype(np.uint8) % 3
    for number in range(3):
        Image.fromarray(colors[mask]).save(tmp_path / "SegmentationClass" / f"{number}.jpg", format="PNG")
        save_image(np.full((*SIZE, 3), 50 + number, np.uint8), tmp_path / "JPEGImages" / f"{number}.jpg")
    data = open_dataset(tmp_path)
    np.testing.assert_array_equal(data.read_mask(data.samples("all")[0]), mask)
    assert codes(tmp_path) <= {"same-mask"}


def test_without_a_labelmap_colours_are_those_of_voc(tmp_path):
    (tmp_path / "SegmentationClass").mkdir()
    (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Segmentation" / "default.txt").write_text("0\n1\n2\n")
    mask = np.zeros((*SIZE, 3), np.uint8)
    mask[:5], mask[5] = (128, 0, 0), (224, 224, 192)
    for number in range(3):
        Image.fromarray(mask).save(tmp_path / "SegmentationClass" / f"{number}.png")
        save_image(np.full((*SIZE, 3), 50 + number, np.uint8), tmp_path / f"{number}.jpg")
    data = open_dataset(tmp_path)
    assert (data.format, data.classes[1]) == ("cvat-masks", "aeroplane")
    assert data.read_mask(data.samples("all")[0])[:7, 0].tolist() == [1, 1, 1, 1, 1, 255, 0]


LABELS = """<label><name>car</name><color>#fa3253</color><type>any</type><attributes></attributes></label>
<label><name>Straße</name><color>#66ff66</color><type>polygon</type><attributes></attributes></label>
<label><name>body</name><type>skeleton</type></label><label><name>1</name><type>points</type><parent>body</parent></label>
<label><name>bad weather</name><type>tag</type></label>"""


def xml(root, *shapes, project=False):
    """Write what CVAT's documents show: https://docs.cvat.ai/docs/dataset_management/formats/format-cvat."""
    inner = f"<id>7</id><name>aufgabe 1</name><size>3</size><mode>annotation</mode><labels>{LABELS}</labels>"
    subset = ' subset="Train" task_id="7"' if project else ""
    kind = "project" if project else "job"
    images = []
    for number in range(3):
        name = f"teil/bild ü {number}.png"
        place = root / "images" / "Train" / name if project else root / "images" / name
        save_image(np.full((*SIZE, 3), 50 + number, np.uint8), place)
        drawn = "".join(shapes) if number == 0 else POLYGON.format(0, "1.00,1.00;5.00,1.00;5.00,5.00")
        images.append(f'<image id="{number + 40}" name="{name}"{subset} width="30" height="20">{drawn}</image>')
    text = f"""<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><{kind}>{inner}</{kind}><dumped>2026-01-01</dumped></meta>{"".join(images)}
</annotations>"""
    (root / "annotations.xml").write_text(text, encoding="utf-8")
    return root


POLYGON = '<polygon label="car" source="manual" occluded="0" points="{1}" z_order="{0}"><attribute name="a"/></polygon>'


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
    expected = np.zeros(SIZE, np.uint8)
    expected[:5], expected[2:10, 2:10] = 2, 1  # 0 is the edge of the first pixel, as in CVAT's own masks
    np.testing.assert_array_equal(mask[:, :12], expected[:, :12])
    assert mask[12:14, 20:23].tolist() == [[0, 2, 2], [0, 0, 0]]
    assert mask[17, 15] == 1
    assert codes(tmp_path) == {"unlabeled"}


BOX = '<box label="car" source="manual" occluded="0" xtl="2.00" ytl="3.00" xbr="6.00" ybr="7.00" z_order="0"></box>'


@pytest.mark.parametrize(("boxes", "value", "severity"), [
    (None, 255, "warning"), ("fill", 1, "note"), ("void", 255, "note"), ("skip", 0, "note"),
])  # fmt: skip
def test_boxes_are_what_the_user_says_and_void_by_default(tmp_path, boxes, value, severity):
    xml(tmp_path, BOX)
    if boxes:
        (tmp_path / "data.toml").write_text(f'boxes = "{boxes}"')
    expected = np.zeros(SIZE, np.uint8)
    expected[3:7, 2:6] = value
    np.testing.assert_array_equal(first_mask(tmp_path), expected)
    assert [p.severity for p in inspect(tmp_path) if p.code == "box-only"] == [severity]


def test_a_void_box_lies_below_all_outlines(tmp_path):
    xml(tmp_path, POLYGON.format(-3, "3,4;5,4;5,6;3,6"), BOX)
    expected = np.zeros(SIZE, np.uint8)
    expected[3:7, 2:6] = 255
    expected[4:6, 3:5] = 1
    np.testing.assert_array_equal(first_mask(tmp_path), expected)


def test_boxes_and_ellipses_turn_clockwise_about_their_centre(tmp_path):
    xml(tmp_path, BOX.replace('xbr="6.00"', 'xbr="12.00" rotation="90.00"'),
        '<ellipse label="Straße" cx="20.00" cy="10.00" rx="8.00" ry="2.00" rotation="90.00" z_order="1"></ellipse>')  # fmt: skip
    (tmp_path / "data.toml").write_text('boxes = "fill"')
    mask = first_mask(tmp_path)
    np.testing.assert_array_equal(np.argwhere(mask == 1).min(0), [0, 5])
    np.testing.assert_array_equal(np.argwhere(mask == 1).max(0), [9, 8])
    np.testing.assert_array_equal(np.argwhere(mask == 2).min(0), [2, 18])
    np.testing.assert_array_equal(np.argwhere(mask == 2).max(0), [17, 21])


def test_shapes_without_an_area_are_left_out_and_said(tmp_path):
    xml(tmp_path, '<points label="1" points="1,1;5,5"/>', '<polyline label="car" points="1,1;9,9"/>',
        '<skeleton label="body"><points label="1" points="1,1"/></skeleton>', '<tag label="bad weather"/>')  # fmt: skip
    assert not first_mask(tmp_path).any()
    (told,) = [p for p in inspect(tmp_path) if p.code == "no-area"]
    assert (told.severity, told.count) == ("warning", 1)
    assert "points, polyline, skeleton" in told.cause
    assert open_dataset(tmp_path).classes == ("background", "car", "Straße")


def test_a_project_has_its_pictures_in_folders_of_subsets(tmp_path):
    xml(tmp_path, POLYGON.format(0, "0,0;30,0;30,20;0,20"), project=True)
    data = open_dataset(tmp_path)
    assert len(data.samples("all")) == 3
    assert codes(tmp_path) <= {"unlabeled", "empty-split", "constant-mask"}
    assert first_mask(tmp_path).min() == 1


def test_a_video_file_names_no_pictures(tmp_path):
    (tmp_path / "annotations.xml").write_text(
        '<annotations><version>1.1</version><track id="0" label="x"/></annotations>'
    )
    (told,) = inspect(tmp_path)
    assert "CVAT for video" in told.cause
    assert 'Export it as "CVAT for images 1.1"' in told.remedy


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
    assert codes(tmp_path) == {"unlabeled", "bad-shape", "constant-mask"}


@pytest.mark.parametrize(
    "text", ["<annotations><version>", "<!DOCTYPE a><annotations><version>1.1</version></annotations>"]
)
def test_a_damaged_file_is_one_problem(tmp_path, text):
    (tmp_path / "annotations.xml").write_text(text)
    (told,) = inspect(tmp_path)
    assert (told.code, told.remedy) == ("unusable", "Export it again.")
