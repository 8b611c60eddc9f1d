"""Patches of a class as polygons: traced in the finished label map, so that no tile shows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from fullconv.card import Labels
from fullconv.errors import InputError
from fullconv.labels import format_color
from fullconv.rasters.geopackage import import_pyogrio, write_geopackage
from fullconv.rasters.source import import_rasterio, quiet
from fullconv.storage import write_bytes

DIGITS = 9
"""Of longitude and latitude: a tenth of a millimetre."""
BATCH = 4096
"""Polygons whose places are computed together."""


def check_polygons(path: Path) -> None:
    """Raise InputError if polygons cannot be written in the format that a name asks for."""
    if path.suffix.lower() == ".gpkg":
        import_pyogrio()
    elif path.suffix.lower() not in (".geojson", ".json"):
        raise InputError(
            f"{path}: polygons are written as GeoPackage or GeoJSON. Give it a name that ends in .gpkg or .geojson"
        )


def write_polygons(label_map: Path, path: Path, labels: Labels) -> None:
    """Write one polygon for each patch of a class (pixels that share edges) as GeoPackage or GeoJSON.

    Places in GeoJSON are longitude and latitude (RFC 7946) where the label map has a coordinate system, else its own
    coordinates, as in a GeoPackage always. Void becomes no polygon.

    Args:
        label_map: The finished GeoTIFF.
        path: The file; its ending chooses the format.
        labels: Names and colours of the classes.

    Raises:
        OutputError: It cannot be written.
    """
    rasterio = import_rasterio()
    with quiet(), rasterio.open(label_map) as result:
        if path.suffix.lower() == ".gpkg":
            crs = None if result.crs is None else result.crs.to_wkt()
            write_geopackage(path, _patches(result, labels), labels, crs)
        else:
            write_bytes(path, _parts(result, labels))


def _patches(result: Any, labels: Labels) -> Iterator[tuple[Mapping[str, Any], int]]:
    """Yield polygon and class index of every patch."""
    from rasterio.features import shapes

    found = shapes(import_rasterio().band(result, 1), transform=result.transform)
    return ((geometry, int(value)) for geometry, value in found if int(value) < len(labels.classes))


def _parts(result: Any, labels: Labels) -> Iterator[bytes]:
    from rasterio.warp import transform_geom

    yield b'{"type": "FeatureCollection", "features": ['
    lead = "\n"
    patches = _patches(result, labels)
    while batch := list(islice(patches, BATCH)):
        geometries = [geometry for geometry, _ in batch]
        if result.crs is not None:
            geometries = transform_geom(result.crs, "EPSG:4326", geometries, precision=DIGITS)
        for geometry, (_, index) in zip(geometries, batch, strict=True):
            name, color = labels.classes[index], format_color(labels.palette[index])
            feature = {
                "type": "Feature", "properties": {"class": name, "index": index, "color": color},
                "geometry": _wound(geometry),
            }  # fmt: skip
            yield (lead + json.dumps(feature, ensure_ascii=False)).encode()
            lead = ",\n"
    yield b"\n]}\n"


def _wound(geometry: Mapping[str, Any]) -> dict[str, Any]:
    """Turn rings as RFC 7946 wants them: the outer one against the clock, holes with it."""
    kind, parts = geometry["type"], geometry["coordinates"]
    if kind == "MultiPolygon":  # cut where it crosses the date line
        return {"type": kind, "coordinates": [_rings(part) for part in parts]}
    return {"type": kind, "coordinates": _rings(parts)}


def _rings(rings: Sequence[Any]) -> list[list[list[float]]]:
    turned = []
    for place, ring in enumerate(rings):
        points = [list(point) for point in ring]
        area = sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairwise(points))
        turned.append(points if (area > 0) == (place == 0) else points[::-1])
    return turned
