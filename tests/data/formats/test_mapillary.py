from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from fullconv.data import open_dataset
from fullconv.errors import DataError
from synthetic.images import write_noise
from synthetic.reading import codes, problems, read_mask, split_sizes

SIZE = (24, 32)
LABELS = [("animal--bird", "Bird", True), ("construction--flat--road", "Road", True), ("void--unlabeled", "Unlabeled", False),
          ("nature--sky", "Sky", True)]  # fmt: skip


def make(root, version=""):
    rng = np.random.default_rng(1)
    rows = [{"name": name, "readable": readable, "evaluate": counts, "color": [i, 2 * i, 3], "instances": True}
            for i, (name, readable, counts) in enumerate(LABELS)]  # fmt: skip
    table = json.dumps(
        {"labels": rows, "version": "1.1", "mapping": "public", "folder_structure": "{split}/{content}/x"}
    )
    root.mkdir(parents=True, exist_ok=True)
    (root / (f"config_{version}.json" if version else "config.json")).write_text(table)
    masks = {}
    for split, stems in {"training": "abc", "validation": "d", "testing": "e"}.items():
        for stem in stems:
            write_noise(root / split / "images" / f"{stem}.jpg", SIZE)
            if split != "testing":
                masks[stem] = np.kron(rng.integers(0, 4, (3, 4)), np.ones((8, 8))).astype(np.uint8)
                path = root / split / version / "labels" / f"{stem}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image = Image.fromarray(masks[stem])
                image.putpalette(bytes(range(256)) * 3)
                image.save(path)
                (root / split / version / "instances").mkdir(exist_ok=True)
                Image.fromarray(masks[stem].astype(np.uint16) * 256).save(
                    root / split / version / f"instances/{stem}.png"
                )
    return masks


@pytest.mark.parametrize("version", ["", "v1.2", "v2.0"])
def test_masks_hold_positions_of_labels(tmp_path, version):
    masks = make(tmp_path, version)
    opened = open_dataset(tmp_path)
    assert (opened.format, opened.classes) == ("mapillary", ("Bird", "Road", "Sky"))
    assert split_sizes(tmp_path) == {"train": 3, "val": 1}
    for stem, mask in masks.items():
        np.testing.assert_array_equal(read_mask(tmp_path, stem), np.array([0, 1, 255, 2], np.uint8)[mask])
    assert codes(tmp_path) <= {"missing-folder", "unread-folder"}
    assert problems(tmp_path)["missing-folder"].severity == "note"


def test_the_newer_version_counts(tmp_path):
    make(tmp_path, "v1.2")
    masks = make(tmp_path, "v2.0")
    for path in tmp_path.glob("training/v1.2/labels/*"):
        path.unlink()
    assert read_mask(tmp_path, "a")[0, 0] == [0, 1, 255, 2][masks["a"][0, 0]]


@pytest.mark.parametrize("labels", [[], [{"name": "x"}], [{"name": "x", "readable": 5}]])
def test_a_malformed_table_is_named(tmp_path, labels):
    make(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"labels": labels, "readable": 1}))
    with pytest.raises(DataError, match=r"config\.json: has no list of labels with readable names\. Copy it again"):
        open_dataset(tmp_path)
