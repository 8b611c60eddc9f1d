from __future__ import annotations

import os
import shutil
import unicodedata

import numpy as np
import pytest
from doctor.sets import CLASSES, save

from fullconv.data import open_dataset
from synthetic.reading import problems
from synthetic.scenes import STEMS, assert_read, assert_refused, pairs, scene


def test_files_that_macos_and_windows_leave_behind_are_ignored(tmp_path):
    pairs(tmp_path)
    for path in list(tmp_path.rglob("*.*")):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
    for name in (".DS_Store", "images/Thumbs.db", "masks/desktop.ini"):
        (tmp_path / name).write_bytes(b"x")
    assert_read(tmp_path)


def test_decomposed_letters_are_the_same_letters(tmp_path):
    pairs(tmp_path)
    for form, folder in (("NFC", "images"), ("NFD", "masks")):
        for path in list((tmp_path / folder).iterdir()):
            path.rename(path.with_name(unicodedata.normalize(form, f"bäume {path.name}")))
    assert_read(tmp_path)


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("Images", "Labels"),
        ("imgs", "masks"),
        ("images", "annotations"),
        ("photos", "ground_truth"),
        ("img_dir", "ann_dir"),
        ("701_StillsRaw_full", "LabeledApproved_full"),
        ("data", "labels"),
        ("image", "label"),
        ("sample_images", "sample_masks"),
        ("Crack-image", "Crack-label"),
        ("imgFine", "gtFine"),
        ("images", "masks_fine"),
    ],
)
def test_folders_of_other_usual_names_are_found(tmp_path, images, masks):
    assert_read(pairs(tmp_path, images, masks))


@pytest.mark.parametrize(
    "names",
    [
        "{}/image {}/label",
        "image/{} label/{}",
        "{}Fine {}_labelsFine",
        "{}/images {}/labels",
        "imgs/{} gt/{}",
        "{} {}_labels",
        "{}_images {}_masks",
        "{} {}-mask",
    ],
)
def test_splits_in_folders_of_other_usual_names_are_found(tmp_path, names):
    for split, stems in (("train", STEMS[:4]), ("val", STEMS[4:])):
        pairs(tmp_path, *names.replace("{}", split).replace("valing", "val").split(), stems=stems)
    assert_read(tmp_path, splits={"train": 4, "val": 2})


@pytest.mark.parametrize(("labels", "other"), [("labels", "gt"), ("mask", "manual")])
def test_two_folders_that_may_be_the_masks_are_ambiguous(tmp_path, labels, other):
    pairs(tmp_path, masks=labels)
    shutil.copytree(tmp_path / labels, tmp_path / other)
    assert_refused(tmp_path, "images/ has no masks/")


@pytest.mark.parametrize("ending", [".jpg.png", "_mask.png", "_L.png", "_segmentation.png", "-labelled.png"])
def test_masks_named_after_their_images_need_no_setting(tmp_path, ending):
    pairs(tmp_path)
    for stem in STEMS:
        (tmp_path / f"masks/{stem}.png").rename(tmp_path / f"masks/{stem}{ending}")
    assert_read(tmp_path)


def test_an_unusual_suffix_counts_only_if_each_image_has_one_such_mask(tmp_path):
    pairs(tmp_path)
    for i, stem in enumerate(STEMS):
        (tmp_path / f"masks/{stem}.png").rename(tmp_path / f"masks/{stem}-{'old' if i == 2 else 'new'}.png")
    assert_refused(tmp_path, "missing-mask", 'mask_suffix = "-new"')
    for i in range(1, 6):  # 1 to 5 and 10 to 50 are not images with a suffix "0"
        save(scene(STEMS[0]).picture, tmp_path / f"n/images/{i}.jpg")
        save(scene(STEMS[0]).labels, tmp_path / f"n/masks/{i}0.png")
    assert_refused(tmp_path / "n", "missing-mask")


def rename(folder, change):
    for path in list(folder.iterdir()):
        path.rename(path.with_name(change(path.stem) + path.suffix))


def test_drive_is_read_and_its_field_of_view_is_not(tmp_path):
    for place, ending, stems in (("training", "_training", STEMS[:4]), ("test", "_test", STEMS[4:])):
        pairs(tmp_path, f"{place}/images", f"{place}/1st_manual", stems=stems)
        shutil.copytree(tmp_path / place / "images", tmp_path / place / "mask")
        rename(tmp_path / place / "images", lambda stem, ending=ending: stem + ending)
        rename(tmp_path / place / "mask", lambda stem, ending=ending: f"{stem}{ending}_mask")
        rename(tmp_path / place / "1st_manual", "{}_manual1".format)
    found = assert_read(tmp_path, "unread-folder", {"train": 3, "val": 1, "test": 2})
    assert found["unread-folder"].files == ("test/mask", "training/mask")


