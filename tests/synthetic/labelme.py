"""Small LabelMe sets."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

from synthetic.images import as_text
from synthetic.shapes import save_image

SIZE = (24, 32)


def packed(array):
    return as_text(Image.fromarray(array))


def labelme(root, stem, shapes, path=None, data=None):
    picture = np.full((*SIZE, 3), len(stem) * 9, np.uint8)
    if data is None:
        save_image(picture, root / f"{stem}.png")
    table = {"version": "5.2.1", "flags": {}, "shapes": shapes, "imagePath": path or f"{stem}.png",
             "imageData": data, "imageHeight": 24, "imageWidth": 32}  # fmt: skip
    (root / f"{stem}.json").write_text(json.dumps(table, ensure_ascii=False), encoding="utf-8")


def shape(label, points, kind="polygon", **keys):
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, **keys}


def box(label, x0, y0, x1, y1):
    return shape(label, [[x1, y1], [x0, y0]], "rectangle")
