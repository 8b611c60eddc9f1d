"""Soft edges in masks: levels of a field are no fault, compressed binary masks are read by a threshold."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from doctor.sets import make_scene
from PIL import Image

from fullconv.cli import main
from fullconv.data import inspect, open_dataset
from fullconv.data.problems import errors
from synthetic.images import encode
from synthetic.reading import apply_remedy, problems, read_masks
from synthetic.shapes import save_image

Array = np.ndarray
SIZE = (96, 128)


def smooth_field(rng: np.random.Generator, scale: float) -> Array:
    """Noise smoothed over `scale` pixels, of variance 1."""
    y, x = np.fft.fftfreq(SIZE[0])[:, None], np.fft.rfftfreq(SIZE[1])[None]
    spectrum = np.fft.rfft2(rng.normal(size=SIZE)) * np.exp(-2 * (np.pi * scale) ** 2 * (x**2 + y**2))
    field = np.fft.irfft2(spectrum, SIZE)
    return field / field.std()


def levels(seed: int, classes: int, scale: float) -> Array:
    field = smooth_field(np.random.default_rng(seed), scale)
    return np.digitize(field, np.quantile(field, np.arange(1, classes) / classes)).astype(np.uint8)


def tomogram(seed: int) -> Array:
    """Pores, grains and a few inclusions, of a blurred and noisy volume that was cut at two grey values."""
    rng = np.random.default_rng(seed)
    phases = np.where(smooth_field(rng, 5) > 0.2, 200, np.where(smooth_field(rng, 8) > 1, 100, 0)).astype(np.float32)
    small = Image.fromarray(phases).resize((SIZE[1] // 2, SIZE[0] // 2), Image.Resampling.BILINEAR)
    values = np.asarray(small.resize((SIZE[1], SIZE[0]), Image.Resampling.BICUBIC)) + rng.normal(0, 8, SIZE)
    return np.digitize(values, [50, 150]).astype(np.uint8)


def cells(seed: int) -> Array:
    """Voronoi cells of five classes."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 1, (25, 2)) * SIZE
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    nearest = ((y[..., None] - points[:, 0]) ** 2 + (x[..., None] - points[:, 1]) ** 2).argmin(-1)
    return rng.integers(0, 5, len(points))[nearest].astype(np.uint8)


def write(
    root: Path, make: Callable[[int], Array], toml: str = "", count: int = 12, suffix: str = "png"
) -> list[Array]:
    """Write images whose brightness follows the class, with masks; return the masks."""
    masks = [make(seed) for seed in range(count)]
    for i, mask in enumerate(masks):
        grey = np.random.default_rng(i).normal(0, 9, mask.shape) + 60 + 120.0 * mask / max(1, int(mask.max()))
        save_image(np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, 2), root / f"images/{i:02}.png")
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(root / f"masks/{i:02}.{suffix}", quality=80)
    if toml:
        (root / "data.toml").write_text(toml, encoding="utf-8")
    return masks


def named(classes: int) -> str:
    return f"classes = {[f'level {i}' for i in range(classes)]}\n"


@pytest.mark.parametrize("classes", [3, 4, 5, 6])
@pytest.mark.parametrize("toml", [True, False])
@pytest.mark.parametrize("scale", [6, 10])
def test_levels_of_a_smooth_field_are_sound_masks(tmp_path, classes, toml, scale):
    masks = write(tmp_path, lambda seed: levels(seed, classes, scale), named(classes) if toml else "")
    assert "lossy-mask" not in problems(tmp_path)
    assert not errors(inspect(tmp_path))
    for stem, mask in read_masks(tmp_path).items():
        np.testing.assert_array_equal(mask, masks[int(stem)])


@pytest.mark.parametrize("make", [tomogram, lambda seed: levels(seed, 6, 3)], ids=["tomogram", "steep levels"])
@pytest.mark.parametrize("toml", [True, False])
def test_thin_rims_of_classes_are_never_refused(tmp_path, make, toml):
    classes = int(make(0).max()) + 1
    masks = write(tmp_path, make, named(classes) if toml else "")
    assert not errors(inspect(tmp_path))
    for stem, mask in read_masks(tmp_path).items():
        np.testing.assert_array_equal(mask, masks[int(stem)])


