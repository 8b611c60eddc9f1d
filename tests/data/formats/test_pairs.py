from __future__ import annotations

import shutil
import unicodedata

import pytest
from doctor.sets import save

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
    ],
)
def test_folders_of_other_usual_names_are_found(tmp_path, images, masks):
    assert_read(pairs(tmp_path, images, masks))


@pytest.mark.parametrize(
    "names", ["{}/images {}/labels", "imgs/{} gt/{}", "{} {}_labels", "{}_images {}_masks", "{} {}-mask"]
)
def test_splits_in_folders_of_other_usual_names_are_found(tmp_path, names):
    for split, stems in (("train", STEMS[:4]), ("val", STEMS[4:])):
        pairs(tmp_path, *names.replace("{}", split).replace("valing", "val").split(), stems=stems)
    assert_read(tmp_path, splits={"train": 4, "val": 2})


@pytest.mark.parametrize(("labels", "other"), [("labels", "gt"), ("mask", "1st_manual")])
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
