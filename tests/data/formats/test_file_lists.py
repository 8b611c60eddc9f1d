from __future__ import annotations

import csv

import pytest

from fullconv.data import open_dataset
from synthetic.file_lists import check, make
from synthetic.reading import codes, problems, split_sizes
from synthetic.shapes import make_shapes


@pytest.mark.parametrize("suffix", ["_mask", "_L", "_gtFine_labelIds"])
def test_masks_beside_their_images_are_found_by_their_suffix(tmp_path, suffix):
    check(tmp_path, make(tmp_path, "bild ü {}.png", f"bild ü {{}}{suffix}.png"), "suffix")
    assert not codes(tmp_path)
    (tmp_path / f"bild ü 0{suffix}.png").unlink()
    assert codes(tmp_path) == {"missing-mask"}


def test_masks_beside_their_images_are_found_in_the_folders_of_splits(tmp_path):
    expected = make(tmp_path, "train/{}.jpg", "train/{}_mask.png", 4)
    expected |= make(tmp_path, "val/v{}.jpg", "val/v{}_mask.png", 2)
    check(tmp_path, {name.partition("/")[2]: mask for name, mask in expected.items()}, "suffix")
    assert split_sizes(tmp_path) == {"train": 4, "val": 2}


def test_another_suffix_can_be_set(tmp_path):
    expected = make(tmp_path, "p{}.png", "p{}-truth.png")
    (tmp_path / "data.toml").write_text('classes = ["a", "b", "c"]\nmask_suffix = "-truth"')
    check(tmp_path, expected, "suffix")


def write_lists(root, row, head="", name="{}.txt"):
    """Write six pairs, and lists of four and two of them."""
    expected = make(root, "pics/p {}.jpg", "labels/m {}.png", 6)
    for split, numbers in (("train", range(4)), ("val", range(4, 6))):
        path = root / name.format(split)
        path.parent.mkdir(exist_ok=True)
        path.write_text(head + "".join(row.format(p=f"pics/p {i}.jpg", m=f"labels/m {i}.png") for i in numbers))
    return expected


@pytest.mark.parametrize(
    ("row", "head", "name"),
    [
        ("{p} {m}\n", "", "{}.txt"),
        ("{p},{m}\n", "image,mask\n", "{}.csv"),
        ("{m},{p}\n", "mask,image\n", "{}.csv"),
        ('"{p}";"{m}"\n', "image,mask\n", "{}.csv"),
        ("7;{p};0.5;{m}\n", "id;image_path;area;mask_path\n", "{}.csv"),
        ('"{p}"\t"{m}"\n', "", "{}.tsv"),
        ("7,{p},{m}\n", "", "{}.csv"),
        ("../{p} ../{m}\n", "", "lists/{}.txt"),
        ("{p}, {m}\n{p}, {m}\n", "", "{}.csv"),
        ("/home/x/{p}\t/home/x/{m}\n", "", "{}.csv"),
        ("D:\\x\\{p},D:\\x\\{m}\n", "", "{}.lst"),
    ],
)
def test_lists_of_pairs_are_read_with_any_columns(tmp_path, row, head, name):
    check(tmp_path, write_lists(tmp_path, row, head, name), "list")
    assert split_sizes(tmp_path) == {"train": 4, "val": 2}
    repeated = {"omitted-line"} if row.count("{p}") > 1 else set()
    assert codes(tmp_path) == ({"path-mended"} if "x" in row else repeated)
    (tmp_path / "labels" / "m 0.png").unlink()
    assert "missing-listed" in codes(tmp_path)


def test_a_line_of_three_images_is_an_error(tmp_path):
    write_lists(tmp_path, "{p},{m}\n")
    with (tmp_path / "train.txt").open("a") as file:
        file.write("pics/p 4.jpg,labels/m 4.png,pics/p 4.jpg\n")
    assert "lines of train.txt do not name an image and a mask" in problems(tmp_path)["missing-listed"].cause


def test_a_column_defines_the_split(tmp_path):
    expected = make(tmp_path, "pics/p{}.jpg", "labels/m{}.png")
    with (tmp_path / "all.csv").open("w", newline="") as file:
        rows = [(f"labels/m{i}.png", "train" if i < 3 else "val", f"pics/p{i}.jpg") for i in range(5)]
        csv.writer(file).writerows([("mask", "split", "image"), *rows])
    check(tmp_path, expected, "list")
    assert split_sizes(tmp_path) == {"train": 3, "val": 2}


def test_an_empty_list_is_an_empty_split(tmp_path):
    write_lists(tmp_path, "{p} {m}\n")
    (tmp_path / "val.txt").write_text("")
    assert split_sizes(tmp_path) == {"train": 4, "val": 0}
    assert codes(tmp_path) == {"empty-split", "unlisted"}
    assert problems(tmp_path)["unlisted"].cause.startswith("files are on no list")


def test_lists_that_contradict_each_other_or_themselves_are_reported(tmp_path):
    write_lists(tmp_path, "{p} {m}\n")
    (tmp_path / "val.txt").write_text((tmp_path / "train.txt").read_text())
    assert "train.txt and val.txt both list" in problems(tmp_path)["duplicate-across-splits"].cause
    with (tmp_path / "train.txt").open("a") as file:
        file.write("pics/p 0.jpg labels/m 1.png\n")
    found = problems(tmp_path)["duplicate-stem"]
    assert (found.severity, found.files) == ("error", ("pics/p 0.jpg",))


def test_lists_beside_another_layout_do_not_make_it_ambiguous(tmp_path):
    make_shapes(tmp_path, "camvid", images=4)
    (tmp_path / "train.txt").write_text("/SegNet/CamVid/train/shape000.png /SegNet/CamVid/trainannot/shape000.png\n")
    assert open_dataset(tmp_path).format == "camvid"
