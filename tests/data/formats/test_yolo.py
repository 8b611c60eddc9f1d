from __future__ import annotations

import numpy as np
import pytest

from fullconv.data import open_dataset
from fullconv.errors import DataError
from synthetic import oracle
from synthetic.images import write_noise
from synthetic.reading import codes, problems, read_mask, split_sizes

SIZE = (40, 60)
SQUARE = [(0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75)]
TRIANGLE = [(0.1, 0.1), (0.8, 0.2), (0.3, 0.9)]
NAMES = "names:\n  0: crack\n  1: 'hole: deep'\n"


def line(number, points):
    return " ".join([str(number), *(f"{value:.6f}" for point in points for value in point)]) + "\n"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def pixels(points):
    return oracle.polygon(SIZE, [(x * SIZE[1], y * SIZE[0]) for x, y in points])


LAYOUTS = {
    "kind-first": ("images/{split}/{name}.png", "labels/{split}/{name}.txt", "path: .\ntrain: images/train\nval: images/val\n"),
    "split-first": ("{split}/images/{name}.png", "{split}/labels/{name}.txt", "train: ../train/images\nval: ../val/images\n"),
    "foreign": ("images/{split}/{name}.png", "labels/{split}/{name}.txt",
                "path: /home/x/sets/ours\ntrain: /home/x/sets/ours/images/train\nval: [images/val]\n"),
    "no paths": ("images/{split}/{name}.png", "labels/{split}/{name}.txt", ""),
    "no images folder": ("{split}/{name}.png", "{split}/{name}.txt", "train: train\nval: val\n"),
    "lists": ("images/{split}/{name}.png", "labels/{split}/{name}.txt", "train: train.txt\nval: val.txt\n"),
}  # fmt: skip
MEMBERS = {"train": ("a", "b.1", "c"), "val": ("d",)}


def make(root, layout="kind-first"):
    image, label, paths = LAYOUTS[layout]
    for split, names in MEMBERS.items():
        for name in names:
            write_noise(root / image.format(split=split, name=name), SIZE)
            write(root / label.format(split=split, name=name), line(0, TRIANGLE) + line(1, SQUARE))
        if layout == "lists":
            write(root / f"{split}.txt", "".join(f"./{image.format(split=split, name=name)}\n" for name in names))
    write(root / "data.yaml", f"{paths}nc: 2\n{NAMES}")
    return root


@pytest.mark.parametrize("layout", LAYOUTS)
def test_polygons_are_fractions_of_the_image_in_every_layout(tmp_path, layout):
    make(tmp_path, layout)
    opened = open_dataset(tmp_path)
    assert (opened.format, opened.classes) == ("yolo", ("background", "crack", "hole: deep"))
    assert split_sizes(tmp_path) == {"train": 3, "val": 1}
    expected = np.where(pixels(SQUARE), 2, pixels(TRIANGLE))
    for stem in "a", "b.1", "d":
        oracle.assert_close(read_mask(tmp_path, stem), expected)
    assert codes(tmp_path) <= {"unlabeled", "path-mended", "few-pictures"} | {"hidden-shapes"}


def test_lists_of_names_and_classes_txt_do_as_well(tmp_path):
    make(tmp_path)
    write(tmp_path / "data.yaml", "train: images/train\nval: images/val\nnames: [crack, 'hole: deep']\n")
    assert open_dataset(tmp_path).classes == ("background", "crack", "hole: deep")
    (tmp_path / "data.yaml").unlink()
    write(tmp_path / "classes.txt", "crack\nhole\n")
    with pytest.raises(DataError, match=r"classes\.txt: names no class for pixels without a shape") as error:
        open_dataset(tmp_path)
    write(tmp_path / "data.toml", str(error.value).splitlines()[-1])
    assert open_dataset(tmp_path).classes == ("background", "crack", "hole")
    assert read_mask(tmp_path, "a")[20, 30] == 2
    write(tmp_path / "data.toml", 'classes = ["background", "hole", "crack"]')
    assert read_mask(tmp_path, "a")[20, 30] == 1


def test_an_image_in_two_splits_counts_once(tmp_path):
    make(tmp_path)
    write(tmp_path / "data.yaml", f"train: images/train\nval: [images/train, images/val]\n{NAMES}")
    found = problems(tmp_path)
    assert (found["duplicate-across-splits"].count, found["duplicate-across-splits"].severity) == (3, "warning")
    assert "several-annotations" not in found
    assert split_sizes(tmp_path) == {"train": 3, "val": 1}


