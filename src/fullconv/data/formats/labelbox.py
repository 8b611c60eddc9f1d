"""Labelbox: its export as NDJSON, an image with its labels in each line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from fullconv.data.config import DataSettings
from fullconv.data.files import Folder, has_matches, load_text, read_head
from fullconv.data.formats.annotation_files import ImageIndex, numbers, objects_in, size, unique
from fullconv.data.formats.drawn import AnnotatedImage, Annotation, Annotations
from fullconv.data.formats.format import FormatResult, split_of
from fullconv.data.formats.rasterize import Shape, rotated_box
from fullconv.errors import DataError

_KEYS = re.compile(r'"(data_row|projects|media_attributes)"\s*:')
_NO_AREA = ("line", "point")
_FIX = "Export it again as NDJSON."
_MASK_FIX = (
    "Masks lie at addresses in Labelbox: download them and lay them out as images/ and masks/, or export polygons."
)


def find_files(folder: Folder) -> Iterator[Path]:
    """Find NDJSON (or JSON lists) with Labelbox's keys."""
    for inner in ("", *folder.folders.values()):
        for pattern in ("*.ndjson", "*.jsonl", "*.json"):
            for path in folder.files(pattern, inner):
                if '"data_row"' in read_head(path, 1 << 14) and has_matches(path, _KEYS, 2):
                    yield path


def parse(folder: Folder, settings: DataSettings, index: ImageIndex, result: FormatResult) -> Annotations:
    """Parse the objects of every image, in order; of several labels the first counts."""
    images: list[AnnotatedImage] = []
    found = Annotations([], images, "void")
    names: set[str] = set()
    taken: set[str] = set()
    masked: list[str] = []
    for path in find_files(folder):
        for line, row in _rows(path):
            data = row.get("data_row")
            if not isinstance(data, dict) or not isinstance(row.get("projects"), dict):
                raise DataError(f"{path}: {line} has no data_row and projects, as Labelbox writes. {_FIX}")
            address = urlsplit(str(data.get("row_data") or "")).path
            name = str(data.get("external_id") or PurePosixPath(unquote(address)).name or data.get("id"))
            projects = objects_in(list(row["projects"].values()))
            labels = [label for project in projects for label in objects_in(project.get("labels"))]
            if not labels or (image := index.find(name, path.parent)) is None:
                continue  # an image without a label is reported as such
            if len(labels) > 1:
                found.repeated.append(name)
            annotations = labels[0].get("annotations")
            objects = objects_in(annotations.get("objects")) if isinstance(annotations, dict) else []
            media = row.get("media_attributes")
            stated = size(media.get("height"), media.get("width")) if isinstance(media, dict) else None
            shapes = [_annotation(entry) for entry in objects]
            names.update(shape.class_name for shape in shapes if shape.class_name and not shape.no_area)
            inner = image.relative_to(folder.root)
            stem = unique(inner.with_suffix("").as_posix(), taken, prefix=path.stem)
            fields = (str(entry.get("value", "")) for entry in objects_in(row.get("metadata_fields")))
            split = split_of(*fields, *inner.parts[:-1])
            images.append(AnnotatedImage(name, image, stem, stated, split, shapes, path, key=stem))
            masked += [name] if any("mask" in entry or "composite_mask" in entry for entry in objects) else []
    cause = "annotations of Labelbox are masks, which the file does not hold"
    result.report("bad-shape", "error", masked, cause, _MASK_FIX)
    found.class_names = sorted(names)
    return found


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows with what messages call them."""
    text = load_text(path, _FIX)
    lines = text.splitlines()
    try:
        if text.lstrip().startswith("["):
            yield from ((f"entry {count}", row) for count, row in enumerate(objects_in(json.loads(text)), 1))
            return
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}). {_FIX}") from None
    for count, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: line {count} cannot be read as JSON ({error}). {_FIX}") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}: line {count} is not an object. {_FIX}")
        yield f"line {count}", row


def _annotation(entry: dict[str, Any]) -> Annotation:
    name = str(entry.get("name") or entry.get("value") or "") or None
    if (kind := next((key for key in _NO_AREA if key in entry), None)) is not None:
        return Annotation(kind, name, no_area=True)
    if isinstance(box := entry.get("bounding_box"), dict):
        edges = numbers(box, "left", "top", "width", "height")
        valid = edges is not None and min(edges[2:]) >= 0
        shape = rotated_box((edges[0], edges[1], edges[0] + edges[2], edges[1] + edges[3])) if edges and valid else None
        return Annotation("bounding_box", name, () if shape is None else (Shape("polygon", (shape,)),), is_box=True)
    if "polygon" not in entry:
        return Annotation(str(entry.get("annotation_kind", "unknown type")), name)
    ring = [numbers(point, "x", "y") for point in objects_in(entry["polygon"])]
    valid = len(ring) > 2 and None not in ring
    return Annotation("polygon", name, (Shape("polygon", (tuple(ring),)),) if valid else ())
