"""Section 3 of the interface: layouts, every key of data.toml, splits, and what is said about bad files."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from pathlib import Path

import contract_tools as tools
import numpy as np
import pytest
from contract_tools import CLASSES, assert_user_error, call, fill, pairs, save, scene, toml
from PIL import Image

import fullconv

PROBLEM_KEYS = {"code", "severity", "count", "files", "cause", "remedy"}


def check(data: Path, *options: object) -> tools.Answer:
    return call("check", data, "--json", *options)


def good(data: Path) -> dict:
    """The doctor's answer about a data set that it must accept."""
    answer = check(data)
    assert answer.rc == 0, str(answer)
    found = answer.json()
    assert found["ok"] is True
    return found


def names(found: dict) -> list[str]:
    return [entry["name"] for entry in found["classes"]]


def pixels(found: dict) -> list[int]:
    return [entry["pixels"] for entry in found["classes"]]


def errors(found: dict) -> list[dict]:
    return [problem for problem in found["problems"] if problem["severity"] == "error"]


# --- layouts ---------------------------------------------------------------------------------------------------------


def layout_1(data: Path) -> Path:
    fill(data / "train", data / "trainannot", 4)
    fill(data / "val", data / "valannot", 2, seed=20)
    fill(data / "test", data / "testannot", 3, seed=40)
    return toml(data)


def layout_2a(data: Path) -> Path:
    for split, count, seed in (("train", 4, 0), ("val", 2, 20), ("test", 3, 40)):
        fill(data / split / "images", data / split / "masks", count, seed=seed)
    return toml(data)


def layout_2b(data: Path) -> Path:
    for split, count, seed in (("train", 4, 0), ("val", 2, 20), ("test", 3, 40)):
        fill(data / "images" / split, data / "masks" / split, count, seed=seed)
    return toml(data)


@pytest.mark.parametrize("layout", [layout_1, layout_2a, layout_2b])
def test_layouts_with_splits_are_recognised_and_counted(layout, tmp_path):
    data = layout(tmp_path / "data")
    before = tools.snapshot(data)
    found = good(data)
    assert {"ok", "format", "classes", "splits", "problems"} <= set(found)
    assert isinstance(found["format"], str)
    assert names(found) == list(CLASSES)
    assert [entry["index"] for entry in found["classes"]] == [0, 1, 2]
    seeds = [0, 1, 2, 3, 20, 21, 40, 41, 42]
    masks = [scene(seed)[1] for seed in seeds]
    assert pixels(found) == [sum(int((m == c).sum()) for m in masks) for c in range(3)]
    assert [entry["pictures"] for entry in found["classes"]] == [
        sum(bool((m == c).any()) for m in masks) for c in range(3)
    ]
    assert set(found["splits"]) == {"train", "val", "test"}
    dataset = fullconv.open_dataset(str(data))
    assert {name: len(items) for name, items in dataset.splits.items()} == {"train": 4, "val": 2, "test": 3}
    assert [getattr(c, "name", c) for c in dataset.classes] == list(CLASSES)
    assert tools.snapshot(data) == before


def test_a_fifth_goes_to_val_the_same_in_every_copy(tmp_path):
    def make(data: Path, order: list[int]) -> Path:
        for i in order:
            picture, mask = scene(i, 8, 8)
            save(picture, data / f"images/p{i:03d}.png")
            save(mask, data / f"masks/p{i:03d}.png")
        return toml(data)

    one = make(tmp_path / "one", list(range(60)))
    two = make(tmp_path / "elsewhere/two", list(range(59, -1, -1)))
    splits, others = (
        {name: {sample.stem for sample in members} for name, members in fullconv.open_dataset(data).splits.items()}
        for data in (one, two)
    )
    assert splits == others
    assert 4 <= len(splits["val"]) <= 20
    assert not splits["val"] & splits["train"]
    assert len(splits["val"] | splits["train"]) == 60


def test_two_layouts_that_fit_are_both_named_and_format_decides(tmp_path):
    data = layout_1(tmp_path / "data")
    fill(data / "images", data / "masks", 5, seed=70)
    answer = call("check", data)
    assert_user_error(answer, "--format")
    assert_user_error(call("train", data, "-o", tmp_path / "run", *tools.QUICK), "--format")
    offered = sorted(set(re.findall(r"--format (\w[\w-]*)", answer.text)))
    found = {name: check(data, "--format", name).json() for name in offered}
    assert sorted(sum(one["splits"].values()) for one in found.values()) == [5, 9]
    for name, one in found.items():
        toml(data, f'format = "{name}"\nclasses = {json.dumps(CLASSES)}\n')
        assert pixels(good(data)) == pixels(one)


