"""Small COCO sets."""

from __future__ import annotations

import json

import numpy as np

from synthetic.shapes import save_image

SIZE = (20, 30)


def square(x, y, side):
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def coco(root, annotations, images=None, name="instances.json", **keys):
    images = images or [{"id": 70 + i, "file_name": f"bild ü {i}.png", "height": 20, "width": 30} for i in range(3)]
    for image in images:
        save_image(np.full((*SIZE, 3), 60 + image["id"], np.uint8), root / "images" / image["file_name"])
    table = {
        "images": images,
        "annotations": [{"id": i, "iscrowd": 0, **a} for i, a in enumerate(annotations, 1)],
        "categories": [{"id": 7, "name": "Katze"}, {"id": 3, "name": "dog house"}],
        **keys,
    }
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(table, ensure_ascii=False), encoding="utf-8")
    return root
