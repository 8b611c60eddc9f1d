from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullconv.data import inspect
from fullconv.data.checks.appearance import ClassAppearance, is_exchanged
from fullconv.data.samples import Sample
from synthetic.reading import Array, camvid_masks, problems, relative, rewrite_masks
from synthetic.shapes import COLORS, make_shapes


def exchange(first: int, second: int) -> Callable[[Array], Array]:
    table = np.arange(256, dtype=np.uint8)
    table[[first, second]] = second, first
    return lambda mask: table[mask]


@pytest.mark.parametrize(("classes", "first", "second"), [(2, 0, 1), (4, 0, 2), (4, 1, 3)])
def test_two_classes_exchanged_in_val_are_reported(tmp_path, classes, first, second):
    root = make_shapes(tmp_path, images=24, classes=classes, void=False)
    assert inspect(root) == []
    rewrite_masks(camvid_masks(root, "val"), exchange(first, second))
    found = problems(root)["classes-exchanged"]
    assert (found.severity, found.files) == ("warning", relative(camvid_masks(root, "val"), root))


def test_some_inverted_masks_of_two_classes_are_reported_in_numbers_and_in_colours(tmp_path):
    for encoding in ("index", "rgb"):
        root = make_shapes(tmp_path / encoding, images=16, classes=2, void=False, encoding=encoding)
        odd = [camvid_masks(root)[3], camvid_masks(root)[14]]
        for path in odd:
            image = np.asarray(Image.open(path))
            inner = (image == COLORS[1]).all(-1) if encoding == "rgb" else image == 1
            new = (
                np.array(COLORS[1::-1], np.uint8)[inner.astype(int)] if encoding == "rgb" else (~inner).astype(np.uint8)
            )
            Image.fromarray(new).save(path)
        assert problems(root)["classes-exchanged"].files == relative(odd, root)


def test_a_set_of_night_in_val_is_no_exchange(tmp_path):
    root = make_shapes(tmp_path, images=24, classes=2, void=False)
    rewrite_masks(sorted((root / "val").iterdir()), lambda picture: 255 - picture)  # as bright on dark, sizes as ever
    assert "classes-exchanged" not in problems(root)


def test_val_as_large_as_train_is_judged_too(tmp_path):
    root = make_shapes(tmp_path, images=16, classes=2, void=False)
    shutil.copytree(root / "trainannot", root / "valannot", dirs_exist_ok=True)
    shutil.copytree(root / "train", root / "val", dirs_exist_ok=True)
    for path in [*(root / "val").iterdir(), *camvid_masks(root, "val")][: len(camvid_masks(root, "val"))]:
        if path.name >= "shape012":  # those that were in val before
            path.unlink()
            (root / "valannot" / path.name).unlink()
    rewrite_masks(camvid_masks(root, "val"), exchange(0, 1))
    assert problems(root)["classes-exchanged"].files == relative(camvid_masks(root, "val"), root)


@pytest.mark.parametrize(("green", "exchanged"), [(0.0, True), (0.5, False)])
def test_classes_that_change_sides_without_being_alike_are_not_exchanged(green, exchanged):
    draw = np.random.default_rng(0)

    def appearance(count: int, *colors: tuple[float, float, float]) -> ClassAppearance:
        samples = [Sample(str(i), Path(f"{i}.png"), {}) for i in range(count)]
        means = np.array(colors) + draw.normal(0, 0.02, (count, 3, 3))
        return ClassAppearance(samples, means, np.full((count, 3), 0.3))

    rest = appearance(20, (0.3, 0, 0), (-0.3, 0, 0), (0, 0, 0.1))
    own = appearance(8, (-0.2, green, 0), (0.2, green, 0), (0, 0, 0.1))
    assert is_exchanged(own, rest, rest.usual(), 0, 1) == exchanged
