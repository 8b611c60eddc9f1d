"""GeoJSON polygons beside GeoTIFFs, in longitude and latitude (WGS84) or in the images' coordinate reference system."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.data.config import DataSettings
from fullconv.data.files import Folder, nfc, read_head_tail
from fullconv.data.formats.annotation_files import (
    ImageIndex,
    class_attribute,
    objects_in,
    read_json,
    single_class,
    unique,
)
from fullconv.data.formats.drawn import AnnotatedImage, Annotation, Annotations
from fullconv.data.formats.format import FormatResult, split_of
from fullconv.data.formats.rasterize import PackedMask, Shape, rasterize_polygon
from fullconv.data.scan.scanner import file_signature
from fullconv.errors import DataError, FullconvError
from fullconv.images import Grid, image_size, import_rasterio, is_georeferenced, quiet, raster_errors, read_grid

_HEAD = re.compile(r'"type"\s*:\s*"FeatureCollection"')
_TIFF = (".tif", ".tiff")
_WGS84 = "EPSG:4326"
_FIX = "Export it again as GeoJSON, in the CRS of the image or in longitude and latitude."

_Outline = list[NDArray[np.float64]]
"""The rings (N, 2) of a polygon, the first outside."""


@dataclass
class _Features:
    """The features of a file."""

    path: Path
    crs: str
    """As the file states it; empty if it does not."""
    types: list[str]
    attributes: list[dict[str, str]]
    outlines: list[list[_Outline]]
    """Polygons of each feature, in the file's coordinates; none if it is no area or invalid."""
    _by_crs: dict[tuple[str, str], list[list[_Outline]]] = field(default_factory=dict)

    def crs_candidates(self, crs: str) -> list[str]:
        """Return what the coordinates may be in, the most probable first: as stated, WGS84 if they fit, an image's."""
        if self.crs or not crs:
            return [self.crs or crs]
        rings = [ring for polygons in self.outlines for rings in polygons for ring in rings]
        is_degrees = all((np.abs(ring) <= (180, 90)).all() for ring in rings)
        return [*([_WGS84] if is_degrees else []), crs]

    def outlines_in(self, source: str, target: str) -> list[list[_Outline]]:
        """Return the polygons of each feature in another coordinate reference system."""
        if source == target or not (source and target):
            return self.outlines
        if (source, target) not in self._by_crs:
            self._by_crs[source, target] = self._transform(source, target)
        return self._by_crs[source, target]

    def _transform(self, source: str, target: str) -> list[list[_Outline]]:
        rings = [ring for polygons in self.outlines for rings in polygons for ring in rings]
        if not rings:
            return self.outlines
        import_rasterio("GeoJSON polygons beside GeoTIFFs")
        from rasterio.warp import transform

        x, y = np.concatenate(rings).T
        errors: tuple[type[BaseException], ...] = (
            ValueError,
            TypeError,
            *raster_errors(),
        )  # the first two of an unknown CRS
        try:
            with quiet():
                moved = np.stack(transform(source, target, x, y), axis=1)
        except errors as error:
            raise DataError(f"{self.path}: cannot be transformed from {source} to {target} ({error}). {_FIX}") from None
        parts = iter(np.split(moved, np.cumsum([len(ring) for ring in rings])[:-1]))
        return [[[next(parts) for _ in rings] for rings in polygons] for polygons in self.outlines]


def find_files(folder: Folder) -> Iterator[Path]:
    """Find feature collections, if there are TIFFs that lie on a map."""
    tiffs = [path for path in folder.images("").files.values() if path.suffix.lower() in _TIFF]
    for place in ("", *folder.folders.values(), *_split_folders(folder)) if any(map(is_georeferenced, tiffs)) else ():
        for path in (path for pattern in ("*.geojson", "*.json") for path in folder.files(pattern, place)):
            if any(map(_HEAD.search, read_head_tail(path, 4096))):
                yield path


def _split_folders(folder: Folder) -> list[str]:
    outer = folder.folders.values()
    return [f"{name}/{inner}" for name in outer for inner in folder.folders_in(name).values()]


def parse(folder: Folder, settings: DataSettings, index: ImageIndex, result: FormatResult) -> Annotations:
    """Parse the polygons of every image: of the file of its name, else of all other files that cover it."""
    listed = folder.images(settings.images or "").files.values()
    images = [path for path in listed if path.suffix.lower() in _TIFF and is_georeferenced(path)]
    files = [_load(path) for path in find_files(folder)]
    own = {stem: [path for path in images if nfc(path.stem) == stem] for stem in {nfc(f.path.stem) for f in files}}
    shared = [found for found in files if not own[nfc(found.path.stem)]]
    key = class_attribute([row for found in files for row in found.attributes], "features", result)
    alone = single_class(settings)
    annotated: list[AnnotatedImage] = []
    names: set[str] = set()
    used: set[Path] = set()
    found = Annotations([], annotated)
    taken: set[str] = set()
    for image in images:
        named = [f for f in files if nfc(f.path.stem) == nfc(image.stem)]
        inner = image.relative_to(folder.root)
        try:
            grid = _grid(image)
            height, width = image_size(image)
            layers = [(f, _draw(f, grid, height, width)) for f in named or shared]
        except FullconvError as error:
            if not isinstance(error, DataError):  # is reported with the image
                continue
            raise
        covering = [(f, shapes) for f, shapes in layers if shapes is not None]
        for f, shapes in layers:
            if shapes is None and f in named:
                cause = f"its polygons lie outside of {inner.as_posix()} ({grid})"
                found.unreadable.append((f.path, DataError(f"{f.path}: {cause}. {_FIX}")))
        if not covering:
            continue
        annotations = []
        for f, shapes in covering:
            used.add(f.path)
            by_file = f.path.stem if key is None and len(shared) > 1 and not named else alone
            for kind, row, drawn in zip(f.types, f.attributes, shapes or (), strict=True):
                if kind.endswith("Polygon") and drawn == []:  # elsewhere
                    continue
                name = by_file if key is None else row.get(key)
                names.update([name] if name else [])
                unnamed = kind if name else f"{kind} without {key}"
                annotations.append(Annotation(unnamed, name, drawn or (), no_area=not kind.lower().endswith("polygon")))
        index.take(image)
        stem = unique(inner.with_suffix("").as_posix(), taken, prefix="")
        others = "|".join(file_signature(f.path) for f, _ in covering[1:])
        split = split_of(*inner.parts[:-1])
        item = AnnotatedImage(inner.as_posix(), image, stem, (height, width), split, annotations, covering[0][0].path,
                              key=f"{stem}|{grid}|{others}")  # fmt: skip
        annotated.append(item)
    lost = [f for f in shared if f.path not in used and any(f.outlines)]
    for f in lost:
        cause = f"its polygons lie outside of all {len(images)} GeoTIFFs (the first {_grid(images[0])})"
        found.unreadable.append((f.path, DataError(f"{f.path}: {cause}. {_FIX}")))
    found.class_names = sorted(names)
    return found


