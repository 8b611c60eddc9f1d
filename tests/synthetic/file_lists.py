"""Data sets whose images and masks have names of any pattern."""

from __future__ import annotations

import numpy as np

from fullconv.data import open_dataset
from synthetic.shapes import draw, save_image, save_mask


def make(root, image, mask, count=5):
    """Write images and masks under names with {}, a number, in them."""
    expected = {}
    for number in range(count):
        picture, labels = draw(np.random.default_rng(number), (24, 32), 3)
        save_image(picture, root / image.format(number))
        save_mask(labels, root / mask.format(number))
        expected[(root / image.format(number)).relative_to(root).with_suffix("").as_posix()] = labels
    (root / "data.toml").write_text('classes = ["a", "b", "c"]')
    return expected


def check(root, expected, name):
    data = open_dataset(root)
    assert data.format == name
    found = {sample.stem: data.read_mask(sample) for sample in data.samples("all")}
    assert found.keys() == expected.keys()
    for stem, mask in found.items():
        np.testing.assert_array_equal(mask, expected[stem])
    return data
