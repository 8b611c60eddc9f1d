"""Palettes of greys that contradict each other, and few masks of 0 and 255 among classes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullconv.data import examine

RNG = np.random.default_rng(0)


def region(seed: int) -> np.ndarray:
    mask = np.zeros((48, 64), np.uint8)
    y, x = np.random.default_rng(seed).integers(0, 20, 2)
    mask[y : y + 18, x : x + 26] = 1
    return mask


def indexed(mask: np.ndarray, greys: dict[int, int]) -> Image.Image:
    image = Image.fromarray(mask, "L")
    image.putpalette([v for i in range(256) for v in [greys.get(i, i)] * 3])
    return image


def write(root: Path, masks: list[Image.Image], toml: str, suffix: str = "png") -> Path:
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for i, mask in enumerate(masks):
        Image.fromarray(RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(root / "images" / f"{i:02}.png")
        mask.save(root / "masks" / f"{i:02}.{suffix}")
    (root / "data.toml").write_text(toml)
    return root


def codes(root: Path) -> dict:
    return {problem.code: problem for problem in examine(root).problems}


BINARY = 'classes = ["a", "b"]\n'


@pytest.mark.parametrize("inverted", [1, 3, 5, 6, 9, 11])
def test_an_inverting_palette_in_any_share_is_an_error_that_shows_both(tmp_path, inverted):
    normal, other = {0: 0, 1: 255}, {0: 255, 1: 0}
    masks = [
        indexed(region(i) if i >= inverted else 1 - region(i), other if i < inverted else normal) for i in range(12)
    ]
    found = codes(write(tmp_path, masks, BINARY))["palette-permuted"]
    assert (found.severity, found.count) == ("error", min(inverted, 12 - inverted))
    assert "the other way round in others" in found.cause
    named = {int(name) for name in re.findall(r"masks/(\d\d)\.png", str(found))}
    assert any(name < inverted for name in named)
    assert any(name >= inverted for name in named)


def test_an_inverting_table_among_masks_without_one(tmp_path):
    masks = [Image.fromarray(region(i) * 255) for i in range(8)]
    masks[2] = indexed(255 - region(2) * 255, {i: 255 - i for i in range(256)})
    toml = 'classes = ["a", "b"]\nvalues = { 0 = "a", 255 = "b" }\n'
    assert codes(write(tmp_path, masks, toml))["palette-permuted"].files == ("masks/02.png",)


def test_stretched_greys_and_labels_without_a_palette_are_no_contradiction(tmp_path):
    masks = []
    for i in range(12):
        mask = region(i)
        mask[40:, 50:] = 2 if i % 2 else 0
        top = int(mask.max())
        masks.append(indexed(mask, {v: v * 255 // top for v in range(top + 1)}) if i % 3 else Image.fromarray(mask))
    assert "palette-permuted" not in codes(write(tmp_path, masks, 'classes = ["a", "b", "c"]\n'))


@pytest.mark.parametrize(
    ("odd", "of", "severity"), [(1, 4, "warning"), (3, 8, "error"), (4, 8, "error"), (7, 10, "error"), (1, 30, "error")]
)
def test_masks_of_0_and_255_among_classes(tmp_path, odd, of, severity):
    masks = []
    for i in range(of):
        mask = region(i)
        mask[42:, :9] = 2
        masks.append(Image.fromarray(region(i) * 255 if i < odd else mask))
    found = codes(write(tmp_path, masks, 'classes = ["a", "b", "c"]\n'))["binary-mask"]
    assert (found.severity, found.count) == (severity, odd)
