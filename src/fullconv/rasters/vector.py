"""Patches of a class as polygons: traced in the finished label map, so that no tile shows.

Polygons as a GeoPackage, in the raster's own coordinates: a file that GIS programs open at any size.
"""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from fullconv.card import Labels
from fullconv.errors import InputError, MissingExtraError, OutputError, first_line
from fullconv.labels import format_color
from fullconv.rasters.reader import import_rasterio, quiet
from fullconv.storage import atomic_path, write_bytes

DIGITS = 9
"""Of longitude and latitude: a tenth of a millimetre."""
PATCHES_PER_WRITE = 4096
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
    while batch := list(islice(patches, PATCHES_PER_WRITE)):
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


ROWS_PER_INSERT = 16384
"""Polygons that are written together."""
LAYER = "classes"


def import_pyogrio() -> Any:
    """Return the package.

    Raises:
        MissingExtraError: pyogrio is not installed.
    """
    try:
        import pyogrio.raw
    except ImportError as error:
        raise MissingExtraError("pyogrio", "geo", "writing a GeoPackage") from error
    return pyogrio.raw


def write_geopackage(
    path: Path, patches: Iterable[tuple[Mapping[str, Any], int]], labels: Labels, crs: str | None
) -> None:
    """Write polygons with class, index and colour, as the layer ``classes``.

    Args:
        path: The .gpkg.
        patches: GeoJSON polygons and class indices.
        labels: Names and colours of the classes.
        crs: Coordinate system of the polygons as WKT; None where they lie nowhere on Earth.

    Raises:
        OutputError: It cannot be written.
    """
    raw = import_pyogrio()
    name = f".{path.stem}.part.gpkg"
    try:
        with atomic_path(path, temporary=name) as temporary:
            temporary.unlink(missing_ok=True)
            for turn, batch in enumerate(_batches(patches)):
                indices = np.array([index for _, index in batch], np.int32)
                names = np.array([labels.classes[index] for index in indices], object)
                colors = np.array([format_color(labels.palette[index]) for index in indices], object)
                geometry = np.empty(len(batch), object)
                geometry[:] = [well_known_bytes(shape) for shape, _ in batch]
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message=".*crs.*was not provided.*")
                    raw.write(
                    temporary, geometry, [names, indices, colors], ["class", "index", "color"], layer=LAYER,
                    driver="GPKG", geometry_type="Polygon", crs=crs, append=turn > 0,
                )  # fmt: skip
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}).") from error
    except RuntimeError as error:  # pyogrio's own errors
        reason = first_line(error).rstrip(".")
        raise OutputError(f"{path}: cannot be written ({reason}). Make room, or choose another place.") from error
    finally:
        for ending in ("-journal", "-wal", "-shm"):
            with suppress(OSError):
                path.with_name(name + ending).unlink()


def _batches(patches: Iterable[tuple[Mapping[str, Any], int]]) -> Iterator[list[tuple[Mapping[str, Any], int]]]:
    """Cut into lists; at least one, so that a raster without a patch gets an empty layer."""
    source = iter(patches)
    yield list(islice(source, ROWS_PER_INSERT))
    while batch := list(islice(source, ROWS_PER_INSERT)):
        yield batch


def well_known_bytes(polygon: Mapping[str, Any]) -> bytes:
    """Return a GeoJSON polygon as well-known binary (OGC 06-103r4, little endian).

    >>> len(well_known_bytes({"coordinates": [[(0, 0), (1, 0), (1, 1), (0, 0)]]}))
    77
    """
    rings: Sequence[Sequence[Sequence[float]]] = polygon["coordinates"]
    parts = [struct.pack("<BII", 1, 3, len(rings))]
    for ring in rings:
        parts += [struct.pack("<I", len(ring)), np.asarray(ring, "<f8").tobytes()]
    return b"".join(parts)
