"""`fullconv predict` on georeferenced TIFFs: GeoTIFF in, GeoTIFF out; all other pictures as ever."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import rasterio
from orthophotos import labels_of, orthophoto
from PIL import Image

from fullconv.cli import main
from fullconv.errors import InputError
from fullconv.predict import PredictJob, predict_files

pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # rasterio 1.4 on affine 3


@pytest.fixture(scope="module")
def model(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    tiny.save(path)
    return path


def log_of(folder) -> dict[str, dict]:
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    return {line["input"].rpartition("/")[2]: line for line in lines}


def test_a_georeferenced_tiff_gives_a_geotiff_and_a_plain_one_a_png(model, tiny, write, tmp_path, capsys):
    image = orthophoto(150, 110)
    write(image, "ortho.tif")
    Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(tmp_path / "plain.tif")
    out = tmp_path / "out"
    inputs = [str(tmp_path / "ortho.tif"), str(tmp_path / "plain.tif")]
    assert main(["predict", str(model), *inputs, "-o", str(out), "--tile", "64"]) == 0, capsys.readouterr().err
    assert {path.name for path in out.iterdir()} == {"ortho.tif", "plain.png", "predictions.jsonl", "summary.csv"}
    assert (labels_of(out / "ortho.tif") == np.asarray(Image.open(out / "plain.png"))).all()
    with rasterio.open(out / "ortho.tif") as file:
        assert file.crs == "EPSG:32632"
    assert log_of(out)["ortho.tif"]["output"] == (out / "ortho.tif").as_posix()
    with (out / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    by_image = [[row["pixels"] for row in rows if row["image"].endswith(name)] for name in ("ortho.tif", "plain.tif")]
    assert by_image[0] == by_image[1]
    stamp = (out / "ortho.tif").stat().st_mtime_ns
    capsys.readouterr()
    assert main(["predict", str(model), *inputs, "-o", str(out), "--tile", "64", "--resume"]) == 0
    assert (out / "ortho.tif").stat().st_mtime_ns == stamp
    assert "0 images predicted, 2 skipped" in capsys.readouterr().err
    assert {line["status"] for line in log_of(out).values()} == {"skipped"}


def test_a_stop_between_bands_is_gone_on_with(tiny, write, tmp_path):
    source, out = write(orthophoto(300, 100)), tmp_path / "out"
    asked = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 6

    job = PredictJob([str(source)], out, tile=32, skip_existing=True)
    assert predict_files(tiny, job, stop=stop).total == 0
    assert (out / ".ortho.tif.rows").exists()
    assert not (out / "ortho.tif").exists()
    assert predict_files(tiny, job).done == 1
    predict_files(tiny, PredictJob([str(source)], tmp_path / "once", tile=32))
    assert (out / "ortho.tif").read_bytes() == (tmp_path / "once" / "ortho.tif").read_bytes()


def test_polygons_are_of_one_raster(tiny, write, tmp_path):
    source, polygons = write(orthophoto(100, 90)), tmp_path / "patches.geojson"
    assert predict_files(tiny, PredictJob([str(source)], tmp_path / "out", polygons=polygons)).done == 1
    assert json.loads(polygons.read_text())["type"] == "FeatureCollection"
    other = write(orthophoto(100, 90), "other.tif")
    with pytest.raises(InputError, match="takes one georeferenced raster, and several images are given"):
        predict_files(tiny, PredictJob([str(source), str(other)], tmp_path / "two", polygons=polygons))
    plain = write(orthophoto(100, 90), "plain.tif", crs=None, transform=None)
    with pytest.raises(InputError, match=r"plain\.tif is none\. Predict it by itself"):
        predict_files(tiny, PredictJob([str(plain)], tmp_path / "three", polygons=polygons))
    with pytest.raises(InputError, match=r"patches\.shp: polygons are written as GeoPackage or GeoJSON"):
        predict_files(tiny, PredictJob([str(source)], tmp_path / "four", polygons=polygons.with_suffix(".shp")))
    assert not (tmp_path / "four").exists()


def test_options_that_a_geotiff_cannot_have_fail_that_raster_alone(tiny, write, tmp_path):
    write(orthophoto(64, 64), "ortho.tif")
    write(orthophoto(64, 64), "plain.tif", crs=None, transform=None)
    said = []
    job = PredictJob([str(tmp_path / "ortho.tif"), str(tmp_path / "plain.tif")], tmp_path / "out", overlay=True)
    tally = predict_files(tiny, job, lambda *failure: said.append(failure))
    assert (tally.done, tally.failed) == (1, 1)
    assert said[0][1].endswith("is georeferenced, so its result is a GeoTIFF of labels. Omit --overlay.")
    assert not (tmp_path / "out" / "ortho.tif").exists()


def test_a_result_replaces_no_other_raster(tiny, write, tmp_path):
    source = write(orthophoto(64, 64))
    said = []
    job = PredictJob([str(source)], tmp_path)
    assert predict_files(tiny, job, lambda *failure: said.append(failure)).failed == 1
    assert "ortho.tif: exists and was not written by fullconv" in said[0][1]
    assert (labels_of(source) == orthophoto(64, 64)[0]).all()
