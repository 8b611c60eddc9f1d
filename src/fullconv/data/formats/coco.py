"""COCO: a JSON file with images, annotations and categories; polygons and run lengths by pycocotools."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Any

from fullconv.data.config import DataSettings
from fullconv.data.files import Folder
from fullconv.data.formats import Format, Found
from fullconv.data.formats.class_names import Naming
from fullconv.data.formats.image_index import Locator, unique
from fullconv.data.formats.shape_issues import Remarks
from fullconv.data.formats.shapes import DrawnMask, Shape, number, outline_length, turned_box, unpack
from fullconv.data.formats.tables import read_json
from fullconv.data.problems import Problem, problem
from fullconv.data.samples import Sample
from fullconv.data.text_files import both_ends
from fullconv.errors import DataError
from fullconv.labels import VOID

_KEYS = re.compile(r'"(images|annotations|categories)"\s*:\s*\[')
_HEAD = re.compile(r'\{\s*"(images|annotations|categories|info|licenses)"\s*:')
_LOOKED_AT = 1 << 16
"""Bytes of the beginning and of the end that are searched for the keys: they may stand in any order."""
_LONGEST = 10_000_000
"""Pixels around the outlines of one annotation; pycocotools walks them in fifths, and keeps every step."""
_OTHER = re.compile(r"captions_|person_keypoints_|panoptic_|image_info_")
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def _files(folder: Folder) -> list[Path]:
    found = []
    for inner in ("", *(f for f in folder.folders.values())):
        for path in folder.files("*.json", inner):
            if not _OTHER.match(path.name):
                head, tail = both_ends(path, _LOOKED_AT)
                keys = set(_KEYS.findall(f"{head}\n{tail}"))
                begins = head.lstrip().startswith("{") and len(keys) > 1
                if (begins or _HEAD.match(head.lstrip())) and '"imagePath"' not in head:
                    found.append(path)
    return found


def detect(folder: Folder, settings: DataSettings) -> str | None:
    """Find JSON files with COCO's lists."""
    if settings.masks:
        return None
    files = _files(folder)
    return files[0].relative_to(folder.root).as_posix() if files else None


def read(folder: Folder, settings: DataSettings) -> Found:
    """Draw the annotations of every picture, in their order in the file."""
    found = Found(splits={})
    tables = {path: _load(path) for path in _files(folder)}
    categories = {
        (_id(row, "id"), str(row.get("name"))): None for table in tables.values() for row in table["categories"]
    }
    ordered = sorted(categories, key=lambda pair: (not isinstance(pair[0], int), str(pair[0]).zfill(12)))
    naming = Naming(settings, [name for _, name in ordered], folder.root)
    locator = Locator(folder, settings)
    reader = _Reader(naming, Remarks(settings, "void"))
    taken: set[str] = set()
    drawn: dict[tuple[str, Path], DrawnMask] = {}
    twice: list[str] = []
    for path, table in tables.items():
        split = _split_of(path, folder.root)
        reader.where = path.name
        found.problems += _repeated(table, path)
        names = {_id(entry, "id"): str(entry.get("name")) for entry in table["categories"]}
        by_picture: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for entry in table["annotations"]:
            by_picture[_id(entry, "image_id")].append(entry)
        known = {_id(image, "id") for image in table["images"]}
        for image in table["images"]:
            name = str(image.get("file_name", ""))
            picture = locator.find(name, path.parent, split)
            if picture is None:
                continue
            stem = PurePosixPath(name.replace("\\", "/")).with_suffix("").as_posix().lstrip("/")
            first = drawn.get((split, picture))
            stem = stem if first is not None else unique(stem, taken, prefix=split or path.stem)
            size = (image.get("height"), image.get("width"))
            whole = all(type(side) is int and side > 0 for side in size)
            shapes = tuple(reader.shapes(by_picture[_id(image, "id")], names, stem, size if whole else None))
            mask = DrawnMask(path, f"{stem}|{naming.key}", picture, size if whole else None, naming.unlabeled, shapes)
            if first is not None:  # a copy of a file says the same again
                twice += [name] if first.shapes != shapes else []
                continue
            drawn[split, picture] = mask
            found.splits.setdefault(split, []).append(Sample(stem, picture, {"": mask}))
        if lost := [str(_id(entry, "id")) for key, drawn in by_picture.items() if key not in known for entry in drawn]:
            words = f"annotations of {path.name} belong to no picture of its images, and are left out"
            found.problems.append(
                problem("orphan-annotation", "warning", lost, words, f"Correct their image_id in {path.name}.")
            )
    named = {name for one in found.problems if one.code == "repeated-id" for name in one.files}
    if twice := [name for name in dict.fromkeys(twice) if name not in named]:
        words = "pictures stand there several times with different annotations, of which only the first count"
        remedy = "Put all annotations of a picture below one entry of images, in one file."
        found.problems.append(problem("repeated-id", "error", twice, words, remedy))
    found.problems += locator.problems(any(found.splits.values())) + naming.problems() + reader.problems()
    found.settings = naming.settings()
    return found


