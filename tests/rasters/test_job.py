"""What comes in, what comes out, and what a kill or a bad file leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from orthophotos import CLASSES, PLACE, labels_of, narrow, orthophoto, whole_labels, write_raster
from rasterio.enums import ColorInterp
from rasterio.features import shapes

from fullconv.errors import FullconvError, InputError, NetworkError, OutputError, RunError
from fullconv.nn import build
from fullconv.rasters import is_georeferenced, predict_raster
from fullconv.segmenter import Segmenter

pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # rasterio 1.4 on affine 3
RGBA = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_result_lies_on_the_same_grid_with_colours_and_names(tiny, write, tmp_path):
    source = write(orthophoto(600, 530))
    seen = []
    options = {"tile": 256, "overviews": True, "progress": lambda *done: seen.append(done)}
    result = predict_raster(tiny, source, tmp_path / "new" / "labels.tif", **options)
    assert seen[-1] == (600, 600)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    with rasterio.open(result.path) as file:
        assert (file.crs, file.transform, file.shape) == ("EPSG:32632", PLACE, (600, 530))
        assert (file.dtypes, file.nodata, file.block_shapes) == (("uint8",), 255, [(512, 512)])
        assert file.compression.name == "deflate"
        assert file.colormap(1)[2] == (200, 60, 40, 255)
        assert json.loads(file.tags()["FULLCONV_CLASSES"]) == list(CLASSES)
        assert file.tags(1)["CLASS_2"] == "roof"
        assert file.overviews(1) == [2]
    assert left_in(tmp_path / "new") == {"labels.tif"}
    assert result.counts.sum() == 600 * 530


@pytest.mark.parametrize(("dtype", "top"), [("uint16", 65535.0), ("int16", 30000.0), ("float32", 1.0)])
def test_deep_rasters_of_many_bands_are_read_in_the_cards_bands(dtype, top, write, tmp_path):
    model = narrow("fcn8s", 0.25, "tiny")
    model.card.bands, model.card.range = (4, 1, 2), (0.0, top)
    image = orthophoto(130, 97, bands=5, dtype=dtype)
    predict_raster(model, write(image), tmp_path / "labels.tif", tile=64)
    assert (labels_of(tmp_path / "labels.tif") == whole_labels(model, image[[3, 0, 1]])).all()


def test_one_band_is_grey_for_a_network_of_three(tiny, write, tmp_path):
    image = orthophoto(80, 90, bands=1)
    predict_raster(tiny, write(image), tmp_path / "labels.tif", tile=32)
    assert (labels_of(tmp_path / "labels.tif") == whole_labels(tiny, image.repeat(3, axis=0))).all()


def test_a_virtual_raster_and_a_big_tiff_are_rasters(tiny, write, tmp_path):
    image = orthophoto(100, 90)
    path = write(image, BIGTIFF="YES")
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{n}"><SimpleSource><SourceFilename relativeToVRT="1">{path.name}'
        f"</SourceFilename><SourceBand>{n}</SourceBand></SimpleSource></VRTRasterBand>"
        for n in (1, 2, 3)
    )
    (tmp_path / "all.vrt").write_text(f'<VRTDataset rasterXSize="90" rasterYSize="100">{bands}</VRTDataset>')
    for name in (path.name, "all.vrt"):
        predict_raster(tiny, tmp_path / name, tmp_path / "labels.tif", tile=64)
        assert (labels_of(tmp_path / "labels.tif") == whole_labels(tiny, image)).all()


def test_what_holds_no_data_is_void_and_the_rest_is_labelled(tiny, write, tmp_path):
    image = orthophoto(120, 110)
    empty = np.zeros((120, 110), bool)
    empty[20:60, 30:70] = True
    zeroed = np.where(empty, 0, np.maximum(image, 1)).astype(np.uint8)
    alpha = np.where(empty, 0, 255).astype(np.uint8)
    sources = {
        "nodata": (write(zeroed, "nodata.tif", nodata=0), zeroed),
        "alpha": (write(np.concatenate([image, alpha[None]]), "alpha.tif", colorinterp=RGBA), image),
        "mask": (write(image, "mask.tif", mask=alpha), image),
    }
    for name, (source, seen) in sources.items():
        result = predict_raster(tiny, source, tmp_path / f"{name}-labels.tif", tile=64)
        expected = whole_labels(tiny, seen)
        expected[empty] = 255
        assert (labels_of(result.path) == expected).all(), name
        assert result.void == empty.sum()


def test_a_pixel_with_data_in_one_band_has_data(tiny, write, tmp_path):
    image = np.zeros((3, 64, 64), np.uint8)
    image[0] = 200  # pure red, though 0 is no data
    result = predict_raster(tiny, write(image, nodata=0), tmp_path / "labels.tif")
    assert result.void == 0


def test_numbers_that_are_none_do_not_spread(write, tmp_path):
    model = narrow("fcn8s", 0.25, "tiny")
    model.card.range = (0.0, 1.0)
    image = orthophoto(128, 128, dtype="float32")
    filled = image.copy()
    filled[:, :40, :50] = np.array(model.card.mean, np.float32)[:, None, None]
    for name, hole, nodata in (("nan", np.nan, None), ("far", -9999.0, -9999.0)):
        broken = image.copy()
        broken[:, :40, :50] = hole
        result = predict_raster(model, write(broken, f"{name}.tif", nodata=nodata), tmp_path / "labels.tif", tile=64)
        expected = whole_labels(model, filled)
        expected[:40, :50] = 255
        assert (labels_of(result.path) == expected).all(), name


@pytest.mark.parametrize("more", [{"crs": None}, {"crs": None, "transform": None}, {"rotated": True}])
def test_any_place_or_none_is_kept(more, tiny, write, tmp_path):
    if more.pop("rotated", False):
        more = {"transform": rasterio.Affine(0.4, 0.3, 440720, 0.3, -0.4, 5100000)}
    source = write(orthophoto(64, 70), **more)
    predict_raster(tiny, source, tmp_path / "labels.tif", polygons=tmp_path / "patches.geojson")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(source) as given, rasterio.open(tmp_path / "labels.tif") as found:
            assert found.crs == given.crs
            assert found.transform.almost_equals(given.transform, 1e-9)
    assert json.loads((tmp_path / "patches.geojson").read_text())["features"]


def test_polygons_cover_the_label_map_without_seams(tiny, write, tmp_path):
    flat = {"crs": None, "transform": rasterio.Affine(1, 0, 0, 0, -1, 0)}
    source = write(orthophoto(200, 150), **flat)
    result = predict_raster(tiny, source, tmp_path / "labels.tif", tile=64, polygons=tmp_path / "patches.geojson")
    labels = labels_of(result.path)
    found = json.loads(result.polygons.read_text())["features"]
    area = dict.fromkeys(CLASSES, 0.0)
    for feature in found:
        for place, ring in enumerate(feature["geometry"]["coordinates"]):
            x, y = np.array(ring).T
            signed = float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)
            assert (signed > 0) == (place == 0)  # outer rings against the clock, holes with it
            area[feature["properties"]["class"]] += signed
    assert area == {name: float((labels == index).sum()) for index, name in enumerate(CLASSES)}
    assert len(found) == len(list(shapes(labels)))  # as many as in the label map: no tile cuts one in two


def test_polygons_with_a_place_are_in_longitude_and_latitude(tiny, write, tmp_path):
    predict_raster(tiny, write(orthophoto(64, 64)), tmp_path / "labels.tif", polygons=tmp_path / "p.geojson")
    ring = json.loads((tmp_path / "p.geojson").read_text())["features"][0]["geometry"]["coordinates"][0]
    assert all(8.2 < x < 8.3 and 46.0 < y < 46.1 for x, y in ring)


def refused(model: Segmenter, source: Path, out: Path, words: str, kind: type[FullconvError] = InputError, **more):
    before = left_in(out.parent)
    with pytest.raises(kind, match=words):
        predict_raster(model, source, out, **more)
    assert left_in(out.parent) == before


def test_bad_rasters_are_named_and_leave_nothing(tiny, write, tmp_path):
    out = tmp_path / "labels.tif"
    out.write_bytes(b"an older result")
    refused(tiny, tmp_path / "none.tif", out, r"none\.tif: no such file\. Name a raster")
    refused(tiny, tmp_path, out, r"is a folder\. Name a raster")
    (tmp_path / "text.tif").write_text("no raster")
    refused(tiny, tmp_path / "text.tif", out, r"text\.tif: cannot be read as a raster \(.*\)\. Copy or export it again")
    refused(tiny, write(orthophoto(64, 64, bands=5)), out, r"ortho\.tif: has 5 bands, the model expects 3\.")
    (tmp_path / "empty.vrt").write_text('<VRTDataset rasterXSize="9" rasterYSize="9"></VRTDataset>')
    message = r"empty\.vrt: (has no band, the model expects 3|cannot be read as a raster)"
    refused(tiny, tmp_path / "empty.vrt", out, message)
    whole_file = write(orthophoto(400, 300), "cut.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole_file[: len(whole_file) // 2])
    refused(tiny, tmp_path / "cut.tif", out, r"cut\.tif: .*(damaged or cut short|cannot be decoded)", tile=64)
    refused(tiny, write(orthophoto(64, 64, dtype="uint8").astype(np.complex64)), out, r"holds complex numbers")
    assert out.read_bytes() == b"an older result"


def test_what_cannot_be_done_is_said_before_anything_is_read(tiny, write, tmp_path):
    source = write(orthophoto(64, 64))
    out = tmp_path / "labels.tif"
    refused(tiny, source, source, r"is the raster itself, which would be replaced")
    refused(tiny, source, tmp_path / "labels.png", r"is a GeoTIFF\. Use a name that ends in \.tif")
    refused(tiny, source, out, r"written as GeoPackage or GeoJSON\. Use a name", polygons=tmp_path / "patches.shp")
    refused(tiny, source, out, r"tile must be \"auto\", \"none\" or a number", tile=0)
    half = narrow("fcn8s", 0.25, "tiny")
    half.card.scale = 0.5
    refused(half, source, out, r"works at 0\.5 of an image's resolution.*Resample the raster")
    half.card.scale = 1.0
    short = narrow("fcn8s", 0.25, "tiny")
    short.card.short_side = 520
    refused(short, source, out, r"resizes each image to a shorter side of 520 pixels.*Use --scale 1")
    predict_raster(short.with_options(scale=1.0), source, tmp_path / "native.tif")
    refused(half.with_options(scale=0.5), source, out, r"works at 0\.5 of an image's resolution")
    refused(half.with_options(blend=True), source, out, r"exact tiles only: omit --blend")
    refused(half.with_options(tta="flip,0.5"), source, out, r"only --tta flip is possible, not flip,0\.5")
    gated = Segmenter.from_network(build("fcn8s", backbone="mobilenetv3_large_100", num_classes=3), CLASSES)
    refused(gated, source, out, r"too large for its memory budget.*SqueezeExcite", NetworkError, memory=1000)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        predict_raster(tiny, source, tmp_path / "file" / "labels.tif")


def test_a_finished_job_is_not_done_again(tiny, write, tmp_path):
    source, out = write(orthophoto(130, 90)), tmp_path / "labels.tif"
    first = predict_raster(tiny, source, out, tile=64, resume=True)
    stamp = out.stat().st_mtime_ns
    again = predict_raster(tiny, source, out, tile=64, resume=True)
    assert out.stat().st_mtime_ns == stamp
    assert again.counts.tolist() == first.counts.tolist()
    for options in ({"tile": 32}, {"memory": 150_000_000}, {"memory": 1_500_000_000}):  # what is free is another day's
        assert predict_raster(tiny, source, out, resume=True, **options).existed, options
    assert not predict_raster(tiny, source, out, resume=True, overviews=True).existed


def test_another_job_is_not_gone_on_with(tiny, write, tmp_path):
    source, out = write(orthophoto(130, 90)), tmp_path / "labels.tif"

    def stop(done: int, _: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_raster(tiny, source, out, tile=64, progress=stop)
    assert not out.exists()
    with pytest.raises(RunError, match=r"belongs to a job with another tile\. Rerun the same command"):
        predict_raster(tiny, source, out, tile=32, resume=True)
    os.utime(source, ns=(1, 1))
    with pytest.raises(RunError, match=r"belongs to a job with another raster"):
        predict_raster(tiny, source, out, tile=64, resume=True)
    predict_raster(tiny, source, out, tile=64)
    assert left_in(tmp_path) == {source.name, out.name}


SCRIPT = """
import os, resource, signal, sys, time
sys.path[:0] = {paths!r}
from orthophotos import narrow
from fullconv.errors import OutputError
from fullconv.rasters import predict_raster
import torch
torch.set_num_threads(1)
model = narrow("fcn8s", 0.25, "tiny")
source, out, full = sys.argv[1:]

