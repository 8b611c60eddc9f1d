"""V7 Darwin: a JSON file for each image, of version 2 or 1."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.data.config import DataSettings
from fullconv.data.files import Folder, has_matches, read_head, walk
from fullconv.data.formats.annotation_files import ImageIndex, number, numbers, objects_in, read_object, size, unique
from fullconv.data.formats.drawn import AnnotatedImage, Annotation, Annotations
from fullconv.data.formats.format import FormatResult, split_of
from fullconv.data.formats.rasterize import PackedMask, Shape, rotated_box
from fullconv.errors import DataError
from fullconv.images import max_pixels

_KEYS = re.compile(r'"(slots|annotations|schema_ref|workview_url|seq)"\s*:')
_OWN_KEYS = re.compile(r'"(slots|schema_ref|workview_url|seq)"\s*:')
_HEAD = re.compile(r'\{\s*"(version|item|dataset|image|annotations|schema_ref)"\s*:')
_NO_AREA = ("line", "keypoint", "skeleton", "cuboid", "string", "graph", "table", "simple_table", "link")
_NOT_DRAWN = ("tag", "raster_layer")
_AREAS = ("polygon", "mask", "ellipse", "bounding_box")
"""Parts of an annotation, the most exact first: polygons have a box, too."""
_SEARCHED_FILES = 50
_FIX = "Export it again."


def _json_files(folder: Folder) -> list[Path]:
    return [path for path in walk(folder.root) if path.suffix.lower() == ".json"]


def find_files(folder: Folder) -> Iterator[Path]:
    """Find JSON files with Darwin's keys."""
    for path in _json_files(folder)[:_SEARCHED_FILES]:
        head = read_head(path, 1 << 12).lstrip()
        if (
            _HEAD.match(head)
            and '"shapes"' not in head
            and has_matches(path, _OWN_KEYS, 1)
            and has_matches(path, _KEYS, 2)
        ):
            yield path


def parse(folder: Folder, settings: DataSettings, index: ImageIndex, result: FormatResult) -> Annotations:
    """Parse the annotations of every image, in order."""
    images: list[AnnotatedImage] = []
    found = Annotations([], images, "void")
    names: set[str] = set()
    taken: set[str] = set()
    for path in _json_files(folder):
        try:
            table = read_object(path, _FIX)
            if not {"item", "image"} & table.keys():
                continue
            name, inner, stated = _item(table, path)
        except DataError as error:
            found.unreadable.append((path, error))
            continue
        reported = path.relative_to(folder.root).as_posix()
        image = index.exactly(f"{inner}/{name}".lstrip("/"), path.parent) or index.find(name, path.parent, "", reported)
        if image is None:
            continue
        index.take(image)
        entries = objects_in(table["annotations"])
        masks = _unpack_layers(entries, stated)
        shapes = [_annotation(entry, masks) for entry in entries if not any(key in entry for key in _NOT_DRAWN)]
        names.update(shape.class_name for shape in shapes if shape.class_name and not shape.no_area)
        stem = unique(image.relative_to(folder.root).with_suffix("").as_posix(), taken, prefix="")
        split = split_of(*path.relative_to(folder.root).parts[:-1], *image.relative_to(folder.root).parts[:-1])
        images.append(AnnotatedImage(reported, image, stem, stated, split, shapes, path))
    found.class_names = sorted(names)
    return found


def _item(table: dict[str, Any], path: Path) -> tuple[str, str, tuple[int, int] | None]:
    """Return the name of a file's image, its folder in the data set, and its height and width if they are stated."""
    item = table["item"] if "item" in table else table["image"]
    if not isinstance(item, dict) or not isinstance(table.get("annotations"), list):
        raise DataError(f"{path}: has no item with annotations, as Darwin writes. {_FIX}")
    slots = objects_in(item.get("slots"))
    if len(slots) > 1 or any(slot.get("type") not in (None, "image") for slot in slots):
        raise DataError(f"{path}: is of a video or of several images in slots, which is not read. Export images.")
    slot = slots[0] if slots else item
    name = item.get("name", item.get("filename", item.get("original_filename")))
    if not isinstance(name, str) or not name:
        raise DataError(f"{path}: has no name of an image, as Darwin writes. {_FIX}")
    return name, str(item.get("path") or "").strip("/"), size(slot.get("height"), slot.get("width"))


def _annotation(entry: dict[str, Any], masks: dict[str, NDArray[np.bool_]]) -> Annotation:
    name = str(entry.get("name") or "") or None
    if (kind := next((key for key in _AREAS if key in entry), None)) is None:
        other = next((key for key in _NO_AREA if key in entry), "unknown type")
        return Annotation(other, name, no_area=other in _NO_AREA)
    if kind == "mask":
        bits = masks.get(str(entry.get("id")))
        return Annotation(kind, name, () if bits is None else (Shape("bitmap", (0, 0, PackedMask.pack(bits))),))
    shape = _outline(entry[kind], kind) if isinstance(entry[kind], dict) else None
    return Annotation(kind, name, () if shape is None else (shape,), is_box=kind == "bounding_box")


def _outline(part: dict[str, Any], kind: str) -> Shape | None:
    if kind == "polygon":
        paths = part.get("paths", [part.get("path"), *(part.get("additional_paths") or [])])
        rings = [[numbers(point, "x", "y") for point in objects_in(ring)] for ring in paths or ()]
        valid = bool(rings) and all(len(ring) > 2 and None not in ring for ring in rings)
        return Shape("polygon", tuple(map(tuple, rings))) if valid else None
    if kind == "bounding_box":
        box = numbers(part, "x", "y", "w", "h")
        valid = box is not None and min(box[2:]) >= 0
        return (
            Shape("polygon", (rotated_box((box[0], box[1], box[0] + box[2], box[1] + box[3])),))
            if box and valid
            else None
        )
    center, radius = part.get("center"), part.get("radius")
    middle = numbers(center, "x", "y") if isinstance(center, dict) else None
    radii = numbers(radius, "x", "y") if isinstance(radius, dict) else None
    angle = number(part.get("angle", 0))
    if middle is None or radii is None or angle is None or min(radii) < 0:
        return None
    return Shape("ellipse", (*middle, *radii, math.degrees(angle)))


def _unpack_layers(entries: list[dict[str, Any]], image_size: tuple[int, int] | None) -> dict[str, NDArray[np.bool_]]:
    """Return the masks (H, W) by id: pairs of a number and how many pixels have it, row by row."""
    found: dict[str, NDArray[np.bool_]] = {}
    for layer in (entry["raster_layer"] for entry in entries if isinstance(entry.get("raster_layer"), dict)):
        runs, ids = layer.get("dense_rle"), layer.get("mask_annotation_ids_mapping")
        if image_size is None or not isinstance(runs, list) or not isinstance(ids, dict) or len(runs) % 2:
            continue
        if not all(type(run) is int and run >= 0 for run in runs) or math.prod(image_size) > max_pixels():
            continue
        if sum(runs[1::2]) == math.prod(image_size):
            values = np.repeat(np.array(runs[::2]), runs[1::2]).reshape(image_size)
            found.update({str(key): values == value for key, value in ids.items()})
    return found