def test_cells_that_touch_have_no_rims(tmp_path):
    write(tmp_path, cells, named(5))
    assert "lossy-mask" not in problems(tmp_path)


def binary(seed: int) -> Array:
    return np.where(make_scene(seed, *SIZE).labels > 0, 255, 0).astype(np.uint8)


def through_jpeg(mask: Array, quality: int = 60) -> Array:
    return np.asarray(Image.open(io.BytesIO(encode(Image.fromarray(mask), "JPEG", quality=quality))))


def antialiased(mask: Array) -> Array:
    large = Image.fromarray(np.roll(np.kron(mask, np.ones((3, 3), np.uint8)), 1, 1))
    return np.asarray(large.resize(mask.shape[::-1], Image.Resampling.BOX))


TOMLS = [
    "",
    'classes = ["ground", "shape"]\n',
    'classes = ["ground", "shape"]\nvalues = { 0 = "ground", 255 = "shape" }\n',
]


@pytest.mark.parametrize("toml", TOMLS, ids=["nothing named", "classes", "values"])
@pytest.mark.parametrize(
    ("change", "suffix"),
    [(through_jpeg, "png"), (antialiased, "png"), (lambda mask: mask, "jpg"), (lambda mask: mask, "jpg, mixed")],
    ids=["JPEG in PNG", "anti-aliased", "JPEG", "some JPEG"],
)
def test_blurred_binary_masks_are_read_by_the_threshold_that_is_printed(tmp_path, toml, change, suffix):
    write(tmp_path, lambda seed: change(binary(seed)), toml, suffix=suffix[:3])
    if "mixed" in suffix:
        for path in sorted((tmp_path / "masks").iterdir())[::2]:
            path.unlink()
            Image.fromarray(binary(int(path.stem))).save(path.with_suffix(".png"))
    bad = errors(inspect(tmp_path))
    found = next(one for one in bad if "threshold = 128" in one.remedy)
    apply_remedy(tmp_path, found.remedy)
    assert main(["check", str(tmp_path)]) == 0
    for stem, mask in read_masks(tmp_path).items():
        np.testing.assert_array_equal(mask, binary(int(stem)) > 127)


def test_a_threshold_belongs_to_the_meaning_and_original_values_are_black_and_white(tmp_path):
    write(tmp_path, lambda seed: through_jpeg(binary(seed)), "threshold = 128\n")
    data = open_dataset(tmp_path)
    assert data.classes == ("background", "foreground")
    assert data.labels[""].original_values() == [0, 255]
    before = data.fingerprint()
    (tmp_path / "data.toml").write_text("threshold = 100\n")
    assert open_dataset(tmp_path).fingerprint() != before


def test_16_bit_masks_have_a_threshold_of_16_bits(tmp_path):
    write(tmp_path, lambda seed: (binary(seed) // 255).astype(np.uint16) * np.uint16(60000), "threshold = 30000\n")
    for stem, mask in read_masks(tmp_path).items():
        np.testing.assert_array_equal(mask, binary(int(stem)) > 127)


def test_masks_below_the_threshold_are_not_emptied_in_silence(tmp_path):
    write(tmp_path, lambda seed: binary(seed) if seed % 2 else binary(seed) // 255, "threshold = 128\n")
    found = problems(tmp_path)["binary-mask"]
    assert (found.severity, found.count) == ("error", 6)


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ('threshold = 128\nvalues = { 0 = "a", 255 = "b" }\n', "so values has no meaning"),
        ("threshold = 128\nignore_index = 7\n", "so ignore_index has no meaning"),
        ('threshold = 128\nclasses = ["a", "b", "c"]\n', "for two classes, not 3"),
        ("threshold = 0\n", "threshold = 0 is invalid"),
    ],
)
def test_a_threshold_that_cannot_be_is_refused(tmp_path, toml, words):
    write(tmp_path, binary, toml, count=2)
    assert words in errors(inspect(tmp_path))[0].cause + errors(inspect(tmp_path))[0].remedy


def test_masks_of_labels_with_void_get_no_threshold(tmp_path):
    def labels(seed: int) -> Array:
        mask = make_scene(seed, *SIZE).labels
        mask[:9] = 255
        return through_jpeg(mask, 85)

    write(tmp_path, labels)
    assert all("threshold" not in one.remedy for one in inspect(tmp_path))
