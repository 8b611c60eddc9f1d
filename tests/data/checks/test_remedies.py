"""Remedies with lines for data.toml, applied exactly as printed: `check` passes, and the labels are the ground truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullconv.cli import main
from fullconv.data import inspect, open_dataset
from fullconv.data.config import read_table
from fullconv.data.problems import errors
from fullconv.labels import VOID
from synthetic.reading import apply_remedy, read_masks
from synthetic.shapes import COLORS, save_image

Array = np.ndarray
SIZE = (60, 80)
IMAGES = 12
LIST = 'classes = ["ground", "disc", "box", "ring"]\n'
TWO = 'classes = ["ground", "disc"]\n'
VALUES = 'values = { 0 = "ground", 1 = "disc", 2 = "box", 3 = "ring" }\n'
NAMED = "".join(
    f'"#{r:02x}{g:02x}{b:02x}" = "{n}", ' for (r, g, b), n in zip(COLORS, LIST.split('"')[1::2], strict=False)
)
COLOR_TABLE = f"{LIST}colors = {{ {NAMED[:-2]} }}\n"
WHEEL = np.array(COLORS[:4], np.uint8)


def truth(seed: int, classes: int = 4) -> Array:
    """Rectangles of each class on the first one."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(SIZE, np.uint8)
    for label in range(1, classes):
        y, x = rng.integers(0, 40), 26 * (label - 1) + int(rng.integers(0, 6))
        mask[y : y + 20, x : x + 20] = label
    return mask


def lookup(*values: int, dtype: type = np.uint8) -> Callable[[Array, int], Image.Image]:
    """Store class i as the i-th value."""
    return lambda mask, _: Image.fromarray(np.array(values, dtype)[mask])


def permuted(mask: Array, seed: int) -> Image.Image:
    """Palettes of which a few have their colours at other labels."""
    order = np.array([0, 2, 3, 1] if seed % 6 == 2 else [0, 1, 2, 3])
    image = Image.fromarray(order[mask].astype(np.uint8))
    image.putpalette([int(v) for place in np.argsort(order) for v in WHEEL[place]])
    return image


def numbered(mask: Array, seed: int) -> Image.Image:
    """One label per object: as many as `seed` allows, in strips of the only class."""
    strips = 1 + np.broadcast_to(np.arange(SIZE[1]) // 4 % (2 + seed % 5), SIZE)
    return Image.fromarray(np.where(mask > 0, strips, 0).astype(np.uint8))


def write(root: Path, classes: int, store: Callable[[Array, int], Image.Image], toml: str) -> dict[str, Array]:
    """Write images whose brightness follows the class, and masks as `store` makes them; return the true labels."""
    masks = {f"{i:02}": truth(i, classes) for i in range(IMAGES)}
    (root / "masks").mkdir()
    for i, (stem, mask) in enumerate(masks.items()):
        grey = np.random.default_rng(i).normal(0, 6, SIZE) + 30 + 45.0 * mask
        save_image(np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, 2), root / f"images/{stem}.png")
        store(mask, i).save(root / f"masks/{stem}.png")
    if toml:
        (root / "data.toml").write_text(toml, encoding="utf-8")
    return masks


