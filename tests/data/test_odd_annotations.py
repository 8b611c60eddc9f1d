"""Annotation files in which one thing after the other is something else: a problem each, never a crash."""

from __future__ import annotations

import copy
import json

import coco_sets
import labelme_sets
import labelstudio_sets
import numpy as np
import pytest
import supervisely_sets

from fullconv.data import inspect

ODD = [None, [], {}, "", -1, 1e308, 10**400, True, [[[]]], "../x", "a\0b"]


def places(value, path=()):
    """Yield the path of everything in a JSON value."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def changed(value, path, odd):
    value = copy.deepcopy(value)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = odd
    return value


def coco(root):
    square = coco_sets.square(1, 1, 6)
    rle = {"size": [20, 30], "counts": [0, 3, 597]}
    coco_sets.coco(root, [{"image_id": 70, "category_id": 7, "segmentation": [square], "bbox": [1, 1, 2, 2]},
                          {"image_id": 71, "category_id": 3, "segmentation": rle}])  # fmt: skip
    return root / "instances.json"


def labelme(root):
    mask = labelme_sets.packed(np.ones((3, 3), "uint8"))
    labelme_sets.labelme(root, "eins", [labelme_sets.box("a", 1, 1, 5, 5)])
    labelme_sets.labelme(root, "zwei", [labelme_sets.box("a", 1, 1, 5, 5), labelme_sets.shape(
        "b", [[1, 1], [3, 3]], "mask", mask=mask)], data=mask)  # fmt: skip
    return root / "zwei.json"


def supervisely(root):
    outline = supervisely_sets.polygon("car", supervisely_sets.square(0, 0, 9), supervisely_sets.square(2, 2, 3))
    supervisely_sets.make(root, [outline, supervisely_sets.bitmap(np.eye(3), 1, 1)])
    return root / "ds0" / "ann" / "bild ü 0.png.json"


def labelstudio(root):
    strokes = labelstudio_sets.row("brushlabels", "car", rle=[0, 0, 1])
    labelstudio_sets.make(root, [labelstudio_sets.BOX, labelstudio_sets.POLYGON, strokes])
    return root / "project-1.json"


@pytest.mark.parametrize("make", [coco, labelme, supervisely, pytest.param(labelstudio, marks=pytest.mark.slow)])
def test_whatever_an_annotation_holds_is_no_crash(tmp_path, make):
    path = make(tmp_path)
    table = json.loads(path.read_text(encoding="utf-8"))
    for number, place in enumerate(places(table)):
        for odd in ODD[number % 3 :: 3]:
            path.write_text(json.dumps(changed(table, place, odd)), encoding="utf-8")
            for found in inspect(tmp_path):
                assert found.cause, (place, odd)
