"""Masks whose numbers all have a meaning, but not the one that was meant: told, instead of learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from doctor.sets import save
from PIL import Image

from fullconv.data import inspect, open_dataset, summary
from fullconv.data.problems import errors
from fullconv.errors import DataError
from synthetic.reading import camvid_masks, problems, read_masks, rewrite_masks
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


def write_objects(root: Path, per_image: list[list[int]], config: str) -> None:
    """Write an image and a mask of squares, each of its own number, for each list of numbers."""
    random = np.random.default_rng(0)
    for i, numbers in enumerate(per_image):
        mask = np.zeros((64, 96), np.uint8)
        for place, number in enumerate(numbers):
            y, x = 12 * (place % 5) + 2, 12 * (place // 5) + 2 + i
            mask[y : y + 8, x : x + 8] = number
        save(mask, root / "masks" / f"s{i}.png")
        save(random.integers(0, 256, (64, 96, 3), dtype=np.uint8), root / "images" / f"s{i}.png")
    (root / "data.toml").write_text(config)


@pytest.mark.parametrize(
    "per_image",
    [
        [[1, 2], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6]],
        [[1], [1, 2], [1, 2, 3]],
        [[1, 7, 30, 31, 90], [1, 12, 44, 201], [1, 5, 99, 100]],
    ],
)
@pytest.mark.parametrize("table", ["", 'values = { 0 = "ground", 1 = "cell" }\n'])
def test_numbers_of_few_objects_are_no_void_and_the_lines_make_them_a_class(tmp_path, per_image, table):
    config = f'classes = ["ground", "cell"]\n{table}'
    write_objects(tmp_path, per_image, config)
    remedy = problems(tmp_path)["unknown-label"].remedy
    assert "If they number the objects of an image" in remedy
    assert "void" not in remedy
    assert "ignore_index" not in remedy
    (tmp_path / "data.toml").write_text('classes = ["ground", "cell"]\n' + lines(remedy))
    assert not errors(inspect(tmp_path))
    for stem, mask in read_masks(tmp_path).items():
        truth = np.asarray(Image.open(tmp_path / "masks" / f"{stem}.png")) > 0
        np.testing.assert_array_equal(mask, truth)


def test_numbers_of_objects_among_three_classes_are_exported_again(tmp_path):
    write_objects(tmp_path, [[1, 2], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6]], 'classes = ["ground", "cell", "debris"]\n')
    remedy = problems(tmp_path)["unknown-label"].remedy
    assert "export the masks again, with one label per class" in remedy
    assert "ignore_index" not in remedy


def test_a_label_that_is_no_class_in_all_masks_may_be_void(tmp_path):
    write_objects(tmp_path, [[1, 9]] * 3, 'classes = ["ground", "cell"]\n')
    remedy = problems(tmp_path)["unknown-label"].remedy
    (tmp_path / "data.toml").write_text('classes = ["ground", "cell"]\n' + lines(remedy))
    assert "ignore_index = 9" in remedy
    assert not errors(inspect(tmp_path))


def test_reading_a_mask_of_several_unknown_labels_advises_no_void(tmp_path):
    write_objects(tmp_path, [[1, 2, 3, 4], [1, 2]], 'classes = ["ground", "cell"]\n')
    data = open_dataset(tmp_path)
    some, one = data.samples("all")
    with pytest.raises(
        DataError, match=r"labels 2, 3, 4 are neither classes \(0 to 1\) nor void.*run: fullconv check$"
    ):
        data.read_mask(some)
    with pytest.raises(DataError, match=r"label 2 is neither a class .* or set ignore_index = 2\.$"):
        data.read_mask(one)
