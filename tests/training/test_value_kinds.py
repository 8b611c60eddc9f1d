"""Images whose values are not plain colours: further bands, pixels without data, infrared stored as alpha."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from runs import SMALL

from fullconv.cli import main
from fullconv.data import open_dataset
from fullconv.data.loader import TrainingBatches
from fullconv.images import read_pixels
from fullconv.labels import VOID, read_label_map
from fullconv.metrics import confusion_matrix
from fullconv.segmenter import load
from fullconv.training import train
from synthetic.kinds import gdal
from synthetic.reading import problems

HEIGHT, WIDTH = 40, 56
SHORT = {**SMALL, "steps": 2, "augment": "none"}


def write_set(root: Path, write, count: int = 6, toml: str = "") -> Path:
    """Write images by ``write(path without suffix, mask, rng)``, and masks of two classes."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    for number in range(count):
        rng = np.random.default_rng(number)
        mask = ((y - rng.integers(10, 30)) ** 2 + (x - rng.integers(15, 40)) ** 2 < 120).astype(np.uint8)
        write(root / "images" / f"p{number}", mask, rng)
        Image.fromarray(mask).save(root / "masks" / f"p{number}.png")
    (root / "data.toml").write_text(f'classes = ["ground", "plant"]\n{toml}', encoding="utf-8")
    return root


