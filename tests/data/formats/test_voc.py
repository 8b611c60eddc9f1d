from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fullconv.data import open_dataset
from fullconv.labels import voc_palette
from synthetic.reading import codes, problems, read_masks, split_sizes
from synthetic.shapes import draw, save_image

STEMS = ["2007_000032", "2007_000039", "2008_000001", "2008_000002"]


def make_voc(root, stems=STEMS, lists=True, top=20):
    rng = np.random.default_rng(0)
    masks = {}
    for number, stem in enumerate(stems):
        image, mask = draw(rng, (24, 32), 4)
        mask[0, 0] = top if number == 0 else 1
        save_image(image, root / "JPEGImages" / f"{stem}.jpg")
        (root / "SegmentationClass").mkdir(exist_ok=True)
        indexed = Image.fromarray(mask)
        indexed.putpalette([c for color in voc_palette(256) for c in color])
        indexed.save(root / "SegmentationClass" / f"{stem}.png")
        masks[stem] = mask
    if lists:
        base = root / "ImageSets" / "Segmentation"
        base.mkdir(parents=True)
        (base / "train.txt").write_text("\n".join(stems[:-1]) + "\n")
        (base / "val.txt").write_text(f"{stems[-1]}\n")
        (base / "trainval.txt").write_text("\n".join(stems) + "\n")
    return masks


@pytest.mark.parametrize("lists", [True, False])
def test_masks_are_read_with_the_names_of_voc_and_void(tmp_path, lists):
    masks = make_voc(tmp_path, lists=lists)
    data = open_dataset(tmp_path)
    assert data.format == "voc"
    assert (data.classes[0], data.classes[20], len(data.classes)) == ("background", "tvmonitor", 21)
    assert split_sizes(tmp_path) == {"train": 3, "val": 1}
    np.testing.assert_equal(read_masks(tmp_path), masks)
    assert not codes(tmp_path)


def test_masks_of_another_set_in_this_layout_do_not_get_the_names_of_voc(tmp_path):
    make_voc(tmp_path, ["haus ä", "b", "c", "d"], top=3)
    assert open_dataset(tmp_path).classes == ("class0", "class1", "class2", "class3")
    (tmp_path / "class_names.txt").write_text("__ignore__\n_background_\ncat\ndog\nfish\n")
    assert open_dataset(tmp_path).classes == ("background", "cat", "dog", "fish")
    assert not codes(tmp_path)


def test_images_without_masks_are_errors_on_a_list_and_omitted_without_lists(tmp_path):
    make_voc(tmp_path, lists=False)
    save_image(np.zeros((8, 8, 3), np.uint8), tmp_path / "JPEGImages" / "2009_000001.jpg")
    found = problems(tmp_path)
    assert (found["missing-mask"].severity, found["missing-mask"].count) == ("warning", 1)
    base = tmp_path / "ImageSets" / "Segmentation"
    base.mkdir(parents=True)
    (base / "train.txt").write_text("\n".join([*STEMS, "2009_000001", "2010_000007"]))
    found = problems(tmp_path)
    assert (found["missing-mask"].severity, found["missing-mask"].files) == ("error", ("2009_000001",))
    assert found["missing-listed"].files == ("2010_000007",)
    assert len(open_dataset(tmp_path, skip_bad=True).samples("all")) == 4


def test_lines_that_repeat_an_image_or_leave_the_folder_are_named(tmp_path):
    make_voc(tmp_path, lists=False)
    base = tmp_path / "ImageSets" / "Segmentation"
    base.mkdir(parents=True)
    (base / "train.txt").write_text("\n".join([*STEMS[1:], STEMS[1], f"../../../other/{STEMS[0]}.jpg"]))
    found = problems(tmp_path)
    assert found["omitted-line"].files == (STEMS[1],)
    assert found["path-mended"].files == (f"../../../other/{STEMS[0]}.jpg",)


@pytest.mark.parametrize(
    "line", ["{}.jpg", "{}  1", "/JPEGImages/{}.jpg /SegmentationClass/{}.png", "VOC2012/JPEGImages/{}.jpg", "{}\r"]
)
@pytest.mark.parametrize("sets", ["ImageSets/Segmentation", "imagesets/segmentation"])
def test_lists_name_images_in_many_ways(tmp_path, line, sets):
    make_voc(tmp_path, lists=False)
    (tmp_path / sets).mkdir(parents=True)
    for split, stems in (("train", STEMS[:1]), ("val", STEMS[1:])):
        text = "\n".join(["# a comment", *(line.replace("{}", stem) for stem in stems), ""])
        (tmp_path / sets / f"{split}.txt").write_bytes(text.encode())
    assert split_sizes(tmp_path) == {"train": 1, "val": 3}
    assert not codes(tmp_path)
