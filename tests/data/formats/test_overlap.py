"""Which of overlapping shapes wins, and what is said of those that vanish."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fullconv.data import open_dataset
from fullconv.data.formats.rasterize import DrawnMask, Shape
from fullconv.errors import DataError
from fullconv.labels import VOID
from synthetic.reading import problems, read_masks

Box = tuple[int, int, int, int]
FACADE, WINDOWS = (2, 2, 38, 28), [(5, 5, 12, 12), (15, 5, 22, 12), (25, 5, 32, 12)]


def write_coco(root: Path, boxes: list[tuple[str, Box]], images: int = 4) -> None:
    """Write images of noise, each with these boxes as outlines, in this order."""
    names = sorted({name for name, _ in boxes})
    annotations = []
    for number in range(images):
        pixels = np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.png")
        for name, (x0, y0, x1, y1) in boxes:
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": names.index(name) + 1, "iscrowd": 0,
                "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0),
                "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
            })  # fmt: skip
    listed = [{"id": n, "file_name": f"{n}.png", "width": 40, "height": 30} for n in range(images)]
    categories = [{"id": i, "name": name} for i, name in enumerate(names, 1)]
    whole = {"images": listed, "annotations": annotations, "categories": categories}
    (root / "a.json").write_text(json.dumps(whole), "utf-8")


def write_labelme(root: Path, boxes: list[tuple[str, Box]], images: int = 4) -> None:
    """The same as LabelMe's polygons."""
    for number in range(images):
        pixels = np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.png")
        shapes = [
            {"label": name, "shape_type": "polygon", "points": [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]}
            for name, (x0, y0, x1, y1) in boxes
        ]
        about = {"imagePath": f"{number}.png", "imageHeight": 30, "imageWidth": 40, "shapes": shapes}
        (root / f"{number}.json").write_text(json.dumps(about), "utf-8")


def hidden(root: Path) -> list[str]:
    return [f"{found.cause}. {found.remedy}" for code, found in problems(root).items() if code == "hidden-shapes"]


@pytest.mark.parametrize("write", [write_coco, write_labelme])
def test_windows_under_a_facade_are_reported_and_the_printed_line_shows_them(tmp_path, write):
    boxes = [*[("window", box) for box in WINDOWS], ("facade", FACADE)]
    root = tmp_path / "drawn"
    root.mkdir()
    write(root, boxes)
    (message,) = hidden(root)
    assert "100 % of 'window' lies under larger shapes, most of it under 'facade'" in message
    assert 'overlap = "smallest on top"' in message.splitlines()
    (root / "data.toml").write_text('overlap = "smallest on top"\n', "utf-8")
    assert hidden(root) == []
    again = tmp_path / "again"
    again.mkdir()
    write(again, boxes[::-1])  # as the annotator meant it
    found, meant = open_dataset(root).classes, open_dataset(again).classes
    order = np.array([meant.index(name) for name in found])
    for stem, mask in read_masks(root).items():
        assert np.array_equal(order[mask], read_masks(again)[stem])


@pytest.mark.parametrize("top", [[("facade", FACADE), *[("window", box) for box in WINDOWS]],
                                 [("window", WINDOWS[0]), ("sign", (9, 9, 11, 11))]])  # fmt: skip
def test_small_shapes_on_large_ones_are_no_problem(tmp_path, top):
    write_coco(tmp_path, top)
    assert hidden(tmp_path) == []


def test_classes_can_be_listed_from_bottom_to_top(tmp_path):
    write_coco(tmp_path, [("window", WINDOWS[0]), ("facade", FACADE)])
    (tmp_path / "data.toml").write_text('overlap = ["facade", "window"]\n', "utf-8")
    assert read_masks(tmp_path)["0"][8, 8] == open_dataset(tmp_path).classes.index("window")
    (tmp_path / "data.toml").write_text('overlap = ["facade", "widow"]\n', "utf-8")
    with pytest.raises(
        DataError, match=r"overlap names 'widow', which is not among the classes\. Did you mean 'window'"
    ):
        open_dataset(tmp_path)


boxes = st.tuples(st.integers(0, 11), st.integers(0, 8), st.integers(1, 9), st.integers(1, 9))


@given(st.lists(st.tuples(boxes, st.integers(1, 3)), min_size=1, max_size=6))
def test_counts_and_order_agree_with_painting_pixel_by_pixel(found):
    shapes = tuple(
        Shape("polygon", (((x, y), (x + w, y), (x + w, y + h), (x, y + h)),), label=label)
        for (x, y, w, h), label in found
    )
    areas = [min(w, 12 - x) * min(h, 9 - y) for (x, y, w, h), _ in found]

    def paint(order: list[int]) -> tuple[np.ndarray, dict[tuple[int, int], int]]:
        mask, on_top, lost = np.zeros((9, 12), np.uint8), np.full((9, 12), -1), {}
        for index in order:
            (x, y, w, h), label = found[index]
            for row in range(y, min(y + h, 9)):
                for column in range(x, min(x + w, 12)):
                    below = on_top[row, column]
                    if below >= 0 and mask[row, column] != label and areas[below] < areas[index]:
                        key = int(mask[row, column]), label
                        lost[key] = lost.get(key, 0) + 1
                    mask[row, column], on_top[row, column] = label, index
        return mask, lost

    drawn = DrawnMask(Path("a.json"), "", Path("a.png"), (9, 12), 0, shapes)
    mask, counted = drawn.with_hidden()
    expected, lost = paint(list(range(len(found))))
    assert np.array_equal(mask, expected)
    assert np.array_equal(mask, drawn.raw())
    assert {(a, b): n for a, by in counted.hidden.items() for b, n in by.items()} == lost
    assert VOID not in counted.drawn
    smallest = DrawnMask(Path("a.json"), "", Path("a.png"), (9, 12), 0, shapes, "smallest on top")
    assert np.array_equal(smallest.raw(), paint(sorted(range(len(found)), key=lambda i: -areas[i]))[0])
    listed = DrawnMask(Path("a.json"), "", Path("a.png"), (9, 12), 0, shapes, (2, 1))
    place = {2: 0, 1: 1, 3: -1}
    assert np.array_equal(listed.raw(), paint(sorted(range(len(found)), key=lambda i: place[found[i][1]]))[0])
