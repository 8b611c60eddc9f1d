from __future__ import annotations

import json

import numpy as np
import pytest

from fullconv.data import inspect, open_dataset
from made import save_picture

SIZE = (20, 40)


def codes(root):
    return {p.code for p in inspect(root)} - {"class-missing-in-train", "class-unused"}  # so few pictures


def row(kind, label, **value):
    return {"type": kind, "original_width": 40, "original_height": 20, "image_rotation": 0, "to_name": "image",
            "value": {**value, kind: [label]}}  # fmt: skip


def strokes(bits):
    """Encode as Label Studio does: runs of RGBA bytes."""
    values = np.zeros((*bits.shape, 4), np.uint8)
    values[bits] = (10, 20, 30, 255)
    flat = values.ravel().tolist()
    text = format(len(flat), "032b") + format(7, "05b") + "".join(format(n - 1, "04b") for n in (3, 4, 8, 16))
    at = 0
    while at < len(flat):
        end = at
        while end < len(flat) and flat[end] == flat[at] and end - at < 65536:
            end += 1
        if end - at > 1:
            text += "1" + "11" + format(end - at - 1, "016b") + format(flat[at], "08b")
        else:
            text += "0" + "00" + "000" + format(flat[at], "08b")
        at = end
    text += "0" * (-len(text) % 8)
    return [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]


BOX = row("rectanglelabels", "car", x=10, y=10, width=10, height=20)
POLYGON = row("polygonlabels", "Straße", points=[[-10, -10], [50, -10], [50, 50], [-10, 50]], closed=True)


def make(root, *annotations, address="/data/upload/3/0a1b2c3d-bild%20%C3%BC%20{}.png?x=1"):
    tasks = []
    for number in range(3):
        save_picture(np.full((*SIZE, 3), 50 + number, np.uint8), root / "images" / f"bild ü {number}.png")
        results = annotations if number == 0 else ([BOX, POLYGON],)
        done = [{"id": 9 + i, "result": result} for i, result in enumerate(results)]
        tasks.append({"id": number, "annotations": done, "data": {"image": address.format(number)}})
    (root / "project-1.json").write_text(json.dumps(tasks), encoding="utf-8")
    return root


def first_mask(root):
    data = open_dataset(root)
    return data.read_mask(next(s for s in data.samples("all") if s.stem == "images/bild ü 0"))


def test_polygons_boxes_and_brushes_are_drawn(tmp_path):
    bits = np.zeros(SIZE, bool)
    bits[5:15, 25:36] = np.arange(11) % 3 > 0
    make(tmp_path, [POLYGON, BOX, row("brushlabels", "car", format="rle", rle=strokes(bits))])
    data = open_dataset(tmp_path)
    assert (data.format, data.classes) == ("labelstudio", ("background", "Straße", "car"))
    mask = first_mask(tmp_path)
    assert (mask[0, 0], mask[3, 5], mask[9, 19], mask[15, 5]) == (1, 2, 1, 0)
    np.testing.assert_array_equal(mask[:, 24:] == 2, bits[:, 24:])
    assert codes(tmp_path) <= {"unlabeled", "path-mended"}


@pytest.mark.parametrize(
    "address",
    ["s3://bucket/a/bild ü {}.png", "/data/local-files/?d=images/bild%20%C3%BC%20{}.png", "images/bild ü {}.png"],
)
def test_pictures_are_found_by_their_address(tmp_path, address):
    make(tmp_path, [BOX], address=address)
    assert len(open_dataset(tmp_path).samples("all")) == 3


def test_several_annotations_and_none_are_said(tmp_path):
    make(tmp_path, [BOX], [POLYGON])
    assert "several-annotations" in codes(tmp_path)
    assert first_mask(tmp_path)[3, 5] == 2
    make(tmp_path)
    assert "missing-mask" in codes(tmp_path)
    assert len(open_dataset(tmp_path).samples("all")) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        row("polygonlabels", "car", points=[[1, 1], [2, 2]]), row("brushlabels", "car", rle=[1, 2, 3]),
        row("brushlabels", "car", rle="x"), row("rectanglelabels", "car", x=1, y=1, width=5, height=5, rotation=30),
        row("ellipselabels", "car", x=1), {"type": "brushlabels"},
    ],
)  # fmt: skip
def test_a_shape_that_cannot_be_drawn_is_named(tmp_path, wrong):
    make(tmp_path, [BOX, wrong])
    assert codes(tmp_path) & {"bad-shape", "unknown-class"}