def _load(path: Path) -> dict[str, Any]:
    table = read_json(path, "Export it again.")
    for key in ("images", "annotations", "categories"):
        entries = table.get(key) if isinstance(table, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise DataError(f"{path}: has no list '{key}', so it is no COCO file. Export it again.")
    nameless = [str(entry.get("id")) for entry in table["categories"] if entry.get("name") in (None, "")]
    if nameless:
        raise DataError(f"{path}: category {nameless[0]} has no name. Give it one, or export it again.")
    if any("segments_info" in entry for entry in table["annotations"][:10]):
        raise DataError(f"{path}: is a panoptic file, which is not read. Export segmentations, or remove it.")
    return dict(table)


def _repeated(table: dict[str, Any], path: Path) -> list[Problem]:
    """Name ids that stand for several pictures or several names, so that nobody knows whose an annotation is."""
    found = []
    for key, what, words in (("images", "file_name", "pictures"), ("categories", "name", "categories")):
        by_id: dict[int | str, set[str]] = defaultdict(set)
        for entry in table[key]:
            by_id[_id(entry, "id")].add(str(entry.get(what)))
        several = [f"{number} ({', '.join(sorted(names))})" for number, names in by_id.items() if len(names) > 1]
        if several:
            cause = f"several {words} of {path.name} have the same id, so it is not clear whose the annotations are"
            found.append(problem("repeated-id", "error", several, cause, f"Give each an id of its own in {path.name}."))
    by_name: dict[str, set[int | str]] = defaultdict(set)
    for entry in table["images"]:
        by_name[str(entry.get("file_name"))].add(_id(entry, "id"))
    if twice := [name for name, ids in by_name.items() if len(ids) > 1]:
        cause = f"pictures stand in {path.name} under several ids, so each has only a part of its annotations"
        found.append(
            problem("repeated-id", "error", twice, cause, f"Leave one of each in {path.name}, with all of them.")
        )
    return found


def _split_of(path: Path, root: Path) -> str:
    inner = path.relative_to(root)
    for text in (inner.stem, *reversed(inner.parts[:-1])):
        for word in re.findall(r"[a-z]+", text.lower()):
            if word in _SPLITS:
                return _SPLITS[word]
    return ""


def _id(entry: dict[str, Any], key: str) -> int | str:
    """Return a number or text that tells entries apart, whatever is written there."""
    value = entry.get(key)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)  # some programs write one as text and its like as a number
    return value if isinstance(value, int) else str(value)


