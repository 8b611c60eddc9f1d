"""COCO: a JSON file with images, annotations and categories."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Any

from fullconv.data.config import DataSettings
from fullconv.data.files import Folder, read_head_tail
from fullconv.data.formats.annotation_files import ImageIndex, number, read_json, size, unique
from fullconv.data.formats.drawn import AnnotatedImage, Annotation, Annotations
from fullconv.data.formats.format import FormatResult, split_in
from fullconv.data.formats.rasterize import Shape, rotated_box, unpack_rle
from fullconv.errors import DataError

_KEYS = re.compile(r'"(images|annotations|categories)"\s*:\s*\[')
_START = re.compile(r'\{\s*"(images|annotations|categories|info|licenses)"\s*:')
_OTHER = re.compile(r'"(imagePath|slot_names|bounding_box)"\s*:')
"""Keys of LabelMe and Darwin, whose lists may be called annotations, too."""
_SEARCHED_BYTES = 1 << 16
"""Bytes of the beginning and of the end that are searched for the keys, which may be in any order."""
_MAX_OUTLINE = 10_000_000
"""Pixels around the outlines of one annotation; pycocotools walks them in fifths, and keeps every step."""
_NOT_SEGMENTATION = re.compile(r"captions_|person_keypoints_|panoptic_|image_info_")


def find_files(folder: Folder) -> list[Path]:
    """Find JSON files with COCO's lists."""
    found = []
    for inner in ("", *folder.folders.values()):
        for path in folder.files("*.json", inner):
            if not _NOT_SEGMENTATION.match(path.name):
                head, tail = read_head_tail(path, _SEARCHED_BYTES)
                start = head.lstrip()
                has_keys = start.startswith("{") and len(set(_KEYS.findall(f"{head}\n{tail}"))) > 1
                if (has_keys or _START.match(start)) and not _OTHER.search(head):
                    found.append(path)
    return found


def parse(folder: Folder, settings: DataSettings, index: ImageIndex, result: FormatResult) -> Annotations:
    """Parse the annotations of every image, in their order in the file."""
    tables = {path: _load(path) for path in find_files(folder)}
    rows = [row for table in tables.values() for row in table["categories"]]
    categories = dict.fromkeys((_id(row, "id"), str(row.get("name"))) for row in rows)
    ordered = sorted(categories, key=lambda pair: (not isinstance(pair[0], int), str(pair[0]).zfill(12)))
    images: dict[tuple[str, Path], AnnotatedImage] = {}
    taken: set[str] = set()
    differing: dict[str, None] = {}
    for path, table in tables.items():
        split = next(filter(None, map(split_in, (path.stem, *reversed(path.relative_to(folder.root).parts[:-1])))), "")
        _report_repeated_ids(result, table, path)
        names = {_id(entry, "id"): str(entry.get("name")) for entry in table["categories"]}
        by_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for entry in table["annotations"]:
            by_image[_id(entry, "image_id")].append(entry)
        unlisted: dict[str, list[str]] = defaultdict(list)
        for image in table["images"]:
            name = str(image.get("file_name", ""))
            if (found := index.find(name, path.parent, split)) is None:
                continue
            stem = PurePosixPath(name.replace("\\", "/")).with_suffix("").as_posix().lstrip("/")
            first = images.get((split, found))
            stem = stem if first is not None else unique(stem, taken, prefix=split or path.stem)
            stated = size(image.get("height"), image.get("width"))
            annotations = []
            for entry in by_image[_id(image, "id")]:
                if (category := names.get(_id(entry, "category_id"))) is None:
                    unlisted[str(entry.get("category_id"))].append(stem)
                else:
                    annotations.append(_annotation(entry, category, stated, path.name))
            if first is None:
                images[split, found] = AnnotatedImage(name, found, stem, stated, split, annotations, path, key=stem)
            elif first.shapes != annotations:  # otherwise a copy of the file
                differing[name] = None
        for category, stems in unlisted.items():
            cause = f"annotations have category_id {category}, which is not in categories of {path.name}"
            fix = f"Add the category to {path.name}, or correct the annotations."
            result.report("unknown-class", "error", list(dict.fromkeys(stems)), cause, fix, stems)
        known = {_id(image, "id") for image in table["images"]}
        lost = [str(_id(entry, "id")) for key, entries in by_image.items() if key not in known for entry in entries]
        cause = f"annotations of {path.name} have an image_id that is not in images, and are omitted"
        result.report("orphan-annotation", "warning", lost, cause, f"Correct their image_id in {path.name}.")
    reported = {name for found in result.problems if found.code == "repeated-id" for name in found.files}
    cause = "images are listed several times with different annotations, of which only the first count"
    fix = "Put all annotations of an image below one entry of images, in one file."
    result.report("repeated-id", "error", [name for name in differing if name not in reported], cause, fix)
    nested = [image.stem for image in images.values() if any(map(_has_nested_ring, image.shapes))]
    cause = "annotations have an outline inside another of their own; COCO unites outlines, so it is not a hole"
    fix = "If it should be one, export masks or RLE instead of polygons."
    result.report("outline-in-outline", "warning", nested, cause, fix)
    return Annotations([name for _, name in ordered], list(images.values()), "void", repeats_allowed=True)


