"""Small Supervisely projects."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

from synthetic.images import as_text
from synthetic.shapes import save_image

SIZE = (20, 30)


def bitmap(bits, x, y):
    data = as_text(Image.fromarray((bits * 255).astype(np.uint8)).convert("1"), compress=True)
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
        save_image(np.full((*SIZE, 3), 50 + number, np.uint8), root / "ds0" / "img" / name)
        drawn = objects if number == 0 else [polygon("car", square(1, 1, 4)), polygon("Straße", square(9, 1, 4))]
        (root / "ds0" / "ann").mkdir(exist_ok=True)
        table = {"size": {"height": 20, "width": 30}, "objects": drawn}
        (root / "ds0" / "ann" / f"{name}.json").write_text(json.dumps(table), encoding="utf-8")
    return root