class _Reader:
    """Turns annotations into shapes, and remembers what is no shape."""

    def __init__(self, naming: Naming, remarks: Remarks) -> None:
        self.naming, self.remarks = naming, remarks
        self.inner: list[str] = []
        self.where = ""
        """Name of the file that is read."""
        self.unlisted: dict[tuple[str, str], list[str]] = {}
        """Pictures by file and category_id that is not in its categories."""

    def shapes(
        self, entries: list[dict[str, Any]], names: dict[Any, str], stem: str, size: tuple[int, int] | None
    ) -> list[Shape]:
        found = []
        for entry in entries:
            name = names.get(_id(entry, "category_id"))
            if name is None:
                self.unlisted.setdefault((self.where, str(entry.get("category_id"))), []).append(stem)
                continue
            if (label := self.naming.index(name, stem)) is None:
                continue
            if entry.get("iscrowd"):
                label = VOID
            if not entry.get("segmentation") and (box := _box(entry.get("bbox"))) is not None:
                found += self.remarks.box(stem, Shape("area", label, (box,)))
            elif (shape := self._shape(entry, label, size)) is not None and not shape.points:
                self.remarks.flat(stem, "segmentation")
            elif shape is not None:
                self.remarks.extent(shape)
                found.append(shape)
                self.inner += [stem] if shape.kind == "coco-polygon" and _has_inner_ring(shape.points) else []
            else:
                self.remarks.bad(stem, f"segmentation in {self.where}")
        return found

    def _shape(self, entry: dict[str, Any], label: int, size: tuple[int, int] | None) -> Shape | None:
        outline = entry.get("segmentation")
        if isinstance(outline, dict):
            counts = outline.get("counts")
            stated = outline.get("size")
            if not isinstance(stated, list) or len(stated) != 2 or (size is not None and tuple(stated) != size):
                return None
            runs = unpack(counts) if isinstance(counts, str) else counts
            whole = isinstance(runs, list) and all(type(n) is int and n >= 0 for n in runs)
            if not whole or sum(runs) != stated[0] * stated[1]:  # type: ignore[arg-type]
                return None
            return Shape("coco-rle", label, {"size": list(stated), "counts": counts})
        if not isinstance(outline, list) or not outline:
            return None
        rings = outline if isinstance(outline[0], list) else [outline]
        good: list[tuple[float, ...]] = []
        for ring in rings:
            values = [number(value) for value in ring] if isinstance(ring, list) else []
            corners = tuple(value for value in values if value is not None)
            if len(corners) < 6 or len(corners) % 2 or len(corners) < len(values):
                return None
            if len(set(zip(corners[::2], corners[1::2], strict=True))) > 2:  # else it covers nothing
                good.append(corners)
        if sum(map(outline_length, good)) > _LONGEST:
            return None
        return Shape("coco-polygon", label, tuple(good))

    def problems(self) -> list[Problem]:
        found = self.remarks.problems()
        for (file, category), stems in self.unlisted.items():
            words = f"annotations have category_id {category}, which is not in categories of {file}"
            remedy = f"Add the category to {file}, or correct the annotations."
            found.append(problem("unknown-class", "error", list(dict.fromkeys(stems)), words, remedy, stems))
        if self.inner:
            words = "annotations have an outline inside another one of theirs; COCO adds outlines up, so it is no hole"
            remedy = "If it should be one, export masks or run lengths instead of polygons."
            found.append(problem("outline-in-outline", "warning", list(dict.fromkeys(self.inner)), words, remedy))
        return found


def _has_inner_ring(rings: tuple[tuple[float, ...], ...]) -> bool:
    """Whether the box of one ring lies strictly inside that of another."""
    boxes = [(min(r[::2]), min(r[1::2]), -max(r[::2]), -max(r[1::2])) for r in rings]
    return any(all(a < b for a, b in zip(one, two, strict=True)) for one in boxes for two in boxes)


def _box(value: object) -> tuple[tuple[float, float], ...] | None:
    """Return the corners of [x, y, width, height]."""
    if not isinstance(value, list) or len(value) != 4:
        return None
    found = [part for entry in value if (part := number(entry)) is not None]
    if len(found) < 4 or min(found[2:]) <= 0:
        return None
    return turned_box((found[0], found[1], found[0] + found[2], found[1] + found[3]))


FORMATS = (Format("coco", "coco", detect, read),)
