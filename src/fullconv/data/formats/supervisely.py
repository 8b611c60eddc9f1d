"""Supervisely: meta.json, and data sets of img/ and ann/ with a JSON file for each picture."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fullconv.data.folder import Folder, is_clutter
from fullconv.data.formats import Format, Found
from fullconv.data.formats.locate import Locator
from fullconv.data.formats.naming import Naming
from fullconv.data.formats.shapes import DrawnMask, Shape, points
from fullconv.data.problems import problem
from fullconv.data.samples import Sample
from fullconv.data.settings import DataSettings
from fullconv.errors import DataError, FullconvError
from fullconv.images.read import decode

_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_LINE = 1
_MOST = 1 << 26  # bytes to which one bitmap may unpack


def _sets(folder: Folder) -> list[Path]:
    """Return the folders that have ann/."""
    if not (folder.root / "meta.json").is_file():
        return []
    inner = [folder.root / name for name in folder.folders.values()]
    return [place for place in (folder.root, *inner) if (place / "ann").is_dir() and not is_clutter(place.name)]


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
    bad: list[str] = []
    for place in _sets(folder):
        for path in sorted((place / "ann").glob("*.json")):
            table = _load(path)
            name = path.name.removesuffix(".json")
            said = path.relative_to(folder.root).as_posix()
            inner = f"{place.relative_to(folder.root).as_posix()}/img/{name}".removeprefix("./")
            picture = locator.find(inner, folder.root, said=said)
            if picture is None:
                continue
            stem = picture.relative_to(folder.root).with_suffix("").as_posix()
            drawn = []
            objects = table.get("objects")
            for entry in objects if isinstance(objects, list) else []:
                if not isinstance(entry, dict):
                    bad.append(stem)
                elif (label := naming.index(str(entry.get("classTitle")), stem)) is not None:
                    shape = _shape(entry, label)
                    drawn += [shape] if shape is not None else []
                    bad += [stem] if shape is None else []
            size = _size(table.get("size"))
            mask = DrawnMask(path, naming.key, picture, size, naming.unlabeled, tuple(drawn))
            split = _SPLITS.get(place.name.lower(), "") if place != folder.root else ""
            found.splits.setdefault(split, []).append(Sample(stem, picture, {"": mask}))
    if len(found.splits) > 1 and "" in found.splits:
        found.splits.setdefault("train", []).extend(found.splits.pop(""))
    found.problems += locator.problems(any(found.splits.values())) + naming.problems()
    if bad := list(dict.fromkeys(bad)):
        words = "shapes cannot be drawn: too few points, no numbers, or a kind that is not known"
        found.problems.append(problem("bad-shape", "error", bad, words, "Draw them again, or remove them.", bad))
    found.settings = naming.settings()
    return found


def _load(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}). Export it again.") from None
    return table if isinstance(table, dict) else {}


def _size(entry: object) -> tuple[int, int] | None:
    height, width = (entry.get("height"), entry.get("width")) if isinstance(entry, dict) else (None, None)
    return (height, width) if type(height) is int and type(width) is int and min(height, width) > 0 else None


def _shape(entry: dict[str, Any], label: int) -> Shape | None:
    kind = entry.get("geometryType")
    if kind == "bitmap":
        return _bitmap(entry.get("bitmap"), label)
    outline = entry.get("points")
    rings = outline if isinstance(outline, dict) else {}
    outside = points(rings.get("exterior"))
    if outside is None:
        return None
    if kind == "polygon" and len(outside) > 2:
        inside = rings.get("interior") or []
        holes = [points(hole, 3) for hole in inside] if isinstance(inside, list) else [None]
        whole = tuple(hole for hole in holes if hole is not None)
        return Shape("polygon", label, (outside, *whole)) if len(whole) == len(holes) else None
    if kind == "rectangle" and len(outside) == 2:
        xs, ys = [p[0] for p in outside], [p[1] for p in outside]
        return Shape("rectangle", label, (min(xs), min(ys), max(xs), max(ys)))
    if kind in ("line", "point"):
        return Shape("line", label, outside if len(outside) > 1 else (*outside, *outside), _LINE)
    return None


def _bitmap(entry: object, label: int) -> Shape | None:
    """Unpack a zipped PNG in base64; it is the alpha channel where there is one."""
    if not isinstance(entry, dict):
        return None
    origin = points([entry.get("origin")])
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(str(entry.get("data")), validate=True), _MOST)
        bits = decode(data, "bitmap", _alpha)
    except (ValueError, zlib.error, FullconvError):
        return None
    return None if origin is None else Shape("bitmap", label, (round(origin[0][0]), round(origin[0][1]), bits != 0))


def _alpha(image: Image.Image) -> NDArray[Any]:
    if image.mode in ("RGBA", "LA"):
        return np.asarray(image.getchannel("A"))
    return np.asarray(image.convert("L"))


FORMATS = (Format("supervisely", "supervisely", detect, read),)
