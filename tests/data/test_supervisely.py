from __future__ import annotations

import base64
import io
import json
import zlib

import numpy as np
import pytest
from PIL import Image

from fullconv.data import inspect, open_dataset
from made import save_picture

SIZE = (20, 30)


def bitmap(bits, x, y):
    buffer = io.BytesIO()
    Image.fromarray((bits * 255).astype(np.uint8)).convert("1").save(buffer, "PNG")
    data = base64.b64encode(zlib.compress(buffer.getvalue())).decode()
    return {"classTitle": "car", "geometryType": "bitmap", "bitmap": {"data": data, "origin": [x, y]}}


def polygon(title, outside, *holes):
    points = {"exterior": outside, "interior": list(holes)}
    return {"classTitle": title, "geometryType": "polygon", "points": points}


def square(x, y, side):
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side]]


def make(root, objects):
    (root / "meta.json").write_text(json.dumps({"classes": [{"title": "Straße"}, {"title": "car"}]}))
    for number in range(3):
        name = f"bild ü {number}.png"
        save_picture(np.full((*SIZE, 3), 50 + number, np.uint8), root / "ds0" / "img" / name)
        drawn = objects if number == 0 else [polygon("car", square(1, 1, 4)), polygon("Straße", square(9, 1, 4))]
        (root / "ds0" / "ann").mkdir(exist_ok=True)
        table = {"size": {"height": 20, "width": 30}, "objects": drawn}
        (root / "ds0" / "ann" / f"{name}.json").write_text(json.dumps(table), encoding="utf-8")
    return root


def first_mask(root):
    data = open_dataset(root)
    return data.read_mask(next(s for s in data.samples("all") if s.stem.endswith("0")))


def codes(root):
    return {p.code for p in inspect(root)} - {"class-missing-in-train", "class-unused"}  # so few pictures


def test_polygons_with_holes_and_bitmaps_are_drawn(tmp_path):
    make(tmp_path, [polygon("Straße", square(-5, 0, 17), square(4, 4, 4)), bitmap(np.eye(3), 28, 17)])
    data = open_dataset(tmp_path)
    assert (data.format, data.classes) == ("supervisely", ("background", "Straße", "car"))
    mask = first_mask(tmp_path)
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
def test_a_shape_that_cannot_be_drawn_is_named(tmp_path, wrong):
    make(tmp_path, [wrong])
    assert codes(tmp_path) == {"unlabeled", "bad-shape"}


def test_a_picture_that_is_not_there_is_one_warning(tmp_path):
    make(tmp_path, [])
    (tmp_path / "ds0" / "img" / "bild ü 0.png").unlink()
    assert codes(tmp_path) == {"unlabeled", "missing-picture"}
