from __future__ import annotations

import numpy as np
import pytest

from fullconv.data import open_dataset
from synthetic.reading import codes, problems, read_mask
from synthetic.shapes import save_image

SIZE = (20, 30)

LABELS = """<label><name>car</name><color>#fa3253</color><type>any</type><attributes></attributes></label>
<label><name>Straße</name><color>#66ff66</color><type>polygon</type><attributes></attributes></label>
<label><name>body</name><type>skeleton</type></label><label><name>1</name><type>points</type><parent>body</parent></label>
<label><name>bad weather</name><type>tag</type></label>"""


def xml(root, *shapes, project=False):
    """Write what CVAT's documentation shows: https://docs.cvat.ai/docs/dataset_management/formats/format-cvat."""
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


def test_shapes_are_drawn_in_z_order(tmp_path):
    xml(
        tmp_path,
        '<polygon label="car" points="2.0,2.0;10.0,2.0;10.0,10.0;2.0,10.0" z_order="1"/>',
        '<polygon label="Straße" points="-40,-40;900,-40;900,5;-40,5" z_order="0"/>',
        '<mask label="Straße" rle="1, 2, 3" left="20" top="12" width="3" height="2" z_order="0"/>',
        '<ellipse label="car" cx="15" cy="15" rx="2" ry="3" z_order="0"/>',
    )
    data = open_dataset(tmp_path)
    assert (data.format, data.classes) == ("cvat", ("background", "car", "Straße"))
    mask = read_mask(tmp_path, "bild ü 0")
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
def test_boxes_are_void_or_what_data_toml_sets(tmp_path, boxes, value, severity):
    xml(tmp_path, BOX)
    if boxes:
        (tmp_path / "data.toml").write_text(f'boxes = "{boxes}"')
    expected = np.zeros(SIZE, np.uint8)
    expected[3:7, 2:6] = value
    np.testing.assert_array_equal(read_mask(tmp_path, "bild ü 0"), expected)
    assert problems(tmp_path)["box-only"].severity == severity


def test_a_void_box_is_below_all_outlines(tmp_path):
    xml(tmp_path, POLYGON.format(-3, "3,4;5,4;5,6;3,6"), BOX)
    expected = np.zeros(SIZE, np.uint8)
    expected[3:7, 2:6] = 255
    expected[4:6, 3:5] = 1
    np.testing.assert_array_equal(read_mask(tmp_path, "bild ü 0"), expected)


def test_boxes_and_ellipses_rotate_clockwise_about_their_center(tmp_path):
    xml(tmp_path, BOX.replace('xbr="6.00"', 'xbr="12.00" rotation="90.00"'),
        '<ellipse label="Straße" cx="20.00" cy="10.00" rx="8.00" ry="2.00" rotation="90.00" z_order="1"></ellipse>')  # fmt: skip
    (tmp_path / "data.toml").write_text('boxes = "fill"')
    mask = read_mask(tmp_path, "bild ü 0")
    np.testing.assert_array_equal(np.argwhere(mask == 1).min(0), [0, 5])
    np.testing.assert_array_equal(np.argwhere(mask == 1).max(0), [9, 8])
    np.testing.assert_array_equal(np.argwhere(mask == 2).min(0), [2, 18])
    np.testing.assert_array_equal(np.argwhere(mask == 2).max(0), [17, 21])


def test_shapes_without_an_area_are_omitted_and_reported(tmp_path):
    xml(tmp_path, '<points label="1" points="1,1;5,5"/>', '<polyline label="car" points="1,1;9,9"/>',
        '<skeleton label="body"><points label="1" points="1,1"/></skeleton>', '<tag label="bad weather"/>')  # fmt: skip
    assert not read_mask(tmp_path, "bild ü 0").any()
    found = problems(tmp_path)["no-area"]
    assert (found.severity, found.count) == ("warning", 1)
    assert "points, polyline, skeleton" in found.cause
    assert open_dataset(tmp_path).classes == ("background", "car", "Straße")


def test_a_project_has_its_images_in_folders_of_subsets(tmp_path):
    xml(tmp_path, POLYGON.format(0, "0,0;30,0;30,20;0,20"), project=True)
    data = open_dataset(tmp_path)
    assert len(data.samples("all")) == 3
    assert codes(tmp_path) == {"unlabeled", "constant-mask"}
    assert read_mask(tmp_path, "bild ü 0").min() == 1


def test_a_video_file_is_refused(tmp_path):
    (tmp_path / "annotations.xml").write_text(
        '<annotations><version>1.1</version><track id="0" label="x"/></annotations>'
    )
    (found,) = problems(tmp_path).values()
    assert "CVAT for video" in found.cause
    assert 'Export it as "CVAT for images 1.1"' in found.remedy


@pytest.mark.parametrize(
    "wrong",
    [
        '<polygon label="car" points="1,1;2,2"/>', '<polygon label="car" points="1,1;2,x;3,3"/>',
        '<polygon label="car"/>', '<mask label="car" rle="1, 2" left="0" top="0" width="3" height="2"/>',
        '<mask label="car" rle="6" left="0" top="0" width="x" height="2"/>', '<box label="car" xtl="nan"/>',
    ],
)  # fmt: skip
def test_an_invalid_shape_is_an_error(tmp_path, wrong):
    xml(tmp_path, wrong)
    assert codes(tmp_path) == {"unlabeled", "bad-shape", "constant-mask"}


@pytest.mark.parametrize(
    "text", ["<annotations><version>", "<!DOCTYPE a><annotations><version>1.1</version></annotations>"]
)
def test_a_damaged_file_is_one_problem(tmp_path, text):
    (tmp_path / "annotations.xml").write_text(text)
    (found,) = problems(tmp_path).values()
    assert (found.code, found.remedy) == ("unusable", "Export it again.")


def test_unknown_labels_repeated_and_unlisted_images_are_reported(tmp_path):
    bus = '<polygon label="bus" points="2,2;20,2;20,20" z_order="0"/>'
    assert problems(xml(tmp_path, bus))["unknown-class"].severity == "error"
    text = (xml(tmp_path, BOX) / "annotations.xml").read_text(encoding="utf-8")
    again = '<image id="9" name="teil/bild ü 0.png" width="30" height="20"></image></annotations>'
    (tmp_path / "annotations.xml").write_text(text.replace("</annotations>", again), encoding="utf-8")
    save_image(np.full((*SIZE, 3), 9, np.uint8), tmp_path / "images" / "later.png")
    found = problems(tmp_path)
    assert (found["several-annotations"].severity, found["unlisted"].severity) == ("warning", "note")


@pytest.mark.parametrize(
    ("points", "outside"),
    [
        ("2,2;31,2;31,21", False),  # a hand that slipped
        ("2,2;45,2;45,18", True),  # further right than the image is wide
        ("90,90;95,90;95,95", True),
        ("0.1,0.1;0.9,0.1;0.9,0.9", True),
    ],
)
def test_coordinates_of_another_unit_are_reported(tmp_path, points, outside):
    text = (xml(tmp_path) / "annotations.xml").read_text(encoding="utf-8")
    text = text.replace("1.00,1.00;5.00,1.00;5.00,5.00", points)
    shape = f'<polygon label="car" points="{points}" z_order="0"/></image>'
    (tmp_path / "annotations.xml").write_text(text.replace("</image>", shape, 1), encoding="utf-8")
    assert ("outside-picture" in codes(tmp_path)) == outside