def infrared(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.clip(70 + 80 * mask + rng.normal(0, 10, mask.shape), 1, 254).astype(np.uint8)


def with_bands(count: int, photometric: str):
    def write(path: Path, mask: np.ndarray, rng: np.random.Generator) -> None:
        values = np.full((HEIGHT, WIDTH, count), 110) + rng.normal(0, 8, (HEIGHT, WIDTH, count))
        values[..., 3] = infrared(mask, rng)
        gdal(path.with_suffix(".tif"), np.clip(values, 0, 255).astype(np.uint8), photometric=photometric)

    return write


@pytest.mark.parametrize(
    ("count", "photometric", "toml", "channels"),
    [(4, "RGB", "", 4), (6, "MINISBLACK", "", 6), (4, "RGB", "bands = [4, 1, 2]\n", 3)],
)
def test_all_bands_of_a_tiff_are_trained_scored_and_predicted(tmp_path, capsys, count, photometric, toml, channels):
    data = write_set(tmp_path / "data", with_bands(count, photometric), toml=toml)
    run = tmp_path / "run"
    train(data, run, **SHORT)
    model = load(run)
    assert model.card.in_channels == channels
    capsys.readouterr()
    assert main(["evaluate", str(run), str(data), "--split", "all", "--json"]) == 0
    scored = json.loads(capsys.readouterr().out)
    assert main(["predict", str(run), str(data / "images"), "-o", str(tmp_path / "out")]) == 0
    counted = np.zeros((2, 2), np.int64)
    for path in (data / "images").iterdir():
        label_map = read_label_map(tmp_path / "out" / path.name)
        counted += confusion_matrix(read_label_map(data / "masks" / f"{path.stem}.png"), label_map, 2)
    assert counted.tolist() == scored["confusion"]
    image = model.read(data / "images" / "p0.tif").values
    place = 0 if toml else 3
    assert np.corrcoef(image[..., place].ravel(), read_label_map(data / "masks" / "p0.png").ravel())[0, 1] > 0.8
    other = image.copy()
    other[..., place] = other[::-1, ..., place]
    assert not np.allclose(model.logits(image), model.logits(other))


def hole(number: int) -> np.ndarray:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return x + y < 15 + 3 * number


def without_data(kind: str):
    """Return a writer of float or 8-bit TIFFs with a wedge that has no data, by one of the ways to say so."""

    def write(path: Path, mask: np.ndarray, rng: np.random.Generator) -> None:
        values = 0.4 + 0.1 * mask[..., None] + rng.normal(0, 0.02, (HEIGHT, WIDTH, 3))
        empty, path = hole(int(path.name[1:])), path.with_suffix(".tif")
        if kind == "nodata of floats":
            gdal(path, np.where(empty[..., None], -9999, values).astype(np.float32), nodata=-9999)
        elif kind == "NaN":
            gdal(path, np.where(empty[..., None], np.nan, values).astype(np.float32), nodata=np.nan)
        elif kind == "nodata of integers":
            gdal(path, np.where(empty[..., None], -32768, values * 1000).astype(np.int16), nodata=-32768)
        elif kind == "mask":
            gdal(path, np.where(empty[..., None], 0, values * 255).astype(np.uint8), masks=~empty)
        else:
            layers = np.dstack([np.where(empty[..., None], 0, values * 255), np.where(empty, 0, 255)])
            gdal(path, layers.astype(np.uint8), photometric="RGB", alpha="YES")

    return write


KINDS = ("nodata of floats", "NaN", "nodata of integers", "mask", "alpha")


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_without_data_are_void_and_do_not_count_in_training(tmp_path, kind):
    data = open_dataset(write_set(tmp_path, without_data(kind)))
    members = data.samples("train")
    valid, masks = [], []
    for sample in members:
        empty = hole(int(sample.image.stem[1:]))
        with rasterio.open(sample.image) as file:  # an independent reader
            values = np.moveaxis(file.read([1, 2, 3]), 0, -1).astype(np.float64)
        valid.append(values[~empty])
        masks.append(np.where(empty, VOID, data.read_mask(sample)))
    flat = np.concatenate(valid)
    found = data.statistics("train")
    low, high = (0, 255) if kind in ("mask", "alpha") else (flat.min(), flat.max())
    assert found.range == pytest.approx((low, high), rel=1e-6)
    np.testing.assert_allclose(found.mean, (flat.mean(0) - low) / (high - low), rtol=1e-5)
    np.testing.assert_allclose(found.std, flat.std(0) / (high - low), rtol=1e-4)
    assert found.void == sum(int((mask == VOID).sum()) for mask in masks)
    assert found.pixels.tolist() == [sum(int((mask == k).sum()) for mask in masks) for k in (0, 1)]
    batch = next(TrainingBatches(data, "train", batch_size=4, crop="whole", augment="none", seed=0).batches())
    for stem, image, mask in zip(batch.stems, batch.images.numpy(), batch.masks[""].numpy(), strict=True):
        position = [sample.stem for sample in members].index(stem)
        np.testing.assert_array_equal(mask, masks[position])
        assert image.min() >= low
        assert image.max() <= high


def infrared_as_alpha(suffix: str, colours: int):
    """Return a writer of images whose alpha channel holds infrared."""

    def write(path: Path, mask: np.ndarray, rng: np.random.Generator) -> None:
        values = np.dstack([*rng.integers(90, 130, (colours, HEIGHT, WIDTH)), infrared(mask, rng)]).astype(np.uint8)
        path = path.with_suffix(suffix)
        if suffix == ".tif":
            gdal(path, values, photometric="RGB", alpha="YES")
        else:
            options = {"lossless": True, "exact": True} if suffix == ".webp" else {}
            Image.fromarray(values).save(path, **options)

    return write


@pytest.mark.parametrize(("suffix", "colours"), [(".png", 3), (".webp", 3), (".tif", 3), (".png", 1)])
def test_infrared_in_alpha_is_a_warning_whose_line_keeps_it_as_a_band(tmp_path, capsys, suffix, colours):
    root = write_set(tmp_path / "data", infrared_as_alpha(suffix, colours))
    line = f"bands = {list(range(1, colours + 2))}"
    found = problems(root)["alpha-values"]
    assert (found.severity, found.count) == ("warning", 6)
    assert found.remedy.splitlines()[-1] == line
    image = next((root / "images").glob("p0*"))
    (notice,) = read_pixels(image).notices
    assert line in notice.message
    toml = root / "data.toml"
    toml.write_text(toml.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    assert "alpha-values" not in problems(root)
    data = open_dataset(root)
    sample = data.samples("all")[0]
    kept = data.read_image(sample)
    assert kept.shape[2] == colours + 1
    assert np.corrcoef(kept[..., -1].ravel(), data.read_mask(sample).ravel())[0, 1] > 0.8
    train(root, tmp_path / "run", **SHORT)
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "run"), str(root / "images"), "-o", str(tmp_path / "out")]) == 0
    assert "alpha channel" not in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["cut out", "soft rim", "even"])
def test_transparency_is_no_infrared(tmp_path, kind):
    def write(path: Path, mask: np.ndarray, rng: np.random.Generator) -> None:
        distance = np.abs(np.mgrid[0:HEIGHT, 0:WIDTH][1] - WIDTH / 2)
        alpha = {"cut out": 255 * mask, "soft rim": np.clip((24 - distance) * 64, 0, 255), "even": 0 * mask + 128}[kind]
        colours = rng.integers(0, 255, (HEIGHT, WIDTH, 3))
        Image.fromarray(np.dstack([colours, alpha]).astype(np.uint8), "RGBA").save(path.with_suffix(".png"))

    assert "alpha-values" not in problems(write_set(tmp_path, write))