def test_kitti_road_is_read_and_testing_is_a_note(tmp_path):
    pairs(tmp_path, "training/image_2", "training/gt_image_2")
    rename(tmp_path / "training/image_2", lambda stem: f"um_{stem.removeprefix('scene_')}")
    rename(tmp_path / "training/gt_image_2", lambda stem: f"um_road_{stem.removeprefix('scene_')}")
    save(scene(STEMS[0]).labels, tmp_path / "training/gt_image_2/um_lane_a.png")
    save(scene(STEMS[0]).picture, tmp_path / "testing/image_2/um_z.png")
    data = open_dataset(tmp_path)
    assert {found.code: found.files for found in data.problems} == {"unread-folder": ("testing",)}
    for sample in data.samples("all"):
        own = f"scene_{sample.image.stem.removeprefix('um_')}"
        np.testing.assert_array_equal(data.read_mask(sample), scene(own).labels)


@pytest.mark.parametrize("masks", ["masks", "labels"])
def test_other_folders_of_images_are_a_note(tmp_path, masks):
    pairs(tmp_path, "images", masks)
    for stem in STEMS:
        save(scene(stem).picture, tmp_path / f"aug/{stem}.png")
        save(scene(stem).picture, tmp_path / f"more/images/{stem}.png")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/readme.txt").write_text("text")
    assert assert_read(tmp_path, "unread-folder")["unread-folder"].files == ("aug", "more")


def test_coarse_masks_do_not_count_beside_fine_ones(tmp_path):
    pairs(tmp_path, masks="gtFine")
    shutil.copytree(tmp_path / "gtFine", tmp_path / "gtCoarse")
    assert assert_read(tmp_path, "unread-folder")["unread-folder"].files == ("gtCoarse",)


@pytest.mark.parametrize("deep", ["", "/raw"])
@pytest.mark.parametrize("masks", ['masks = "*/masks"', ""])
def test_patterns_of_folders_in_data_toml_are_read(tmp_path, deep, masks):
    for site, stems in (("north", STEMS[:4]), ("south", STEMS[4:])):
        pairs(tmp_path, f"{site}/images{deep}", f"{site}/masks{deep}", stems=stems, named=False)
    (tmp_path / "data.toml").write_text(f'images = "*/images"\n{masks}\n{CLASSES}')
    assert_read(tmp_path)
    assert len(open_dataset(tmp_path).samples("all")) == 6


@pytest.mark.parametrize("masks", ["masks", "deep/er"])
def test_images_may_lie_in_the_data_folder_itself(tmp_path, masks):
    pairs(tmp_path, "", masks, named=False)
    (tmp_path / "data.toml").write_text(f'images = "."\nmasks = "{masks}"\n{CLASSES}')
    assert_read(tmp_path)


def test_the_data_folder_itself_may_hold_both(tmp_path):
    pairs(tmp_path, "", "", named=False)
    for path in list(tmp_path.glob("*.png")):
        path.rename(path.with_name(f"{path.stem}_x.png"))
    (tmp_path / "data.toml").write_text(f'images = "."\nmasks = "."\nmask_suffix = "_x"\n{CLASSES}')
    assert_read(tmp_path)


@pytest.mark.parametrize("kind", ["folder", "link to nothing", "links in a circle", "pipe"])
@pytest.mark.parametrize("place", ["images", "masks"])
def test_what_is_named_like_an_image_and_is_none_is_named_as_such(tmp_path, kind, place):
    pairs(tmp_path)
    odd = tmp_path / place / "x.png"
    if kind == "folder":
        odd.mkdir()
    elif kind == "pipe":
        os.mkfifo(odd)
    else:
        other = odd.with_name("y.png")
        odd.symlink_to(other.name)
        if kind == "links in a circle":
            other.symlink_to(odd.name)
    found = problems(tmp_path)
    assert set(found) == {"not-a-picture"}
    assert f"{place}/x.png" in found["not-a-picture"].files
    assert "folders, links to nothing or in a circle, or pipes" in found["not-a-picture"].cause
