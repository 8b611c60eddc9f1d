from __future__ import annotations

import json
import re

import numpy as np
import pytest

from fullconv.data import open_dataset
from fullconv.errors import DataError
from synthetic import oracle
from synthetic.reading import codes, problems, read_mask

rasterio = pytest.importorskip("rasterio")
warp = pytest.importorskip("rasterio.warp")

SIZE = (48, 64)
STAR = [(5, 5), (50, 8), (30, 20), (45, 40), (8, 30)]
SQUARE = [(52, 30), (62, 30), (62, 44), (52, 44)]
HOLE = [(20, 12), (28, 12), (28, 18), (20, 18)]
ORIGIN = (600_000.0, 5_500_000.0)
"""Of the first image in UTM zone 32 north; pixels are 2 m."""


def write_image(root, name, crs="EPSG:32632", origin=ORIGIN, pixel=(2.0, -2.0)):
    path = root / f"{name}.tif"
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(list(name.encode())).integers(0, 255, (3, *SIZE), dtype=np.uint8)
    with rasterio.open(
        path, "w", driver="GTiff", height=SIZE[0], width=SIZE[1], count=3, dtype="uint8", crs=crs,
        transform=rasterio.Affine(pixel[0], 0, origin[0], 0, pixel[1], origin[1]),
    ) as file:  # fmt: skip
        file.write(pixels)


def on_map(points, crs=None, origin=ORIGIN, pixel=(2.0, -2.0), own="EPSG:32632"):
    """Return a closed ring of pixels (x, y) in coordinates of a map."""
    xs, ys = (
        [o + p * point[i] for point in [*points, points[0]]] for i, (o, p) in enumerate(zip(origin, pixel, strict=True))
    )
    if crs is not None:
        xs, ys = warp.transform(own, crs, xs, ys)
    return [[x, y] for x, y in zip(xs, ys, strict=True)]


def feature(rings, geometry="Polygon", **properties):
    return {"type": "Feature", "properties": properties, "geometry": {"type": geometry, "coordinates": rings}}


def write(path, features, crs=None):
    table = {"type": "FeatureCollection", "features": features}
    if crs is not None:
        table["crs"] = {"type": "name", "properties": {"name": crs}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(table), encoding="utf-8")


EXPECTED = np.where(oracle.polygon(SIZE, SQUARE), 2, oracle.polygon(SIZE, STAR) & ~oracle.polygon(SIZE, HOLE))
STATED = [
    ("EPSG:32632", None),
    ("EPSG:32632", "urn:ogc:def:crs:EPSG::32632"),
    ("EPSG:4326", None),
    ("EPSG:4326", "urn:ogc:def:crs:OGC:1.3:CRS84"),
    ("EPSG:3857", "EPSG:3857"),
]


@pytest.mark.parametrize(("crs", "stated"), STATED)
@pytest.mark.parametrize("places", [("{}", "{}"), ("images/{}", "labels/{}"), ("train/images/{}", "train/vectors/{}")])
def test_polygons_of_each_file_are_drawn_on_the_image_of_its_name(tmp_path, crs, stated, places):
    image, labels = places
    for name in "abc":
        write_image(tmp_path, image.format(name))
        star = feature([on_map(STAR, crs), on_map(HOLE, crs)], kind="field", area=12.5, id=name)
        square = feature([[on_map(SQUARE, crs)]], "MultiPolygon", kind="house", id=name + "2", note=None)
        write(tmp_path / f"{labels.format(name)}.geojson", [star, square], stated)
    opened = open_dataset(tmp_path)
    assert (opened.format, opened.classes) == ("geojson", ("background", "field", "house"))
    assert len(opened.samples("all")) == 3
    oracle.assert_close(read_mask(tmp_path, "b"), EXPECTED)


@pytest.mark.parametrize("crs", ["EPSG:32632", "EPSG:4326"])
def test_one_file_is_drawn_on_all_images_that_it_covers(tmp_path, crs):
    for column, name in enumerate("abc"):
        write_image(tmp_path, f"tiles/{name}", origin=(ORIGIN[0] + column * 128, ORIGIN[1]))
    write_image(tmp_path, "tiles/far", origin=(ORIGIN[0] + 90_000, ORIGIN[1]))
    road = [(-300, 20), (700, 20), (700, 26), (-300, 26)]
    pond = [(70, 2), (90, 2), (90, 12), (70, 12)]
    features = [feature([on_map(points, crs)], **{"class": name}) for points, name in ((road, "road"), (pond, "pond"))]
    write(tmp_path / "map.geojson", features)
    band = np.zeros(SIZE, np.uint8)
    band[20:26] = 2
    assert codes(tmp_path) <= {"unlabeled", "unlisted", "constant-mask", "few-pictures"}
    assert problems(tmp_path)["unlisted"].files == ("tiles/far.tif",)
    oracle.assert_close(read_mask(tmp_path, "a"), band)
    band[2:12, 6:26] = 1
    oracle.assert_close(read_mask(tmp_path, "b"), band)


