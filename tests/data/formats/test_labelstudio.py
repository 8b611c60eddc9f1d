from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fullconv.data import open_dataset
from fullconv.data.formats.labelstudio import unpack_brush_rle
from synthetic.images import as_text
from synthetic.labelstudio import BOX, POLYGON, SIZE, make, row, strokes
from synthetic.reading import codes, edit_json, problems, read_mask


def test_polygons_boxes_and_brushes_are_drawn(tmp_path):
    bits = np.zeros(SIZE, bool)
    bits[5:15, 25:36] = np.arange(11) % 3 > 0
    make(tmp_path, [POLYGON, BOX, row("brushlabels", "car", format="rle", rle=strokes(bits))])
    data = open_dataset(tmp_path)
    assert (data.format, data.classes) == ("labelstudio", ("background", "Straße", "car"))
    mask = read_mask(tmp_path, "bild ü 0")
    assert (mask[0, 0], mask[3, 5], mask[9, 19], mask[15, 5]) == (1, 2, 1, 0)
    np.testing.assert_array_equal(mask[:, 24:] == 2, bits[:, 24:])
    assert codes(tmp_path) == {"unlabeled", "path-mended", "box-only", "hidden-shapes"}


def test_tasks_are_recognized_whatever_lies_before_their_annotations(tmp_path):
    make(tmp_path, [BOX])
    (file,) = tmp_path.glob("*.json")
    tasks = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps([{"note": "x" * 200_000, **task} for task in tasks]), encoding="utf-8")
    assert open_dataset(tmp_path).format == "labelstudio"


@pytest.mark.parametrize(
    "address",
    ["s3://bucket/a/bild ü {}.png", "/data/local-files/?d=images/bild%20%C3%BC%20{}.png", "images/bild ü {}.png"],
)
def test_images_are_found_by_their_address(tmp_path, address):
    make(tmp_path, [BOX], address=address)
    assert len(open_dataset(tmp_path).samples("all")) == 3


def test_several_annotations_and_none_are_reported(tmp_path):
    make(tmp_path, [BOX], [POLYGON])
    assert "several-annotations" in codes(tmp_path)
    assert read_mask(tmp_path, "bild ü 0")[3, 5] == 2
    make(tmp_path)
    assert "missing-mask" in codes(tmp_path)
    assert len(open_dataset(tmp_path).samples("all")) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        row("polygonlabels", "car", points=[[1, 1], [2, 2]]), row("brushlabels", "car", rle=[1, 2, 3]),
        row("brushlabels", "car", rle="x"), row("rectanglelabels", "car", x=1, y=1, width=5, height=5, rotation="x"),
        {**row("rectanglelabels", "car", x=1, y=1, width=5, height=5), "image_rotation": 90},
        row("ellipselabels", "car", x=1), {"type": "brushlabels"},
    ],
)  # fmt: skip
def test_an_invalid_shape_is_an_error(tmp_path, wrong):
    make(tmp_path, [BOX, wrong])
    assert "bad-shape" in codes(tmp_path)


def test_shapes_cover_the_pixels_whose_center_they_contain_and_rotate_about_their_corner(tmp_path):
    turned = row("rectanglelabels", "car", x=50, y=50, width=25, height=20, rotation=90)
    oval = row("ellipselabels", "car", x=25, y=50, radiusX=5, radiusY=40, rotation=0)
    make(tmp_path, [turned, oval, row("polygonlabels", "Straße", points=[[0, 0], [100, 0], [100, 10], [0, 10]])])
    mask = read_mask(tmp_path, "bild ü 0")
    expected = np.zeros(SIZE, np.uint8)
    expected[10:20, 16:20] = 2  # 10 wide and 4 high before it was rotated about (20, 10)
    expected[:2] = 1
    v, u = np.mgrid[:20, :40] + 0.5
    expected[(((u - 10) / 2) ** 2 + ((v - 10) / 8) ** 2 <= 1) & (expected == 0)] = 2
    np.testing.assert_array_equal(mask, expected)


