"""Annotation files in which each value in turn is replaced: problems, never a crash."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fullconv.data import inspect
from synthetic import coco, labelme, labelstudio, supervisely
from synthetic.trees import paths_in, replaced

ODD = [None, [], {}, "", -1, 1e308, 10**400, True, [[[]]], "../x", "a\0b"]


def coco_file(root):
    square = coco.square(1, 1, 6)
    rle = {"size": [20, 30], "counts": [0, 3, 597]}
    coco.coco(root, [{"image_id": 70, "category_id": 7, "segmentation": [square], "bbox": [1, 1, 2, 2]},
                          {"image_id": 71, "category_id": 3, "segmentation": rle}])  # fmt: skip
    return root / "instances.json"


def labelme_file(root):
    mask = labelme.packed(np.ones((3, 3), "uint8"))
    labelme.labelme(root, "eins", [labelme.box("a", 1, 1, 5, 5)])
    labelme.labelme(root, "zwei", [labelme.box("a", 1, 1, 5, 5), labelme.shape(
        "b", [[1, 1], [3, 3]], "mask", mask=mask)], data=mask)  # fmt: skip
    return root / "zwei.json"


def supervisely_file(root):
    outline = supervisely.polygon("car", supervisely.square(0, 0, 9), supervisely.square(2, 2, 3))
    supervisely.make(root, [outline, supervisely.bitmap(np.eye(3), 1, 1)])
    return root / "ds0" / "ann" / "bild ü 0.png.json"


def labelstudio_file(root):
    strokes = labelstudio.row("brushlabels", "car", rle=[0, 0, 1])
    labelstudio.make(root, [labelstudio.BOX, labelstudio.POLYGON, strokes])
    return root / "project-1.json"


@pytest.mark.parametrize(
    "make", [coco_file, labelme_file, supervisely_file, pytest.param(labelstudio_file, marks=pytest.mark.slow)]
)
def test_no_value_of_an_annotation_file_crashes(tmp_path, make):
    path = make(tmp_path)
    table = json.loads(path.read_text(encoding="utf-8"))
    for number, place in enumerate(paths_in(table)):
        for odd in ODD[number % 3 :: 3]:
            path.write_text(json.dumps(replaced(table, place, odd)), encoding="utf-8")
            for found in inspect(tmp_path):
                assert found.cause, (place, odd)