def test_an_image_without_a_label_file_is_background_and_noted(tmp_path):
    make(tmp_path)
    (tmp_path / "labels/train/a.txt").unlink()
    write(tmp_path / "labels/train/c.txt", "")
    assert not read_mask(tmp_path, "a").any()
    assert not read_mask(tmp_path, "c").any()
    found = problems(tmp_path)["unlisted"]
    assert (found.severity, found.files) == ("note", ("images/train/a.png",))


def test_boxes_among_polygons_are_void_and_data_for_detection_is_named(tmp_path):
    make(tmp_path)
    write(tmp_path / "labels/train/a.txt", "0 0.5 0.5 0.5 0.5\n")
    assert read_mask(tmp_path, "a")[20, 30] == 255
    for path in tmp_path.glob("labels/*/*.txt"):
        write(path, "0 0.5 0.5 0.5 0.5\n1 0.1 0.1 0.1 0.1\n")
    with pytest.raises(DataError, match=r"only boxes.*YOLO's data for detection.*boxes = .fill."):
        open_dataset(tmp_path)
    names = (tmp_path / "data.yaml").read_text()
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(DataError, match="YOLO's data for detection"):
        open_dataset(tmp_path)
    write(tmp_path / "data.yaml", names)
    write(tmp_path / "data.toml", 'boxes = "fill"')
    mask = read_mask(tmp_path, "a")
    assert (mask[20, 30], mask[4, 6], mask[2, 30]) == (1, 2, 0)
    write(tmp_path / "data.yaml", f"kpt_shape: [17, 3]\n{NAMES}")
    with pytest.raises(DataError, match="YOLO's data for poses"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0 0.1 0.1 0.5 0.1 0.5 0.5\n0 0.1 x 0.3 0.4 0.5 0.6\n", "line 2 is not a class number"),
        ("7 0.1 0.1 0.5 0.1 0.5 0.5\n", "line 1 has class 7, but data.yaml names 0 to 1"),
        ("0 0.1 0.1 0.5 0.1 0.5 0.5 0.7\n", "line 1 has 7 coordinates"),
        ("0 0.1 0.1\n", "line 1 has 2 coordinates"),
        ("0 10 10 50 10 50 50\n", "line 1 has coordinates that are no fractions"),
        ("0 nan 0.1 0.5 0.1 0.5 0.5\n", "line 1 has coordinates that are no fractions"),
    ],
)
def test_a_malformed_line_is_an_error_of_its_file(tmp_path, text, reason):
    make(tmp_path)
    write(tmp_path / "labels/train/b.1.txt", text)
    found = problems(tmp_path)["unreadable"]
    assert (found.severity, found.files) == ("error", ("labels/train/b.1.txt",))
    assert reason in found.cause


def test_an_outline_of_very_many_points_is_recognized(tmp_path):
    make(tmp_path)
    angles = np.linspace(0, 2 * np.pi, 9000, endpoint=False)
    circle = [(0.5 + 0.3 * np.cos(angle), 0.5 + 0.3 * np.sin(angle)) for angle in angles]
    for path in tmp_path.glob("labels/*/*.txt"):
        write(path, line(1, circle))
    oracle.assert_close(read_mask(tmp_path, "a"), 2 * pixels(circle).astype(np.uint8))


def test_label_files_without_an_image_are_named(tmp_path):
    make(tmp_path)
    (tmp_path / "images/train/a.png").unlink()
    assert problems(tmp_path)["missing-picture"].files == ("labels/train/a.txt",)


@pytest.mark.parametrize("text", ["names: [a, b", "names: 7\n", "names: [a, a]\n", "names: {x: a}\n", "names:\n"])
def test_a_malformed_yaml_is_an_error(tmp_path, text):
    make(tmp_path)
    write(tmp_path / "data.yaml", text)
    with pytest.raises(DataError, match=r"data\.yaml: .*(YAML|names)"):
        open_dataset(tmp_path)


def test_a_missing_yaml_and_missing_folders_are_named(tmp_path):
    make(tmp_path)
    write(tmp_path / "data.yaml", f"train: images/train\nval: images/valid\ntest: ../test/images\n{NAMES}")
    assert "images/valid" in problems(tmp_path)["missing-folder"].files
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(DataError, match=r"data\.yaml: does not exist.*Add it with the line names"):
        open_dataset(tmp_path)
