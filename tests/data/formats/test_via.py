from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest

from fullconv.data import open_dataset
from fullconv.errors import DataError
from synthetic import oracle
from synthetic.images import write_noise
from synthetic.reading import codes, problems, read_mask
from synthetic.shapes import save_mask

SIZE = (48, 64)
STAR = [(5, 5), (50, 8), (30, 20), (45, 40), (8, 30)]


def region(shape, name=None, **attributes):
    return {"shape_attributes": shape, "region_attributes": {**({"class": name} if name else {}), **attributes}}


def polygon(points):
    xs, ys = zip(*points, strict=True)
    return {"name": "polygon", "all_points_x": list(xs), "all_points_y": list(ys)}


SHAPES = {
    "polygon": (polygon(STAR), oracle.polygon(SIZE, STAR)),
    "rect": ({"name": "rect", "x": 10, "y": 6, "width": 20, "height": 12},
             oracle.polygon(SIZE, [(10, 6), (29.9, 6), (29.9, 17.9), (10, 17.9)])),
    "circle": ({"name": "circle", "cx": 30, "cy": 24, "r": 12.5}, oracle.ellipse(SIZE, (30, 24), (12.5, 12.5))),
    "ellipse": ({"name": "ellipse", "cx": 30, "cy": 24, "rx": 20, "ry": 8, "theta": math.pi / 6},
                oracle.ellipse(SIZE, (30, 24), (20, 8), math.pi / 6)),
    "old ellipse": ({"name": "ellipse", "cx": 30, "cy": 24, "rx": 20, "ry": 8}, oracle.ellipse(SIZE, (30, 24), (20, 8))),
}  # fmt: skip


def write_json(path, entries):
    table = {
        f"{name}99": {"filename": name, "size": 99, "regions": own, "file_attributes": {}} for name, own in entries
    }
    path.write_text(json.dumps(table), encoding="utf-8")


def write_project(path, entries):
    write_json(path, entries)
    table = {"_via_settings": {"ui": {"x": 1}}, "_via_img_metadata": json.loads(path.read_text(encoding="utf-8")),
             "_via_attributes": {"region": {"class": {"type": "text"}}, "file": {}}}  # fmt: skip
    path.write_text(json.dumps(table), encoding="utf-8")


def write_first_version(path, entries):
    write_json(path, [])
    table = {f"{name}99": {"fileref": "", "size": 99, "filename": name, "base64_img_data": "", "file_attributes": {},
                           "regions": {str(i): entry for i, entry in enumerate(own)}} for name, own in entries}  # fmt: skip
    path.write_text(json.dumps(table), encoding="utf-8")


def write_csv(path, entries, hash_sign=""):
    with path.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([f"{hash_sign}filename", "file_size", "file_attributes", "region_count", "region_id",
                         "region_shape_attributes", "region_attributes"])  # fmt: skip
        for name, own in entries:
            for number, entry in enumerate(own or [region({})]):
                cells = json.dumps(entry["shape_attributes"]), json.dumps(entry["region_attributes"])
                writer.writerow([name, 99, "{}", len(own), number, *cells])


WRITERS = {"json": write_json, "project": write_project, "version 1": write_first_version, "csv": write_csv,
           "old csv": lambda path, entries: write_csv(path, entries, "#")}  # fmt: skip


def make(root, entries, write=write_json):
    for name, _ in entries:
        write_noise(root / "images" / name, SIZE)
    write(root / "via_region_data.json", entries)
    return root


@pytest.mark.parametrize("writer", WRITERS)
def test_every_shape_is_drawn_from_every_export(tmp_path, writer):
    entries = [
        (f"{kind} é.png", [region(shape, "zebra"), region({**shape}, "ant")]) for kind, (shape, _) in SHAPES.items()
    ]
    make(tmp_path, [*entries, ("empty.png", [])], WRITERS[writer])
    opened = open_dataset(tmp_path)
    assert (opened.format, opened.classes) == ("via", ("background", "ant", "zebra"))
    for kind, (_, expected) in SHAPES.items():
        oracle.assert_close(read_mask(tmp_path, f"images/{kind} é"), expected.astype(np.uint8))
    assert not read_mask(tmp_path, "empty").any()
    assert codes(tmp_path) <= {"unlabeled", "constant-mask", "class-missing", "hidden-shapes", "few-pictures"}