@pytest.mark.parametrize("top", ["", "shapes/"])
def test_a_zip_is_as_good_as_the_folder(tmp_path, top):
    data = layout_2a(tmp_path / "data")
    archive = tmp_path / "data.zip"
    with zipfile.ZipFile(archive, "w") as target:
        for file in sorted(data.rglob("*")):
            if file.is_file():
                target.write(file, top + file.relative_to(data).as_posix())
    folder, zipped = good(data), good(archive)
    assert names(zipped) == names(folder)
    assert pixels(zipped) == pixels(folder)
    opened = [fullconv.open_dataset(source) for source in (archive, data)]
    assert len({one.fingerprint() for one in opened}) == 1
    assert len({str({k: [s.stem for s in v] for k, v in one.splits.items()}) for one in opened}) == 1
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["data.zip"]


# --- data.toml and classes.txt ---------------------------------------------------------------------------------------


def in_colors(mask: np.ndarray) -> np.ndarray:
    """The mask in colours; void is white."""
    table = np.full((256, 3), 255, np.uint8)
    table[:3] = tools.PALETTE
    return table[mask]


def test_a_trained_card_carries_bands_values_and_palette_and_original_gives_the_values_back(tmp_path):
    data = tmp_path / "data"
    for i in range(10):
        picture, mask = scene(i)
        save(picture, data / f"photos/a{i}.png")
        save(np.select([mask == 255, mask == 0], [7, 0], 255).astype(np.uint8), data / f"labels/a{i}_mask.png")
    toml(
        data,
        'classes = ["background", "crack"]\npalette = [[0, 0, 0], [255, 0, 9]]\n'
        'values = { 0 = "background", 255 = "crack", 7 = "void" }\n'
        'images = "photos"\nmasks = "labels"\nmask_suffix = "_mask"\nbands = [1]\n',
    )
    run = tmp_path / "run"
    answer = call("train", data, "-o", run, *tools.QUICK)
    assert answer.rc == 0, str(answer)
    card = tools.card_of(run / "model.safetensors")
    assert card["in_channels"] == 1
    assert card["palette"] == [[0, 0, 0], [255, 0, 9]]
    assert [c if isinstance(c, str) else c["name"] for c in card["classes"]] == ["background", "crack"]
    assert len(card["mean"]) == len(card["std"]) == 1
    assert '"255"' in json.dumps(card["values"]) or "255" in json.dumps(card["values"])
    for form, wanted in (("index", {0, 1}), ("original", {0, 255})):
        out = tmp_path / form
        answer = call("predict", run / "model.safetensors", data / "photos/*.png", "-o", out, "--format", form)
        assert answer.rc == 0, str(answer)
        values = {int(v) for file in sorted(out.glob("a*.png")) for v in np.unique(tools.read(file))}
        assert values <= wanted
        assert len(values) == 2, "the net must find something for this test to say anything"
    assert call("evaluate", run / "model.safetensors", data, "--json").json()["pixels"] > 0


# --- bad data --------------------------------------------------------------------------------------------------------


def no_folder(data: Path) -> None:
    pass


def empty_folder(data: Path) -> None:
    data.mkdir()


def no_masks(data: Path) -> None:
    pairs(data, 5)
    shutil.rmtree(data / "masks")


def no_mask_at_all_fits(data: Path) -> None:
    pairs(data, 5)
    for file in (data / "masks").iterdir():
        file.unlink()


def other_size(data: Path) -> None:
    pairs(data, 5)
    save(scene(2, 40, 64)[1], data / "masks/p02.png")


def label_200(data: Path) -> None:
    pairs(data, 5, f"classes = {json.dumps([f'c{i}' for i in range(11)])}\n")
    mask = scene(2)[1]
    mask[5:9, 5:9] = 200
    save(mask, data / "masks/p02.png")


def black_and_white(data: Path) -> None:
    fill(data / "images", data / "masks", 5, change=lambda m: np.where(m == 1, 255, 0).astype(np.uint8))


def rgb_without_colours(data: Path) -> None:
    fill(data / "images", data / "masks", 5, change=in_colors)


