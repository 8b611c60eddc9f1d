"""Data descriptions that name files elsewhere: no layout reads a file outside of the data folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fullconv.data import open_dataset
from fullconv.errors import FullconvError
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


def coco(root: Path, outside: Path) -> None:
    shutil.rmtree(root)
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    pictures = [
        {"id": i, "file_name": f"../../outside/images/shape00{i}.png", "width": 24, "height": 24} for i in range(3)
    ]
    shape = {"category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]], "bbox": [1, 1, 8, 8], "area": 32, "iscrowd": 0}
    table = {"images": pictures, "annotations": [{**shape, "id": i + 1, "image_id": i} for i in range(3)],
             "categories": [{"id": 1, "name": "x"}]}  # fmt: skip
    (root / "annotations" / "instances.json").write_text(json.dumps(table))


def labelme(root: Path, outside: Path) -> None:
    shutil.rmtree(root)
    root.mkdir()
    shape = {"label": "x", "points": [[1, 1], [9, 1], [9, 9]], "shape_type": "polygon"}
    for i in range(3):
        content = {"version": "5", "imagePath": f"../outside/images/shape00{i}.png", "imageData": None, "imageHeight": 24,
                   "imageWidth": 24, "shapes": [shape]}  # fmt: skip
        (root / f"a{i}.json").write_text(json.dumps(content))


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
        coco,
        labelme,
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


def test_what_lies_inside_is_read(tmp_path):
    """The folders above are valid except for what is changed."""
    root = make_shapes(tmp_path / "data", layout="flat", images=6, size=(24, 24))
    assert len(open_dataset(root).samples("all")) == 6
