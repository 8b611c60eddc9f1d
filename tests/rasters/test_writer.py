"""Probabilities of rasters: those of a image, in a GeoTIFF, whatever stopped the job in between."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from orthophotos import PLACE, cached, labels_of, orthophoto

from fullconv.cli import main
from fullconv.errors import InputError
from fullconv.rasters import predict_raster

pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # rasterio 1.4 on affine 3


def read(path):
    with rasterio.open(path) as file:
        return file.read()


@pytest.mark.parametrize(
    ("name", "tile", "tta"),
    [("tiny", "auto", ""), ("tiny", "none", ""), ("tiny", 64, ""), ("tiny", "auto", "flip"), ("tiny", 64, "flip"),
     ("by size", 64, "")],
)  # fmt: skip
def test_they_are_those_of_the_image_and_fit_the_labels(name, tile, tta, write, tmp_path):
    model = cached(name).with_options(tta=tta)
    image = orthophoto(333, 170)
    out = tmp_path / "chances.tif"
    predict_raster(model, write(image), tmp_path / "labels.tif", tile=tile, memory=150_000_000, probabilities=out)
    expected = model.predict(np.ascontiguousarray(np.moveaxis(image, 0, -1)), tile="none", probabilities=True)
    found = read(out)
    assert np.abs(found - expected.probabilities).max() < 1e-3  # of float16
    assert np.abs(found.sum(0) - 1).max() < 2e-3
    best = np.take_along_axis(found, labels_of(tmp_path / "labels.tif")[None].astype(int), 0)[0]
    assert (best >= found.max(0)).all()
    with rasterio.open(out) as file:
        assert (file.crs, file.transform, file.descriptions) == ("EPSG:32632", PLACE, ("ground", "water", "roof"))
        assert (file.dtypes, file.compression.name) == (("float32",) * 3, "deflate")


def test_without_data_they_are_not_a_number(tiny, write, tmp_path):
    image = np.maximum(orthophoto(100, 90), 1)
    image[:, 20:50, 30:60] = 0
    out = tmp_path / "chances.tif"
    predict_raster(tiny, write(image, nodata=0), tmp_path / "labels.tif", tile=32, probabilities=out)
    missing = np.isnan(read(out))
    assert (missing == (labels_of(tmp_path / "labels.tif") == 255)).all()
    assert missing.any()


@pytest.mark.parametrize("tile", ["auto", 64])
def test_a_stopped_job_gives_the_same_bytes(tile, tiny, write, tmp_path):
    source = write(orthophoto(500, 120))

    def job(name, **more):
        paths = tmp_path / name / "labels.tif", tmp_path / name / "chances.tif"
        predict_raster(tiny, source, paths[0], tile=tile, memory=90_000_000, probabilities=paths[1], **more)
        return [path.read_bytes() for path in paths]

    def stop(done, total):
        if done > 120:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job("stopped", progress=stop)
    assert {path.name for path in (tmp_path / "stopped").iterdir()} == {".labels.tif.rows"}
    assert job("stopped", resume=True) == job("once")
    stamp = (tmp_path / "stopped" / "labels.tif").stat().st_mtime_ns
    job("stopped", resume=True)  # finished: nothing to do
    assert (tmp_path / "stopped" / "labels.tif").stat().st_mtime_ns == stamp
    (tmp_path / "stopped" / "chances.tif").unlink()
    assert job("stopped", resume=True) == job("once")


def test_on_the_command_line_they_lie_beside_the_labels(tiny, write, tmp_path, capsys):
    tiny.save(tmp_path / "model.safetensors")
    source = write(orthophoto(90, 70))
    call = ["predict", str(tmp_path / "model.safetensors"), str(source), "-o", str(tmp_path / "out"), "--probabilities"]
    assert main(call) == 0, capsys.readouterr().err
    assert {path.name for path in (tmp_path / "out").glob("*.tif")} == {"ortho.tif", "ortho.probabilities.tif"}
    assert main([*call, "--resume"]) == 0


def test_names_that_cannot_be_are_refused(tiny, write, tmp_path):
    source = write(orthophoto(40, 40))
    for name, words in (
        ("chances.npz", "the probabilities of a raster are a GeoTIFF"),
        ("labels.tif", "is given for both labels and probabilities"),
        ("ortho.tif", "is the raster itself"),
    ):
        with pytest.raises(InputError, match=words):
            predict_raster(tiny, source, tmp_path / "labels.tif", probabilities=tmp_path / name)
