"""Slips of the hand in lists, tables and names: understood where they can mean one thing only, else an error."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from fullconv.data import open_dataset
from fullconv.errors import DataError
from synthetic import coco, file_lists, labelme
from synthetic.reading import edit_json, problems
from synthetic.shapes import save_mask


def test_comments_and_the_line_for_excel_are_no_pairs(tmp_path):
    make = file_lists.make
    expected = make(tmp_path, "pics/#{}.png", "truth/{}.png")
    rows = "".join(f"pics/#{i}.png;truth/{i}.png\n" for i in range(5))
    (tmp_path / "train.csv").write_text(f"sep=;\n# made by hand\nimage;mask\n{rows}")
    file_lists.check(tmp_path, expected, "list")
    assert "missing-listed" not in problems(tmp_path)
    (tmp_path / "train.csv").write_text(rows)  # names may begin with the sign of comments
    file_lists.check(tmp_path, expected, "list")


def boxed(root, **keys):
    square = coco.square(1, 1, 6)
    shapes = [{"image_id": 70 + i, "category_id": 7, "segmentation": [square]} for i in range(3)]
    return coco.coco(root, shapes, **keys)


def test_a_category_without_a_name_is_an_error(tmp_path):
    boxed(tmp_path, categories=[{"id": 7}, {"id": 3, "name": "x"}])
    with pytest.raises(DataError, match="category 7 has no name"):
        open_dataset(tmp_path)


def test_a_image_under_two_spellings_is_reported(tmp_path):
    def edit(table):
        first = table["images"][0]
        table["images"].append({**first, "id": 99, "file_name": "./" + first["file_name"]})

    boxed(tmp_path)
    edit_json(tmp_path / "instances.json", edit)
    assert problems(tmp_path)["repeated-id"].files == ("./bild ü 0.png",)


def test_two_files_that_share_out_the_annotations_are_reported_and_copies_are_not(tmp_path):
    boxed(tmp_path)
    second = tmp_path / "instances (1).json"
    shutil.copy(tmp_path / "instances.json", second)
    assert "repeated-id" not in problems(tmp_path)
    edit_json(second, lambda table: table["annotations"][0].update(segmentation=[coco.square(9, 9, 6)]))
    assert problems(tmp_path)["repeated-id"].files == ("bild ü 0.png",)


def test_two_files_of_labelme_for_one_image_are_reported_and_its_own_counts(tmp_path):
    for stem in ("a", "b", "c"):
        labelme.labelme(tmp_path, stem, [labelme.box("x", 1, 1, 9, 9)])
    (tmp_path / "a new.json").write_text((tmp_path / "a.json").read_text().replace('"x"', '"y"'))
    found = problems(tmp_path)["several-annotations"]
    assert found.files == ("a new.json",)
    assert [sample.stem for sample in open_dataset(tmp_path).samples("all")] == ["a", "b", "c"]


def test_a_head_without_masks_is_reported(tmp_path):
    file_lists.make(tmp_path, "images/{}.png", "masks_kind/{}.png")
    for path in (tmp_path / "masks_kind").iterdir():
        save_mask(np.eye(24, 32, dtype="uint8"), tmp_path / "masks_thing" / path.name)
    head = '[heads.{}]\nclasses = ["a", "b", "c"]\n'.format
    (tmp_path / "data.toml").write_text(head("kind") + head("thing") + head("lost"))
    found = problems(tmp_path)["missing-folder"]
    assert (found.severity, "masks of head lost" in found.cause) == ("error", True)


def test_what_the_doctor_draws_itself_is_not_judged_as_a_file(tmp_path):
    shapes = [{"image_id": 70 + i, "category_id": 7, "bbox": [1, 1, 9, 9], "segmentation": []} for i in range(3)]
    coco.coco(tmp_path, shapes, categories=[{"id": 7, "name": "x"}])
    codes = set(problems(tmp_path))
    assert "box-only" in codes
    assert not codes & {"binary-mask", "scaled-labels", "void-as-class"}
