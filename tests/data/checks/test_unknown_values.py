"""Masks whose numbers all have a meaning, but not the one that was meant: told, instead of learned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullconv.data import inspect, summary
from fullconv.data.problems import Problem, errors
from synthetic.shapes import COLORS, make_shapes, names

Array = np.ndarray


def told(root: Path) -> dict[str, Problem]:
    return {one.code: one for one in inspect(root)}


def masks(root: Path, split: str = "*") -> list[Path]:
    return sorted(root.glob(f"{split}annot/*.png"))


def redo(paths: list[Path], change: Callable[[Array], Array]) -> None:
    for path in paths:
        Image.fromarray(change(np.asarray(Image.open(path)))).save(path)


def lines(remedy: str) -> str:
    """Return the lines for data.toml in a remedy."""
    return "\n".join(line for line in remedy.splitlines() if " = " in line) + "\n"


def exchange(first: int, second: int) -> Callable[[Array], Array]:
    table = np.arange(256, dtype=np.uint8)
    table[[first, second]] = second, first
    return lambda mask: table[mask]


def shown(paths: list[Path], root: Path) -> tuple[str, ...]:
    return tuple(path.relative_to(root).as_posix() for path in paths)


def test_numbers_stretched_mask_by_mask_are_not_taken_for_classes_in_order(tmp_path):
    root = make_shapes(tmp_path, images=8, void=False)
    for i, path in enumerate(masks(root)):
        redo([path], lambda mask, top=1 + i % 3: (np.minimum(mask, top) * (255 // top)).astype(np.uint8))
    found = told(root)
    assert "label-gaps" not in found
    assert "ignore_index" not in found["unknown-label"].remedy  # nothing would be left to learn
    assert "Export the masks again" in found["unknown-label"].remedy


def test_classes_of_one_colour_are_an_error_where_masks_hold_it(tmp_path):
    root = make_shapes(tmp_path, images=8, encoding="rgb", void=False, toml=False)
    colors = [COLORS[0], COLORS[1], COLORS[2], COLORS[2]]
    names = ["ground", "disc", "box", "triangle"]
    (root / "classes.txt").write_text("".join(f"{n} {r} {g} {b}\n" for n, (r, g, b) in zip(names, colors, strict=True)))
    redo(masks(root), lambda mask: np.where((mask == COLORS[3]).all(-1)[..., None], COLORS[2], mask).astype(np.uint8))
    found = told(root)["rgb-mask"]
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
    redo(masks(root)[::2], lambda mask: mask[..., ::-1])
    found = told(root)["unknown-color"]
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
    for path in masks(root):
        mask = np.asarray(Image.open(path))
        new = sum((mask == old).all(-1)[..., None] * np.array(to[::-1]) for old, to in table.items())
        Image.fromarray(new.astype(np.uint8)).save(path)
    assert "swapped" not in told(root)["unknown-color"].remedy
