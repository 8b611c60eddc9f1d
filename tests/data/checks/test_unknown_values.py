"""Masks whose numbers all have a meaning, but not the one that was meant: told, instead of learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullconv.data import inspect, summary
from fullconv.data.problems import errors
from synthetic.reading import camvid_masks, problems, rewrite_masks
from synthetic.shapes import COLORS, make_shapes, names


def lines(remedy: str) -> str:
    """Return the lines for data.toml in a remedy."""
    return "\n".join(line for line in remedy.splitlines() if " = " in line) + "\n"


def test_numbers_stretched_mask_by_mask_are_not_taken_for_classes_in_order(tmp_path):
    root = make_shapes(tmp_path, images=8, void=False)
    for i, path in enumerate(camvid_masks(root)):
        rewrite_masks([path], lambda mask, top=1 + i % 3: (np.minimum(mask, top) * (255 // top)).astype(np.uint8))
    found = problems(root)
    assert "label-gaps" not in found
    assert "ignore_index" not in found["unknown-label"].remedy  # nothing would be left to learn
    assert "Export the masks again" in found["unknown-label"].remedy


def test_classes_of_one_colour_are_an_error_where_masks_hold_it(tmp_path):
    root = make_shapes(tmp_path, images=8, encoding="rgb", void=False, toml=False)
    colors = [COLORS[0], COLORS[1], COLORS[2], COLORS[2]]
    names = ["ground", "disc", "box", "triangle"]
    (root / "classes.txt").write_text("".join(f"{n} {r} {g} {b}\n" for n, (r, g, b) in zip(names, colors, strict=True)))
    rewrite_masks(
        camvid_masks(root),
        lambda mask: np.where((mask == COLORS[3]).all(-1)[..., None], COLORS[2], mask).astype(np.uint8),
    )
    found = problems(root)["rgb-mask"]
    assert found.severity == "error"
    (root / "data.toml").write_text(lines(found.remedy))
    assert not errors(inspect(root))


def test_classes_of_one_colour_may_be_painted_with_it(tmp_path):
    root = make_shapes(tmp_path, images=8, toml=False)
    (root / "classes.txt").write_text("ground 0 0 0\ndisc 9 9 9\nbox 9 9 9\ntriangle 5 5 5\n")
    assert inspect(root) == []


def counted(root: Path) -> list[int]:
    return [one["pixels"] for one in summary(root)["classes"]]


@pytest.mark.parametrize("table", ["classes.txt", "data.toml"])
def test_colours_with_red_and_blue_exchanged_are_reported_with_the_lines(tmp_path, table):
    root = make_shapes(tmp_path, images=8, encoding="rgb", void=False, toml=table == "data.toml")
    if table == "classes.txt":
        rows = [f"{n} {r} {g} {b}\n" for n, (r, g, b) in zip(names(4), COLORS, strict=False)]
        (root / table).write_text("".join(rows))
    before = counted(root)
    rewrite_masks(camvid_masks(root)[::2], lambda mask: mask[..., ::-1])
    found = problems(root)["unknown-color"]
    assert "red and blue swapped" in found.remedy
    settings = root / "data.toml"
    kept = settings.read_text().splitlines() if settings.exists() else []
    settings.write_text("\n".join(line for line in kept if "colors" not in line) + "\n" + lines(found.remedy))
    assert inspect(root) == []
    assert counted(root) == before


def test_colours_that_are_other_classes_when_exchanged_are_not_guessed_at(tmp_path):
    root = make_shapes(tmp_path, images=8, encoding="rgb", void=False, toml=False)
    colors = [(0, 0, 0), (255, 0, 0), (0, 0, 255), (9, 80, 90)]
    (root / "classes.txt").write_text(
        "".join(f"{n} {r} {g} {b}\n" for n, (r, g, b) in zip("abcd", colors, strict=True))
    )
    table = dict(zip(COLORS[:4], colors, strict=True))
    for path in camvid_masks(root):
        mask = np.asarray(Image.open(path))
        new = sum((mask == old).all(-1)[..., None] * np.array(to[::-1]) for old, to in table.items())
        Image.fromarray(new.astype(np.uint8)).save(path)
    assert "swapped" not in problems(root)["unknown-color"].remedy


def test_palettes_without_an_order_that_most_share_are_all_named(tmp_path):
    root = make_shapes(tmp_path, images=8, void=False)
    for i, path in enumerate(camvid_masks(root)):
        order = np.random.default_rng(i).permutation(4)
        image = Image.fromarray(np.argsort(order)[np.asarray(Image.open(path))].astype(np.uint8))
        image.putpalette([v for place in order for v in COLORS[place]])
        image.save(path)
    found = problems(root)["palette-permuted"]
    assert (found.severity, found.count) == ("error", 8)
