"""COCO: a JSON file with images, annotations and categories; polygons and run lengths by pycocotools."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Any

from fullconv.data.folder import Folder
from fullconv.data.formats import Format, Found
from fullconv.data.formats.locate import Locator
from fullconv.data.formats.naming import Naming
from fullconv.data.formats.shapes import DrawnMask, Shape, number, unpack
from fullconv.data.problems import problem
from fullconv.data.samples import Sample
from fullconv.data.settings import DataSettings
from fullconv.errors import DataError
from fullconv.labels import VOID

_HEAD = re.compile(r'\s*\{\s*"(images|annotations|categories|info|licenses)"\s*:')
_OTHER = re.compile(r"captions_|person_keypoints_|panoptic_|image_info_")
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def _files(folder: Folder) -> list[Path]:
    found = []
    for inner in ("", *(f for f in folder.folders.values())):
        for path in sorted((folder.root / inner).glob("*.json")):
            if path.is_file() and not _OTHER.match(path.name) and not path.name.startswith("."):
                with path.open("rb") as file:
                    head = file.read(512).decode("utf-8-sig", "replace")
                if _HEAD.match(head) and '"imagePath"' not in head:
                    found.append(path)
    return found


def detect(folder: Folder, settings: DataSettings) -> str | None:
    """Find JSON files that begin as COCO's do."""
    if settings.masks:
        return None
    files = _files(folder)
    return files[0].relative_to(folder.root).as_posix() if files else None


def read(folder: Folder, settings: DataSettings) -> Found:
    """Draw the annotations of every picture, in their order in the file."""
    found = Found(splits={})
    tables = {path: _load(path) for path in _files(folder)}
    categories: dict[Any, str] = {}
    for table in tables.values():
        for entry in table["categories"]:
            categories.setdefault(_id(entry, "id"), str(entry.get("name")))
    ordered = [categories[key] for key in sorted(categories, key=lambda k: (not isinstance(k, int), str(k).zfill(12)))]
    naming = Naming(settings, ordered, folder.root)
    locator = Locator(folder, settings)
    reader = _Reader(naming)
    seen: set[str] = set()
    for path, table in tables.items():
        split = _split_of(path, folder.root)
        names = {_id(entry, "id"): str(entry.get("name")) for entry in table["categories"]}
        by_picture: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for entry in table["annotations"]:
            by_picture[_id(entry, "image_id")].append(entry)
        for image in table["images"]:
            name = str(image.get("file_name", ""))
            picture = locator.find(name, path.parent, split)
            drawn = by_picture.pop(_id(image, "id"), [])
            if picture is None:
                continue
            stem = PurePosixPath(name.replace("\\", "/")).with_suffix("").as_posix().lstrip("/")
            stem = f"{split or path.stem}/{stem}" if stem in seen else stem
            seen.add(stem)
            size = (image.get("height"), image.get("width"))
            whole = all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in size)
            shapes = tuple(reader.shapes(drawn, names, stem, size if whole else None))
            mask = DrawnMask(path, f"{stem}|{naming.key}", picture, size if whole else None, naming.unlabeled, shapes)
            found.splits.setdefault(split, []).append(Sample(stem, picture, {"": mask}))
        if by_picture:
            lost = [str(_id(entry, "id")) for drawn in by_picture.values() for entry in drawn]
            words = f"annotations of {path.name} belong to no picture of its images, and are left out"
            found.problems.append(problem("orphan-annotation", "warning", lost, words, "Correct their image_id."))
    found.problems += locator.problems(any(found.splits.values())) + naming.problems() + reader.problems()
    found.settings = naming.settings()
    return found


def _load(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}). Export it again.") from None
    for key in ("images", "annotations", "categories"):
        entries = table.get(key) if isinstance(table, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise DataError(f"{path}: has no list '{key}', so it is no COCO file. Export it again.")
    return dict(table)


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
    return value if isinstance(value, int) else str(value)


class _Reader:
    """Turns annotations into shapes, and remembers what is no shape."""

    def __init__(self, naming: Naming) -> None:
        self.naming = naming
        self.boxes: list[str] = []
        self.bad: list[str] = []

    def shapes(
        self, entries: list[dict[str, Any]], names: dict[Any, str], stem: str, size: tuple[int, int] | None
    ) -> list[Shape]:
        found = []
        for entry in entries:
            label = self.naming.index(
                names.get(_id(entry, "category_id"), f"category {entry.get('category_id')}"), stem
            )
            if label is None:
                continue
            shape = self._shape(entry, VOID if entry.get("iscrowd") else label, size)
            if shape is not None:
                found.append(shape)
            elif not entry.get("segmentation") and (box := _box(entry.get("bbox"))) is not None:
                self.boxes.append(stem)
                found.append(Shape("rectangle", VOID, box))
            else:
                self.bad.append(stem)
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
        good = []
        for ring in rings:
            values = [number(value) for value in ring] if isinstance(ring, list) else []
            if len(values) < 6 or len(values) % 2 or None in values:
                return None
            good.append(tuple(values))
        return Shape("coco-polygon", label, tuple(good))

    def problems(self) -> list[Any]:
        found = []
        if self.boxes:
            words = "annotations have a box but no outline, so what is in the box is void"
            found.append(problem("box-only", "warning", self.boxes, words, "Draw outlines, or remove the boxes."))
        if self.bad:
            words = "annotations are no outline: too few points, no numbers, or run lengths of another size"
            found.append(problem("bad-shape", "error", self.bad, words, "Draw them again, or remove them.", self.bad))
        return found


def _box(value: object) -> tuple[float, ...] | None:
    if not isinstance(value, list) or len(value) != 4:
        return None
    numbers = [found for part in value if (found := number(part)) is not None]
    if len(numbers) < 4 or min(numbers[2:]) <= 0:
        return None
    x, y, w, h = numbers
    return (x, y, x + max(w - 1, 0), y + max(h - 1, 0))


FORMATS = (Format("coco", "coco", detect, read),)
