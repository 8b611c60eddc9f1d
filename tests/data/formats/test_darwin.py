from __future__ import annotations

import json
import math

import numpy as np
import pytest

from fullconv.data import open_dataset
from synthetic import oracle
from synthetic.images import write_noise
from synthetic.reading import codes, edit_json, problems, read_mask, split_sizes

SIZE = (48, 64)
STAR = [(5, 5), (50, 8), (30, 20), (45, 40), (8, 30)]
HOLE = [(20, 12), (28, 12), (28, 18), (20, 18)]
BLOBS = np.kron(np.random.default_rng(5).integers(0, 3, (6, 8)), np.ones((8, 8), int))


def path(points):
    return [{"x": x, "y": y} for x, y in points]


def runs(numbers):
    """Write pixels row by row as number, count, number, count ..."""
    found = []
    for value in numbers.ravel().tolist():
        if found and found[-1][0] == value:
            found[-1][1] += 1
        else:
            found.append([value, 1])
    return [part for pair in found for part in pair]


def polygon(name, *rings):
    xs, ys = zip(*rings[0], strict=True)
    box = {"x": min(xs), "y": min(ys), "w": max(xs) - min(xs), "h": max(ys) - min(ys)}
    return {"name": name, "id": f"{name}-1", "polygon": {"paths": [path(ring) for ring in rings]}, "bounding_box": box,
            "slot_names": ["0"], "properties": []}  # fmt: skip


def write(root, name, annotations, place="images", suffix=".png"):
    write_noise(root / place / f"{name}{suffix}", SIZE)
    slot = {"type": "image", "slot_name": "0", "width": SIZE[1], "height": SIZE[0], "source_files": []}
    table = {"version": "2.0", "schema_ref": "https://x/schema.json",
             "item": {"name": f"{name}{suffix}", "path": "/", "slots": [slot]}, "annotations": annotations}  # fmt: skip
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"{name}.json").write_text(json.dumps(table, indent=2), encoding="utf-8")


def write_first_version(root, name, annotations):
    write(root, name, annotations)
    for entry in annotations:
        first, *more = entry["polygon"].pop("paths")
        entry["polygon"] |= {"path": first, "additional_paths": more}
    image = {"width": SIZE[1], "height": SIZE[0], "filename": f"{name}.png", "url": "https://x", "path": "/", "seq": 1,
             "original_filename": f"{name}.png", "workview_url": "https://x"}  # fmt: skip
    table = {"dataset": "d", "image": image, "annotations": annotations}
    (root / "annotations" / f"{name}.json").write_text(json.dumps(table), encoding="utf-8")


@pytest.mark.parametrize("writer", [write, write_first_version])
def test_polygons_with_holes_are_drawn(tmp_path, writer):
    for name in "abc":
        writer(tmp_path, name, [polygon("leaf", STAR, HOLE), polygon("bug", HOLE)])
    opened = open_dataset(tmp_path)
    assert (opened.format, opened.classes) == ("darwin", ("background", "bug", "leaf"))
    expected = 2 * oracle.polygon(SIZE, STAR).astype(np.uint8)
    expected[oracle.polygon(SIZE, HOLE)] = 1
    oracle.assert_close(read_mask(tmp_path, "b"), expected)
    assert codes(tmp_path) <= {"unlabeled"}


def test_masks_of_a_raster_layer_and_ellipses_are_drawn(tmp_path):
    layer = {"dense_rle": runs(BLOBS), "mask_annotation_ids_mapping": {"m1": 1, "m2": 2}, "total_pixels": BLOBS.size}
    masks = [{"id": "m1", "name": "moss", "mask": {}}, {"id": "m2", "name": "ivy", "mask": {}}]
    write(tmp_path, "a", [{"id": "l", "name": "__raster_layer__", "raster_layer": layer}, *masks])
    round_shape = {"center": {"x": 30, "y": 24}, "radius": {"x": 20, "y": 8}, "angle": math.pi / 6}
    write(tmp_path, "b", [{"id": "e", "name": "ivy", "ellipse": round_shape, "bounding_box": {}}])
    write(tmp_path, "c", [{"id": "t", "name": "sunny", "tag": {}}])
    assert open_dataset(tmp_path).classes == ("background", "ivy", "moss")
    np.testing.assert_array_equal(read_mask(tmp_path, "a"), np.array([0, 2, 1])[BLOBS])
    oracle.assert_close(read_mask(tmp_path, "b"), oracle.ellipse(SIZE, (30, 24), (20, 8), math.pi / 6).astype(np.uint8))
    assert not read_mask(tmp_path, "c").any()
    edit_json(tmp_path / "annotations/a.json", lambda t: t["annotations"][0]["raster_layer"]["dense_rle"].append(1))
    assert "mask" in problems(tmp_path)["bad-shape"].cause


def test_a_file_is_recognized_whatever_the_order_and_length_of_its_keys(tmp_path):
    angles = np.linspace(0, 2 * np.pi, 3000, endpoint=False)
    circle = [(30 + 15 * np.cos(angle), 24 + 15 * np.sin(angle)) for angle in angles]
    for name in "abc":
        write(tmp_path, name, [polygon("leaf", circle)])
        file = tmp_path / f"annotations/{name}.json"
        file.write_text(json.dumps(json.loads(file.read_text()), sort_keys=True))
    oracle.assert_close(read_mask(tmp_path, "b"), oracle.polygon(SIZE, circle).astype(np.uint8))


def test_splits_boxes_and_lines(tmp_path):
    for number, split in enumerate(["train", "train", "val"]):
        write(tmp_path, f"{split}{number}", [polygon("a", STAR)], f"{split}/images")
    box = {"name": "a", "bounding_box": {"x": 52, "y": 30, "w": 8, "h": 10}}
    line = {"name": "a", "line": {"path": path(STAR)}}
    write(tmp_path, "train0", [polygon("a", STAR), box, line], "train/images")
    assert split_sizes(tmp_path) == {"train": 2, "val": 1}
    assert read_mask(tmp_path, "train0")[35, 55] == 255
    assert {"box-only", "no-area"} <= codes(tmp_path)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda t: t.update(annotations=5), "has no item with annotations"),
        (lambda t: t["item"].update(name=None), "has no name of an image"),
        (lambda t: t["item"]["slots"].append(t["item"]["slots"][0]), "is of a video or of several images"),
        (lambda t: t["item"]["slots"][0].update(type="video"), "is of a video or of several images"),
    ],
)
def test_a_malformed_file_is_an_error_of_its_own(tmp_path, edit, reason):
    for name in "abc":
        write(tmp_path, name, [polygon("leaf", STAR)])
    edit_json(tmp_path / "annotations/b.json", edit)
    found = problems(tmp_path)["unreadable"]
    assert found.files == ("annotations/b.json",)
    assert reason in found.cause


def test_an_invalid_outline_is_an_error_of_its_image(tmp_path):
    for name in "abc":
        write(tmp_path, name, [polygon("leaf", STAR)])
    edit_json(tmp_path / "annotations/b.json", lambda t: t["annotations"][0]["polygon"]["paths"][0][0].pop("x"))
    assert problems(tmp_path)["bad-shape"].stems == {"images/b"}