def _load(path: Path) -> dict[str, Any]:
    table = read_json(path, "Export it again.")
    for key in ("images", "annotations", "categories"):
        entries = table.get(key) if isinstance(table, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise DataError(f"{path}: has no list '{key}', so it is not a COCO file. Export it again.")
    nameless = [str(entry.get("id")) for entry in table["categories"] if entry.get("name") in (None, "")]
    if nameless:
        raise DataError(f"{path}: category {nameless[0]} has no name. Give it one, or export it again.")
    if any("segments_info" in entry for entry in table["annotations"][:10]):
        raise DataError(f"{path}: is a panoptic file, which is not supported. Export segmentations, or remove it.")
    return dict(table)


def _report_repeated_ids(result: FormatResult, table: dict[str, Any], path: Path) -> None:
    """Report ids of several images or categories, and images with several ids: their annotations are ambiguous."""
    for key, column in (("images", "file_name"), ("categories", "name")):
        by_id: dict[int | str, set[str]] = defaultdict(set)
        for entry in table[key]:
            by_id[_id(entry, "id")].add(str(entry.get(column)))
        several = [f"{number} ({', '.join(sorted(names))})" for number, names in by_id.items() if len(names) > 1]
        cause = f"several {key} of {path.name} have the same id, so their annotations are ambiguous"
        result.report("repeated-id", "error", several, cause, f"Give each an id of its own in {path.name}.")
    by_name: dict[str, set[int | str]] = defaultdict(set)
    for entry in table["images"]:
        by_name[str(entry.get("file_name"))].add(_id(entry, "id"))
    cause = f"images have several ids in {path.name}, so each entry has only some of their annotations"
    fix = f"Keep one entry of each in {path.name}, with all annotations."
    result.report("repeated-id", "error", [name for name, ids in by_name.items() if len(ids) > 1], cause, fix)


def _id(entry: dict[str, Any], key: str) -> int | str:
    """Return an id as a number if possible: some programs write one as text and its counterpart as a number."""
    value = entry.get(key)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)
    return value if isinstance(value, int) else str(value)


def _annotation(entry: dict[str, Any], name: str, image_size: tuple[int, int] | None, file: str) -> Annotation:
    is_void = bool(entry.get("iscrowd"))
    box = entry.get("bbox")
    if not entry.get("segmentation") and isinstance(box, list) and len(box) == 4:
        found = [part for value in box if (part := number(value)) is not None]
        if len(found) == 4 and min(found[2:]) > 0:
            x, y, width, height = found
            corners = rotated_box((x, y, x + width, y + height))
            return Annotation("box", name, (Shape("polygon", (corners,)),), is_box=True, is_void=is_void)
    shape = _shape(entry.get("segmentation"), image_size)
    if shape is None:
        return Annotation(f"segmentation in {file}", name)
    return Annotation("segmentation", name, (shape,), no_area=not shape.points, is_void=is_void)


def _shape(outline: object, image_size: tuple[int, int] | None) -> Shape | None:
    if isinstance(outline, dict):
        counts, stated = outline.get("counts"), outline.get("size")
        if not isinstance(stated, list) or len(stated) != 2 or (image_size is not None and tuple(stated) != image_size):
            return None
        runs = unpack_rle(counts) if isinstance(counts, str) else counts
        valid = isinstance(runs, list) and all(type(n) is int and n >= 0 for n in runs)
        if not valid or sum(runs) != stated[0] * stated[1]:  # type: ignore[arg-type]
            return None
        return Shape("coco-rle", {"size": list(stated), "counts": counts})
    if not isinstance(outline, list) or not outline:
        return None
    rings: list[tuple[float, ...]] = []
    length = 0.0
    for ring in outline if isinstance(outline[0], list) else [outline]:
        values = [number(value) for value in ring] if isinstance(ring, list) else []
        corners = tuple(value for value in values if value is not None)
        if len(corners) < 6 or len(corners) % 2 or len(corners) < len(values):
            return None
        line = list(zip(corners[::2], corners[1::2], strict=True))
        if len(set(line)) > 2:  # otherwise it covers nothing
            rings.append(corners)
            length += sum(map(math.dist, line, [*line[1:], line[0]]))
    return Shape("coco-polygon", tuple(rings)) if length <= _MAX_OUTLINE else None


def _has_nested_ring(annotation: Annotation) -> bool:
    """Whether the box of one ring of a polygon lies strictly inside that of another."""
    for shape in annotation.shapes:
        if shape.type == "coco-polygon":
            boxes = [(min(r[::2]), min(r[1::2]), -max(r[::2]), -max(r[1::2])) for r in shape.points]
            return any(all(a < b for a, b in zip(one, two, strict=True)) for one in boxes for two in boxes)
    return False
