from __future__ import annotations

import numpy as np
import pytest

from fullconv.data import open_dataset
from synthetic.reading import codes, problems, read_mask, read_masks
from synthetic.shapes import save_image

SIZE = (20, 30)
LABELMAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nRiß:250,50,83::\nhole: x:10,20,30::\n"
COLORS = np.array([(0, 0, 0), (250, 50, 83), (10, 20, 30)], np.uint8)
MASK = np.zeros(SIZE, np.uint8)
MASK[2:9, 3:12], MASK[12:, 1:9] = 1, 2
CLASSES = ("background", "Riß", "hole: x")


def write(root, images="JPEGImages/bild ä {}.png", colors=COLORS, labelmap=LABELMAP, mask=MASK, **lists):
    """Write four images with the same mask, in colors or as numbers, and lists by subset."""
    for number in range(4):
        name = root / images.format(number)
        save_image(np.full((*SIZE, 3), 50 + number, np.uint8), name)
        painted = mask[..., None] if colors is None else colors[mask]
        save_image(painted, root / "SegmentationClass" / f"{name.stem}.png")
    if labelmap:
        (root / "labelmap.txt").write_text(labelmap, encoding="utf-8")
    for subset, names in lists.items():
        path = root / "ImageSets" / "Segmentation" / f"{subset}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name}\n" for name in names.split()))
    return root


@pytest.mark.parametrize("place", ["JPEGImages", "fotos", "somewhere/else"])
def test_a_labelmap_defines_the_colors_of_masks(tmp_path, place):
    write(tmp_path, f"{place}/bild ä {{}}.png")
    if place == "fotos":
        (tmp_path / "data.toml").write_text('images = "fotos"')
    data = open_dataset(tmp_path)
    assert (data.format, data.classes) == ("cvat-masks", CLASSES)
    np.testing.assert_equal(read_masks(tmp_path), {f"bild ä {number}": MASK for number in range(4)})
    assert codes(tmp_path) == {"same-mask"}
    (tmp_path / place / "bild ä 0.png").unlink()
    assert codes(tmp_path) == {"missing-picture", "same-mask"}


def test_an_invalid_labelmap_is_refused(tmp_path):
    write(tmp_path, labelmap="cat;1;2;3")
    (found,) = problems(tmp_path).values()
    assert "line 1: 'cat;1;2;3' is not label:r,g,b:parts:actions" in found.cause


def test_gray_masks_count_the_lines_of_the_labelmap(tmp_path):
    data = open_dataset(write(tmp_path, colors=None))
    assert (data.format, data.classes) == ("cvat-masks", CLASSES)
    assert data.labels[""].palette[1] == (250, 50, 83)
    np.testing.assert_array_equal(read_mask(tmp_path, "0"), MASK)


def test_masks_named_jpg_that_are_png_are_read(tmp_path):
    write(tmp_path, "JPEGImages/{}.jpg")
    for path in list((tmp_path / "SegmentationClass").iterdir()):
        path.rename(path.with_suffix(".jpg"))
    np.testing.assert_array_equal(read_mask(tmp_path, "0"), MASK)
    assert codes(tmp_path) == {"same-mask"}


def test_without_a_labelmap_colors_are_those_of_voc(tmp_path):
    colors = np.array([(0, 0, 0), (128, 0, 0), (224, 224, 192)], np.uint8)
    data = open_dataset(write(tmp_path, "{}.jpg", colors, labelmap="", default="0 1 2 3"))
    assert (data.format, data.classes[1]) == ("cvat-masks", "aeroplane")
    np.testing.assert_array_equal(read_mask(tmp_path, "0"), np.array([0, 1, 255], np.uint8)[MASK])


@pytest.mark.parametrize(
    ("lists", "code"),
    [
        ({"train": "p0 p1 p2", "val": "p3"}, ""),
        ({"train": "p0.png p1.png p2.png", "val": "p3.png"}, ""),
        ({"train": "p0 p1 p2 p9", "val": "p3"}, "missing-listed"),
        ({"train": "p0 p1", "val": "p3"}, "unlisted"),
        ({"train": "p0 p1 p2", "val": "p2 p3"}, "duplicate-across-splits"),
        ({"train": "", "val": "p2 p3"}, "empty-split"),
    ],
)
def test_lists_define_the_splits(tmp_path, lists, code):
    found = codes(write(tmp_path, "JPEGImages/p{}.png", **lists))
    reported = found & {"missing-listed", "unlisted", "duplicate-across-splits", "empty-split"}
    assert (code in reported) if code else not reported
