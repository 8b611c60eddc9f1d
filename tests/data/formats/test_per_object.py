"""A folder per image with a mask per object."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullconv.data import examine, open_dataset
from fullconv.errors import DataError

RNG = np.random.default_rng(0)


def write(root: Path, count: int = 6, inner: str = "") -> dict[str, np.ndarray]:
    """Write folders as Kaggle's; returns the union of the objects by image."""
    unions = {}
    for i in range(count):
        place = root / inner / f"{i:064x}"
        (place / "images").mkdir(parents=True)
        (place / "masks").mkdir()
        Image.fromarray(RNG.integers(0, 256, (40, 50, 4), dtype=np.uint8)).save(place / "images" / f"{place.name}.png")
        union = np.zeros((40, 50), bool)
        for n in range(1 + i):
            y, x = RNG.integers(0, 30, 2)
            one = np.zeros((40, 50), np.uint8)
            one[y : y + 6, x : x + 8] = 255
            Image.fromarray(one).save(place / "masks" / f"{n:032x}.png")
            union |= one > 0
        unions[place.name] = union
    return unions


@pytest.mark.parametrize("inner", ["", "stage1_train"])
def test_the_objects_of_an_image_are_united(tmp_path, inner):
    unions = write(tmp_path, inner=inner)
    dataset = open_dataset(tmp_path)
    assert dataset.format == "objects"
    assert dataset.classes == ("background", "foreground")
    assert len(dataset.samples("all")) == 6
    for sample in dataset.samples("all"):
        np.testing.assert_array_equal(dataset.read_mask(sample), unions[sample.image.stem])
    assert not [p for p in examine(tmp_path).problems if p.severity == "error"]


def test_an_object_that_is_added_or_of_another_size_is_seen(tmp_path):
    write(tmp_path, 3)
    before = open_dataset(tmp_path).fingerprint()
    place = sorted(tmp_path.iterdir())[1]
    extra = np.zeros((40, 50), np.uint8)
    extra[38:, 48:] = 255
    Image.fromarray(extra).save(place / "masks" / "more.png")
    assert open_dataset(tmp_path).fingerprint() != before
    Image.fromarray(extra[:9]).save(place / "masks" / "more.png")
    dataset = open_dataset(tmp_path)
    with pytest.raises(DataError, match=r"more\.png: is 50x9 pixels, the layers before it 50x40"):
        list(map(dataset.read_mask, dataset.samples("all")))


def test_folders_without_masks_are_named(tmp_path):
    write(tmp_path, 4)
    place = sorted(tmp_path.iterdir())[0]
    for path in (place / "masks").iterdir():
        path.unlink()
    found = {p.code: p for p in examine(tmp_path).problems}
    assert (found["missing-mask"].severity, found["missing-mask"].files) == ("warning", (place.name,))
