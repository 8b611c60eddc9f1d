from __future__ import annotations

import json

import numpy as np
import pytest

from fullconv.data import open_dataset
from fullconv.errors import DataError
from synthetic import oracle
from synthetic.images import write_noise
from synthetic.reading import codes, problems, read_mask, split_sizes

SIZE = (48, 64)
STAR = [(5, 5), (50, 8), (30, 20), (45, 40), (8, 30)]
SQUARE = [(40, 10), (60, 10), (60, 44), (40, 44)]


def polygon(name, points):
    return {"feature_id": "f", "name": name, "value": name.lower(), "annotation_kind": "ImagePolygon",
            "polygon": [{"x": x, "y": y} for x, y in points]}  # fmt: skip


def row(name, objects, split=None, labels=1, **data):
    label = {"label_kind": "Default", "version": "1.0.0", "annotations": {"objects": objects, "classifications": []}}
    fields = [{"schema_name": "split", "value": split}] if split else []
    return {"data_row": {"id": "ck1", "external_id": f"{name}.png", "row_data": f"https://x/{name}.png", **data},
            "media_attributes": {"height": SIZE[0], "width": SIZE[1], "mime_type": "image/png"}, "metadata_fields": fields,
            "projects": {"p1": {"name": "plants", "labels": [label] * labels}}}  # fmt: skip


def make(root, rows, name="export.ndjson"):
    for stem in "abc":
        write_noise(root / "images" / f"{stem}.png", SIZE)
    text = json.dumps(rows) if name.endswith(".json") else "".join(f"{json.dumps(entry)}\n" for entry in rows)
    (root / name).write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize("name", ["export.ndjson", "export.jsonl", "export.json"])
@pytest.mark.parametrize("data", [{}, {"external_id": None, "row_data": None}])
def test_polygons_are_drawn_in_their_order(tmp_path, name, data):
    objects = [polygon("Leaf", STAR), polygon("Bug", SQUARE)]
    rows = [
        row(stem, objects, **({**data, "row_data": f"https://x/y/{stem}.png?token=1"} if data else {}))
        for stem in "abc"
    ]
    make(tmp_path, rows, name)
    opened = open_dataset(tmp_path)
    assert (opened.format, opened.classes) == ("labelbox", ("background", "Bug", "Leaf"))
    expected = np.where(oracle.polygon(SIZE, SQUARE), 1, 2 * oracle.polygon(SIZE, STAR))
    oracle.assert_close(read_mask(tmp_path, "images/b"), expected)
    assert codes(tmp_path) <= {"unlabeled", "hidden-shapes"}


def test_splits_boxes_lines_and_unlabeled_rows(tmp_path):
    box = {"name": "Leaf", "annotation_kind": "ImageBoundingBox",
           "bounding_box": {"top": 30, "left": 52, "height": 10, "width": 8}}  # fmt: skip
    line = {"name": "Leaf", "annotation_kind": "ImagePolyline", "line": [{"x": 1, "y": 1}, {"x": 9, "y": 9}]}
    star = polygon("Leaf", STAR)
    make(tmp_path, [row("a", [star, box, line], "train"), row("b", [star], "valid"), row("c", [], labels=0)])
    assert split_sizes(tmp_path) == {"train": 1, "val": 1}
    assert read_mask(tmp_path, "a")[35, 55] == 255
    found = problems(tmp_path)
    assert {"box-only", "no-area"} <= found.keys()
    assert found["unlisted"].files == ("images/c.png",)
    make(tmp_path, [row("a", [star], labels=2), row("b", [star]), row("c", [])])
    assert problems(tmp_path)["several-annotations"].files == ("a.png",)


def test_masks_at_addresses_are_refused_with_what_to_do(tmp_path):
    mask = {"name": "Leaf", "annotation_kind": "ImageSegmentationMask", "mask": {"url": "https://x/mask"}}
    make(tmp_path, [row("a", [mask]), row("b", [polygon("Leaf", STAR)]), row("c", [])])
    found = [found for found in open_dataset(tmp_path).problems if found.code == "bad-shape"]
    assert "masks, which the file does not hold" in found[0].cause
    assert "download them" in found[0].remedy


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"data_row": {}, "projects": {}', "line 3 cannot be read as JSON"),
        ("5", "line 3 is not an object"),
        ('{"data_row": 5, "projects": {}}', "line 3 has no data_row and projects"),
        ('{"data_row": {"id": "x"}}', "line 3 has no data_row and projects"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, reason):
    make(tmp_path, [row("a", [polygon("Leaf", STAR)]), row("b", [])])
    with (tmp_path / "export.ndjson").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(DataError, match=rf"export\.ndjson: {reason}.*Export it again as NDJSON"):
        open_dataset(tmp_path)


def test_an_invalid_polygon_is_an_error_of_its_image(tmp_path):
    wrong = polygon("Leaf", STAR)
    del wrong["polygon"][0]["y"]
    make(tmp_path, [row("a", [wrong]), row("b", [polygon("Leaf", STAR)]), row("c", [])])
    assert problems(tmp_path)["bad-shape"].stems == {"images/a"}