@pytest.mark.parametrize("own", [{"name": "plot {}"}, {"fid": 7}, {"class": "plot {}", "area": 12.5}])
def test_names_and_numbers_of_single_features_are_no_classes(tmp_path, own):
    features = []
    for i in range(8):
        square = [(7 * i, 5), (7 * i + 6, 5), (7 * i + 6, 20), (7 * i, 20)]
        row = {key: value.format(i) if isinstance(value, str) else value + i for key, value in own.items()}
        features.append(feature([on_map(square)], **row))
    for name in "ab":
        write_image(tmp_path, name)
    write(tmp_path / "plots.geojson", features)
    assert open_dataset(tmp_path).classes == ("background", "object")
    assert "as many values as features" in problems(tmp_path)["class-attribute"].cause


def test_numbers_that_became_floats_are_classes(tmp_path):
    for name in "abc":
        write_image(tmp_path, name)
        rings = [[on_map(STAR)], [on_map(SQUARE)]]
        write(
            tmp_path / f"{name}.geojson", [feature(r, code=value) for r, value in zip(rings, (1.0, 2.0), strict=True)]
        )
    assert open_dataset(tmp_path).classes == ("background", "1", "2")


def test_images_in_degrees_and_files_of_one_class_each(tmp_path):
    degrees = {"origin": (9.0, 49.0), "pixel": (1e-5, -1e-5)}
    write_image(tmp_path, "a", "EPSG:4326", **degrees)
    write_image(tmp_path, "b", "EPSG:4326", **degrees)
    write(tmp_path / "fields.geojson", [feature([on_map(STAR, **degrees)])])
    write(tmp_path / "houses.geojson", [feature([on_map(SQUARE, **degrees)])])
    assert open_dataset(tmp_path).classes == ("background", "fields", "houses")
    expected = np.where(oracle.polygon(SIZE, SQUARE), 2, oracle.polygon(SIZE, STAR))
    oracle.assert_close(read_mask(tmp_path, "b"), expected)


def test_a_file_without_features_is_background_and_points_have_no_area(tmp_path):
    for name in "abc":
        write_image(tmp_path, name)
        write(tmp_path / f"{name}.geojson", [feature([on_map(STAR)], label="x")])
    write(tmp_path / "c.geojson", [])
    assert not read_mask(tmp_path, "c").any()
    write(tmp_path / "c.geojson", [feature([9.0, 49.0], "Point", label="x"), feature([on_map(STAR)], label="x")])
    assert "no-area" in codes(tmp_path)
    write(
        tmp_path / "c.geojson", [feature([[[1, 2], [3, "x"], [5, 6]]], label="x"), feature([on_map(STAR)], label="x")]
    )
    assert problems(tmp_path)["bad-shape"].stems == {"c"}


def test_polygons_elsewhere_and_malformed_files_are_named(tmp_path):
    for name in "ab":
        write_image(tmp_path, name)
        write(tmp_path / f"{name}.geojson", [feature([on_map(STAR)], label="x")])
    write(tmp_path / "b.geojson", [feature([on_map(STAR, origin=(100_000, 100_000))], label="x")])
    found = problems(tmp_path)["unreadable"]
    assert found.files == ("b.geojson",)
    assert "outside of b.tif (EPSG:32632, origin (600000, 5500000)" in found.cause
    for crs in ("EPSG:999999", "[[]]", "nowhere"):
        write(tmp_path / "b.geojson", [feature([on_map(STAR)], label="x")], crs)
        with pytest.raises(
            DataError, match=rf"b\.geojson: cannot be transformed from {re.escape(crs)}.*Export it again"
        ):
            open_dataset(tmp_path)
    (tmp_path / "b.geojson").write_text('{"type": "FeatureCollection", "features": {}}')
    with pytest.raises(DataError, match=r"b\.geojson: has no list of features"):
        open_dataset(tmp_path)
