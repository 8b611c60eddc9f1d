"""Masks whose numbers all have a meaning, but not the one that was meant: told, instead of learned."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullconv.data import inspect, summary
from fullconv.data.checks.appearance import ClassAppearance, is_exchanged
from fullconv.data.problems import Problem, errors
from fullconv.data.samples import Sample
from synthetic import labelme, labelstudio
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


@pytest.mark.parametrize(("classes", "first", "second"), [(2, 0, 1), (4, 0, 2), (4, 1, 3)])
def test_two_classes_exchanged_in_val_are_told(tmp_path, classes, first, second):
    root = make_shapes(tmp_path, images=24, classes=classes, void=False)
    assert inspect(root) == []
    redo(masks(root, "val"), exchange(first, second))
    found = told(root)["classes-exchanged"]
    assert (found.severity, found.files) == ("warning", shown(masks(root, "val"), root))


def test_some_inverted_masks_of_two_classes_are_told_in_numbers_and_in_colours(tmp_path):
    for encoding in ("index", "rgb"):
        root = make_shapes(tmp_path / encoding, images=16, classes=2, void=False, encoding=encoding)
        odd = [masks(root)[3], masks(root)[14]]
        for path in odd:
            image = np.asarray(Image.open(path))
            inner = (image == COLORS[1]).all(-1) if encoding == "rgb" else image == 1
            new = (
                np.array(COLORS[1::-1], np.uint8)[inner.astype(int)] if encoding == "rgb" else (~inner).astype(np.uint8)
            )
            Image.fromarray(new).save(path)
        assert told(root)["classes-exchanged"].files == shown(odd, root)


def test_a_set_of_night_in_val_is_no_exchange(tmp_path):
    root = make_shapes(tmp_path, images=24, classes=2, void=False)
    redo(sorted((root / "val").iterdir()), lambda picture: 255 - picture)  # as bright on dark, sizes as ever
    assert "classes-exchanged" not in told(root)


def test_numbers_stretched_mask_by_mask_are_not_taken_for_classes_in_order(tmp_path):
    root = make_shapes(tmp_path, images=8, void=False)
    for i, path in enumerate(masks(root)):
        redo([path], lambda mask, top=1 + i % 3: (np.minimum(mask, top) * (255 // top)).astype(np.uint8))
    found = told(root)
    assert "label-gaps" not in found
    assert "ignore_index" not in found["unknown-label"].remedy  # nothing would be left to learn
    assert "export the masks again" in found["unknown-label"].remedy


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


def test_palettes_without_an_order_that_most_share_are_all_named(tmp_path):
    root = make_shapes(tmp_path, images=8, void=False)
    for i, path in enumerate(masks(root)):
        order = np.random.default_rng(i).permutation(4)
        image = Image.fromarray(np.argsort(order)[np.asarray(Image.open(path))].astype(np.uint8))
        image.putpalette([v for place in order for v in COLORS[place]])
        image.save(path)
    found = told(root)["palette-permuted"]
    assert (found.severity, found.count) == ("error", 8)


def test_annotations_in_another_encoding_are_unreadable_and_not_empty(tmp_path):
    for stem in ("a", "b", "c"):
        labelme.labelme(tmp_path, stem, [labelme.box("straße", 2, 2, 9, 9)])
        path = tmp_path / f"{stem}.json"
        path.write_bytes(path.read_text(encoding="utf-8").encode("cp1252"))
    found = told(tmp_path)
    assert set(found) == {"unreadable"}
    assert "is not UTF-8 text" in found["unreadable"].cause


def test_shapes_on_pictures_turned_in_label_studio_are_refused_with_the_reason(tmp_path):
    turned = {**labelstudio.POLYGON, "image_rotation": 90}
    labelstudio.make(tmp_path, [labelstudio.BOX, turned])
    assert "polygon, rotated by 90 degrees" in told(tmp_path)["bad-shape"].cause


def test_shapes_of_pictures_made_smaller_say_by_how_much(tmp_path):
    for number in range(4):
        far = [labelme.box("car", 20, 10, 63, 47), labelme.box("tree", 50, 30, 64, 40)]
        labelme.labelme(tmp_path, f"p{number}", far)
        path = tmp_path / f"p{number}.json"
        table = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**table, "imageHeight": None, "imageWidth": None}), encoding="utf-8")
    assert "the furthest to 2 times the width and 2 times the height" in told(tmp_path)["outside-picture"].cause


def test_a_folder_a_class_is_told_as_such(tmp_path):
    root = make_shapes(tmp_path, "flat", images=6, encoding="binary255", void=False)
    whole = root / "masks"
    for name in ("car", "tree"):
        shutil.copytree(root / "masks", root / "inner" / name)
    shutil.rmtree(whole)
    (root / "inner").rename(whole)
    remedy = told(root)["missing-mask"].remedy
    assert "in each of car, tree. If these are the classes" in remedy


def test_val_as_large_as_train_is_judged_too(tmp_path):
    root = make_shapes(tmp_path, images=16, classes=2, void=False)
    shutil.copytree(root / "trainannot", root / "valannot", dirs_exist_ok=True)
    shutil.copytree(root / "train", root / "val", dirs_exist_ok=True)
    for path in [*(root / "val").iterdir(), *masks(root, "val")][: len(masks(root, "val"))]:
        if path.name >= "shape012":  # those that were in val before
            path.unlink()
            (root / "valannot" / path.name).unlink()
    redo(masks(root, "val"), exchange(0, 1))
    assert told(root)["classes-exchanged"].files == shown(masks(root, "val"), root)


def counted(root: Path) -> list[int]:
    return [one["pixels"] for one in summary(root)["classes"]]


@pytest.mark.parametrize("table", ["classes.txt", "data.toml"])
def test_colours_with_red_and_blue_exchanged_are_told_with_the_lines(tmp_path, table):
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