def _load(path: Path) -> _Features:
    table = read_json(path, _FIX)
    rows = table.get("features") if isinstance(table, dict) else None
    if not isinstance(rows, list) or len(objects_in(rows)) < len(rows):
        raise DataError(f"{path}: has no list of features. {_FIX}")
    stated = table.get("crs")
    properties = stated.get("properties") if isinstance(stated, dict) else None
    crs = str(properties.get("name") or "") if isinstance(properties, dict) else ""
    crs = _WGS84 if "CRS84" in crs else re.sub(r"^urn:ogc:def:crs:EPSG:[\d.]*:", "EPSG:", crs)
    found = _Features(path, crs, [], [], [])
    for row in rows:
        geometry = row.get("geometry")
        if geometry is None:  # a feature without a place
            continue
        kind = str(geometry.get("type")) if isinstance(geometry, dict) else "geometry"
        polygons = geometry.get("coordinates") if isinstance(geometry, dict) else None
        parts = [polygons] if kind == "Polygon" else polygons if kind == "MultiPolygon" else []
        outlines = [_rings(part) for part in parts] if isinstance(parts, list) else []
        if kind in ("Polygon", "MultiPolygon") and (not outlines or None in outlines):
            kind = f"invalid {kind.lower()}"
        own = row.get("properties")
        found.types.append(kind)
        found.attributes.append(_attributes(own if isinstance(own, dict) else {}))
        found.outlines.append([rings for rings in outlines if rings is not None] if kind.endswith("Polygon") else [])
    return found


def _attributes(properties: dict[str, Any]) -> dict[str, str]:
    found = {key: f"{value:g}" if isinstance(value, float) else str(value) for key, value in properties.items()}
    return {key: text for key, text in found.items() if text and isinstance(properties[key], (str, int, float))}


def _rings(part: object) -> _Outline | None:
    """Return the rings of a polygon; None if it is none."""
    rings: _Outline = []
    for ring in part if isinstance(part, list) else ():
        try:
            points = np.array([[float(x), float(y)] for x, y, *_ in ring])
        except (TypeError, ValueError):
            return None
        if len(points) < 3 or not np.isfinite(points).all():
            return None
        rings.append(points)
    return rings or None


def _grid(image: Path) -> Grid:
    """Return where an image lies; its CRS as text if it has no code."""
    grid = read_grid(image)
    if grid is None:
        raise DataError(f"{image}: does not say where it lies on a map. Georeference it, or move it elsewhere.")
    if grid.crs:
        return grid
    rasterio = import_rasterio("GeoJSON polygons beside GeoTIFFs")
    try:
        with quiet(), rasterio.open(image) as file:
            return Grid(file.crs.to_wkt() if file.crs else "", grid.transform)
    except raster_errors():
        return grid


def _draw(features: _Features, grid: Grid, height: int, width: int) -> list[list[Shape] | None] | None:
    """Return the shapes of each feature: [] if it lies elsewhere, None if it has none. None if no polygon meets the image."""
    if not any(features.outlines):
        return [None] * len(features.types)
    a, b, c, d, e, f = grid.transform
    inverse = np.linalg.inv(np.array([[a, b], [d, e]])).T
    for crs in features.crs_candidates(grid.crs):
        outlines = features.outlines_in(crs, grid.crs)
        moved = [[[(ring - (c, f)) @ inverse for ring in rings] for rings in polygons] for polygons in outlines]
        shapes = [[shape for rings in polygons for shape in _shapes(rings, height, width)] for polygons in moved]
        if any(shapes):
            return [own if polygons else None for own, polygons in zip(shapes, outlines, strict=True)]
    return None


def _shapes(rings: Sequence[NDArray[np.float64]], height: int, width: int) -> list[Shape]:
    """Return a polygon in pixels, cut to the image where it goes on far outside of it; nothing if it lies elsewhere."""
    points = np.concatenate(rings)
    if not np.isfinite(points).all():
        return []
    (left, top), (right, bottom) = points.min(0), points.max(0)
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        return []
    outline = tuple(tuple(map(tuple, ring.tolist())) for ring in rings)
    if min(left, top) >= -1 and right <= width + 1 and bottom <= height + 1:
        return [Shape("polygon", outline)]
    y, x, bits = rasterize_polygon(outline, height, width)
    return [Shape("bitmap", (x, y, PackedMask.pack(bits)))]
