from __future__ import annotations

import pytest

from fullconv.data import inspect, open_dataset
from synthetic.file_lists import check, make
from synthetic.shapes import make_shapes


def codes(root):
    return {p.code for p in inspect(root)} - {"class-missing-in-train", "class-unused"}  # so few pictures


@pytest.mark.parametrize("suffix", ["_mask", "_L", "_gtFine_labelIds"])
def test_masks_beside_their_pictures_are_found_by_their_suffix(tmp_path, suffix):
    expected = make(tmp_path, "bild ü {}.png", f"bild ü {{}}{suffix}.png")
    check(tmp_path, expected, "suffix")
    assert codes(tmp_path) == set()
    (tmp_path / f"bild ü 0{suffix}.png").unlink()
    assert codes(tmp_path) == {"missing-mask"}


def test_another_suffix_can_be_named(tmp_path):
    expected = make(tmp_path, "p{}.png", "p{}-truth.png")
    (tmp_path / "data.toml").write_text('classes = ["a", "b", "c"]\nmask_suffix = "-truth"')
    check(tmp_path, expected, "suffix")


@pytest.mark.parametrize(
    "line",
    [
        "pics/p {0}.jpg labels/m {0}.png", "pics/p {0}.jpg,labels/m {0}.png", '"pics/p {0}.jpg";"labels/m {0}.png"',
        "/home/x/pics/p {0}.jpg\t/home/x/labels/m {0}.png", "D:\\x\\pics\\p {0}.jpg,D:\\x\\labels\\m {0}.png",
    ],
)  # fmt: skip
def test_lists_say_the_pairs_and_splits_and_foreign_paths_are_mended(tmp_path, line):
    expected = make(tmp_path, "pics/p {}.jpg", "labels/m {}.png")
    (tmp_path / "train.csv").write_text("image,mask\n" + "\n".join(line.format(i) for i in range(4)))
    (tmp_path / "val.txt").write_text(line.format(4) + "\n")
    data = check(tmp_path, expected, "list")
    assert {split: len(s) for split, s in data.splits.items()} == {"train": 4, "val": 1}
    assert codes(tmp_path) == ({"path-mended"} if "x" in line else set())
    (tmp_path / "labels" / "m 0.png").unlink()
    assert "missing-listed" in codes(tmp_path)


def test_lists_beside_a_layout_do_not_make_it_unclear(tmp_path):
    make_shapes(tmp_path, "camvid", images=4)
    (tmp_path / "train.txt").write_text("/SegNet/CamVid/train/shape000.png /SegNet/CamVid/trainannot/shape000.png\n")
    assert open_dataset(tmp_path).format == "camvid"


@pytest.mark.parametrize("suffix", ["_mask", "_L"])
def test_a_usual_suffix_in_a_folder_of_masks_needs_no_word(tmp_path, suffix):
    expected = make(tmp_path, "images/p{}.png", f"masks/p{{}}{suffix}.png")
    data = open_dataset(tmp_path)
    assert {f"images/{sample.stem}" for sample in data.samples("all")} == expected.keys()
    assert codes(tmp_path) == set()
