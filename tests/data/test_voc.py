from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fullconv.data import inspect, open_dataset
from fullconv.labels import voc_palette
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
        picture = Image.fromarray(mask)
        picture.putpalette([c for color in voc_palette(256) for c in color])
        picture.save(root / "SegmentationClass" / f"{stem}.png")
        masks[stem] = mask
    if lists:
        base = root / "ImageSets" / "Segmentation"
        base.mkdir(parents=True)
        (base / "train.txt").write_text("\n".join(stems[:-1]) + "\n")
        (base / "val.txt").write_text(f"{stems[-1]}\n")
        (base / "trainval.txt").write_text("\n".join(stems) + "\n")
    return masks


@pytest.mark.parametrize("lists", [True, False])
def test_voc_gives_the_masks_that_were_written_with_its_names_and_void(tmp_path, lists):
    masks = make_voc(tmp_path, lists=lists)
    data = open_dataset(tmp_path)
    assert data.format == "voc"
    assert (data.classes[0], data.classes[20], len(data.classes)) == ("background", "tvmonitor", 21)
    assert {split: len(s) for split, s in data.splits.items()} == {"train": 3, "val": 1}
    for sample in data.samples("all"):
        np.testing.assert_array_equal(data.read_mask(sample), masks[sample.stem])
    assert {p.code for p in inspect(data)} <= {"class-unused", "class-missing-in-train"}  # of so few pictures


def test_masks_of_another_set_in_this_layout_do_not_get_the_names_of_voc(tmp_path):
    make_voc(tmp_path, ["haus ä", "b", "c", "d"], top=3)
    assert open_dataset(tmp_path).classes == ("class0", "class1", "class2", "class3")
    (tmp_path / "class_names.txt").write_text("__ignore__\n_background_\ncat\ndog\nfish\n")
    assert open_dataset(tmp_path).classes == ("background", "cat", "dog", "fish")
    assert {p.code for p in inspect(tmp_path)} <= {"class-missing-in-train"}


def test_pictures_without_masks_are_errors_on_a_list_and_left_out_without_lists(tmp_path):
    make_voc(tmp_path, lists=False)
    save_image(np.zeros((8, 8, 3), np.uint8), tmp_path / "JPEGImages" / "2009_000001.jpg")
    found = {p.code: p for p in inspect(tmp_path)}
    assert (found["missing-mask"].severity, found["missing-mask"].count) == ("warning", 1)
    base = tmp_path / "ImageSets" / "Segmentation"
    base.mkdir(parents=True)
    (base / "train.txt").write_text("\n".join([*STEMS, "2009_000001", "2010_000007"]))
    found = {p.code: p for p in inspect(tmp_path)}
    assert (found["missing-mask"].severity, found["missing-mask"].files) == ("error", ("2009_000001",))
    assert found["missing-listed"].files == ("2010_000007",)
    assert len(open_dataset(tmp_path, skip_bad=True).samples("all")) == 4
