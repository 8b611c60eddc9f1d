"""Every kind of file gives the same pixels to whoever asks: whole, by windows, from bytes, in a data set, as a raster."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from fullconv.data import open_dataset
from fullconv.errors import MissingExtraError
from fullconv.evaluation import evaluate
from fullconv.images import image_size, open_image_file, read_pixels
from fullconv.labels import VOID
from fullconv.metrics import confusion_matrix, count
from fullconv.predict import PredictJob, predict_files
from fullconv.rasters.reader import RasterReader
from model_files import small_segmenter
from synthetic.kinds import HEIGHT, KINDS, WIDTH

CUTS = (0, 7, 16, 29)
NEED_GEO = {
    "planar", "planar tiles", "zstd", "YCbCr JPEG", "int8", "12 bits", "uint16", "planar uint16 of one band",
    "planar float32 of one band", "planar one band of 1 bit", "int16", "int32", "uint32", "float16", "float32",
    "float32, predictor 3", "float64", "four bands", "seven bands", "unspecified fourth sample", "alpha 0 of a GeoTIFF",
    "nodata -9999", "nodata of floats", "mask of the data set", "mask beside the file", "NaN", "planar, orientation 6",
}  # fmt: skip


def write(folder: Path, name: str, stem: str = "a") -> tuple[Path, np.ndarray | None, np.ndarray | None]:
    kind = KINDS[name]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}{kind.suffix}"
    return path, *kind.write(path, np.random.default_rng(list(KINDS).index(name)))


def holes(nodata: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    return np.zeros(shape[:2], bool) if nodata is None else nodata


@pytest.mark.parametrize("name", KINDS)
def test_a_file_gives_the_same_pixels_whole_by_windows_from_bytes_and_as_written(tmp_path, name):
    path, expected, hole = write(tmp_path, name)
    whole = read_pixels(path)
    if expected is not None:
        assert whole.values.dtype == expected.dtype
        np.testing.assert_array_equal(whole.values, expected)
        np.testing.assert_array_equal(holes(whole.nodata, expected.shape), holes(hole, expected.shape))
    height, width, channels = whole.values.shape
    assert channels == KINDS[name].channels
    assert image_size(path) == (height, width)
    assert sorted((height, width)) == sorted((HEIGHT, WIDTH))
    if not list(tmp_path.glob("*.msk")):
        from_bytes = read_pixels(path.read_bytes())
        np.testing.assert_array_equal(from_bytes.values, whole.values)
        np.testing.assert_array_equal(
            holes(from_bytes.nodata, whole.values.shape), holes(whole.nodata, whole.values.shape)
        )
    stitched, nodata = np.zeros_like(whole.values), np.zeros((height, width), bool)
    with open_image_file(path) as file:
        for top, bottom in pairwise((*CUTS, height)):
            for left, right in pairwise((*CUTS, width)):
                part = file.read((top, bottom, left, right))
                stitched[top:bottom, left:right] = part.values
                nodata[top:bottom, left:right] = holes(part.nodata, part.values.shape)
    np.testing.assert_array_equal(stitched, whole.values)
    np.testing.assert_array_equal(nodata, holes(whole.nodata, whole.values.shape))


@pytest.mark.parametrize("name", KINDS)
def test_without_the_extra_geo_a_file_gives_equal_pixels_or_one_sentence(tmp_path, name, monkeypatch):
    path, _, _ = write(tmp_path, name)
    whole = read_pixels(path)
    monkeypatch.setitem(sys.modules, "rasterio", None)
    if name in NEED_GEO:
        with pytest.raises(MissingExtraError, match=r"a TIFF .*fullconv\[geo\]"):
            read_pixels(path)
        return
    without = read_pixels(path)
    np.testing.assert_array_equal(without.values, whole.values)
    np.testing.assert_array_equal(holes(without.nodata, whole.values.shape), holes(whole.nodata, whole.values.shape))


def data_set(root: Path, channels: int) -> dict[str, str]:
    """Write a data set of all kinds with that many channels; returns the kinds by stem."""
    (root / "masks").mkdir(parents=True)
    stems = {}
    for number, (name, kind) in enumerate(KINDS.items()):
        if kind.channels != channels:
            continue
        path, _, _ = write(root / "images", name, f"kind{number:02}")
        height, width = image_size(path)
        y, x = np.mgrid[0:height, 0:width]
        Image.fromarray(((y * 3 // height + x * 3 // width) % 3).astype(np.uint8)).save(
            root / "masks" / f"{path.stem}.png"
        )
        stems[path.stem] = name
    (root / "data.toml").write_text('classes = ["a", "b", "c"]\n')
    return stems


@pytest.mark.parametrize("channels", [1, 3, 4, 7])
def test_evaluate_scores_the_very_files_that_predict_writes_and_void_where_there_are_no_data(tmp_path, channels):
    stems = data_set(tmp_path / "data", channels)
    dataset = open_dataset(tmp_path / "data")
    model = small_segmenter(in_channels=channels)
    report = evaluate(model, dataset, "all")
    predict_files(model, PredictJob([str(tmp_path / "data" / "images")], tmp_path / "out"))
    assert set(report.per_image) == set(stems)
    for sample in dataset.samples("all"):
        written = next((tmp_path / "out").glob(f"{sample.stem}.*"))
        label_map = tifffile.imread(written) if written.suffix == ".tif" else np.asarray(Image.open(written))
        pixels = dataset.read_pixels(sample, channels)
        seen = model.read(sample.image)
        np.testing.assert_array_equal(model.read(pixels).values, seen.values, err_msg=stems[sample.stem])
        nodata = holes(pixels.nodata, label_map.shape)
        assert np.array_equal(label_map == VOID, nodata), stems[sample.stem]
        truth = np.where(nodata, np.uint8(VOID), dataset.read_mask(sample))
        own = count(confusion_matrix(truth, label_map, 3))
        for ours, theirs in zip(own, report.per_image[sample.stem], strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=stems[sample.stem])
        if sample.image.suffix == ".tif":
            with RasterReader(sample.image, model.card) as raster:
                parts = [raster.read(a, b, 0, raster.width)[0] for a, b in pairwise((*CUTS, raster.height))]
            np.testing.assert_array_equal(np.concatenate(parts), seen.values, err_msg=stems[sample.stem])
