"""Supervisely: meta.json, and data sets of img/ and ann/ with a JSON file for each image."""

from __future__ import annotations

import base64
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fullconv.data.config import DataSettings
from fullconv.data.files import Folder, walk
from fullconv.data.formats.annotation_files import ImageIndex, number, objects_in, points, read_object, size
from fullconv.data.formats.drawn import AnnotatedImage, Annotation, Annotations
from fullconv.data.formats.format import FormatResult, split_of
from fullconv.data.formats.rasterize import PackedMask, Shape, rotated_box
from fullconv.errors import DataError, FullconvError
from fullconv.images import PNG_SIGNATURE, decode

_NO_AREA = ("line", "point", "graph", "cuboid", "cuboid_2d")
_MAX_BITMAP_BYTES = 1 << 26


def find_files(folder: Folder) -> list[Path]:
    """Find the files of ann/ in all data sets, which may lie in data sets."""
    if not (folder.root / "meta.json").is_file():
        return []
    places = {path.parent for path in walk(folder.root) if path.parent.name == "ann" and path.suffix == ".json"}
    inner = sorted(place.parent.relative_to(folder.root) for place in places)
    return [path for place in inner for path in folder.files("*.json", (place / "ann").as_posix())]


def parse(folder: Folder, settings: DataSettings, index: ImageIndex, result: FormatResult) -> Annotations:
    """Parse the objects of every image, in order."""
    meta = read_object(folder.root / "meta.json", "Export it again.")
    images: list[AnnotatedImage] = []
    found = Annotations([str(row.get("title")) for row in objects_in(meta.get("classes"))], images)
    for path in find_files(folder):
        inner = path.parent.parent.relative_to(folder.root)
        try:
            table = read_object(path, "Export it again.")
            if not isinstance(objects := table.get("objects"), list):  # Supervisely writes even an empty one
                raise DataError(f'{path}: has no list "objects", as Supervisely writes. Export it again.')
        except DataError as error:
            found.unreadable.append((path, error))
            continue
        reported = path.relative_to(folder.root).as_posix()
        name = (inner / "img" / path.name.removesuffix(".json")).as_posix()
        if (image := index.find(name, folder.root, reported=reported)) is not None:
            stem = image.relative_to(folder.root).with_suffix("").as_posix()
            entry = table.get("size")
            stated = size(entry.get("height"), entry.get("width")) if isinstance(entry, dict) else None
            shapes = [_annotation(entry, settings) for entry in objects]
            images.append(AnnotatedImage(reported, image, stem, stated, split_of(*inner.parts), shapes, path))
    return found


def _annotation(entry: object, settings: DataSettings) -> Annotation:
    if not isinstance(entry, dict):
        return Annotation("not an object", None)
    kind = entry.get("geometryType")
    if kind in _NO_AREA:
        return Annotation(kind, None, no_area=True)
    is_box = kind == "rectangle" and settings.boxes is not None  # a rectangle is drawn like other shapes by default
    return Annotation(str(kind), str(entry.get("classTitle")), _shapes(entry), is_box=is_box)


def _shapes(entry: dict[str, Any]) -> list[Shape]:
    """Return what an object draws, as Supervisely draws it; nothing if it cannot be drawn."""
    kind = entry.get("geometryType")
    if kind in ("bitmap", "alpha_mask"):
        return _bitmap(entry.get("bitmap", entry.get("alpha_mask")))
    if kind in ("polygon", "multipolygon"):
        parts = entry.get("parts") if kind == "multipolygon" else [entry.get("points")]
        found = [_rings(part) for part in parts] if isinstance(parts, list) else []
        return [] if None in found else [Shape("pil-polygon", rings) for rings in found]
    outline = entry.get("points")
    corners = points(outline.get("exterior") if isinstance(outline, dict) else outline)
    if corners is None or len(corners) != 2:
        return []
    xs, ys = zip(*corners, strict=True)
    box = (min(xs), min(ys), max(xs), max(ys))
    if kind == "rectangle":
        return [Shape("pil-rectangle", box)]
    angle = number(entry.get("angle", 0)) if kind == "oriented_bbox" else None
    return [] if angle is None else [Shape("pil-polygon", (rotated_box(box, math.degrees(angle)),))]


def _rings(entry: object) -> tuple[tuple[tuple[float, float], ...], ...] | None:
    """Return {"exterior": [...], "interior": [[...], ...]} as an outline and its holes."""
    if not isinstance(entry, dict):
        return None
    holes = entry.get("interior") or []
    rings = [points(ring, 3) for ring in (entry.get("exterior"), *(holes if isinstance(holes, list) else [None]))]
    valid = tuple(ring for ring in rings if ring is not None)
    return valid if len(valid) == len(rings) else None


def _bitmap(entry: object) -> list[Shape]:
    """Decode a PNG in base64, compressed or not; its alpha channel counts if it has one."""
    origin = points([entry.get("origin")]) if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or origin is None:
        return []
    try:
        data = base64.b64decode(str(entry.get("data")), validate=True)
        if not data.startswith(PNG_SIGNATURE):
            data = zlib.decompressobj().decompress(data, _MAX_BITMAP_BYTES)
        bits = decode(data, "bitmap", _alpha)
    except (ValueError, zlib.error, FullconvError):
        return []
    left, top = map(round, origin[0])
    return [Shape("bitmap", (left, top, PackedMask.pack(bits != 0)))] if bits.ndim == 2 else []


def _alpha(image: Image.Image) -> NDArray[Any]:
    if image.mode in ("RGBA", "LA") or (image.mode == "P" and "transparency" in image.info):
        return np.asarray(image.convert("RGBA").getchannel("A"))
    return np.asarray(image.convert("L"))