def truncated_jpeg(data: Path) -> None:
    pairs(data, 5, suffix=".jpg")
    raw = (data / "images/p02.jpg").read_bytes()
    (data / "images/p02.jpg").write_bytes(raw[: len(raw) // 2])


def zero_byte_png(data: Path) -> None:
    pairs(data, 5)
    (data / "images/p02.png").write_bytes(b"")


def zero_byte_mask(data: Path) -> None:
    pairs(data, 5)
    (data / "masks/p02.png").write_bytes(b"")


def no_png(data: Path) -> None:
    pairs(data, 5)
    (data / "images/p02.png").write_text("this is no picture", "utf-8")


def gaps(data: Path) -> None:
    fill(data / "images", data / "masks", 5, change=lambda m: np.where(m == 2, 5, m).astype(np.uint8))


def unknown_key(data: Path) -> None:
    pairs(data, 4, 'clases = ["a", "b"]\n')


def broken_toml(data: Path) -> None:
    pairs(data, 4, 'classes = ["a"\n')


def one_class(data: Path) -> None:
    fill(data / "images", data / "masks", 5, change=np.zeros_like)


def a_file(data: Path) -> None:
    data.write_text("hello", "utf-8")


BAD = {
    no_folder: (r"\bdata\b", "no such|not exist|not found|no folder|there is no"),
    empty_folder: (r"\bdata\b", "images", "masks"),
    no_masks: ("mask",),
    no_mask_at_all_fits: ("mask",),
    other_size: ("p02", "64", "40", "48"),
    label_200: ("p02", r"\b200\b"),
    black_and_white: ("255", r"values\s*=\s*\{"),
    rgb_without_colours: (r"colors\s*=\s*\{",),
    truncated_jpeg: (r"p02\.jpg", "truncated|damaged|cut|broken|incomplete|ends early|unreadable|cannot be read"),
    zero_byte_png: (r"p02\.png", r"empty|zero|0 bytes|no bytes"),
    zero_byte_mask: (r"masks[/\\]p02\.png|p02\.png", r"empty|zero|0 bytes|no bytes"),
    no_png: (r"p02\.png",),
    gaps: (r"classes\s*=\s*\[|values\s*=\s*\{", r"\b5\b"),
    one_class: ("class",),
    a_file: (r"\bdata\b",),
    unknown_key: ("clases", r"\bclasses\b"),
    broken_toml: (r"data\.toml",),
}
FILE_LEVEL = (other_size, label_200, truncated_jpeg, zero_byte_png, zero_byte_mask, no_png)


@pytest.mark.parametrize("spoil", BAD, ids=lambda spoil: spoil.__name__)
def test_bad_data_is_explained_by_check_and_refused_by_train_before_anything_is_written(tmp_path, spoil):
    data, run = tmp_path / "data", tmp_path / "run"
    spoil(data)
    assert_user_error(call("check", data), *BAD[spoil])
    assert_user_error(call("train", data, "-o", run, *tools.QUICK), *BAD[spoil])
    assert not run.exists() or not any(run.iterdir())
    found = check(data).json()
    assert found["ok"] is False
    assert errors(found)
    for problem in found["problems"]:
        assert set(problem) >= PROBLEM_KEYS
        assert problem["severity"] in {"error", "warning", "note"}
        assert len(problem["files"]) <= 20
        assert problem["count"] >= 1
        assert "\\" not in "".join(map(str, problem["files"]))
    assert all(problem["cause"] and problem["remedy"] for problem in errors(found))
    if spoil in FILE_LEVEL:
        (problem,) = errors(found)
        assert problem["count"] == 1
        assert any("p02" in str(file) for file in problem["files"])


def everything_bad(data: Path) -> Path:
    pairs(data, 40)
    (data / "images/p02.png").write_bytes(b"")
    (data / "images/p03.png").write_bytes((data / "images/p03.png").read_bytes()[:200])
    save(scene(4, 20, 20)[1], data / "masks/p04.png")
    mask = scene(5)[1]
    mask[:4] = 77
    save(mask, data / "masks/p05.png")
    for i in range(10, 34):
        (data / f"masks/p{i}.png").write_bytes(b"no picture")
    return data


def test_check_lists_everything_at_once_and_the_first_twenty_files_of_a_kind(tmp_path):
    data = everything_bad(tmp_path / "data")
    before = tools.snapshot(data)
    answer = check(data)
    assert answer.rc == 2
    assert tools.snapshot(data) == before, "check never writes into the data"
    found = answer.json()
    text = json.dumps(errors(found))
    for stem in ("p02", "p03", "p04", "p05", "p10"):
        assert stem in text
    many = max(errors(found), key=lambda problem: problem["count"])
    assert many["count"] >= 24
    assert len(many["files"]) == 20
    assert len({problem["code"] for problem in errors(found)}) >= 3
    assert_user_error(call("train", data, "-o", tmp_path / "run", *tools.QUICK), "p02", "p03", "p04", "p05")


def test_skip_bad_trains_on_the_rest_records_what_it_left_out_and_exits_3(tmp_path):
    data, run = everything_bad(tmp_path / "data"), tmp_path / "run"
    answer = call("train", data, "-o", run, *tools.QUICK, "--skip-bad")
    assert answer.rc == 3, str(answer)
    assert "Traceback" not in answer.text
    for stem in ("p02", "p03", "p04", "p05"):
        assert stem in answer.text
    assert call("info", run / "model.safetensors").rc == 0


def test_brackets_in_names_are_neither_patterns_nor_markup(tmp_path):
    data = pairs(tmp_path / "data [bold]", 6, 'classes = ["[red]a", "b, c", "[/x]"]\n')
    answer = call("check", data)
    assert answer.rc == 0, str(answer)
    assert "data [bold]" in answer.text
    assert "[red]a" in answer.text
    assert names(good(data)) == ["[red]a", "b, c", "[/x]"]


# --- pictures --------------------------------------------------------------------------------------------------------


def test_images_of_five_bands_are_read_and_bands_selects(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    for i in range(8):
        picture, mask = scene(i)
        stack = np.concatenate([picture, picture[..., :2] // 2], axis=2).astype(np.uint16) * 16
        tifffile.imwrite(data / f"images/p{i}.tif", stack, photometric="minisblack", planarconfig="contig")
        save(mask, data / f"masks/p{i}.png")
    assert fullconv.read_image(data / "images/p0.tif").shape == (48, 64, 5)
    toml(data)
    good(data)
    toml(data, f"classes = {json.dumps(CLASSES)}\nbands = [4, 3, 2]\n")
    good(data)
    answer = call("train", data, "-o", tmp_path / "run", *tools.QUICK)
    assert answer.rc == 0, str(answer)
    assert tools.card_of(tmp_path / "run/model.safetensors")["in_channels"] == 3
    toml(data, f"classes = {json.dumps(CLASSES)}\nbands = [4, 3, 9]\n")
    assert_user_error(call("check", data), "band", r"\b9\b")


def test_sixteen_bit_images_train_and_are_not_stretched_by_their_own_maximum(tmp_path):
    data = tmp_path / "data"
    for i in range(8):
        picture, mask = scene(i)
        save(picture[..., 0].astype(np.uint16) * 40, data / f"images/p{i}.png")
        save(mask, data / f"masks/p{i}.png")
    good(toml(data))
    run = tmp_path / "run"
    answer = call("train", data, "-o", run, *tools.QUICK)
    assert answer.rc == 0, str(answer)
    card = tools.card_of(run / "model.safetensors")
    assert card["in_channels"] == 1
    segmenter = fullconv.load(run / "model.safetensors", precision="fp32", device="cpu")
    image = fullconv.read_image(data / "images/p0.png")
    assert segmenter.predict(data / "images/p0.png").label_map.shape == (48, 64)
    whole = segmenter.logits(image)
    assert np.abs(whole - segmenter.logits(image // 2)).max() > 1e-3
    np.testing.assert_array_equal(whole, segmenter.logits(image[..., 0]))


def test_mixed_storage_in_one_data_set_is_used_rightly(tmp_path):
    data = pairs(tmp_path / "data", 6)
    with Image.open(data / "images/p00.png") as image:
        image.load()
        image.quantize(200).save(data / "images/p00.png")
        image.convert("CMYK").save(data / "images/p01.jpg", quality=95)
    (data / "images/p01.png").unlink()
    picture = scene(2)[0]
    exif = Image.Exif()
    exif[0x0112] = 6
    save(np.rot90(picture, 1).copy(), data / "images/p02.jpg", exif=exif)
    (data / "images/p02.png").unlink()
    found = good(data)
    masks = [scene(i)[1] for i in range(6)]
    assert pixels(found) == [sum(int((m == c).sum()) for m in masks) for c in range(3)]
    answer = call("train", data, "-o", tmp_path / "run", *tools.QUICK)
    assert answer.rc == 0, str(answer)
    assert tools.card_of(tmp_path / "run/model.safetensors")["in_channels"] == 3
