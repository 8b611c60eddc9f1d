from __future__ import annotations

import shutil

from synthetic import labelme, labelstudio
from synthetic.reading import edit_json, problems
from synthetic.shapes import make_shapes


def test_annotations_in_another_encoding_are_unreadable_and_not_empty(tmp_path):
    for stem in ("a", "b", "c"):
        labelme.labelme(tmp_path, stem, [labelme.box("straße", 2, 2, 9, 9)])
        path = tmp_path / f"{stem}.json"
        path.write_bytes(path.read_text(encoding="utf-8").encode("cp1252"))
    found = problems(tmp_path)
    assert set(found) == {"unreadable"}
    assert "is not UTF-8 text" in found["unreadable"].cause


def test_shapes_on_images_rotated_in_label_studio_are_refused(tmp_path):
    turned = {**labelstudio.POLYGON, "image_rotation": 90}
    labelstudio.make(tmp_path, [labelstudio.BOX, turned])
    assert "polygon, rotated by 90 degrees" in problems(tmp_path)["bad-shape"].cause


def test_shapes_of_resized_images_are_reported_with_the_factor(tmp_path):
    for number in range(4):
        far = [labelme.box("car", 20, 10, 63, 47), labelme.box("tree", 50, 30, 64, 40)]
        labelme.labelme(tmp_path, f"p{number}", far)
        edit_json(tmp_path / f"p{number}.json", lambda table: table.update(imageHeight=None, imageWidth=None))
    assert "the furthest to 2.0 times the width and 2.0 times the height" in problems(tmp_path)["outside-picture"].cause


def test_a_folder_for_each_class_is_recognized(tmp_path):
    root = make_shapes(tmp_path, "flat", images=6, encoding="binary255", void=False)
    whole = root / "masks"
    for name in ("car", "tree"):
        shutil.copytree(root / "masks", root / "inner" / name)
    shutil.rmtree(whole)
    (root / "inner").rename(whole)
    remedy = problems(root)["missing-mask"].remedy
    assert "in each of car, tree. If these are the classes" in remedy
