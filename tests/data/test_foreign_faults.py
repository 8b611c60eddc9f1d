"""What a second set of faults, in formats of annotation tools, taught the doctor: each rule on the smallest set that shows it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullconv.data import inspect, open_dataset
from fullconv.data.formats.rasterize import DrawnMask, Shape
from fullconv.data.formats.shape_issues import BoundsCheck
from fullconv.data.samples import Sample
from fullconv.errors import InputError
from fullconv.images import read_image

RNG = np.random.default_rng(4)
CLASSES = ("sky", "road", "car")


def write_png(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def picture(path: Path) -> Path:
    return write_png(path, RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8))


def halves(*numbers: int) -> np.ndarray:
    """A mask whose stripes hold these numbers, (24, 32)."""
    return np.repeat(np.array(numbers), 32 // len(numbers) + 1)[None, :32].repeat(24, 0)


def codes(root: Path) -> dict[str, str]:
    """Codes with their severities, without what small random sets always have."""
    return {found.code: found.severity for found in inspect(root) if found.code not in ("unlabeled", "class-unused")}


def roboflow(root: Path, *numbers: int) -> Path:
    for i in range(5):
        picture(root / f"train/p{i}.png")
        mask = halves(*(numbers if i % 2 else numbers[::-1]))
        write_png(root / f"train/p{i}_mask.png", mask.astype(np.uint8))
    (root / "train/_classes.csv").write_text(
        "Pixel Value, Class\n" + "".join(f"{i}, {n}\n" for i, n in enumerate(CLASSES))
    )
    return root


def ade(root: Path, *numbers: int, dtype: type = np.uint8) -> Path:
    for i in range(5):
        picture(root / f"images/training/p{i}.png")
        mask = halves(*(numbers if i % 2 else numbers[::-1]))
        write_png(root / f"annotations/training/p{i}.png", mask.astype(dtype))
    return root


def cvat(root: Path, shape: str = "", image: str = "", count: int = 5) -> Path:
    rows = ""
    for i in range(count):
        picture(root / f"images/p{i}.png")
        drawn = shape or '<polygon label="car" points="2,2;20,2;20,20" z_order="0"/>'
        rows += f'<image id="{i}" name="p{i}.png" width="32" height="24">{drawn}</image>'
    labels = "<labels><label><name>car</name></label></labels>"
    (root / "annotations.xml").write_text(f"<annotations><meta><task>{labels}</task></meta>{rows}{image}</annotations>")
    return root


def cvat_masks(root: Path, **lists: str) -> Path:
    root.mkdir(exist_ok=True)
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nsky:0,0,0::\nroad:0,0,255::\n")
    for i in range(4):
        picture(root / f"JPEGImages/p{i}.png")
        write_png(
            root / f"SegmentationClass/p{i}.png", np.dstack([halves(0, 0)] * 2 + [halves(0, 255)]).astype(np.uint8)
        )
    for split, names in lists.items():
        path = root / f"ImageSets/Segmentation/{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name}\n" for name in names.split()))
    return root


@pytest.mark.parametrize(
    ("numbers", "code"),
    [((0, 1, 2), ""), ((1, 2, 3), "off-by-one"), ((0, 60, 120), "scaled-labels"), ((0, 1, 255), "void-as-class")],
)
def test_numbers_are_judged_against_the_table_of_the_format(tmp_path, numbers, code):
    found = codes(roboflow(tmp_path, *numbers))
    assert [c for c in found if c in ("off-by-one", "scaled-labels", "void-as-class", "unknown-label")] == [
        code
    ] * bool(code)


def test_lines_that_the_remedy_prints_mend_numbers_of_a_format(tmp_path):
    roboflow(tmp_path, 0, 60, 120)
    [told] = [one for one in inspect(tmp_path) if one.code == "scaled-labels"]
    (tmp_path / "data.toml").write_text(told.remedy.split("\n", 1)[1])
    assert not [one for one in inspect(tmp_path) if one.severity == "error"]
    counted = open_dataset(tmp_path)
    assert set(np.unique(counted.read_mask(counted.samples("train")[0]))) == {0, 1, 2}


def test_16_bit_masks_and_others_that_count_from_0_are_told_in_ade20k(tmp_path):
    assert "scaled-labels" in codes(ade(tmp_path / "a", 3 * 257, 7 * 257, 0, dtype=np.uint16))
    assert codes(ade(tmp_path / "b", 3, 7, 255)).get("off-by-one") == "warning"
    assert not {"off-by-one", "scaled-labels"} & set(codes(ade(tmp_path / "c", 3, 7, 0)))


def test_train_ids_under_the_name_of_label_ids_are_told(tmp_path):
    for i in range(3):
        picture(tmp_path / f"leftImg8bit/train/ulm/ulm_{i}_leftImg8bit.png")
        write_png(tmp_path / f"gtFine/train/ulm/ulm_{i}_gtFine_labelIds.png", halves(0, 10, 255).astype(np.uint8))
    [told] = [one for one in inspect(tmp_path) if one.code == "off-by-one"]
    assert "255" in told.cause
    assert "10 = " in told.remedy


@pytest.mark.parametrize(
    ("lists", "code"),
    [
        ({"train": "p0 p1 p2", "val": "p3"}, ""),
        ({"train": "p0.png p1.png p2.png", "val": "p3.png"}, ""),
        ({"train": "p0 p1 p2 p9", "val": "p3"}, "missing-listed"),
        ({"train": "p0 p1", "val": "p3"}, "unlisted"),
        ({"train": "p0 p1 p2", "val": "p2 p3"}, "duplicate-across-splits"),
        ({"train": "", "val": "p2 p3"}, "empty-split"),
    ],
)
def test_lists_of_cvat_are_followed_to_the_letter(tmp_path, lists, code):
    found = codes(cvat_masks(tmp_path, **lists))
    told = {"missing-listed", "unlisted", "duplicate-across-splits", "empty-split"} & set(found)
    assert (code in told) if code else not told


def test_labels_and_pictures_of_cvat_that_do_not_fit_its_file_are_told(tmp_path):
    assert not {"unknown-class", "unlisted", "several-annotations"} & set(codes(cvat(tmp_path / "a")))
    bus = '<polygon label="bus" points="2,2;20,2;20,20" z_order="0"/>'
    assert codes(cvat(tmp_path / "b", bus))["unknown-class"] == "error"
    again = '<image id="9" name="p0.png" width="32" height="24"></image>'
    assert codes(cvat(tmp_path / "c", image=again))["several-annotations"] == "warning"
    picture(cvat(tmp_path / "d") / "images/later.png")
    assert codes(tmp_path / "d")["unlisted"] == "note"


@pytest.mark.parametrize(
    ("points", "told"),
    [
        ("2,2;33,2;33,25", False),  # a hand that slipped
        ("2,2;48,2;48,20", True),  # further right than the picture is wide
        ("90,90;95,90;95,95", True),
        ("0.1,0.1;0.9,0.1;0.9,0.9", True),
    ],
)
def test_coordinates_of_another_unit_are_told(tmp_path, points, told):
    shape = f'<polygon label="car" points="{points}" z_order="0"/>'
    assert ("outside-picture" in codes(cvat(tmp_path, shape))) == told


@pytest.mark.parametrize(
    ("shape", "outside"),
    [
        (Shape("ellipse", (-9.0, 5.0, 3.0, 3.0, 0.0)), True),
        (Shape("coco-polygon", ((1.0, 30.0, 9.0, 30.0, 9.0, 39.0),)), True),
        (Shape("pil-rectangle", (1.0, 1.0, 9.0, 9.0)), False),
        (Shape("pil-line", ((40.0, 1.0), (44.0, 9.0))), True),
        (Shape("pil-polygon", (((1.0, 1.0), (9.0, 1.0), (9.0, 9.0)),)), False),
        (Shape("coco-rle", {}), False),
    ],
)
def test_a_shape_of_any_kind_that_lies_outside_is_told(tmp_path, shape, outside):
    frame = BoundsCheck()
    inside = Shape("polygon", (((1.0, 1.0), (30.0, 1.0), (9.0, 9.0)),))
    mask = DrawnMask(tmp_path, "", tmp_path, (24, 32), 0, (inside, shape))
    frame.add(Sample("p", tmp_path, {"": mask}), mask, (24, 32))
    assert [one.code for one in frame.problems()] == ["outside-picture"] * outside


def test_an_annotation_without_its_list_of_objects_is_no_empty_picture(tmp_path):
    (tmp_path / "meta.json").write_text(json.dumps({"classes": [{"title": "car"}]}))
    square = {
        "classTitle": "car",
        "geometryType": "polygon",
        "points": {"exterior": [[2, 2], [20, 2], [9, 20]], "interior": []},
    }
    (tmp_path / "set/ann").mkdir(parents=True)
    for i, objects in enumerate(([square], [square], None, [])):
        picture(tmp_path / f"set/img/p{i}.png")
        table = {"size": {"height": 24, "width": 32}} | ({} if objects is None else {"objects": objects})
        (tmp_path / f"set/ann/p{i}.png.json").write_text(json.dumps(table))
        (tmp_path / f"set/ann/._p{i}.png.json").write_bytes(b"\0\5\x16\7")  # as a Mac leaves behind
    [told] = [one for one in inspect(tmp_path) if one.code == "unreadable"]
    assert told.files == ("set/ann/p2.png.json",)


def test_results_of_label_studio_that_are_no_list_or_have_two_labels_are_told(tmp_path):
    def row(*labels: str) -> dict[str, object]:
        value = {"points": [[10, 10], [60, 10], [60, 60]], "polygonlabels": list(labels)}
        return {"type": "polygonlabels", "original_width": 32, "original_height": 24, "value": value}

    tasks = []
    for i, result in enumerate(([row("car")], {"oops": 1}, [row("car", "road")], [row("road")])):
        picture(tmp_path / f"p{i}.png")
        tasks.append({"id": i, "data": {"image": f"p{i}.png"}, "annotations": [{"result": result}]})
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    found = {one.code: one for one in inspect(tmp_path)}
    assert found["bad-shape"].files == ("p1",)
    assert found["several-labels"].files == ("p2",)
    assert "car and road" in found["several-labels"].cause


def test_partners_that_are_missing_or_twofold_are_told_in_public_layouts(tmp_path):
    ade(tmp_path, 3, 7)
    (tmp_path / "images/training/p0.png").unlink()
    Image.open(tmp_path / "images/training/p1.png").save(tmp_path / "images/training/p1.bmp")
    (tmp_path / "annotations/training/p2.png").unlink()
    found = {one.code: one for one in inspect(tmp_path)}
    assert found["missing-picture"].files == ("annotations/training/p0.png",)
    assert found["duplicate-stem"].files == ("images/training/p1.png",)
    assert found["missing-mask"].files == ("images/training/p2.png",)


def test_class_names_that_differ_in_case_are_told_wherever_they_come_from(tmp_path):
    roboflow(tmp_path, 0, 1, 2)
    (tmp_path / "train/_classes.csv").write_text("Pixel Value, Class\n0, sky\n1, car\n2, Car\n")
    assert codes(tmp_path)["similar-classes"] == "warning"


def test_a_png_whose_end_was_lost_to_zeros_is_refused_and_a_padded_one_is_not(tmp_path):
    smooth = np.dstack([halves(10, 200)] * 3).astype(np.uint8)
    path = write_png(tmp_path / "p.png", smooth)
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(512))
    assert (read_image(path) == smooth).all()
    grain = np.linspace(0, 200, 160)[None, :, None] + np.random.default_rng(0).normal(0, 6, (96, 160, 3))
    write_png(path, grain.clip(0, 255).astype(np.uint8))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    with pytest.raises(InputError, match="ends in zeros, so part of its content was lost"):
        read_image(path)
