"""Polygons as a GeoPackage: read back by GDAL itself."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import rasterio
from orthophotos import CLASSES, labels_of, orthophoto

from fullconv.errors import MissingExtraError, OutputError
from fullconv.rasters import predict_raster, vector

pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # rasterio 1.4 on affine 3
pyogrio = pytest.importorskip("pyogrio")


def rings_of(wkb: bytes) -> list[np.ndarray]:
    assert (wkb[0], int.from_bytes(wkb[1:5], "little")) == (1, 3)  # little endian, polygon
    count, at, rings = int.from_bytes(wkb[5:9], "little"), 9, []
    for _ in range(count):
        points = int.from_bytes(wkb[at : at + 4], "little")
        rings.append(np.frombuffer(wkb, "<f8", 2 * points, at + 4).reshape(-1, 2))
        at += 4 + 16 * points
    return rings


def area(ring: np.ndarray) -> float:
    x, y = ring.T
    return abs(float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2))


@pytest.mark.parametrize("batch", [vector.POLYGONS_PER_INSERT, 7])
def test_patches_cover_the_label_map_in_the_rasters_coordinates(batch, tiny, write, tmp_path, monkeypatch):
    monkeypatch.setattr(vector, "POLYGONS_PER_INSERT", batch)
    path = tmp_path / "new" / "patches.gpkg"
    result = predict_raster(tiny, write(orthophoto(150, 110)), tmp_path / "labels.tif", tile=64, polygons=path)
    labels = labels_of(result.path)
    info = pyogrio.read_info(path)
    assert (info["layer_name"], info["geometry_type"], info["crs"]) == ("classes", "Polygon", "EPSG:32632")
    meta, _, shapes, (names, indices, colors) = pyogrio.raw.read(path)
    assert list(meta["fields"]) == ["class", "index", "color"]
    covered = dict.fromkeys(CLASSES, 0.0)
    for wkb, name in zip(shapes, names, strict=True):
        outer, *holes = (area(ring) for ring in rings_of(wkb))
        covered[name] += outer - sum(holes)
    pixel = 0.5 * 0.5
    assert covered == {name: float((labels == index).sum()) * pixel for index, name in enumerate(CLASSES)}
    assert {CLASSES[index] for index in indices} == set(names)
    assert set(colors) <= {"#0a141e", "#0000fa", "#c83c28"}
    assert {path.name for path in path.parent.iterdir()} == {"patches.gpkg"}


def test_a_raster_that_lies_nowhere_has_polygons_too(tiny, write, tmp_path):
    path = tmp_path / "patches.gpkg"
    source = write(orthophoto(64, 64), crs=None, transform=rasterio.Affine(1, 0, 0, 0, -1, 0))
    predict_raster(tiny, source, tmp_path / "labels.tif", polygons=path)
    assert pyogrio.read_info(path)["features"] > 0


def test_where_it_cannot_be_written_is_said(tiny, write, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"patches\.gpkg: cannot be written"):
        predict_raster(
            tiny, write(orthophoto(64, 64)), tmp_path / "labels.tif", polygons=tmp_path / "file" / "patches.gpkg"
        )


def test_without_the_extra_the_install_line_is_said_before_anything_is_done(tiny, write, tmp_path, monkeypatch):
    source = write(orthophoto(64, 64))
    monkeypatch.setitem(sys.modules, "pyogrio", None)
    monkeypatch.setitem(sys.modules, "pyogrio.raw", None)
    with pytest.raises(MissingExtraError, match=r'needs pyogrio, .* pip install "fullconv\[geo\]"'):
        predict_raster(tiny, source, tmp_path / "labels.tif", polygons=tmp_path / "patches.gpkg")
    assert not (tmp_path / "labels.tif").exists()
