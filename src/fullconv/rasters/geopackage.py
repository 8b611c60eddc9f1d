"""Polygons as a GeoPackage, in the raster's own coordinates: a file that GIS programs open at any size."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from fullconv.card import Labels
from fullconv.errors import MissingExtraError, OutputError
from fullconv.labels import format_color

BATCH = 16384
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
    temporary = path.with_name(f".{path.stem}.part.gpkg")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}).") from error
    except RuntimeError as error:  # pyogrio's own errors
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise OutputError(f"{path}: cannot be written ({reason}). Make room, or choose another place.") from error
    finally:
        for ending in ("", "-journal", "-wal", "-shm"):
            with suppress(OSError):
                temporary.with_name(temporary.name + ending).unlink()


def _batches(patches: Iterable[tuple[Mapping[str, Any], int]]) -> Iterator[list[tuple[Mapping[str, Any], int]]]:
    """Cut into lists; at least one, so that a raster without a patch gets an empty layer."""
    source = iter(patches)
    yield list(islice(source, BATCH))
    while batch := list(islice(source, BATCH)):
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
