from __future__ import annotations

import ast
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fullconv.data
from fullconv.data import BadDataError, inspect, open_dataset, require_usable, summary
from fullconv.data.checks.catalog import BY_CODE, CHECKS
from synthetic.shapes import make_shapes, save_image, save_mask, split_folders

ROOT = Path(__file__).parents[3]


@pytest.fixture
def data(tmp_path):
    return make_shapes(tmp_path, "camvid", images=8)


def only(root: Path):
    (found,) = inspect(root)
    return found


def image(root: Path, number: int = 0) -> Path:
    return root / "train" / f"shape{number:03d}.png"


def mask(root: Path, number: int = 0) -> Path:
    return root / "trainannot" / f"shape{number:03d}.png"


def cut(path: Path, share: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def replace_by_jpeg(path: Path, share: float = 1.0) -> None:
    with Image.open(path) as opened:
        picture = opened.copy()
    path.unlink()
    picture.save(path.with_suffix(".jpg"), quality=95)
    cut(path.with_suffix(".jpg"), share)


def seen(root: Path) -> np.ndarray:
    """The pixels of the first picture."""
    return np.array(Image.open(image(root)))


def as_tiff(path: Path, array: np.ndarray) -> None:
    path.unlink()
    save_image(array, path.with_suffix(".tif"))


def nan_tiff(root: Path) -> None:
    for split in ("train", "val"):
        for path in (root / split).iterdir():
            array = np.asarray(Image.open(path)).mean(-1).astype(np.float32)
            path.unlink()
            array[0, 0] = np.nan if "000" in path.stem else 0
            Image.fromarray(array).save(path.with_suffix(".tif"))


FAULTS = [
    ("missing-mask", lambda d: mask(d).unlink(), "train/shape000.png", "have no mask in trainannot/"),
    ("missing-picture", lambda d: image(d).unlink(), "trainannot/shape000.png", "have no image in train/"),
    ("duplicate-stem", lambda d: shutil.copy(image(d), d / "train/shape000.bmp"), "train/shape000.png", "share a name but"),
    ("other-file", lambda d: (d / "train/notes.txt").write_text("x"), "train/notes.txt", "not images by their suffix"),
    ("empty-file", lambda d: image(d).write_bytes(b""), "train/shape000.png", r"empty \(0 bytes\)"),
    ("empty-file", lambda d: mask(d).write_bytes(b""), "trainannot/shape000.png", r"empty \(0 bytes\)"),
    ("truncated", lambda d: cut(image(d)), "train/shape000.png", "data are missing at the end"),
    ("truncated", lambda d: replace_by_jpeg(image(d), 0.6), "train/shape000.jpg", r"truncated \("),
    ("not-a-picture", lambda d: image(d).write_text("hello " * 9), "train/shape000.png", "is a text file"),
    ("unreadable", lambda d: mask(d).write_bytes(b"\x89PNG\r\n\x1a\nxxxx"), "trainannot/shape000.png", "cannot be decoded"),
    ("mask-size", lambda d: save_mask(np.zeros((64, 48), np.uint8), mask(d)), "trainannot/shape000.png",
     "first is 48x64, its image 64x48, turned by 90 degrees"),
    *(("mask-size", lambda d, size=size: save_mask(np.zeros(size, np.uint8), mask(d)), "trainannot/shape000.png", rf"{words}\)$")
      for size, words in (((47, 64), "off by one pixel"), ((24, 32), "scaled by 0.5"), ((96, 128), "scaled by 2"))),
    ("unknown-label", lambda d: save_mask(np.full((48, 64), 200, np.uint8), mask(d)), "trainannot/shape000.png",
     "neither a class nor void: 200"),
    ("all-void", lambda d: save_mask(np.full((48, 64), 255, np.uint8), mask(d)), "trainannot/shape000.png", "void everywhere"),
    ("channels-differ", lambda d: as_tiff(image(d), seen(d)[..., [0, 1, 2, 0]]),
     "train/shape000.tif", "most have 3, these 4"),
    ("dtype-differs", lambda d: as_tiff(image(d), seen(d).astype(np.uint16)),
     "train/shape000.tif", "most have uint8, these uint16"),
    ("grey-among-color", lambda d: save_image(seen(d)[..., :1], image(d)), "train/shape000.png", "R = G = B"),
    ("not-finite", nan_tiff, "train/shape000.tif", "become void"),
    ("float-mask", lambda d: as_tiff(mask(d), np.full((48, 64, 1), 0.5, np.float32)),
     "trainannot/shape000.tif", "the mask holds fractions"),
    ("bad-mask", lambda d: as_tiff(mask(d), np.full((48, 64, 1), -1, np.float32)),
     "trainannot/shape000.tif", "the mask holds -1 to -1"),
    ("jpeg-mask", lambda d: Image.open(mask(d)).point(lambda v: min(v, 0)).save(mask(d), "JPEG"), "trainannot/shape000.png",
     "stored as JPEG"),
    ("duplicate-across-splits", lambda d: shutil.copy(image(d), d / "val/shape006.png"), "val/shape006.png",
     "val/shape006.png and train/shape000.png"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "fault", "file", "words"), FAULTS, ids=[f"{i}-{f[0]}" for i, f in enumerate(FAULTS)])
def test_a_fault_is_found_with_its_code_file_and_cause(data, code, fault, file, words):
    fault(data)
    found = only(data)
    assert (found.code, found.count, found.files) == (code, 1, (file,))
    assert re.search(words, found.cause), found.cause
    assert found.severity == BY_CODE[code].severity


@pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
def test_a_link_that_leads_nowhere_is_found(data):
    image(data).unlink()
    image(data).symlink_to(data / "nowhere.png")
    assert only(data).code == "missing-file"


def test_a_image_over_the_limit_is_found(data, monkeypatch):
    save_image(np.zeros((200, 200, 3), np.uint8), image(data))
    monkeypatch.setenv("FULLCONV_MAX_PIXELS", "39999")
    assert [p.code for p in inspect(data)] == ["too-large"]


def test_a_reader_that_is_not_installed_is_named_with_its_install_line(tmp_path, monkeypatch):
    make_shapes(tmp_path, "flat", images=4, channels=5, dtype="uint16", suffix=".tif")
    data = open_dataset(tmp_path)
    monkeypatch.setitem(sys.modules, "rasterio", None)
    assert any(p.code == "needs-extra" and "pip install" in p.cause for p in inspect(data))


def test_missing_bands_are_found(tmp_path):
    make_shapes(tmp_path, "flat", images=4, toml="bands = [1, 4]\n")
    found = only(tmp_path)
    assert (found.code, found.count) == ("missing-band", 4)
    assert "has 3 bands, data.toml asks for band 4" in found.cause


def test_everything_is_named_in_one_go_errors_first(data):
    image(data, 0).write_bytes(b"")
    mask(data, 1).unlink()
    save_mask(np.full((48, 64), 99, np.uint8), mask(data, 2))
    save_mask(np.full((48, 64), 255, np.uint8), mask(data, 3))
    cut(mask(data, 4))
    (data / "val" / "readme.md").write_text("x")
    found = inspect(data)
    assert {p.code for p in found} == {
        "empty-file",
        "missing-mask",
        "unknown-label",
        "all-void",
        "truncated",
        "other-file",
    }
    order = [p.severity for p in found]
    assert order == sorted(order, key=["error", "warning", "note"].index)


def test_twenty_files_are_named_and_all_are_counted(tmp_path):
    make_shapes(tmp_path, "flat", images=30, size=(16, 16))
    for path in (tmp_path / "images").iterdir():
        path.write_bytes(b"")
    found = only(tmp_path)
    assert found.count == 30
    assert len(found.files) == 20
    assert len(found.stems) == 30


def test_binary_masks_with_named_classes_are_found(tmp_path):
    make_shapes(tmp_path, "flat", images=4, encoding="binary255", toml=False)
    (tmp_path / "data.toml").write_text('classes = ["wall", "crack"]\n')
    found = only(tmp_path)
    assert (found.code, found.severity, found.count) == ("binary-mask", "error", 4)
    with pytest.raises(BadDataError, match="binary-mask"):  # of all masks, so there is nothing to skip
        require_usable(open_dataset(tmp_path, skip_bad=True))
    assert found.remedy.endswith('values = { 0 = "wall", 255 = "crack" }')
    (tmp_path / "data.toml").write_text('classes = ["wall", "crack"]\nvalues = { 0 = "wall", 255 = "crack" }')
    assert inspect(tmp_path) == []


def test_rgb_masks_with_named_classes_but_no_colours_are_found(tmp_path):
    make_shapes(tmp_path, "flat", images=4, encoding="rgb", toml=False)
    (tmp_path / "data.toml").write_text('classes = ["a", "b", "c", "d"]\n')
    found = only(tmp_path)
    assert (found.code, found.count, found.stems) == ("rgb-mask", 4, frozenset())
    assert "colors = {" in found.remedy


def test_one_rgb_mask_among_others_can_be_omitted(data):
    save_mask(np.asarray(Image.open(mask(data))), mask(data), "rgb")
    found = only(data)
    assert (found.code, found.files, found.stems) == ("rgb-mask", ("trainannot/shape000.png",), frozenset({"shape000"}))


def test_a_colour_that_is_not_named_is_found(tmp_path):
    make_shapes(tmp_path, "camvid", images=4, encoding="rgb")
    array = np.asarray(Image.open(mask(tmp_path))).copy()
    array[0, 0] = (1, 2, 3)
    Image.fromarray(array).save(mask(tmp_path))
    found = only(tmp_path)
    assert found.code == "unknown-color"
    assert "#010203" in found.cause


def test_classes_that_train_lacks_and_that_nothing_has_are_found(tmp_path):
    make_shapes(tmp_path, "camvid", images=6, classes=3)
    (tmp_path / "data.toml").write_text('classes = ["a", "b", "c", "d", "e"]')
    save_mask(np.full((48, 64), 3, np.uint8), tmp_path / "valannot" / "shape005.png")
    found = {p.code: p for p in inspect(tmp_path)}
    assert set(found) == {"class-missing-in-train", "class-unused", "constant-mask"}
    assert found["class-missing-in-train"].files == ("valannot/shape005.png",)
    assert "'d'" in found["class-missing-in-train"].cause
    assert found["class-unused"].files == ("e",)


def test_empty_splits_are_found(tmp_path):
    make_shapes(tmp_path, "camvid", images=4)
    for path in [*(tmp_path / "val").iterdir(), *(tmp_path / "valannot").iterdir()]:
        path.unlink()
    assert [(p.code, p.severity) for p in inspect(tmp_path)] == [("empty-folder", "error"), ("empty-split", "warning")]
    shutil.rmtree(tmp_path / "train")
    shutil.rmtree(tmp_path / "trainannot")
    assert {p.code for p in inspect(tmp_path)} == {"empty-folder"}


@pytest.mark.parametrize("layout", ["camvid", "split-first", "kind-first"])
@pytest.mark.parametrize("split", ["val", "test"])
def test_a_split_without_its_folder_of_masks_is_reported(tmp_path, layout, split):
    make_shapes(tmp_path, layout, images=6, test=2)
    images, masks = split_folders(layout, split)
    shutil.rmtree(tmp_path / masks)
    found = only(tmp_path)
    assert (found.code, found.severity) == ("missing-folder", "note" if split == "test" else "error")
    assert found.files == (images,)
    make_shapes(tmp_path, layout, images=6, test=2)
    shutil.rmtree(tmp_path / images)
    found = only(tmp_path)
    assert (found.code, found.severity, found.files) == ("missing-folder", "error", (masks,))


def test_a_set_of_test_images_alone_cannot_train(tmp_path):
    make_shapes(tmp_path, "camvid", images=4, test=2)
    for name in ("train", "trainannot", "val", "valannot"):
        shutil.rmtree(tmp_path / name)
    assert [(p.code, p.severity) for p in inspect(tmp_path)] == [("empty-split", "error")]
    assert len(open_dataset(tmp_path).samples("test")) == 2


def test_images_of_one_and_the_same_number_are_found(tmp_path):
    make_shapes(tmp_path, "flat", images=4)
    for path in (tmp_path / "images").iterdir():
        save_image(np.full((48, 64, 1), 77, np.uint16), path)
    found = inspect(tmp_path)[0]
    assert (found.code, found.severity, found.count) == ("constant-pictures", "error", 4)
    assert "every pixel of every image in train is 77" in found.cause


def test_summary_has_the_keys_of_the_interface_and_is_json(data):
    mask(data).unlink()
    report = json.loads(json.dumps(summary(data)))
    assert list(report) == ["ok", "format", "classes", "splits", "problems"]
    assert report["ok"] is False
    assert report["splits"] == {"train": 5, "val": 2}
    assert list(report["classes"][0]) == ["index", "name", "pixels", "pictures"]
    assert list(report["problems"][0]) == ["code", "severity", "count", "files", "cause", "remedy"]
    nothing = summary(data / "nowhere")
    assert (nothing["ok"], nothing["format"], nothing["classes"], nothing["splits"]) == (False, None, [], {})


def test_a_format_can_be_named_where_two_fit(tmp_path):
    make_shapes(tmp_path, "camvid", images=4)
    make_shapes(tmp_path, "flat", images=5)
    assert [p.code for p in inspect(tmp_path)] == ["unusable"]
    assert [p.code for p in inspect(tmp_path, format="flat")] == ["unread-folder"]
    assert summary(tmp_path, format="camvid")["splits"] == {"train": 3, "val": 1}
    assert [summary(tmp_path, format=name)["format"] for name in ("flat", "pairs")] == ["flat", "pairs"]


def test_progress_is_reported_after_each_sample(data):
    seen = []
    inspect(data, lambda done, total: seen.append((done, total)))
    assert seen == [(i, 8) for i in range(1, 9)]


def test_training_stops_on_all_errors_and_skip_bad_omits_and_records_them(data):
    image(data, 0).write_bytes(b"")
    mask(data, 1).unlink()
    save_mask(np.full((48, 64), 99, np.uint8), mask(data, 2))
    with pytest.raises(
        BadDataError, match=r"\[empty-file\][\s\S]*train/shape000\.png[\s\S]*\[unknown-label\][\s\S]*99"
    ):
        require_usable(open_dataset(data))
    usable, problems = require_usable(open_dataset(data, skip_bad=True))
    assert sorted(usable.skipped) == ["shape000", "shape001", "shape002"]
    assert [s.stem for s in usable.splits["train"]] == ["shape003", "shape004", "shape005"]
    assert {p.code for p in problems} == {"empty-file", "missing-mask", "unknown-label"}
    usable.statistics()


def test_skip_bad_takes_the_first_of_two_of_one_name(data):
    shutil.copy(image(data), data / "train" / "shape000.bmp")
    with pytest.raises(BadDataError, match="duplicate-stem"):
        require_usable(open_dataset(data))
    usable, _ = require_usable(open_dataset(data, skip_bad=True))
    assert len(usable.splits["train"]) == 6


def test_skip_bad_with_nothing_left_is_an_error(data):
    for number in range(6):
        image(data, number).write_bytes(b"")
    with pytest.raises(BadDataError, match="empty-file"):
        require_usable(open_dataset(data, skip_bad=True))


def test_looking_at_data_loads_no_torch(data):
    code = f"import sys; from fullconv.data import summary; assert summary({str(data)!r})['ok'] and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_documentation_has_the_table_of_the_catalog():
    folder = ROOT / "docs" / "reference"
    as_markdown = runpy.run_path(str(folder / "make_checks.py"))["as_markdown"]
    assert (folder / "checks.md").read_text(encoding="utf-8").endswith(as_markdown()), (
        "run: python docs/reference/make_checks.py"
    )


def test_every_code_that_is_reported_has_a_row():
    used = set()
    for path in Path(fullconv.data.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(getattr(node, "func", None), "id", "") or getattr(getattr(node, "func", None), "attr", "")
            if isinstance(node, ast.Call) and name in ("problem", "Finding", "report") and node.args:
                used |= {node.args[0].value} if isinstance(node.args[0], ast.Constant) else set()
    assert len(used) > 40
    assert used <= set(BY_CODE)
    assert {code for check in CHECKS for code in check.hides} <= set(BY_CODE)
    assert len(BY_CODE) == len(CHECKS)


@pytest.mark.parametrize(
    ("make", "cause", "remedy"),
    [
        (lambda d: d / "nowhere", "nowhere: no such folder", "Check the name."),
        (lambda d: d, "the folder is empty", "Put images in images/"),
        (lambda d: (d / "a.txt").write_text("x") and d / "a.txt", "a.txt: is a file", "A data set is a folder"),
        (lambda d: (d / "data.toml").write_text("x = 1") and d, "there is no key 'x'", "The keys are"),
        (lambda d: (d / "data.toml").write_text("x =") and d, "not valid TOML", "Correct data.toml."),
    ],
)
def test_advice_on_what_cannot_be_opened_is_the_remedy(tmp_path, make, cause, remedy):
    found = only(make(tmp_path))
    assert (found.code, found.severity) == ("unusable", "error")
    assert cause in found.cause
    assert remedy not in found.cause
    assert remedy in found.remedy


def test_advice_on_a_format_that_is_none_is_the_remedy(data):
    (found,) = inspect(data, format="camvit")
    assert found.cause == "there is no format 'camvit'"
    assert found.remedy.startswith("Did you mean 'camvid'? The formats are")


def test_a_data_set_without_anything_to_learn_is_an_error(data):
    for path in (data / "trainannot").iterdir():
        save_mask(np.full((48, 64), 255, np.uint8), path)
    found = inspect(data)
    assert [(p.code, p.severity, p.count) for p in found] == [("nothing-to-learn", "error", 6)]
    with pytest.raises(BadDataError, match="nothing-to-learn"):
        require_usable(open_dataset(data, skip_bad=True))


@pytest.mark.parametrize("toml", [True, False])
def test_a_problem_of_one_file_is_reported_once(tmp_path, toml):
    make_shapes(tmp_path, "camvid", images=8, toml=toml)
    mask(tmp_path).write_bytes(b"")
    found = only(tmp_path)
    assert (found.code, found.count) == ("empty-file", 1)
    assert found.cause.count("empty") == found.cause.count("0 bytes") == 1
    assert found.remedy.count("Copy or export") == 1
    assert "Copy" not in found.cause


def test_masks_that_count_from_1_are_found_and_the_line_fixes_them(data):
    for path in [*(data / "trainannot").iterdir(), *(data / "valannot").iterdir()]:
        labels = np.asarray(Image.open(path))
        save_mask(np.where(labels == 255, 255, labels + 1).astype(np.uint8), path)
    found = only(data)
    assert (found.code, found.severity, found.count) == ("off-by-one", "error", 8)
    line = found.remedy.splitlines()[1]
    assert line == 'values = { 1 = "ground", 2 = "disc", 3 = "box", 4 = "triangle" }'
    (data / "data.toml").write_text((data / "data.toml").read_text() + line)
    assert inspect(data) == []
