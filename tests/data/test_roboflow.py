from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fullconv.data import inspect, open_dataset
from synthetic.shapes import save_image

TABLE = "Pixel Value, Class\n0, background\n1, Straße nass\n7, car\n"


def make(root, splits=("train", "train", "valid", "test"), table=TABLE):
    mask = np.zeros((20, 30), np.uint8)
    mask[3:9, 4:9], mask[10:, 20:] = 1, 7
    for number, split in enumerate(splits):
        stem = f"bild ü {number}_jpg.rf.0a1b2c"
        save_image(np.full((20, 30, 3), 40 + number, np.uint8), root / split / f"{stem}.jpg")
        Image.fromarray(mask).save(root / split / f"{stem}_mask.png")
        (root / split / "_classes.csv").write_text(table, encoding="utf-8")
    return root


@pytest.mark.parametrize("splits", [("train", "train", "valid", "test"), ("",) * 4])
def test_masks_lie_beside_pictures_and_a_table_names_their_numbers(tmp_path, splits):
    data = open_dataset(make(tmp_path, splits))
    assert (data.format, data.classes) == ("roboflow", ("background", "Straße nass", "car"))
    assert len(data.samples("all")) == 4
    assert ("test" in data.splits) == bool(splits[0])
    assert sorted(np.unique(data.read_mask(data.samples("train")[0])).tolist()) == [0, 1, 2]
    assert not [p for p in inspect(tmp_path) if p.severity == "error"]


def test_what_is_missing_or_wrong_is_named(tmp_path):
    make(tmp_path)
    next((tmp_path / "train").glob("*_mask.png")).unlink()
    assert {p.code for p in inspect(tmp_path) if p.severity == "error"} == {"missing-mask"}
    (tmp_path / "valid" / "_classes.csv").write_text("Pixel Value, Class\n0, sky\n")
    (told,) = inspect(tmp_path)
    assert "valid" in told.cause
    assert "0 is sky here, but background elsewhere" in told.cause
    (tmp_path / "valid" / "_classes.csv").write_text("Pixel Value, Class\nx, sky\n")
    (told,) = inspect(tmp_path)
    assert "line 2: 'x, sky' is not a number and a class" in told.cause