CASES = {
    "0 and 255": (2, lookup(0, 255), "", {}),
    "0 and 255, named": (2, lookup(0, 255), TWO, {}),
    "0 and 65535": (2, lookup(0, 65535, dtype=np.uint16), TWO, {}),
    "from 1": (4, lookup(1, 2, 3, 4), "", {}),
    "from 1, named": (4, lookup(1, 2, 3, 4), LIST, {}),
    "from 1, two named": (2, lookup(1, 2), TWO, {}),
    "from 1 and void": (5, lookup(0, 1, 2, 3, 4), LIST, {0: VOID, 1: 0, 2: 1, 3: 2, 4: 3}),
    "times 50": (4, lookup(0, 50, 100, 150), "", {}),
    "times 50, named": (4, lookup(0, 50, 100, 150), LIST, {}),
    "times 256": (4, lookup(0, 256, 512, 768, dtype=np.uint16), LIST, {}),
    "times 257 with void": (5, lookup(0, 257, 514, 771, 65535, dtype=np.uint16), LIST, {4: VOID}),
    "stretched": (4, lookup(0, 85, 170, 255), LIST, {}),
    "255 for the last class": (4, lookup(0, 1, 2, 255), LIST, {}),
    "9 for void": (5, lookup(0, 1, 2, 3, 9), LIST, {4: VOID}),
    "9 for void, in values": (5, lookup(0, 1, 2, 3, 9), LIST + VALUES, {4: VOID}),
    "9 for void, beside another": (5, lookup(0, 1, 2, 3, 9), f"{LIST}ignore_index = 200\n", {4: VOID}),
    "numbers of objects": (2, numbered, TWO, {}),
    "numbers of objects, in values": (2, numbered, f'{TWO}values = {{ 0 = "ground", 1 = "disc" }}\n', {}),
    "BGR in all": (4, lambda mask, _: Image.fromarray(WHEEL[mask][..., ::-1].copy()), COLOR_TABLE, {}),
    "BGR in some": (4, lambda m, i: Image.fromarray(WHEEL[m][..., :: 1 - 2 * (i % 2)].copy()), COLOR_TABLE, {}),
    "colours nearby": (4, lambda mask, i: Image.fromarray(WHEEL[mask] ^ np.uint8(i % 2)), COLOR_TABLE, {}),
    "permuted palettes": (4, permuted, f"{LIST}palette = {[list(color) for color in COLORS[:4]]}\n", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_remedy_applied_as_printed_gives_the_labels_of_the_ground_truth(tmp_path, case):
    classes, store, toml, meaning = CASES[case]
    masks = write(tmp_path, classes, store, toml)
    before = [problem for problem in inspect(tmp_path) if problem.severity != "note"]
    apply_remedy(tmp_path, next(problem.remedy for problem in before if " = " in problem.remedy))
    after = [problem for problem in inspect(tmp_path) if problem.severity != "note"]
    assert not after, (before, after)
    assert main(["check", str(tmp_path)]) == 0
    table = np.array([meaning.get(i, i) for i in range(classes)], np.uint8)
    read = read_masks(tmp_path)
    assert set(read) == set(masks)
    for stem, mask in read.items():
        np.testing.assert_array_equal(mask, table[masks[stem]])


def test_the_lines_for_colours_without_classes_give_each_a_class(tmp_path):
    masks = write(tmp_path, 4, lambda mask, _: Image.fromarray(WHEEL[mask]), "")
    (found,) = errors(inspect(tmp_path))
    apply_remedy(tmp_path, found.remedy)
    assert main(["check", str(tmp_path)]) == 0
    dataset, colors = open_dataset(tmp_path), read_table(tmp_path)["colors"]
    assert sorted(colors) == sorted("#{:02x}{:02x}{:02x}".format(*color) for color in WHEEL)
    table = [dataset.classes.index(colors["#{:02x}{:02x}{:02x}".format(*color)]) for color in WHEEL]
    assert sorted(table) == [0, 1, 2, 3]
    for stem, mask in read_masks(tmp_path).items():
        np.testing.assert_array_equal(mask, np.array(table)[masks[stem]])


def test_a_remedy_that_adds_a_present_key_cannot_be_applied(tmp_path):
    (tmp_path / "data.toml").write_text('classes = ["a"]\n')
    with pytest.raises(AssertionError, match="classes"):
        apply_remedy(tmp_path, 'Add to data.toml:\nclasses = ["a", "b"]')


def config_text(root: Path) -> str:
    return (root / "data.toml").read_text(encoding="utf-8")


def test_lines_are_put_where_a_remedy_says(tmp_path):
    (tmp_path / "data.toml").write_text('classes = ["a", "b"]\nvalues = { 0 = "a" }\ncolors = { }\n')
    apply_remedy(
        tmp_path,
        'Remove colors from data.toml.\nReplace in data.toml:\nvalues = { 1 = "a" }\nAdd to data.toml:\nunlabeled = "a"',
    )
    assert config_text(tmp_path) == 'unlabeled = "a"\nvalues = { 1 = "a" }\nclasses = ["a", "b"]\n'
