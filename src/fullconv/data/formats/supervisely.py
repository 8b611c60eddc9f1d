"""Supervisely: meta.json, and data sets of img/ and ann/ with a JSON file for each picture."""

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
from fullconv.data.formats import Format, Found
from fullconv.data.formats.area import Bits
from fullconv.data.formats.class_names import Naming
from fullconv.data.formats.image_index import Locator
from fullconv.data.formats.shape_issues import Remarks
from fullconv.data.formats.shapes import DrawnMask, Shape, number, points, turned_box
from fullconv.data.formats.tables import read_json, unreadable
from fullconv.data.samples import Sample
from fullconv.errors import DataError, FullconvError
from fullconv.images.png import SIGNATURE
from fullconv.images.read import decode

_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_FLAT = ("line", "point", "graph", "cuboid", "cuboid_2d")
_MOST = 1 << 26  # bytes to which one bitmap may unpack


def _sets(folder: Folder) -> list[Path]:
    """Return the folders that have ann/; data sets may lie in data sets."""
    if not (folder.root / "meta.json").is_file():
        return []
    found = {path.parent.parent for path in walk(folder.root) if path.parent.name == "ann" and path.suffix == ".json"}
    return sorted(found)


def detect(folder: Folder, settings: DataSettings) -> str | None:
    """Find meta.json with folders that have ann/."""
    sets = [] if settings.masks else _sets(folder)
    return f"meta.json with {(sets[0] / 'ann').relative_to(folder.root).as_posix()}/" if sets else None


def read(folder: Folder, settings: DataSettings) -> Found:
    """Draw the objects of every picture, in their order."""
    found = Found(splits={})
    meta = _load(folder.root / "meta.json")
    classes = meta.get("classes")
    titles = [str(row.get("title")) for row in classes if isinstance(row, dict)] if isinstance(classes, list) else []
    naming = Naming(settings, titles, folder.root)
    locator = Locator(folder, settings)
    remarks = Remarks(settings, "fill")  # a rectangle is a shape like others there
    broken: list[tuple[Path, DataError]] = []
    for place in _sets(folder):
        split = next(
            (_SPLITS[part.lower()] for part in place.relative_to(folder.root).parts if part.lower() in _SPLITS), ""
        )
        for path in folder.files("*.json", f"{place.relative_to(folder.root).as_posix()}/ann"):
            try:
                table = _load(path)
                objects = _objects(table, path)
            except DataError as error:
                broken.append((path, error))
                continue
            name = path.name.removesuffix(".json")
            said = path.relative_to(folder.root).as_posix()
            inner = f"{place.relative_to(folder.root).as_posix()}/img/{name}".removeprefix("./")
            picture = locator.find(inner, folder.root, said=said)
            if picture is None:
                continue
            stem = picture.relative_to(folder.root).with_suffix("").as_posix()
            shapes = _shapes(objects, stem, naming, remarks)
            mask = DrawnMask(path, naming.key, picture, _size(table.get("size")), naming.unlabeled, shapes)
            found.splits.setdefault(split, []).append(Sample(stem, picture, {"": mask}))
    if len(found.splits) > 1 and "" in found.splits:
        found.splits.setdefault("train", []).extend(found.splits.pop(""))
    found.problems += unreadable(broken, folder.root)
    found.problems += locator.problems(any(found.splits.values())) + naming.problems() + remarks.problems()
    found.settings = naming.settings(found.problems)
    return found


def _shapes(objects: list[Any], stem: str, naming: Naming, remarks: Remarks) -> tuple[Shape, ...]:
    drawn: list[Shape] = []
    for entry in objects:
        if not isinstance(entry, dict):
            remarks.bad(stem, "no object")
            continue
        kind = entry.get("geometryType")
        if kind in _FLAT:
            remarks.flat(stem, kind)
            continue
        label = naming.index(str(entry.get("classTitle")), stem)
        if label is not None:
            shapes = _shape(entry, label)
            asked = remarks.asked and kind == "rectangle"
            drawn += [one for shape in shapes or () for one in (remarks.box(stem, shape) if asked else [shape])]
            if shapes is None:
                remarks.bad(stem, kind)
    return tuple(drawn)


