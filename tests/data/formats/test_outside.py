"""Data descriptions that name files elsewhere: no layout reads a file outside of the data folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fullconv.data import open_dataset
from fullconv.errors import FullconvError
from synthetic import coco, labelme
from synthetic.reading import edit_json
from synthetic.shapes import make_shapes

Change = Callable[[Path, Path], None]


def settings(text: str) -> Change:
    """Lines for data.toml; OUTSIDE stands for the other folder's own path."""

    def change(root: Path, outside: Path) -> None:
        with (root / "data.toml").open("a", encoding="utf-8") as file:
            file.write(text.replace("OUTSIDE", outside.as_posix()) + "\n")

    return change


def split_lines(root: Path, outside: Path) -> None:
    (root / "val.txt").write_text("../outside/images/shape000\nOUTSIDE/images/shape001.png\nshape002\n")
    settings('splits = { val = "val.txt" }')(root, outside)


def lists(prefix: str) -> Change:
    def change(root: Path, outside: Path) -> None:
        shutil.rmtree(root)
        root.mkdir()
        place = prefix.replace("OUTSIDE", outside.as_posix())
        lines = "".join(f"{place}/images/shape00{i}.png {place}/masks/shape00{i}.png\n" for i in range(4))
        for split in ("train", "val"):
            (root / f"{split}.txt").write_text(lines)
        (root / "classes.txt").write_text("a\nb\nc\nd\n")

    return change


def coco_images(root: Path, outside: Path) -> None:
    shutil.rmtree(root)
    shapes = [{"image_id": 70 + i, "category_id": 7, "segmentation": [coco.square(1, 1, 8)]} for i in range(3)]
    coco.coco(root, shapes, name="annotations/instances.json")

    def edit(table: dict) -> None:
        for i, image in enumerate(table["images"]):
            image["file_name"] = f"../../outside/images/shape00{i}.png"

    edit_json(root / "annotations" / "instances.json", edit)


def labelme_images(root: Path, outside: Path) -> None:
    shutil.rmtree(root)
    root.mkdir()
    for i in range(3):
        labelme.labelme(root, f"a{i}", [labelme.box("x", 1, 1, 9, 9)], f"../outside/images/shape00{i}.png")
        (root / f"a{i}.png").unlink()


def voc(root: Path, outside: Path) -> None:
    shutil.rmtree(root)
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for split in ("train", "val"):
        names = "../../outside/images/shape000\n../../outside/images/shape001\n"
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(names)


@pytest.mark.parametrize(
    "change",
    [
        settings('images = "../outside/images"\nmasks = "masks"'),
        settings('images = "OUTSIDE/images"\nmasks = "masks"'),
        settings('images = "images"\nmasks = "../outside/masks"'),
        settings('images = "../outside/images/*.png"\nmasks = "masks"'),
        settings('groups = "../outside/groups.csv"'),
        settings('splits = { val = "../outside/val.txt" }'),
        split_lines,
        lists("../outside"),
        lists("OUTSIDE"),
        coco_images,
        labelme_images,
        voc,
    ],
    ids=["images", "absolute", "masks", "glob", "groups", "splits", "split-lines", "lists", "absolute-lists", "coco",
         "labelme", "voc"],
)  # fmt: skip
def test_nothing_outside_the_data_folder_is_read(tmp_path, change):
    root, outside = tmp_path / "data", tmp_path / "outside"
    for place in (root, outside):
        make_shapes(place, layout="flat", images=6, size=(24, 24))
    (outside / "groups.csv").write_text("shape000,a\n")
    (outside / "val.txt").write_text("shape000\n")
    change(root, outside)
    try:
        samples = open_dataset(root).samples("all")
    except FullconvError:
        return
    inside = root.resolve()
    assert all(path.resolve().is_relative_to(inside) for sample in samples for path in (sample.image, sample.mask))


def test_files_inside_the_folder_are_read(tmp_path):
    """The folders above are valid except for what is changed."""
    root = make_shapes(tmp_path / "data", layout="flat", images=6, size=(24, 24))
    assert len(open_dataset(root).samples("all")) == 6