def test_masks_beside_the_annotations_come_first(tmp_path):
    make(tmp_path, [("a.png", [region(polygon(STAR), "a")]), ("b.png", [])])
    for name in "ab":
        save_mask(np.eye(*SIZE, dtype=np.uint8), tmp_path / f"masks/{name}.png")
    assert open_dataset(tmp_path).format == "pairs"
    assert open_dataset(tmp_path, format="via").classes == ("background", "a")
    (tmp_path / "masks").rename(tmp_path / "labels")
    assert open_dataset(tmp_path).format == "pairs"


def test_the_class_is_the_attribute_with_few_values(tmp_path):
    entries = [
        (
            f"{i}.png",
            [region(polygon(STAR), kind="ab"[i % 2], number=f"{i}", note=""), region(SHAPES["rect"][0], kind="b")],
        )
        for i in range(6)
    ]
    make(tmp_path, entries)
    assert open_dataset(tmp_path).classes == ("background", "a", "b")
    assert "class-attribute" not in codes(tmp_path)


def test_an_attribute_of_a_usual_name_counts_and_a_choice_is_reported(tmp_path):
    two = [
        region(polygon(STAR), label="car", occluded={"yes": True, "no": False}),
        region(polygon(STAR), label="road", occluded={"no": True}),
        region(polygon(STAR), label="tree", occluded={"no": True}),
    ]
    make(tmp_path, [("a.png", two), ("b.png", two), ("c.png", two)])
    assert open_dataset(tmp_path).classes == ("background", "car", "road", "tree")
    found = problems(tmp_path)["class-attribute"]
    assert found.severity == "note"
    assert "the class is 'label' (3 values), not 'occluded'" in found.cause
    for entry in two:
        entry["region_attributes"]["sort"] = entry["region_attributes"].pop("label")
    make(tmp_path, [("a.png", two), ("b.png", two), ("c.png", two)])
    assert problems(tmp_path)["class-attribute"].severity == "warning"


def test_regions_without_attributes_are_one_class(tmp_path):
    make(tmp_path, [("a.png", [region(polygon(STAR))]), ("b.png", [])])
    assert open_dataset(tmp_path).classes == ("background", "object")
    (tmp_path / "data.toml").write_text('classes = ["background", "leaf"]')
    assert read_mask(tmp_path, "a").any()


@pytest.mark.parametrize(
    "shape",
    [
        {"name": "polyline", "all_points_x": [1, 20, 20], "all_points_y": [1, 1, 20]},
        {"name": "polygon", "all_points_x": [1, 20, 20], "all_points_y": [1, 1]},
        {"name": "polygon", "all_points_x": [1, 20, "x"], "all_points_y": [1, 1, 5]},
        {"name": "circle", "cx": 4, "cy": 4},
        {"name": "rect", "x": 4, "y": 4, "width": -3, "height": 5},
        {},
    ],
)
def test_lines_and_invalid_shapes_are_errors_of_their_image(tmp_path, shape):
    whole = [region(polygon(STAR), "a")]
    make(tmp_path, [("a.png", [*whole, region(shape, "a")]), ("b.png", whole)])
    found = problems(tmp_path)["bad-shape"]
    assert (found.severity, found.stems) == ("error", {"images/a"})
    assert str(shape.get("name")) in found.cause


def test_points_are_omitted_and_a_region_without_the_attribute_is_an_error(tmp_path):
    whole = [region(polygon(STAR), "a")]
    make(tmp_path, [("a.png", [*whole, region({"name": "point", "cx": 1, "cy": 2}, "a")]), ("b.png", whole)])
    assert "no-area" in codes(tmp_path)
    make(tmp_path, [("a.png", [*whole, region(polygon(STAR))]), ("b.png", whole)])
    assert "polygon without class" in problems(tmp_path)["bad-shape"].cause


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.json", '{"a.png9": {"filename": 5, "regions": [], "file_attributes": {}}}', "has no filename"),
        ("a.json", '{"a.png9": {"filename": "a.png", "regions": 5, "file_attributes": {}}}', "no list of regions"),
        ("a.json", '{"_via_img_metadata": {}, "regions": 5}', "holds no images with regions"),
        ("a.json", '{"a.png9": {"filename": "a.png", "regions": [], "file_attributes": {}}', "cannot be read as JSON"),
        ("a.csv", "filename,region_shape_attributes,region_attributes\na.png,{,{}\n", "row 2 does not hold JSON"),
        ("a.csv", "filename,region_shape_attributes\na.png,{}\n", "has no columns filename"),
    ],
)
def test_malformed_files_are_named_with_place_and_fix(tmp_path, name, text, reason):
    write_noise(tmp_path / "a.png", SIZE)
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=rf"{name}: .*{reason}.*Export"):
        open_dataset(tmp_path)
