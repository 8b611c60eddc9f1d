from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
from doctor.sets import CLASSES, save

from synthetic.reading import problems
from synthetic.scenes import STEMS, assert_read, assert_refused, pairs, scene


def test_data_sets_further_in_are_suggested(tmp_path):
    save(scene(STEMS[0]).picture, tmp_path / "devkit/VOC2012/JPEGImages/a.jpg")
    save(scene(STEMS[0]).labels, tmp_path / "devkit/VOC2012/SegmentationClass/a.png")
    (tmp_path / "tools").mkdir()
    assert_refused(tmp_path, f"did you mean {tmp_path / 'devkit/VOC2012'}")
    pairs(tmp_path / "devkit/other")
    assert_refused(tmp_path, "devkit/VOC2012/, devkit/other/ look like data sets")


def test_images_and_masks_in_one_folder_get_lines_for_data_toml(tmp_path):
    pairs(tmp_path, "all", "all", named=False)
    text = assert_refused(tmp_path, "If the PNGs are the masks")
    (tmp_path / "data.toml").write_text(CLASSES + "\n".join(re.findall(r"^(?:images|masks) = .*$", text, re.M)))
    assert_read(tmp_path)


@pytest.mark.parametrize("change", [("{}", "mask_{}"), ("img_{}", "lbl_{}"), ("{}_rgb", "seg-{}_gray")])
def test_names_with_a_prefix_get_lines_for_data_toml(tmp_path, change):
    pairs(tmp_path)
    for folder, before in zip(("images", "masks"), change, strict=True):
        for path in list((tmp_path / folder).iterdir()):
            path.rename(path.with_name(before.format(path.stem) + path.suffix))
    text = assert_refused(tmp_path, "[missing-mask]")
    (tmp_path / "data.toml").write_text(CLASSES + "\n".join(re.findall(r"^(?:images|masks) = .*$", text, re.M)))
    assert_read(tmp_path)


def test_names_in_another_case_and_masks_of_another_type_are_reported(tmp_path):
    pairs(tmp_path / "case")
    for path in list((tmp_path / "case/masks").iterdir()):
        path.rename(path.with_name(path.name.replace("scene", "Scene")))
    assert_refused(tmp_path / "case", "differ in upper and lower case, as scene_a and Scene_a")
    pairs(tmp_path / "arrays")
    for path in list((tmp_path / "arrays/masks").iterdir()):
        np.save(path.with_suffix(".npy"), np.zeros((2, 2)))
        path.unlink()
    assert_refused(tmp_path / "arrays", "masks/ has .npy files of these names, which are not read")


def test_unsupported_exports_are_recognized(tmp_path):
    save(scene("scene_a").labels, tmp_path / "brush/task-1-annotation-2-by-1-tag-brick-0.png")
    assert_refused(tmp_path / "brush", 'Label Studio\'s export "Brush labels"')
    save(scene("scene_a").picture, tmp_path / "sly/ds0/img/a.jpg")
    (tmp_path / "sly/ds0/ann").mkdir()
    assert_refused(tmp_path / "sly", "ds0/img/ and ds0/ann/ are Supervisely's, but the project's meta.json is missing")


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.jpg___objects.json", '{"instances": [{"className": "car"}]}', "is an export of SuperAnnotate: export COCO"),
        ("default.json", '{"dm_format_version": "1.0", "items": []}', "is an export of Datumaro: export COCO"),
        ("a.jpg.json", '{"objects": [{"classTitle": "car"}]}', "is an annotation of Supervisely: copy"),
        ("output.manifest", '{"source-ref": "s3://x/a.jpg"}', "is a manifest of SageMaker Ground Truth: download the masks"),
        ("kili.json", '[{"labels": [{"jsonResponse": {}}]}]', "is an export of Kili"),
        ("via3.json", '{"project": {}, "view": {}, "vid_list": []}', "is a project of the VGG Image Annotator 3"),
        ("a.geojson", '{"type": "FeatureCollection", "features": []}', "is GeoJSON, which is read beside GeoTIFFs"),
        ("a.xml", "<annotation><object><bndbox></bndbox></object></annotation>", "holds boxes for detection (PASCAL VOC)"),
        ("labelbox.json", '[{"External ID": "a.jpg", "Labeled Data": "x"}]', "is an old export of Labelbox: export NDJSON"),
        ("train.tfrecord", "x", "holds TFRecords of TensorFlow"),
    ],
)  # fmt: skip
def test_exports_of_other_tools_are_named_with_what_to_export(tmp_path, name, text, sentence):
    save(scene("scene_a").picture, tmp_path / "images/a.jpg")
    (tmp_path / name).write_text(text)
    assert_refused(tmp_path, f"{name} {sentence}")