def _load(path: Path) -> dict[str, Any]:
    table = read_json(path, "Export it again.")
    return table if isinstance(table, dict) else {}


def _objects(table: dict[str, Any], path: Path) -> list[Any]:
    """Return the list of objects, which Supervisely writes even where it is empty."""
    if not isinstance(objects := table.get("objects"), list):
        raise DataError(f'{path}: has no list "objects", so it is no annotation of Supervisely. Export it again.')
    return objects


def _size(entry: object) -> tuple[int, int] | None:
    height, width = (entry.get("height"), entry.get("width")) if isinstance(entry, dict) else (None, None)
    return (height, width) if type(height) is int and type(width) is int and min(height, width) > 0 else None


def _shape(entry: dict[str, Any], label: int) -> list[Shape] | None:
    """Return what an object draws, as Supervisely draws it; None where it cannot be drawn."""
    kind = entry.get("geometryType")
    if kind in ("bitmap", "alpha_mask"):
        shape = _bitmap(entry.get("bitmap", entry.get("alpha_mask")), label)
        return None if shape is None else [shape]
    if kind in ("polygon", "multipolygon"):
        parts = entry.get("parts") if kind == "multipolygon" else [entry.get("points")]
        rings = [_rings(part) for part in parts] if isinstance(parts, list) else []
        whole = [ring for ring in rings if ring is not None]
        return [Shape("polygon", label, part) for part in whole] if len(whole) == len(rings) > 0 else None
    outline = entry.get("points")
    corners = points(outline.get("exterior") if isinstance(outline, dict) else outline)
    if corners is None or len(corners) != 2:
        return None
    xs, ys = [p[0] for p in corners], [p[1] for p in corners]
    box = (min(xs), min(ys), max(xs), max(ys))
    if kind == "rectangle":
        return [Shape("rectangle", label, box)]
    angle = number(entry.get("angle", 0))
    return (
        [Shape("polygon", label, (turned_box(box, math.degrees(angle)),))]
        if kind == "oriented_bbox" and angle is not None
        else None
    )


def _rings(entry: object) -> tuple[tuple[tuple[float, float], ...], ...] | None:
    """Return {"exterior": [...], "interior": [[...], ...]} as an outline and its holes."""
    if not isinstance(entry, dict):
        return None
    outside, inside = points(entry.get("exterior"), 3), entry.get("interior") or []
    holes = [points(hole, 3) for hole in inside] if isinstance(inside, list) else [None]
    whole = tuple(hole for hole in holes if hole is not None)
    return (outside, *whole) if outside is not None and len(whole) == len(holes) else None


def _bitmap(entry: object, label: int) -> Shape | None:
    """Unpack a PNG in base64, zipped or not; it is the alpha channel where there is one."""
    if not isinstance(entry, dict):
        return None
    origin = points([entry.get("origin")])
    try:
        data = base64.b64decode(str(entry.get("data")), validate=True)
        if not data.startswith(SIGNATURE):
            data = zlib.decompressobj().decompress(data, _MOST)
        bits = decode(data, "bitmap", _alpha)
    except (ValueError, zlib.error, FullconvError):
        return None
    if origin is None or bits.ndim != 2:
        return None
    return Shape("bitmap", label, (round(origin[0][0]), round(origin[0][1]), Bits.of(bits != 0)))


def _alpha(image: Image.Image) -> NDArray[Any]:
    if image.mode in ("RGBA", "LA") or (image.mode == "P" and "transparency" in image.info):
        return np.asarray(image.convert("RGBA").getchannel("A"))
    return np.asarray(image.convert("L"))


FORMATS = (Format("supervisely", "supervisely", detect, read),)
