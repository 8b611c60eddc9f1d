"""Small Label Studio exports."""

from __future__ import annotations

import json

import numpy as np

from synthetic.shapes import save_image

SIZE = (20, 40)


def row(kind, label, **value):
    return {"type": kind, "original_width": 40, "original_height": 20, "image_rotation": 0, "to_name": "image",
            "value": {**value, kind: [label]}}  # fmt: skip


def strokes(bits):
    """Encode a mask as Label Studio does: runs of RGBA bytes."""
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
        save_image(np.full((*SIZE, 3), 50 + number, np.uint8), root / "images" / f"bild ü {number}.png")
        results = annotations if number == 0 else ([BOX, POLYGON],)
        done = [{"id": 9 + i, "result": result} for i, result in enumerate(results)]
        tasks.append({"id": number, "annotations": done, "data": {"image": address.format(number)}})
    (root / "project-1.json").write_text(json.dumps(tasks), encoding="utf-8")
    return root
