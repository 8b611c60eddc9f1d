from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fullconv.data import inspect, open_dataset
from synthetic.reading import codes, problems
from synthetic.shapes import save_image

NUMBERS = {"off-by-one", "scaled-labels", "void-as-class", "unknown-label"}
TABLE = "Pixel Value, Class\n0, background\n1, Straße nass\n7, car\n"


def make(root, splits=("train", "train", "valid", "test"), table=TABLE, numbers=(0, 1, 7)):
    mask = np.full((20, 30), numbers[0], np.uint16)
    mask[3:9, 4:9], mask[10:, 20:] = numbers[1:]
    mask = mask.astype(np.uint8)
    for number, split in enumerate(splits):
        stem = f"bild ü {number}_jpg.rf.0a1b2c"
        save_image(np.full((20, 30, 3), 40 + number, np.uint8), root / split / f"{stem}.jpg")
        Image.fromarray(mask).save(root / split / f"{stem}_mask.png")
        (root / split / "_classes.csv").write_text(table, encoding="utf-8")
    return root


@pytest.mark.parametrize("splits", [("train", "train", "valid", "test"), ("",) * 4])
def test_masks_are_beside_images_and_a_table_defines_their_values(tmp_path, splits):
    data = open_dataset(make(tmp_path, splits))
    assert (data.format, data.classes) == ("roboflow", ("background", "Straße nass", "car"))
    assert len(data.samples("all")) == 4
    assert ("test" in data.splits) == bool(splits[0])
    assert sorted(np.unique(data.read_mask(data.samples("train")[0])).tolist()) == [0, 1, 2]
    assert not [p for p in inspect(tmp_path) if p.severity == "error"]


def test_missing_masks_and_contradictory_tables_are_errors(tmp_path):
    make(tmp_path)
    next((tmp_path / "train").glob("*_mask.png")).unlink()
    assert {p.code for p in inspect(tmp_path) if p.severity == "error"} == {"missing-mask"}
    (tmp_path / "valid" / "_classes.csv").write_text("Pixel Value, Class\n0, sky\n")
    (found,) = inspect(tmp_path)
    assert "valid" in found.cause
    assert "0 is sky, but background elsewhere" in found.cause
    (tmp_path / "valid" / "_classes.csv").write_text("Pixel Value, Class\nx, sky\n")
    (found,) = inspect(tmp_path)
    assert "line 2: 'x, sky' is not a number and a class" in found.cause


@pytest.mark.parametrize(
    ("numbers", "code"),
    [((0, 1, 2), ""), ((1, 2, 3), "off-by-one"), ((0, 60, 120), "scaled-labels"), ((0, 1, 255), "void-as-class")],
)
def test_numbers_are_checked_against_the_table_and_the_printed_lines_fix_them(tmp_path, numbers, code):
    make(tmp_path, ("train",) * 5, "Pixel Value, Class\n0, sky\n1, road\n2, car\n", numbers)
    assert codes(tmp_path) & NUMBERS == ({code} if code else set())
    if code == "scaled-labels":
        (tmp_path / "data.toml").write_text(problems(tmp_path)[code].remedy.split("\n", 1)[1])
        assert not [found for found in inspect(tmp_path) if found.severity == "error"]
        data = open_dataset(tmp_path)
        assert set(np.unique(data.read_mask(data.samples("train")[0]))) == {0, 1, 2}


def test_class_names_that_differ_only_in_case_are_reported(tmp_path):
    make(tmp_path, table="Pixel Value, Class\n0, sky\n1, car\n7, Car\n")
    assert problems(tmp_path)["similar-classes"].severity == "warning"
