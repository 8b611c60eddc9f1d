from __future__ import annotations

import json

import numpy as np
from PIL import Image

from fullconv.data import open_dataset
from synthetic.reading import codes, problems, split_sizes
from synthetic.shapes import save_image


def save(array, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def ade(root, mask=((0, 1, 2), (150, 3, 0)), dtype=np.uint8):
    mask = np.array(mask, dtype)
    for split, number in (("training", 1), ("training", 2), ("validation", 3)):
        save_image(np.full((*mask.shape, 3), number, np.uint8), root / "images" / split / f"ADE_{number}.jpg")
        save(mask, root / "annotations" / split / f"ADE_{number}.png")
    return root


def test_ade20k_shifts_its_150_classes_and_0_is_void(tmp_path):
    data = open_dataset(ade(tmp_path))
    assert (data.format, len(data.classes), data.classes[0]) == ("ade20k", 150, "class1")
    assert split_sizes(tmp_path) == {"train": 2, "val": 1}
    assert data.read_mask(data.samples("val")[0]).tolist() == [[255, 0, 1], [149, 2, 255]]
    assert {p.severity for p in problems(tmp_path).values() if p.code != "same-mask"} == {"note"}
    rows = [f"{i}\t0.1\t5\t5\t{'wall, side' if i == 1 else f'thing{i}, x'}" for i in range(1, 151)]
    (tmp_path / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tName\n" + "\n".join(rows))
    assert open_dataset(tmp_path).classes[:2] == ("wall", "thing2")


def test_masks_of_the_full_ade20k_release_are_refused(tmp_path):
    ade(tmp_path)
    save(np.zeros((2, 3, 3), np.uint8), tmp_path / "annotations" / "training" / "ADE_1_seg.png")
    (found,) = problems(tmp_path).values()
    assert "full ADE20K release" in found.cause
    assert "use the scene-parsing release" in found.remedy


NAMES = {1: "wall, side", 401: "car, auto", 2836: "traffic light, traffic signal", 3050: "window", 64: "wall"}


def ade_full(root, numbers=(1, 401, 2836), images=3, tables=True):
    for number in range(images):
        split = "validation" if number == 2 else "training"
        base = root / "images" / "ADE" / split / "urban" / "street" / f"ADE_train_0000{number}"
        save_image(np.full((4, 8, 3), number, np.uint8), base.with_suffix(".jpg"))
        mask = np.zeros((4, 8, 3), np.uint8)
        for i, index in enumerate(numbers):
            mask[i % 4, i // 4 + 1, :] = (index // 256 * 10, index % 256, i + 1)  # blue counts the instances
        save(mask, base.with_name(base.name + "_seg.png"))
        save(mask, base.with_name(base.name + "_parts_1.png"))
        save(np.full((4, 8), 255, np.uint8), base / f"instance_000_{base.name}.png")
        if tables:
            rows = [{"id": i, "name": NAMES.get(n, f"thing {n}"), "name_ndx": n, "parts": {"part_level": 0}}
                    for i, n in enumerate(numbers)]  # fmt: skip
            base.with_suffix(".json").write_text(json.dumps({"annotation": {"object": rows}}))
    return root


def test_the_code_of_the_full_ade20k_release_is_read(tmp_path):
    data = open_dataset(ade_full(tmp_path))
    assert (data.format, data.classes) == ("ade20k", ("wall", "car", "traffic light"))
    assert split_sizes(tmp_path) == {"train": 2, "val": 1}
    mask = data.read_mask(data.samples("val")[0])
    assert mask[:, 1].tolist() == [0, 1, 2, 255]
    assert set(mask[:, 2:].ravel()) == {255}
    assert not [p for p in problems(tmp_path).values() if p.severity == "error"]


def test_classes_of_the_full_ade20k_release_can_be_chosen_and_without_tables_are_numbers(tmp_path):
    ade_full(tmp_path / "a", numbers=(1, 64, 401))
    (tmp_path / "a" / "data.toml").write_text('classes = ["car", "wall, side"]')
    data = open_dataset(tmp_path / "a")
    assert data.read_mask(data.samples("val")[0])[:, 1].tolist() == [1, 255, 0, 255]
    assert [p.files for p in data.problems if p.code == "other-class"] == [("wall",)]
    (tmp_path / "a" / "data.toml").write_text('classes = ["car", "wal"]')
    (found,) = problems(tmp_path / "a").values()
    assert "no mask holds 'wal'" in found.cause
    assert found.remedy == "Did you mean 'wall'? Correct classes in data.toml."
    assert open_dataset(ade_full(tmp_path / "b", tables=False)).classes == ("object1", "object401", "object2836")


def test_too_many_classes_are_refused_with_the_line_to_write(tmp_path):
    ade_full(tmp_path, numbers=range(1, 20), images=3)
    mask = np.zeros((16, 20, 3), np.uint8)
    index = np.arange(320).reshape(16, 20)
    mask[..., 0], mask[..., 1] = index // 256 * 10, index % 256
    place = next(tmp_path.rglob("ADE_train_00000_seg.png"))
    save(mask, place)
    (found,) = problems(tmp_path).values()
    assert "hold 319 classes, more than 255" in found.cause
    assert 'classes = ["' in found.cause + found.remedy


def test_masks_of_16_bits_and_others_that_count_from_0_are_reported(tmp_path):
    scaled = ((3 * 257, 7 * 257, 0), (3 * 257, 7 * 257, 0))
    assert "scaled-labels" in codes(ade(tmp_path / "a", scaled, np.uint16))
    assert problems(ade(tmp_path / "b", ((3, 7, 255), (3, 7, 255))))["off-by-one"].severity == "warning"
    assert not {"off-by-one", "scaled-labels"} & codes(ade(tmp_path / "c", ((3, 7, 0), (3, 7, 0))))


def test_missing_and_duplicate_files_are_reported(tmp_path):
    ade(tmp_path)
    images, masks = tmp_path / "images", tmp_path / "annotations"
    (images / "training" / "ADE_1.jpg").unlink()
    Image.open(images / "training" / "ADE_2.jpg").save(images / "training" / "ADE_2.bmp")
    (masks / "validation" / "ADE_3.png").unlink()
    found = problems(tmp_path)
    assert found["missing-picture"].files == ("annotations/training/ADE_1.png",)
    assert found["duplicate-stem"].files == ("images/training/ADE_2.jpg",)
    assert found["missing-mask"].files == ("images/validation/ADE_3.jpg",)