def test_one_list_of_labels_for_all_types_of_shapes_and_rows_in_pairs(tmp_path):
    def pair(key, **value):
        return [
            {**row("x", "x"), "id": key, "type": kind, "value": {**value, **extra}}
            for kind, extra in (("polygon" if "points" in value else "rectangle", {}), ("labels", {"labels": ["car"]}))
        ]

    make(
        tmp_path, [*pair("a", points=[[0, 0], [50, 0], [50, 50], [0, 50]]), *pair("b", x=75, y=0, width=25, height=50)]
    )
    mask = read_mask(tmp_path, "bild ü 0")
    assert set(mask[:10, :20].ravel()) | set(mask[:10, 30:].ravel()) == {2}
    assert not mask[:, 20:30].any()
    assert codes(tmp_path) == {"unlabeled", "path-mended", "box-only"}


def test_bitmasks_are_drawn_and_points_omitted(tmp_path):
    bits = np.zeros(SIZE, np.uint8)
    bits[3:6, 4:9] = 255
    address = "data:image/png;base64," + as_text(Image.fromarray(bits))
    make(
        tmp_path,
        [row("bitmasklabels", "car", imageDataURL=address), row("keypointlabels", "car", x=1, y=2, width=1), POLYGON],
    )
    (tmp_path / "data.toml").write_text('classes = ["background", "car", "Straße"]', encoding="utf-8")
    assert set(read_mask(tmp_path, "bild ü 0").ravel()) == {0, 2}  # the polygon lies on top
    assert "no-area" in codes(tmp_path)
    make(tmp_path, [row("bitmasklabels", "car", imageDataURL=address)])
    np.testing.assert_array_equal(read_mask(tmp_path, "bild ü 0") == 1, bits > 0)


def test_json_min_and_images_that_several_people_labeled(tmp_path):
    make(tmp_path, [BOX])
    tasks = []
    for number in range(3):
        for kind in ("rectanglelabels", "polygonlabels") if number == 0 else ("rectanglelabels",):
            value = (BOX if kind == "rectanglelabels" else POLYGON)["value"]
            shape = {**value, "original_width": 40, "original_height": 20}
            image = f"/data/upload/1/0a1b2c3d-bild ü {number}.png"
            tasks.append({"image": image, "id": number, "label": [shape], "annotator": 1})
    (tmp_path / "project-1.json").write_text(json.dumps(tasks), encoding="utf-8")
    data = open_dataset(tmp_path)
    assert (data.format, data.classes) == ("labelstudio", ("background", "Straße", "car"))
    assert len(data.samples("all")) == 3
    assert read_mask(tmp_path, "bild ü 0")[0, 0] == 0
    assert read_mask(tmp_path, "bild ü 0")[3, 5] == 2
    assert "several-annotations" in codes(tmp_path)


def test_the_image_gives_the_size_if_a_shape_has_none(tmp_path):
    plain = {key: value for key, value in BOX.items() if not key.startswith("original")}
    make(tmp_path, [plain])
    assert np.argwhere(read_mask(tmp_path, "bild ü 0")).min(0).tolist() == [2, 4]
    assert np.argwhere(read_mask(tmp_path, "bild ü 0")).max(0).tolist() == [5, 7]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.floats(0, 1), st.integers(1, 9), st.integers(1, 90))
def test_strokes_are_unpacked_as_they_were_packed(seed, share, height, width):
    bits = np.repeat(np.random.default_rng(seed).random((height, -(-width // 9))) < share, 9, axis=1)[:, :width]
    np.testing.assert_array_equal(unpack_brush_rle(strokes(bits), height, width), bits)
    assert unpack_brush_rle(strokes(bits), width + 1, height) is None


def test_results_that_are_no_list_or_have_two_labels_are_reported(tmp_path):
    make(tmp_path, [BOX, {**BOX, "value": {**BOX["value"], "rectanglelabels": ["car", "Straße"]}}])
    edit_json(tmp_path / "project-1.json", lambda tasks: tasks[1]["annotations"][0].update(result={"oops": 1}))
    found = problems(tmp_path)
    assert found["bad-shape"].files == ("images/bild ü 1",)
    assert found["several-labels"].files == ("images/bild ü 0",)
    assert "car and Straße" in found["several-labels"].cause


def test_skipped_tasks_are_a_note_and_unlabeled_ones_a_warning(tmp_path):
    make(tmp_path, [BOX])

    def edit(tasks):
        tasks[1]["annotations"][0]["was_cancelled"] = True
        tasks[2]["annotations"] = []

    edit_json(tmp_path / "project-1.json", edit)
    found = problems(tmp_path)
    assert found["missing-mask"].files == ("data/upload/3/0a1b2c3d-bild ü 2.png",)
    assert found["unlisted"].files == ("images/bild ü 1.png", "images/bild ü 2.png")
