"""Connected areas of a class as polygons, traced in the finished label map, so that no tile shows.

They are written as a GeoPackage in the raster's own coordinates; GeoJSON is converted from it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from fullconv.card import Labels
from fullconv.errors import InputError, MissingExtraError, OutputError, first_line
from fullconv.images import import_rasterio, quiet
from fullconv.labels import format_color
from fullconv.storage import atomic_path

GEOJSON_DIGITS = 9
"""Decimals of longitude and latitude: a tenth of a millimetre."""
POLYGONS_PER_INSERT = 16384
LAYER = "classes"


def check_polygons(path: Path) -> None:
    """Raise InputError unless the suffix names a format for polygons, MissingExtraError without its library."""
    if path.suffix.lower() not in (".gpkg", ".geojson", ".json"):
        raise InputError(
            f"{path}: polygons are written as GeoPackage or GeoJSON. Use a name that ends in .gpkg or .geojson"
        )
    _import_pyogrio()


def write_polygons(label_map: Path, path: Path, labels: Labels) -> None:
    """Write one polygon for each connected area of a class (pixels that share edges) as GeoPackage or GeoJSON.

    Coordinates in GeoJSON are longitude and latitude (RFC 7946) where the label map has a coordinate system, otherwise
    its own. Void becomes no polygon.
    """
    from rasterio.features import shapes

    rasterio, pyogrio = import_rasterio(), _import_pyogrio()
    geojson = path.suffix.lower() != ".gpkg"
    name = f".{path.stem}.part.gpkg"
    try:
        with quiet(), rasterio.open(label_map) as result, atomic_path(path, temporary=name) as temporary:
            temporary.unlink(missing_ok=True)
            crs = None if result.crs is None else result.crs.to_wkt()
            found = shapes(rasterio.band(result, 1), transform=result.transform)
            areas = ((geometry, int(value)) for geometry, value in found if int(value) < len(labels.classes))
            _write_geopackage(temporary, areas, labels, crs)
            if geojson:
                converted = temporary.with_suffix(".geojson")
                options = {"COORDINATE_PRECISION": str(GEOJSON_DIGITS), **({"RFC7946": "YES"} if crs else {})}
                with pyogrio.open_arrow(temporary, use_pyarrow=False) as (meta, reader):
                    pyogrio.write_arrow(
                        reader, converted, layer=LAYER, driver="GeoJSON", geometry_type="Polygon",
                        geometry_name=meta["geometry_name"], crs=meta["crs"], layer_options=options,
                    )  # fmt: skip
                converted.replace(temporary)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}).") from error
    except RuntimeError as error:  # pyogrio's own errors
        reason = first_line(error).rstrip(".")
        raise OutputError(
            f"{path}: cannot be written ({reason}). Free disk space, or choose another folder."
        ) from error
    finally:
        for suffix in (".gpkg-journal", ".gpkg-wal", ".gpkg-shm", ".geojson"):
            with suppress(OSError):
                path.with_name(name.removesuffix(".gpkg") + suffix).unlink()


def _import_pyogrio() -> Any:
    try:
        import pyogrio
    except ImportError as error:
        raise MissingExtraError("pyogrio", "geo", "writing polygons") from error
    return pyogrio


def _write_geopackage(
    path: Path, areas: Iterable[tuple[Mapping[str, Any], int]], labels: Labels, crs: str | None
) -> None:
    """Write polygons with class, index and colour, as the layer ``classes``; the layer is empty without any."""
    source = iter(areas)
    batch, append = list(islice(source, POLYGONS_PER_INSERT)), False
    while batch or not append:
        indices = np.array([index for _, index in batch], np.int32)
        names = np.array([labels.classes[index] for index in indices], object)
        colors = np.array([format_color(labels.palette[index]) for index in indices], object)
        geometry = np.empty(len(batch), object)
        geometry[:] = [to_wkb(shape) for shape, _ in batch]
        _import_pyogrio().raw.write(
            path, geometry, [names, indices, colors], ["class", "index", "color"], layer=LAYER, driver="GPKG",
            geometry_type="Polygon", crs=crs, append=append,
        )  # fmt: skip
        batch, append = list(islice(source, POLYGONS_PER_INSERT)), True


def to_wkb(polygon: Mapping[str, Any]) -> bytes:
    """Return a GeoJSON polygon as well-known binary (OGC 06-103r4, little endian).

    >>> len(to_wkb({"coordinates": [[(0, 0), (1, 0), (1, 1), (0, 0)]]}))
    77
    """
    rings: Sequence[Sequence[Sequence[float]]] = polygon["coordinates"]
    parts = [struct.pack("<BII", 1, 3, len(rings))]
    for ring in rings:
        parts += [struct.pack("<I", len(ring)), np.asarray(ring, "<f8").tobytes()]
    return b"".join(parts)
