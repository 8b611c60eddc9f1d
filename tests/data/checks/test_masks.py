from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from doctor.sets import COLORS, NAMES, colored, save
from PIL import Image

from fullconv.data import inspect
from fullconv.data.checks.aggregates import Thumbnails
from fullconv.data.checks.alignment import AlignmentMatrix
from fullconv.data.label_diagnosis import LabelDiagnosis, LabelHistogram
from fullconv.data.samples import Sample
from synthetic.reading import problems
from synthetic.scenes import STEMS, assert_read, assert_refused, pairs, scene
from synthetic.shapes import save_image, save_mask


def diagnosis(*labels: int, masks: int = 4) -> LabelDiagnosis:
    """Of masks that hold these labels."""
    counts = LabelHistogram()
    for _ in range(masks):
        counts.masks += 1
        counts.pixels.update(dict.fromkeys(labels, 9))
    return LabelDiagnosis(Path("set"), ["a.png"], counts, None)


def test_white_on_black_is_binary_in_16_bits_too_and_white_alone_is_not():
    for top in (255, 65535):
        found = diagnosis(0, top).binary()
        assert found is not None
        assert found.settings["values"] == {0: "background", top: "foreground"}
    assert diagnosis(255).binary() is None
    assert diagnosis(0, 254).binary() is None


def test_masks_that_are_white_everywhere_are_not_called_binary(tmp_path):
    pairs(tmp_path, named=False)
    for stem in STEMS:
        save(np.full_like(scene(stem).labels, 255), tmp_path / f"masks/{stem}.png")
    assert "few-classes" in problems(tmp_path)


def test_numbers_that_are_no_classes_are_reported_once(tmp_path):
    pairs(tmp_path, named=False)
    (tmp_path / "classes.txt").write_text("ground\nroad\n", encoding="utf-8")
    for stem in STEMS:
        save(np.array([0, 24, 33, 40], np.uint8)[scene(stem).labels], tmp_path / f"masks/{stem}.png")
    assert set(problems(tmp_path)) & {"unknown-label", "nothing-to-learn"} == {"unknown-label"}


@pytest.mark.parametrize(("void", "severity"), [("test", "note"), ("val", "warning"), ("test val", "warning")])
def test_masks_of_test_that_are_kept_back_are_no_mistake(tmp_path, void, severity):
    for i, stem in enumerate(STEMS):
        split = "train" if i < 4 else "val" if i == 4 else "test"
        pairs(tmp_path / "all", f"images/{split}", f"masks/{split}", stems=[stem])
        if split in void:
            save(np.full_like(scene(stem).labels, 255), tmp_path / f"all/masks/{split}/{stem}.png")
    found = [one for one in inspect(tmp_path / "all") if one.code == "all-void"]
    assert [one.severity for one in found] == (["warning", "note"] if " " in void else [severity])
    assert [one.count for one in found] == [1] * len(found)


def matrix_of(*own: float) -> AlignmentMatrix:
    """Ten pairs: how well each mask fits its own image; all others fit only by chance."""
    scores = np.random.default_rng(3).normal(0, 0.03, (len(own), len(own)))
    noise = float(scores[~np.eye(len(own), dtype=bool)].std())
    scores[np.diag_indices(len(own))] = own
    blank = np.zeros((32, 32), np.uint8)
    pairs = [
        Thumbnails(Sample(str(i), Path(f"{i}.jpg"), {}), np.zeros((32, 32, 3), np.float32), blank) for i in range(10)
    ]
    return AlignmentMatrix(pairs, scores, noise)


def test_a_mask_that_fits_its_image_badly_but_better_than_chance_is_no_outlier():
    assert matrix_of(*[0.3] * 9, 0.065).outliers() == []  # a small object in it
    assert [pair.sample.stem for pair in matrix_of(*[0.3] * 9, -0.02).outliers()] == ["9"]


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_further_pages_are_not_read_in_silence(tmp_path, kind):
    pairs(tmp_path)
    path = next((tmp_path / kind).glob("scene_b.*"))
    first = Image.open(path).copy()
    path.unlink()
    first.save(path.with_suffix(".tif"), save_all=True, append_images=[first.rotate(180)])
    if kind == "masks":
        assert_refused(tmp_path, "[pages-differ]", "pages of data.toml")
        return
    assert assert_read(tmp_path, "several-frames")["several-frames"].files == (f"{kind}/scene_b.tif",)


def test_colours_that_are_nearly_named_get_the_class_of_the_named_one(tmp_path):
    table = ", ".join(f'"#{r:02x}{g:02x}{b:02x}" = "{name}"' for (r, g, b), name in zip(COLORS, NAMES, strict=True))
    pairs(tmp_path, named=False)
    (tmp_path / "data.toml").write_text(f"colors = {{ {table} }}\n")
    for stem in STEMS:
        save(np.where((shown := colored(scene(stem).labels)) == 128, 127, shown), tmp_path / "masks" / f"{stem}.png")
    text = assert_refused(tmp_path, "[unknown-color]", "close to colours that are named")
    (tmp_path / "data.toml").write_text(next(line for line in text.splitlines() if line.startswith("colors = ")))
    assert_read(tmp_path)


SIZE = (64, 96)


def blobs(number):
    """Return an image with texture and its mask, three blobs of two classes."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    mask = np.zeros(SIZE, np.uint8)
    for i in range(3):
        mask[(y - rng.uniform(14, 50)) ** 2 + (x - rng.uniform(18, 78)) ** 2 < rng.uniform(8, 13) ** 2] = 1 + i % 2
    colors = np.array([[90, 120, 80], [190, 70, 60], [60, 80, 190]]) + rng.normal(0, 12, (3, 3))
    return np.clip(colors[mask] + rng.normal(0, 8, (*SIZE, 3)), 0, 255).astype(np.uint8), mask


def write_blobs(root, change=lambda number, mask: mask):
    for number in range(12):
        picture, mask = blobs(number)
        save_image(picture, root / "images" / f"{number}.png")
        save_mask(change(number, mask), root / "masks" / f"{number}.png")
    (root / "data.toml").write_text('classes = ["a", "b", "c"]')
    return {problem.code: problem for problem in inspect(root)}


def test_sound_masks_and_borders_of_a_few_pixels_are_no_problem(tmp_path):
    assert write_blobs(tmp_path / "sound") == {}
    assert write_blobs(tmp_path / "wide", lambda number, mask: np.roll(mask, 2, 1)) == {}


def binary(mask):
    return np.where(mask, 255, 0).astype(np.uint8)


def test_one_mask_of_0_and_255_among_others_is_reported(tmp_path):
    found = write_blobs(tmp_path / "one", lambda number, mask: binary(mask) if number == 4 else mask)
    assert (found["binary-mask"].severity, found["binary-mask"].files) == ("error", ("masks/4.png",))

    def with_void(number, mask):
        mask = binary(mask) if number == 4 else mask.copy()
        mask[:2] = 255  # void is used elsewhere, too
        return mask

    assert "binary-mask" not in write_blobs(tmp_path / "void", with_void)
