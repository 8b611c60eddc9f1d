"""Data as tools and people leave them: each oddity is understood to the pixel, or refused with a word that helps."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from doctor.sets import CLASSES, COLORS, NAMES, colored, save, save_indexed
from PIL import Image

from fullconv.data import examine
from synthetic.scenes import HEIGHT, STEMS, WIDTH, assert_read, assert_refused, pairs, scene

# folders and archives


def packed(root: Path, rename) -> Path:
    pairs(root / "in")
    archive = root / "export.zip"
    with zipfile.ZipFile(archive, "w") as content:
        for path in sorted((root / "in").rglob("*")):
            if path.is_file():
                member = zipfile.ZipInfo("x")
                member.filename = rename(path.relative_to(root / "in").as_posix())
                content.writestr(member, path.read_bytes())
                content.writestr(f"__MACOSX/._{path.name}", b"\0\5\x16\7")
    return archive


@pytest.mark.parametrize("rename", [lambda name: name.replace("/", "\\"), lambda name: f"export/{name}"])
def test_a_zip_of_windows_or_with_one_folder_at_the_top_is_read(tmp_path, rename):
    assert_read(packed(tmp_path, rename))


def test_a_zip_of_nothing_is_called_by_its_own_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as content:
        content.writestr("README.txt", "x")
    assert_refused(tmp_path / "a.zip", f"{tmp_path / 'a.zip'}: unrecognized data set layout")


def test_other_archives_are_to_be_unpacked(tmp_path):
    (tmp_path / "data.tar.gz").write_bytes(b"\x1f\x8b")
    assert_refused(tmp_path / "data.tar.gz", "Unpack it")


def test_what_macos_and_windows_leave_behind_is_passed_over(tmp_path):
    pairs(tmp_path)
    for path in list(tmp_path.rglob("*.*")):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
    for name in (".DS_Store", "images/Thumbs.db", "masks/desktop.ini"):
        (tmp_path / name).write_bytes(b"x")
    assert_read(tmp_path)


def test_letters_that_are_taken_apart_are_the_same_letters(tmp_path):
    pairs(tmp_path)
    for form, folder in (("NFC", "images"), ("NFD", "masks")):
        for path in list((tmp_path / folder).iterdir()):
            path.rename(path.with_name(unicodedata.normalize(form, f"bäume {path.name}")))
    assert_read(tmp_path)


@pytest.mark.parametrize(
    ("images", "masks"),
    [("Images", "Labels"), ("imgs", "masks"), ("images", "annotations"), ("photos", "ground_truth")],
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
def test_two_folders_that_may_be_the_masks_are_not_guessed_between(tmp_path, labels, other):
    pairs(tmp_path, masks=labels)
    shutil.copytree(tmp_path / labels, tmp_path / other)
    assert_refused(tmp_path, "images/ has no masks/")


def test_masks_beside_their_pictures_are_found_in_the_folders_of_splits(tmp_path):
    for split, stems in (("train", STEMS[:4]), ("val", STEMS[4:])):
        for stem in stems:
            save(scene(stem).picture, tmp_path / split / f"{stem}.jpg")
            save(scene(stem).labels, tmp_path / split / f"{stem}_mask.png")
    (tmp_path / "data.toml").write_text(CLASSES)
    assert_read(tmp_path, splits={"train": 4, "val": 2})


def test_a_folder_above_the_data_names_what_lies_below(tmp_path):
    save(scene(STEMS[0]).picture, tmp_path / "devkit/VOC2012/JPEGImages/a.jpg")
    save(scene(STEMS[0]).labels, tmp_path / "devkit/VOC2012/SegmentationClass/a.png")
    (tmp_path / "tools").mkdir()
    assert_refused(tmp_path, f"did you mean {tmp_path / 'devkit/VOC2012'}")
    pairs(tmp_path / "devkit/other")
    assert_refused(tmp_path, "devkit/VOC2012/, devkit/other/ look like data sets")


def test_pictures_and_masks_in_one_folder_get_the_lines_that_tell_them_apart(tmp_path):
    pairs(tmp_path, "all", "all", named=False)
    said = assert_refused(tmp_path, "If the PNGs are the masks")
    (tmp_path / "data.toml").write_text(CLASSES + "\n".join(re.findall(r"^(?:images|masks) = .*$", said, re.M)))
    assert_read(tmp_path)


@pytest.mark.parametrize("change", [("{}", "mask_{}"), ("img_{}", "lbl_{}"), ("{}_rgb", "seg-{}_gray")])
def test_names_with_something_before_them_get_the_lines_that_pair_them(tmp_path, change):
    pairs(tmp_path)
    for folder, before in zip(("images", "masks"), change, strict=True):
        for path in list((tmp_path / folder).iterdir()):
            path.rename(path.with_name(before.format(path.stem) + path.suffix))
    said = assert_refused(tmp_path, "[missing-mask]")
    (tmp_path / "data.toml").write_text(CLASSES + "\n".join(re.findall(r"^(?:images|masks) = .*$", said, re.M)))
    assert_read(tmp_path)


def test_names_in_another_case_and_masks_of_another_kind_are_told_apart(tmp_path):
    pairs(tmp_path / "case")
    for path in list((tmp_path / "case/masks").iterdir()):
        path.rename(path.with_name(path.name.replace("scene", "Scene")))
    assert_refused(tmp_path / "case", "differ in upper and lower case, as scene_a and Scene_a")
    pairs(tmp_path / "arrays")
    for path in list((tmp_path / "arrays/masks").iterdir()):
        np.save(path.with_suffix(".npy"), np.zeros((2, 2)))
        path.unlink()
    assert_refused(tmp_path / "arrays", "masks/ has .npy files of these names, which are not read")


def test_exports_that_cannot_be_read_are_named(tmp_path):
    save(scene("scene_a").picture, tmp_path / "yolo/images/a.jpg")
    (tmp_path / "yolo/labels").mkdir()
    (tmp_path / "yolo/labels/a.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    assert_refused(tmp_path / "yolo", "labels/ holds YOLO labels")
    save(scene("scene_a").labels, tmp_path / "brush/task-1-annotation-2-by-1-tag-brick-0.png")
    assert_refused(tmp_path / "brush", 'Label Studio\'s export "Brush labels"')
    save(scene("scene_a").picture, tmp_path / "via/images/a.jpg")
    (tmp_path / "via/via_region_data.json").write_text('{"a.jpg1": {"regions": [{"shape_attributes": {}}]}}')
    assert_refused(tmp_path / "via", "via_region_data.json is of the VGG Image Annotator, which is not supported")
    save(scene("scene_a").picture, tmp_path / "sly/ds0/img/a.jpg")
    (tmp_path / "sly/ds0/ann").mkdir()
    assert_refused(tmp_path / "sly", "ds0/img/ and ds0/ann/ are Supervisely's, but the project's meta.json is missing")


# text files


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_text_files_of_windows_are_read(tmp_path, encoding):
    pairs(tmp_path)
    (tmp_path / "data.toml").unlink()
    (tmp_path / "classes.txt").write_bytes("\r\n".join([*NAMES, ""]).encode(encoding))
    (tmp_path / "a.txt").write_bytes("\r\n".join(f"images\\{stem}.jpg" for stem in STEMS[:4]).encode(encoding))
    (tmp_path / "b.txt").write_bytes("\r\n".join(f"{stem}.jpg 1" for stem in STEMS[4:]).encode(encoding))
    (tmp_path / "data.toml").write_bytes('splits = { train = "a.txt", val = "b.txt" }\r\n'.encode(encoding))
    assert_read(tmp_path, splits={"train": 4, "val": 2})


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.with_name("Data.toml").write_text(CLASSES)])
def test_settings_that_would_be_missed_are_named(tmp_path, make):
    pairs(tmp_path, named=False)
    make(tmp_path / "data.toml")
    assert_refused(tmp_path, "Make it a file that is called data.toml")


@pytest.mark.parametrize("form", ["{i} {name}", "{i}: {name}", "{i},{name}", "{j}. {name}"])
def test_numbers_before_the_names_of_classes_are_no_part_of_them(tmp_path, form):
    pairs(tmp_path, named=False)
    lines = [form.format(i=i, j=i + 1, name=name) for i, name in enumerate(NAMES)]
    (tmp_path / "classes.txt").write_text("\n".join(lines))
    assert_read(tmp_path)


def test_names_that_begin_with_other_numbers_stay(tmp_path):
    (tmp_path / "classes.txt").write_text("7 road\n8 sidewalk\n11 building\n12 wall\n")
    pairs(tmp_path, named=False)
    assert examine(tmp_path).dataset.classes[0] == "7 road"


@pytest.mark.parametrize("name", ["class_dict.csv", "label_colors.txt"])
@pytest.mark.parametrize("void", [False, True])
def test_tables_of_colours_of_public_sets_name_the_classes(tmp_path, name, void):
    rows = [(name, *color) for name, color in zip(NAMES, COLORS, strict=True)]
    rows += [("Void", 7, 7, 7)] if void else []
    csv_lines = "\n".join(["name, r, g, b", *(", ".join(map(str, row)) for row in rows)])
    lines = "\n".join(f"{r} {g} {b}\t{label}" for label, r, g, b in rows)
    (tmp_path / name).write_text(csv_lines if name.endswith(".csv") else lines)
    pairs(tmp_path, named=False)
    for stem in STEMS:
        save(colored(scene(stem).labels), tmp_path / "masks" / f"{stem}.png")
    assert_read(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["group,stem\n{g},{s}", "stem;group\n{s};{g}", "filename,date,patient_id\n{s}.jpg,2020,{g}", "{s}\t{g}", "{s},{g}"],
)
def test_tables_of_groups_are_read_by_their_heading(tmp_path, text):
    pairs(tmp_path)
    head, _, row = text.rpartition("\n")
    (tmp_path / "g.csv").write_text(
        "\n".join([head, *(row.format(s=s, g=f"site{i % 3}") for i, s in enumerate(STEMS))])
    )
    (tmp_path / "data.toml").write_text(CLASSES + 'groups = "g.csv"\n')
    groups = {sample.image.stem: sample.group for sample in examine(tmp_path).dataset.samples("all")}
    assert groups == {stem: f"site{i % 3}" for i, stem in enumerate(STEMS)}


@pytest.mark.parametrize(
    ("text", "words"),
    [("scene_a,2020,x\n", "more than two columns"), ("scene_a,x\nscene_a,y\n", "line 2: scene_a is in group x, too")],
)
def test_tables_of_groups_that_may_mean_two_things_are_refused(tmp_path, text, words):
    pairs(tmp_path)
    (tmp_path / "g.csv").write_text(text)
    (tmp_path / "data.toml").write_text(CLASSES + 'groups = "g.csv"\n')
    assert_refused(tmp_path, words)


# lists


def listed(root: Path, row: str, head: str = "", name: str = "{}.txt") -> Path:
    pairs(root, "pics", "gt_files")
    for split, stems in (("train", STEMS[:4]), ("val", STEMS[4:])):
        path = root / name.format(split)
        path.parent.mkdir(exist_ok=True)
        path.write_text(head + "".join(row.format(p=f"pics/{s}.jpg", m=f"gt_files/{s}.png") for s in stems))
    return root


@pytest.mark.parametrize(
    ("row", "head", "name"),
    [
        ("{p} {m}\n", "", "{}.txt"),
        ("{m},{p}\n", "mask,image\n", "{}.csv"),
        ("7;{p};0.5;{m}\n", "id;image_path;area;mask_path\n", "{}.csv"),
        ('"{p}"\t"{m}"\n', "", "{}.tsv"),
        ("7,{p},{m}\n", "", "{}.csv"),
        ("../{p} ../{m}\n", "", "lists/{}.txt"),
        ("{p}, {m}\n{p}, {m}\n", "", "{}.csv"),
    ],
)
def test_lists_of_pairs_are_read_whatever_their_columns(tmp_path, row, head, name):
    assert_read(listed(tmp_path, row, head, name), splits={"train": 4, "val": 2})


def test_a_line_of_three_pictures_is_no_pair(tmp_path):
    listed(tmp_path, "{p} {m}\n")
    with (tmp_path / "train.txt").open("a") as file:
        file.write("pics/scene_e.jpg gt_files/scene_e.png pics/scene_e.jpg\n")
    assert_refused(tmp_path, "[missing-listed]", "lines of train.txt do not name an image and a mask")


def test_a_column_says_the_split(tmp_path):
    pairs(tmp_path, "pics", "gt_files")
    with (tmp_path / "all.csv").open("w", newline="") as file:
        rows = [(f"gt_files/{s}.png", "train" if i < 4 else "val", f"pics/{s}.jpg") for i, s in enumerate(STEMS)]
        csv.writer(file).writerows([("mask", "split", "image"), *rows])
    assert_read(tmp_path, splits={"train": 4, "val": 2})


def test_an_empty_list_is_an_empty_split(tmp_path):
    (listed(tmp_path, "{p} {m}\n") / "val.txt").write_text("")
    found = assert_read(tmp_path, "empty-split unlisted", {"train": 4, "val": 0})
    assert found["unlisted"].cause.startswith("files are on no list")


def test_lists_that_contradict_each_other_or_themselves_are_told(tmp_path):
    listed(tmp_path, "{p} {m}\n")
    (tmp_path / "val.txt").write_text((tmp_path / "train.txt").read_text())
    assert (
        "train.txt and val.txt both list"
        in assert_read(tmp_path, "duplicate-across-splits unlisted")["duplicate-across-splits"].cause
    )
    with (tmp_path / "train.txt").open("a") as file:
        file.write("pics/scene_a.jpg gt_files/scene_b.png\n")
    assert_refused(tmp_path, "[duplicate-stem]", "several masks", "pics/scene_a.jpg")


def test_lists_that_were_not_asked_for_are_told_with_the_line_that_asks(tmp_path):
    pairs(tmp_path)
    for split, stems in (("train", STEMS[:4]), ("val", STEMS[4:])):
        (tmp_path / f"{split}.txt").write_text("\n".join(stems))
    line = assert_read(tmp_path, "unread-list")["unread-list"].remedy.splitlines()[-1]
    (tmp_path / "data.toml").write_text(f"{CLASSES}{line}\n")
    assert_read(tmp_path, splits={"train": 4, "val": 2})


# PASCAL VOC and Cityscapes


@pytest.mark.parametrize(
    "line", ["{}.jpg", "{}  1", "/JPEGImages/{}.jpg /SegmentationClass/{}.png", "VOC2012/JPEGImages/{}.jpg", "{}\r"]
)
@pytest.mark.parametrize("sets", ["ImageSets/Segmentation", "imagesets/segmentation"])
def test_lists_of_pascal_voc_name_pictures_in_many_ways(tmp_path, line, sets):
    for stem in STEMS:
        save(scene(stem).picture, tmp_path / "JPEGImages" / f"{stem}.jpg")
        save_indexed(scene(stem).labels, tmp_path / "SegmentationClass" / f"{stem}.png")
    (tmp_path / sets).mkdir(parents=True)
    for split, stems in (("train", STEMS[:4]), ("val", STEMS[4:])):
        text = "\n".join(["# a comment", *(line.replace("{}", stem) for stem in stems), ""])
        (tmp_path / sets / f"{split}.txt").write_bytes(text.encode())
    (tmp_path / "data.toml").write_text(CLASSES)
    assert_read(tmp_path, splits={"train": 4, "val": 2})


@pytest.mark.parametrize("outer", [("", ""), ("leftImg8bit_trainvaltest/", "gtFine_trainvaltest/")])
@pytest.mark.parametrize("weather", ["", "_foggy_beta_0.02"])
def test_cityscapes_is_read_as_its_archives_unpack(tmp_path, outer, weather):
    ids = np.array([7, 26, 24, 11], np.uint8)
    for i, stem in enumerate(STEMS):
        inner = f"{'train' if i < 4 else 'val'}/ulm/ulm_{stem}_000019"
        save(scene(stem).picture, tmp_path / f"{outer[0]}leftImg8bit/{inner}_leftImg8bit{weather}.png")
        save(ids[scene(stem).labels], tmp_path / f"{outer[1]}gtFine/{inner}_gtFine_labelIds.png")
    found = examine(tmp_path)
    assert found.summary()["splits"] == {"train": 4, "val": 2}
    sample = found.dataset.samples("val")[0]
    names = np.array(["road", "car", "person", "building"])[scene(sample.image.name).labels]
    np.testing.assert_array_equal(np.array(found.dataset.classes)[found.dataset.read_mask(sample)], names)


# annotations


def coco(root: Path, edit=lambda table: None, encoding: str = "utf-8") -> Path:
    pictures, shapes = [], []
    for number, stem in enumerate(STEMS, 10):
        save(scene(stem).picture, root / "images" / f"{stem}.jpg")
        pictures.append({"id": number, "file_name": f"{stem}.jpg", "width": WIDTH, "height": HEIGHT})
        for kind, points in scene(stem).outlines:
            outline = [value for point in points for value in point]
            shapes.append({"id": len(shapes), "image_id": number, "category_id": kind, "segmentation": [outline]})
    table = {"images": pictures, "annotations": shapes, "categories": [{"id": k, "name": NAMES[k]} for k in (1, 2, 3)]}
    edit(table)
    (root / "result.json").write_bytes(json.dumps(table, indent=1).replace("\n", "\r\n").encode(encoding))
    return root


def pixels(root: Path) -> list[int]:
    told = examine(root).summary()
    assert told["ok"], told["problems"]
    return [row["pixels"] for row in told["classes"]]


def as_text(*keys: str):
    def edit(table):
        for key, name in (pair.split(".") for pair in keys):
            for entry in table[key]:
                entry[name] = str(entry[name])

    return edit


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_coco_of_windows_is_read(tmp_path, encoding):
    assert pixels(coco(tmp_path / "a", encoding=encoding)) == pixels(coco(tmp_path / "b"))


@pytest.mark.parametrize(
    "keys", [("images.id",), ("annotations.image_id", "annotations.category_id"), ("categories.id",)]
)
def test_ids_may_be_text_in_one_place_and_numbers_in_another(tmp_path, keys):
    assert pixels(coco(tmp_path / "a", as_text(*keys))) == pixels(coco(tmp_path / "b"))


def test_a_picture_that_is_listed_twice_is_taken_once(tmp_path):
    coco(tmp_path, lambda table: table["images"].append(dict(table["images"][0])))
    assert sum(examine(tmp_path).summary()["splits"].values()) == len(STEMS)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda t: t["images"][1].update(id=10), "several images of result.json have the same id"),
        (
            lambda t: t["categories"].append({"id": 1, "name": "x"}),
            "several categories of result.json have the same id",
        ),
        (lambda t: t["images"].append({**t["images"][0], "id": 99}), "have several ids in"),
        (lambda t: t["annotations"][0].update(segments_info=[]), "is a panoptic file"),
    ],
)
def test_coco_whose_ids_do_not_say_what_belongs_together_is_refused(tmp_path, edit, words):
    assert_refused(coco(tmp_path, edit), words)


def test_one_file_in_both_splits_is_told(tmp_path):
    coco(tmp_path)
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        shutil.copy(tmp_path / "result.json", tmp_path / "annotations" / f"instances_{split}.json")
    (tmp_path / "result.json").unlink()
    problems = {problem.code: problem for problem in examine(tmp_path).problems}
    assert problems["duplicate-across-splits"].count == len(STEMS)


def labelme(root: Path, edit=lambda table, stem: None) -> Path:
    for stem in STEMS:
        save(scene(stem).picture, root / f"{stem}.jpg")
        shapes = [{"label": NAMES[k], "points": p, "shape_type": "polygon"} for k, p in scene(stem).outlines]
        table = {
            "shapes": shapes,
            "imagePath": f"{stem}.jpg",
            "imageData": None,
            "imageHeight": HEIGHT,
            "imageWidth": WIDTH,
        }
        edit(table, stem)
        (root / f"{stem}.json").write_text(json.dumps(table))
    return root


def fractions(shapes) -> None:
    for shape in shapes:
        if "points" in shape:
            shape["points"] = [[x / WIDTH % 1, y / HEIGHT % 1] for x, y in shape["points"]]
        else:
            ring = shape["segmentation"][0]
            shape["segmentation"] = [[v / (HEIGHT if i % 2 else WIDTH) % 1 for i, v in enumerate(ring)]]


def test_outlines_in_fractions_of_the_picture_are_no_outlines_in_pixels(tmp_path):
    assert_refused(
        coco(tmp_path / "coco", lambda table: fractions(table["annotations"])),
        "[bad-shape]",
        "fractions of the image",
    )
    tmp_path.joinpath("labelme").mkdir()
    assert_refused(
        labelme(tmp_path / "labelme", lambda table, stem: fractions(table["shapes"])), "fractions of the image"
    )


def test_names_that_differ_in_case_only_are_told(tmp_path):
    def edit(table, stem):
        for shape in table["shapes"] if stem == "scene_c" else []:
            shape["label"] = f"{shape['label'].title()} "

    problems = {problem.code: problem for problem in examine(labelme(tmp_path, edit)).problems}
    assert "'Brick ' and 'brick'" in problems["similar-classes"].cause


def test_a_shape_without_a_label_is_no_class(tmp_path):
    labelme(tmp_path, lambda table, stem: table["shapes"][0].update(label=None))
    found = examine(tmp_path)
    assert "None" not in found.dataset.classes
    assert "bad-shape" in {problem.code for problem in found.problems}


def test_one_annotation_file_that_is_broken_does_not_spoil_the_others(tmp_path):
    labelme(tmp_path)
    (tmp_path / "scene_c.json").write_text("{")
    found = examine(tmp_path)
    broken = next(problem for problem in found.problems if problem.code == "unreadable")
    assert (broken.files, broken.stems) == (("scene_c.json",), {"scene_c"})
    assert sum(found.summary()["splits"].values()) == len(STEMS) - 1


# pictures and masks


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_further_pages_are_not_read_in_silence(tmp_path, kind):
    pairs(tmp_path)
    path = next((tmp_path / kind).glob("scene_b.*"))
    first = Image.open(path).copy()
    path.unlink()
    first.save(path.with_suffix(".tif"), save_all=True, append_images=[first.rotate(180)])
    assert assert_read(tmp_path, "several-frames")["several-frames"].files == (f"{kind}/scene_b.tif",)


def test_colours_that_are_nearly_named_get_the_class_of_the_named_one(tmp_path):
    table = ", ".join(f'"#{r:02x}{g:02x}{b:02x}" = "{name}"' for (r, g, b), name in zip(COLORS, NAMES, strict=True))
    pairs(tmp_path, named=False)
    (tmp_path / "data.toml").write_text(f"colors = {{ {table} }}\n")
    for stem in STEMS:
        save(np.where((shown := colored(scene(stem).labels)) == 128, 127, shown), tmp_path / "masks" / f"{stem}.png")
    said = assert_refused(tmp_path, "[unknown-color]", "nearly colours that are named")
    (tmp_path / "data.toml").write_text(next(line for line in said.splitlines() if line.startswith("colors = ")))
    assert_read(tmp_path)


def damaged(labels: np.ndarray, number: int) -> np.ndarray:
    """What is left of a mask of 0 and `number` after JPEG, as 0 and 1."""
    file = io.BytesIO()
    Image.fromarray(labels * np.uint8(number)).save(file, "JPEG", quality=75)
    return (np.array(Image.open(file)) > 0).astype(np.uint8)
