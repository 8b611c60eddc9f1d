"""What a fourth trial of real exports and broken folders taught: harmless things pass, others are told with what mends them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from doctor.sets import CLASSES, save
from PIL import Image

from fullconv.data import examine, open_dataset
from fullconv.data.checks.alignment import Fit, Pair
from fullconv.data.labels.diagnose import Numbering
from fullconv.data.labels.histogram import Census
from fullconv.data.problems import Problem
from fullconv.data.samples import Sample
from fullconv.storage import write_bytes
from synthetic.scenes import STEMS, assert_read, assert_refused, pairs, scene


def told(root: Path) -> dict[str, Problem]:
    """The problems of a set by code."""
    return {problem.code: problem for problem in examine(root).problems}


# folders


@pytest.mark.parametrize("inner", ["my set", "a/b c/d"])
def test_a_folder_that_holds_nothing_but_the_set_is_gone_into(tmp_path, inner):
    pairs(tmp_path / inner)
    (tmp_path / "README.dataset.txt").write_text("From the archive.", encoding="utf-8")
    (tmp_path / "__MACOSX").mkdir()
    assert_read(tmp_path)
    assert examine(tmp_path).root == tmp_path / inner


def test_no_folder_is_gone_into_where_there_is_a_choice_or_nothing_inside(tmp_path):
    pairs(tmp_path / "two/a")
    pairs(tmp_path / "two/b")
    assert_refused(tmp_path / "two", "unusable", "a/, b/ look like data sets")
    (tmp_path / "bare/x/y").mkdir(parents=True)
    assert_refused(tmp_path / "bare", "unusable", str(tmp_path / "bare"))
    (tmp_path / "round").mkdir()
    (tmp_path / "round/again").symlink_to(tmp_path / "round")
    assert_refused(tmp_path / "round", "unusable")


def test_lines_for_data_toml_may_be_put_where_the_user_pointed(tmp_path):
    pairs(tmp_path / "a/b", named=False)
    for path in (tmp_path / "a/b/masks").iterdir():
        save(np.asarray(Image.open(path)) + np.uint8(1), path)
    remedy = told(tmp_path)["off-by-one"].remedy
    for place in ("", "a", "a/b"):  # all three are the folder of the set, and agree however it is opened
        where = tmp_path / place / "data.toml"
        where.write_text(remedy.partition("data.toml:\n")[2], encoding="utf-8")
        assert [len(open_dataset(tmp_path / opened).classes) for opened in ("", "a", "a/b")] == [4] * 3
        where.unlink()
    where = tmp_path / "data.toml"
    where.write_text("clases = 3", encoding="utf-8")
    assert_refused(tmp_path, "unusable", "classes")
    (tmp_path / "other").mkdir()
    where.write_text(CLASSES, encoding="utf-8")
    assert "off-by-one" in told(tmp_path / "a/b")  # beside another folder it is none of this set's


@pytest.mark.parametrize(
    "folders", [("img_dir", "ann_dir"), ("701_StillsRaw_full", "LabeledApproved_full"), ("data", "labels")]
)
def test_folders_of_further_usual_names(tmp_path, folders):
    assert_read(pairs(tmp_path, *folders))


@pytest.mark.parametrize("ending", [".jpg.png", "_segmentation.png", "-labelled.png"])
def test_masks_named_after_their_pictures_need_no_word(tmp_path, ending):
    pairs(tmp_path)
    for stem in STEMS:
        (tmp_path / f"masks/{stem}.png").rename(tmp_path / f"masks/{stem}{ending}")
    assert_read(tmp_path)


def test_an_unusual_suffix_counts_only_where_each_picture_has_one_such_mask(tmp_path):
    pairs(tmp_path)
    for i, stem in enumerate(STEMS):
        (tmp_path / f"masks/{stem}.png").rename(tmp_path / f"masks/{stem}-{'old' if i == 2 else 'new'}.png")
    assert_refused(tmp_path, "missing-mask", 'mask_suffix = "-new"')
    for i in range(1, 6):  # 1 to 5 and 10 to 50 are no pictures with a suffix "0"
        save(scene(STEMS[0]).picture, tmp_path / f"n/images/{i}.jpg")
        save(scene(STEMS[0]).labels, tmp_path / f"n/masks/{i}0.png")
    assert_refused(tmp_path / "n", "missing-mask")


def test_pairs_that_lie_further_in_are_told_with_the_lines_that_name_them(tmp_path):
    pairs(tmp_path, "images/10k", "masks/sem_seg/ids", named=False)
    (tmp_path / "masks/notes.xml").write_text("<a/>", encoding="utf-8")
    remedy = told(tmp_path)["missing-mask"].remedy
    lines = remedy.partition("data.toml:\n")[2]
    assert lines == 'images = "images/10k"\nmasks = "masks/sem_seg/ids"'
    (tmp_path / "data.toml").write_text(f"{lines}\n{CLASSES}", encoding="utf-8")
    assert_read(tmp_path)


def test_brush_files_of_label_studio_beside_pictures_are_told(tmp_path):
    pairs(tmp_path, named=False)
    shutil.rmtree(tmp_path / "masks")
    for i, stem in enumerate(STEMS, 1):
        mask = (scene(stem).labels > 0) * np.uint8(255)
        save(mask, tmp_path / f"masks/task-{i}-annotation-{i}-by-a@b.c-tag-crack-0.png")
    assert "export JSON instead" in told(tmp_path)["missing-mask"].remedy


def test_a_file_with_the_longest_name_can_be_written(tmp_path):
    path = tmp_path / ("y" * 251 + ".png")
    write_bytes(path, [b"1", b"2"])
    assert path.read_bytes() == b"12"
    assert list(tmp_path.iterdir()) == [path]


# masks


def census(*numbers: int, masks: int = 4) -> Numbering:
    """What is said of masks that hold these numbers."""
    counts = Census()
    for _ in range(masks):
        counts.masks += 1
        counts.numbers.update(dict.fromkeys(numbers, 9))
    return Numbering(Path("set"), ["a.png"], counts, None)


def test_white_on_black_is_binary_in_16_bits_too_and_white_alone_is_not():
    for top in (255, 65535):
        found = census(0, top).binary()
        assert found is not None
        assert found.settings["values"] == {0: "background", top: "foreground"}
    assert census(255).binary() is None
    assert census(0, 254).binary() is None


def test_masks_that_are_white_everywhere_are_not_called_binary(tmp_path):
    pairs(tmp_path, named=False)
    for stem in STEMS:
        save(np.full_like(scene(stem).labels, 255), tmp_path / f"masks/{stem}.png")
    assert "few-classes" in told(tmp_path)


def test_numbers_that_are_no_classes_are_told_once(tmp_path):
    pairs(tmp_path, named=False)
    (tmp_path / "classes.txt").write_text("ground\nroad\n", encoding="utf-8")
    for stem in STEMS:
        save(np.array([0, 24, 33, 40], np.uint8)[scene(stem).labels], tmp_path / f"masks/{stem}.png")
    assert set(told(tmp_path)) & {"unknown-label", "nothing-to-learn"} == {"unknown-label"}


@pytest.mark.parametrize(("void", "severity"), [("test", "note"), ("val", "warning"), ("test val", "warning")])
def test_masks_of_test_that_are_kept_back_are_no_mistake(tmp_path, void, severity):
    for i, stem in enumerate(STEMS):
        split = "train" if i < 4 else "val" if i == 4 else "test"
        pairs(tmp_path / "all", f"images/{split}", f"masks/{split}", stems=[stem])
        if split in void:
            save(np.full_like(scene(stem).labels, 255), tmp_path / f"all/masks/{split}/{stem}.png")
    found = [one for one in examine(tmp_path / "all").problems if one.code == "all-void"]
    assert [one.severity for one in found] == (["warning", "note"] if " " in void else [severity])
    assert [one.count for one in found] == [1] * len(found)


def test_pictures_of_test_whose_masks_are_kept_back_make_no_warning(tmp_path):
    for i, stem in enumerate(STEMS):
        split = "train" if i < 4 else "val" if i == 4 else "test"
        save(scene(stem).picture, tmp_path / f"leftImg8bit/{split}/a/a_{i}_leftImg8bit.png")
        if split != "test":
            save(
                np.array([7, 8, 11, 24], np.uint8)[scene(stem).labels],
                tmp_path / f"gtFine/{split}/a/a_{i}_gtFine_labelIds.png",
            )
    found = told(tmp_path)
    assert found["missing-mask"].severity == "note"
    assert "empty-split" not in found


def fit_of(*own: float) -> Fit:
    """Ten pairs: how well each mask fits its own picture; all others fit nothing but for chance."""
    table = np.random.default_rng(3).normal(0, 0.03, (len(own), len(own)))
    noise = float(table[~np.eye(len(own), dtype=bool)].std())
    table[np.diag_indices(len(own))] = own
    blank = np.zeros((32, 32), np.uint8)
    pairs = [Pair(Sample(str(i), Path(f"{i}.jpg"), {}), np.zeros((32, 32, 3), np.float32), blank, 1) for i in range(10)]
    return Fit(tuple(pairs), table, noise)


def test_a_mask_that_fits_its_picture_badly_but_better_than_chance_is_no_stranger():
    assert fit_of(*[0.3] * 9, 0.065).strangers() == []  # a small thing in it
    assert [pair.sample.stem for pair in fit_of(*[0.3] * 9, -0.02).strangers()] == ["9"]


# annotation tools


def labelme(root: Path, kind: str = "polygon") -> Path:
    """Pictures with two shapes each, as X-AnyLabeling writes them."""
    for i, stem in enumerate(STEMS):
        save(scene(stem).picture, root / f"{stem}.jpg")
        corners = [[[8 * k + i, 8], [8 * k + i + 20, 8], [8 * k + i + 20, 30], [8 * k + i, 30]] for k in (0, 4)]
        shapes = [
            {"label": name, "score": None, "points": points, "shape_type": kind, "direction": 0.0, "attributes": {}}
            for name, points in zip(("crack", "hole"), corners, strict=True)
        ]
        table = {"version": "2.3.6", "flags": {}, "shapes": shapes, "imagePath": f"{stem}.jpg", "imageData": None}
        (root / f"{stem}.json").write_text(json.dumps(table), encoding="utf-8")
    return root


@pytest.mark.parametrize("kind", ["rotation", "quadrilateral"])
def test_turned_rectangles_of_xanylabeling_are_outlines(tmp_path, kind):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    drawn = [examine(labelme(tmp_path / name, which)).dataset for name, which in (("a", kind), ("b", "polygon"))]
    assert drawn[0] is not None
    assert drawn[1] is not None
    for one, other in zip(drawn[0].samples("all"), drawn[1].samples("all"), strict=True):
        mask = drawn[0].read_mask(one)
        np.testing.assert_array_equal(mask, drawn[1].read_mask(other))
        assert set(np.unique(mask)) == {0, 1, 2}


def test_a_file_of_labelme_without_its_list_is_no_picture_without_shapes(tmp_path):
    path = labelme(tmp_path) / f"{STEMS[2]}.json"
    table = json.loads(path.read_text(encoding="utf-8"))
    del table["shapes"]
    path.write_text(json.dumps(table), encoding="utf-8")
    assert told(tmp_path)["unreadable"].files == (path.name,)
    path.write_text('{"made": "by another program"}', encoding="utf-8")
    assert "unreadable" not in told(tmp_path)


def test_annotations_without_a_shape_are_told_as_such(tmp_path):
    for path in labelme(tmp_path).glob("*.json"):
        table = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**table, "shapes": []}), encoding="utf-8")
    assert "draw nothing" in told(tmp_path)["few-classes"].cause
    (tmp_path / "data.toml").write_text('unlabeled = "void"', encoding="utf-8")
    assert "few-classes" in told(tmp_path)


def test_tasks_of_label_studio_that_somebody_skipped_are_a_note(tmp_path):
    tasks = []
    for i, stem in enumerate(STEMS):
        Image.fromarray(scene(stem).picture).save(tmp_path / f"{stem}.png")
        value = {"points": [[10, 10], [60 + i, 10], [60, 70]], "polygonlabels": ["crack"]}
        row = {"type": "polygonlabels", "original_width": 80, "original_height": 64, "value": value}
        done = {"result": [row], "was_cancelled": i == 1}
        tasks.append(
            {"id": i, "annotations": [] if i == 2 else [done], "data": {"image": f"/data/upload/1/{stem}.png"}}
        )
    (tmp_path / "export.json").write_text(json.dumps(tasks), encoding="utf-8")
    found = told(tmp_path)
    assert found["missing-mask"].files == (f"data/upload/1/{STEMS[2]}.png",)
    assert found["unlisted"].files == (f"{STEMS[1]}.png", f"{STEMS[2]}.png")
