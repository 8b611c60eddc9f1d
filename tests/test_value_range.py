"""One rule for the values of images, whatever their type of number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fullconv.labels import VOID
from fullconv.predict import PredictJob, predict_files
from fullconv.preprocess import range_warning
from fullconv.rasters import predict_raster
from fullconv.segmenter import Segmenter
from model_files import small_segmenter
from synthetic.kinds import gdal
from synthetic.scenes import scene

TYPES = ("uint16", "int16", "int32", "uint32", "float32", "float64")
BYTES, TWELVE_BITS, REFLECTANCE = (0.0, 255.0), (0.0, 4095.0), (0.0, 1.0)


@pytest.fixture(scope="module")
def models() -> dict[tuple[float, float], Segmenter]:
    return {limits: small_segmenter(range=limits) for limits in (BYTES, TWELVE_BITS, REFLECTANCE)}


def values(low: float, high: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, (40, 56, 3))


def codes(model: Segmenter, image: np.ndarray) -> set[str]:
    return {notice.code for notice in model.predict(image).notices}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("reader", ["array", "file", "raster"])
def test_bright_values_are_a_warning_in_every_type_and_by_every_reader(tmp_path, models, dtype, reader):
    image, path = values(200, 4500).astype(dtype), tmp_path / "a.tif"
    gdal(path, image)
    for limits, expected in ((BYTES, {"value-range"}), (TWELVE_BITS, set())):
        model = models[limits]
        if reader == "array":
            assert codes(model, image) == expected
        elif reader == "file":
            summary = predict_files(model, PredictJob([str(path)], tmp_path / f"out{limits[1]}"))
            assert {notice.code for notice in summary.notices} == expected
        else:
            result = predict_raster(model, path, tmp_path / f"{limits[1]}.tif")
            assert {notice.code for notice in result.notices} == expected


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_fractions_and_normalised_images_are_a_warning_for_a_model_of_bytes_alone(models, dtype):
    image = scene("scene_a").picture
    fractions = (image / 255).astype(dtype)
    standard = ((image / 255 - 0.45) / 0.22).astype(dtype)
    assert codes(models[BYTES], fractions) == codes(models[BYTES], standard) == {"value-range"}
    assert codes(models[BYTES], image.astype(dtype)) == set()
    assert codes(models[REFLECTANCE], fractions) == set()
    assert codes(models[REFLECTANCE], image) == {"value-range"}  # bytes for a model of fractions


@pytest.mark.parametrize("dtype", ["int16", "int32", "float32", "float64"])
def test_negative_values_are_a_warning(models, dtype):
    image = values(-4000, -500).astype(dtype)
    for model in models.values():
        assert codes(model, image) == {"value-range"}


def test_dark_bright_and_two_valued_images_of_bytes_are_none(models):
    for image in (values(0, 12), values(245, 255), np.full((40, 56, 3), 7)):
        assert codes(models[BYTES], image.astype(np.uint8)) == set()
    assert codes(models[BYTES], values(0, 1)[..., 0] > 0.5) == set()  # bool is 0 and 255


def test_bytes_for_a_model_of_twelve_bits_are_a_warning(models):
    assert codes(models[TWELVE_BITS], values(0, 255).astype(np.uint8)) == {"value-range"}


@given(st.sampled_from(TYPES[:-1]), st.integers(0, 4000), st.integers(300, 20000), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_the_same_numbers_get_the_same_verdict_in_any_type(models, dtype, low, span, seed):
    image = values(low, low + span, seed).round()
    stored = np.minimum(image, np.iinfo(dtype).max if dtype != "float32" else 1e9)
    for limits in (TWELVE_BITS, REFLECTANCE):
        card = models[limits].card
        verdicts = {range_warning(stored.astype(kind), card) is None for kind in (dtype, "float32")}
        assert len(verdicts) == 1


@pytest.mark.parametrize("declared", [False, True])
def test_nan_is_void_and_a_warning_where_no_nodata_value_announces_it(tmp_path: Path, models, declared):
    image, path = values(10, 200).astype(np.float32), tmp_path / "a.tif"
    image[3:9, 5:20] = np.nan
    gdal(path, image, **({"nodata": np.nan} if declared else {}))
    model, expected = models[BYTES], set() if declared else {"not-finite"}
    empty = np.isnan(image).any(axis=2)
    found = model.predict(path)
    assert {notice.code for notice in found.notices} == expected
    np.testing.assert_array_equal(found.label_map == VOID, empty)
    result = predict_raster(model, path, tmp_path / "labels.tif")
    assert {notice.code for notice in result.notices} == expected
    with rasterio.open(tmp_path / "labels.tif") as file:
        np.testing.assert_array_equal(file.read(1) == VOID, empty)
    predict_files(model, PredictJob([str(path)], tmp_path / "out"))
    (written,) = (tmp_path / "out").glob("a.*")
    np.testing.assert_array_equal(np.asarray(Image.open(written)) == VOID, empty)
    if not declared:
        assert codes(model, image) == expected
