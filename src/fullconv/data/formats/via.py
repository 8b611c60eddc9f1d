"""VGG Image Annotator 2: its JSON, of annotations or of a project, and its CSV."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from fullconv.data.config import DataSettings
from fullconv.data.files import Folder, column, has_matches, load_rows, read_head
from fullconv.data.formats.annotation_files import (
    ImageIndex,
    class_attribute,
    numbers,
    objects_in,
    read_json,
    single_class,
    unique,
)
from fullconv.data.formats.drawn import AnnotatedImage, Annotation, Annotations
from fullconv.data.formats.format import FormatResult, split_of
from fullconv.data.formats.rasterize import Shape, rotated_box
from fullconv.errors import DataError

_KEYS = re.compile(
    r'"(base64_img_data|file_attributes|regions|shape_attributes|region_attributes|_via_img_metadata)"\s*:'
)
_HEADING = re.compile(r"#?\"?filename\"?\s*[,;\t].*region_shape_attributes", re.IGNORECASE)
_FIX = "Export it again."

_Entry = tuple[str, list[dict[str, Any]]]
"""The name of an image, and its regions."""


def find_files(folder: Folder) -> Iterator[Path]:
    """Find JSON files with VIA's keys, and CSV files with its heading."""
    for inner in ("", *folder.folders.values()):
        for path in folder.files("*.json", inner):
            if _KEYS.search(read_head(path, 1 << 14)) and has_matches(path, _KEYS, 2):
                yield path
        yield from (path for path in folder.files("*.csv", inner) if _HEADING.match(read_head(path, 4096)))


def parse(folder: Folder, settings: DataSettings, index: ImageIndex, result: FormatResult) -> Annotations:
    """Parse the regions of every image, in order."""
    entries = {path: _rows(path) if path.suffix == ".csv" else _entries(path) for path in find_files(folder)}
    regions = [region for rows in entries.values() for _, own in rows for region in own]
    attributes = [_names(region.get("region_attributes")) for region in regions]
    key = class_attribute(attributes, "regions", result)
    alone = single_class(settings)
    images: list[AnnotatedImage] = []
    taken: set[str] = set()
    for path, rows in entries.items():
        for name, own in rows:
            split = split_of(*path.relative_to(folder.root).parts[:-1], path.stem)
            if (image := index.find(name, path.parent, split)) is not None:
                inner = image.relative_to(folder.root)
                split = split or split_of(*inner.parts[:-1])
                stem = unique(PurePosixPath(inner.with_suffix("")).as_posix(), taken, prefix=path.stem)
                shapes = [_annotation(region, key, alone) for region in own]
                images.append(AnnotatedImage(name, image, stem, None, split, shapes, path, key=stem))
    names = [alone] if key is None else sorted({found[key] for found in attributes if key in found})
    return Annotations(names if regions else [], images)


def _entries(path: Path) -> list[_Entry]:
    table = read_json(path, _FIX)
    if isinstance(table, dict) and isinstance(table.get("_via_img_metadata"), dict):
        table = table["_via_img_metadata"]
    found: list[_Entry] = []
    for key, entry in table.items() if isinstance(table, dict) else ():
        if isinstance(entry, dict) and "regions" in entry:
            regions = entry["regions"]
            regions = list(regions.values()) if isinstance(regions, dict) else regions  # VIA 1
            if not isinstance(name := entry.get("filename"), str) or not isinstance(regions, list):
                raise DataError(f'{path}: "{key}" has no filename or no list of regions, as VIA writes. {_FIX}')
            found.append((name, objects_in(regions)))
    if not found:
        raise DataError(f"{path}: holds no images with regions, as VIA 2 writes. Export annotations as JSON.")
    return found


def _rows(path: Path) -> list[_Entry]:
    heading, *rows = load_rows(path, _FIX)
    heading = [cell.removeprefix("#") for cell in heading]
    names = ("filename", "region_shape_attributes", "region_attributes")
    columns = [index for name in names if (index := column(heading, name)) is not None]
    if len(columns) < len(names):
        raise DataError(f"{path}: has no columns {', '.join(names)}, as VIA writes. {_FIX}")
    found: dict[str, list[dict[str, Any]]] = {}
    for count, row in enumerate(rows, 2):
        try:
            name, shape, attributes = (row[i] for i in columns)
            region = {"shape_attributes": json.loads(shape), "region_attributes": json.loads(attributes or "{}")}
        except (IndexError, ValueError, RecursionError):
            raise DataError(f"{path}: row {count} does not hold JSON in VIA's columns. {_FIX}") from None
        own = found.setdefault(name, [])
        own += [region] if region["shape_attributes"] else []  # an image without regions has an empty one
    return list(found.items())


def _names(attributes: object) -> dict[str, str]:
    """Return attributes with their values as text; a checkbox's is what is ticked."""
    found: dict[str, str] = {}
    for key, value in attributes.items() if isinstance(attributes, dict) else ():
        ticked = [name for name, is_set in value.items() if is_set] if isinstance(value, Mapping) else [value]
        text = ", ".join(str(name).strip() for name in ticked if name not in (None, ""))
        if text:
            found[key] = text
    return found


def _annotation(region: dict[str, Any], key: str | None, alone: str) -> Annotation:
    shape = region.get("shape_attributes")
    shape = shape if isinstance(shape, dict) else {}
    kind = str(shape.get("name"))
    if kind == "point":
        return Annotation(kind, None, no_area=True)
    name = alone if key is None else _names(region.get("region_attributes")).get(key)
    if name is None:
        return Annotation(f"{kind} without {key}", None)
    outline = _shape(shape, kind)
    return Annotation(kind, name, () if outline is None else (outline,))


def _shape(shape: dict[str, Any], kind: str) -> Shape | None:
    """Return what a region covers; None of an open line and of what cannot be drawn."""
    if kind == "polygon":
        xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
        if not isinstance(xs, list) or not isinstance(ys, list) or not 2 < len(xs) == len(ys):
            return None
        ring = [numbers({"x": x, "y": y}, "x", "y") for x, y in zip(xs, ys, strict=True)]
        return None if None in ring else Shape("polygon", (tuple(ring),))
    if kind == "rect":
        box = numbers(shape, "x", "y", "width", "height")
        if box is None or min(box[2:]) < 0:
            return None
        return Shape("polygon", (rotated_box((box[0], box[1], box[0] + box[2], box[1] + box[3])),))
    if kind not in ("circle", "ellipse"):
        return None
    found = numbers({"theta": 0, **shape}, "cx", "cy", *(("r", "r") if kind == "circle" else ("rx", "ry")), "theta")
    if found is None or min(found[2:4]) < 0:
        return None
    return Shape("ellipse", (*found[:4], math.degrees(found[4])))
