"""LabelMe: a JSON file beside each image, or with the image in it."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fullconv.data.config import DataSettings
from fullconv.data.files import Folder, has_matches, read_head_tail, walk
from fullconv.data.formats.annotation_files import ImageIndex, objects_in, points, read_object, size
from fullconv.data.formats.drawn import AnnotatedImage, Annotation, Annotations
from fullconv.data.formats.format import FormatResult, split_of
from fullconv.data.formats.rasterize import PackedMask, Shape
from fullconv.errors import DataError, FullconvError
from fullconv.images import decode, image_size
from fullconv.storage import DiskCache

_KEY = re.compile(r'"(shapes|imagePath|imageData)"\s*:')
_MIN_POINTS = {"polygon": 3, "line": 2, "linestrip": 2, "rectangle": 2, "circle": 2}
"""Different points that a shape of a type needs to have an area."""
_LINE_WIDTH, _POINT_RADIUS = 10, 5
"""As labelme draws lines and points."""
_SEARCHED_FILES = 50


def _json_files(folder: Folder) -> list[Path]:
    return [path for path in walk(folder.root) if path.suffix.lower() == ".json"]


def find_files(folder: Folder) -> Iterator[Path]:
    """Find JSON files that have labelme's keys, of which an image in the file may part any two."""
    for path in _json_files(folder)[:_SEARCHED_FILES]:
        if path.is_file():
            head, tail = read_head_tail(path, 2048)
            if head.lstrip().startswith("{") and _KEY.search(head + tail) and has_matches(path, _KEY, 2):
                yield path


def parse(folder: Folder, settings: DataSettings, index: ImageIndex, result: FormatResult) -> Annotations:
    """Parse the shapes of every file, in order."""
    tables: dict[Path, dict[str, Any]] = {}
    images: list[AnnotatedImage] = []
    found = Annotations([], images)
    for path in _json_files(folder):
        try:
            if "shapes" in (table := read_object(path, "Save it again, or remove it.")):
                if not isinstance(table["shapes"], list):
                    raise DataError(f"{path}: shapes is not a list, so it is not a labelme annotation. Save it again.")
                tables[path] = table
            elif {"imagePath", "imageData"} & table.keys():
                raise DataError(f"{path}: has no list of shapes. Save it again.")
        except DataError as error:
            found.unreadable.append((path, error))
    labels = [shape.get("label") for table in tables.values() for shape in objects_in(table["shapes"])]
    found.class_names = sorted({str(label) for label in labels if label not in (None, "")})
    for path, table in tables.items():
        inner = path.relative_to(folder.root)
        name = inner.as_posix()
        if (image := _find_image(table, path, index, name)) is not None:
            stated = _stated_size(table, image)
            stem, split = inner.with_suffix("").as_posix(), split_of(*inner.parts[:-1])
            shapes = [_annotation(entry, settings) for entry in objects_in(table["shapes"])]
            own = inner.stem == image.stem
            images.append(AnnotatedImage(name, image, stem, stated, split, shapes, path, str(stated), own))
    return found


def _find_image(table: dict[str, Any], path: Path, index: ImageIndex, reported: str) -> Path | None:
    """Find the image of a file: at the stated path, else by the file's own stem, else in the file."""
    stated = str(table.get("imagePath") or "")
    own = index.beside(path)
    image = index.find(stated or path.stem, path.parent, reported=reported)
    if image is None and (image := own or (_unpack_image(table, path) if table.get("imageData") else None)) is not None:
        index.missing.remove(reported)
        index.repaired += [reported] if own is not None and stated else []
        index.take(image)
    elif image is not None and image.stem != path.stem and own is not None:
        index.repaired.append(reported)  # the file was copied from another image's
        index.take(own)
        return own
    return image


def _unpack_image(table: dict[str, Any], path: Path) -> Path | None:
    """Unpack the image in a file into the cache; None if it is damaged."""
    try:
        data = base64.b64decode(table["imageData"], validate=True)
    except (binascii.Error, ValueError, TypeError):
        return None
    suffix = Path(str(table.get("imagePath") or "").replace("\\", "/")).suffix
    suffix = suffix if re.fullmatch(r"\.\w{1,5}", suffix, re.ASCII) else ".png"
    cache = DiskCache("embedded", suffix)
    return cache.get(data) or cache.put(data, [data])


def _stated_size(table: dict[str, Any], image: Path) -> tuple[int, int] | None:
    """Return the height and width at which shapes were drawn, if they are stated and differ from the image's.

    Other programs often exchange height and width, which does not concern the shapes.
    """
    stated = size(table.get("imageHeight"), table.get("imageWidth"))
    if stated is None or max(stated) >= 1 << 16:
        return None
    try:
        actual = image_size(image)
    except FullconvError:  # is reported with the image
        return None
    return None if stated in (actual, actual[::-1]) else stated


def _annotation(entry: dict[str, Any], settings: DataSettings) -> Annotation:
    kind, label = entry.get("shape_type") or "polygon", entry.get("label")
    if label in (None, ""):
        return Annotation("shape without a label", None)
    shapes = _shapes(entry, kind)
    distinct = len(set(points(entry.get("points")) or ()))
    is_box = kind == "rectangle" and settings.boxes is not None  # a rectangle is drawn like other shapes by default
    no_area = bool(shapes) and distinct < _MIN_POINTS.get(kind, 1)
    return Annotation(str(kind), str(label), shapes, no_area=no_area, is_box=is_box)


def _shapes(entry: dict[str, Any], kind: object) -> list[Shape]:
    """Return what an entry draws, as labelme draws it; nothing if it cannot be drawn."""
    found = points(entry.get("points"))
    if found is None:
        return []
    x, y = found[0]
    if kind in ("polygon", "oriented_rectangle", "rotation", "quadrilateral"):  # the last two are X-AnyLabeling's
        valid = len(found) > 2 if kind == "polygon" else len(found) == 4
        return [Shape("pil-polygon", (found,))] if valid else []
    if kind == "rectangle" and len(found) in (2, 4):
        xs, ys = zip(*found, strict=True)
        return [Shape("pil-rectangle", (min(xs), min(ys), max(xs), max(ys)))]
    if kind == "circle" and len(found) == 2:
        return [_disc(x, y, math.hypot(found[1][0] - x, found[1][1] - y))]
    if kind == "points" or (kind == "point" and len(found) == 1):
        return [_disc(x, y, _POINT_RADIUS) for x, y in found]
    if kind in ("line", "linestrip") and len(found) > 1:
        return [Shape("pil-line", found, _LINE_WIDTH)]
    if kind == "mask" and len(found) == 2:
        try:
            data = base64.b64decode(entry["mask"], validate=True)
            bits = decode(data, "mask", lambda image: np.asarray(image.convert("L")))
        except (KeyError, TypeError, ValueError):
            return []
        return [Shape("bitmap", (int(x), int(y), PackedMask.pack(bits != 0)))] if bits.ndim == 2 else []
    return []


def _disc(x: float, y: float, radius: float) -> Shape:
    return Shape("pil-ellipse", (x - radius, y - radius, x + radius, y + radius))