def killed(band, torn):  # die after some bands, or in the middle of writing one
    seen = []
    def progress(done, total):
        seen.append(done)
        if len(seen) == band:
            if torn:
                with open(os.path.join(os.path.dirname(out), "." + os.path.basename(out) + ".rows"), "ab") as file:
                    file.write(b"the start of a record")
            os.kill(os.getpid(), signal.SIGKILL)
    predict_raster(model, source, out, tile=32, resume=True, progress=progress)

for band, torn in ((2, True), (3, False)):
    child = os.fork()
    if child == 0:
        killed(band, torn)
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert not os.path.exists(out)
bands = []
predict_raster(model, source, out, tile=32, resume=True, progress=lambda *done: bands.append(done))
print(len(bands))
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def late(done, total):  # room for the rows, but not for the GeoTIFF
    if done == total:
        limit(os.path.getsize(out) // 2)

for size, progress in ((3000, None), (10**9, late)):
    limit(size)
    try:
        predict_raster(model, source, full, tile=32, progress=progress)
    except OutputError as error:
        print(error)
    assert not os.path.exists(full)

def later(done, total):  # room for the label map, but not for the probabilities
    if done == total:
        limit(2 * os.path.getsize(out))

limit(10**9)
chances = full + ".chances.tif"
try:
    predict_raster(model, source, full, tile=32, progress=later, probabilities=chances)
except OutputError as error:
    print(error)
assert not os.path.exists(chances)
assert not [name for name in os.listdir(os.path.dirname(full)) if name.endswith(".part")]
limit(10**9)
predict_raster(model, source, full, tile=32, resume=True, probabilities=chances)
print(os.path.exists(full) and os.path.exists(chances))
"""


@pytest.mark.skipif(os.name == "nt", reason="needs fork and limits of POSIX")
def test_a_killed_job_goes_on_to_the_same_bytes_and_a_full_disc_is_said(tiny, tmp_path):
    source = write_raster(tmp_path / "ortho.tif", orthophoto(300, 400))
    paths = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
    script = [sys.executable, "-c", SCRIPT.format(paths=paths)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*script, str(source), str(tmp_path / "killed.tif"), str(tmp_path / "full.tif")],
        capture_output=True, text=True, timeout=500, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0] == "5"  # of ten bands two, then three, were there
    assert len(said) == 5
    assert all("cannot be written" in line for line in said[1:4])
    assert "full.tif.chances.tif" in said[3]
    assert said[4] == "True"
    predict_raster(tiny, source, tmp_path / "killed-not.tif", tile=32)
    assert (tmp_path / "killed.tif").read_bytes() == (tmp_path / "killed-not.tif").read_bytes()
    assert not (tmp_path / ".killed.tif.rows").exists()


def test_a_geotiff_is_known_by_its_header(write, tmp_path):
    assert is_georeferenced(write(orthophoto(16, 16)))
    assert is_georeferenced(write(orthophoto(16, 16), BIGTIFF="YES"))
    assert not is_georeferenced(write(orthophoto(16, 16), crs=None, transform=None))
    (tmp_path / "a.tif").write_bytes(b"II*\x00\xff\xff\xff\xff")
    assert not is_georeferenced(tmp_path / "a.tif")
    assert not is_georeferenced(tmp_path / "missing.tif")


def test_without_the_extra_the_install_line_is_said(tiny, write, tmp_path, monkeypatch):
    source = write(orthophoto(64, 64))
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(FullconvError, match=r'needs rasterio, .* pip install "fullconv\[geo\]"'):
        predict_raster(tiny, source, tmp_path / "labels.tif")