@pytest.mark.parametrize("name", ["annotations.json", "annotations/instances_train.json", "a.json", "a.geojson"])
@pytest.mark.parametrize("text", ["", " \n", "{}", "[]", "null", "\ufeff"])
def test_a_lone_annotation_file_that_is_empty_is_named(tmp_path, name, text):
    save(scene("scene_a").picture, tmp_path / "images/a.jpg")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert_refused(tmp_path, f"{name} is empty: export it again")


@pytest.mark.parametrize("name", ["annotations.xml", "all.ndjson", "train.csv"])
def test_lone_empty_files_of_other_kinds_are_named(tmp_path, name):
    save(scene("scene_a").picture, tmp_path / "a.jpg")
    (tmp_path / name).touch()
    assert_refused(tmp_path, f"{name} is empty: export it again")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"version": "5.0.1", "flags": {}, "shapes": [{"label": "ca'),
        ("export.json", '{"name": "first", "items": [{"id": 1'),
        ("a.geojson", '{"type": "FeatureCollection", "features": [{"ty'),
        ("a.xml", "<annotation><object><bndbox><xmin>12</xmin>"[:-2]),
    ],
)
def test_a_lone_annotation_file_that_was_not_written_to_its_end_is_named(tmp_path, name, text):
    save(scene("scene_a").picture, tmp_path / "a.jpg")
    (tmp_path / name).write_text(text)
    assert_refused(tmp_path, f"{name} is cut off: export it again")


def test_a_suffix_of_data_toml_that_the_masks_do_not_have_is_named(tmp_path):
    pairs(tmp_path)
    config = (tmp_path / "data.toml").read_text()
    (tmp_path / "data.toml").write_text(f'mask_suffix = "_mask"\n{config}')
    assert "remove mask_suffix from data.toml" in problems(tmp_path)["missing-mask"].remedy
    (tmp_path / "data.toml").write_text(config)
    assert_read(tmp_path)


def test_pairs_further_in_get_lines_for_data_toml(tmp_path):
    pairs(tmp_path, "images/10k", "masks/sem_seg/ids", named=False)
    (tmp_path / "masks/notes.xml").write_text("<a/>", encoding="utf-8")
    remedy = problems(tmp_path)["missing-mask"].remedy
    lines = remedy.partition("data.toml:\n")[2]
    assert lines == 'images = "images/10k"\nmasks = "masks/sem_seg/ids"'
    (tmp_path / "data.toml").write_text(f"{lines}\n{CLASSES}", encoding="utf-8")
    assert_read(tmp_path)


def test_brush_files_of_label_studio_beside_images_are_recognized(tmp_path):
    pairs(tmp_path, named=False)
    shutil.rmtree(tmp_path / "masks")
    for i, stem in enumerate(STEMS, 1):
        mask = (scene(stem).labels > 0) * np.uint8(255)
        save(mask, tmp_path / f"masks/task-{i}-annotation-{i}-by-a@b.c-tag-crack-0.png")
    assert "export JSON instead" in problems(tmp_path)["missing-mask"].remedy


def test_unread_lists_get_the_line_that_reads_them(tmp_path):
    pairs(tmp_path)
    for split, stems in (("train", STEMS[:4]), ("val", STEMS[4:])):
        (tmp_path / f"{split}.txt").write_text("\n".join(stems))
    line = assert_read(tmp_path, "unread-list")["unread-list"].remedy.splitlines()[-1]
    (tmp_path / "data.toml").write_text(f"{CLASSES}{line}\n")
    assert_read(tmp_path, splits={"train": 4, "val": 2})
