"""LabelMe: a JSON file beside each picture, or with the picture in it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from fullconv.data.config import DataSettings
from fullconv.data.files import Folder, walk
from fullconv.data.formats import Format, Found
from fullconv.data.formats.area import Bits
from fullconv.data.formats.class_names import Naming
from fullconv.data.formats.image_index import Locator
from fullconv.data.formats.shape_issues import Remarks
from fullconv.data.formats.shapes import DrawnMask, Shape, points
from fullconv.data.formats.tables import read_json, unreadable
from fullconv.data.problems import Problem, problem
from fullconv.data.samples import Sample
from fullconv.data.text_files import both_ends
from fullconv.errors import DataError, FullconvError
from fullconv.images.read import decode, image_size
from fullconv.storage import cache_folder, write_bytes

_KEY = re.compile(r'"(shapes|imagePath|imageData)"\s*:')
_KEYS = {"imagePath", "imageData"}
_LEAST = {"polygon": 3, "line": 2, "linestrip": 2, "rectangle": 2, "circle": 2}
"""Different points that a shape of a kind needs to be one."""

_LINE, _POINT = 10, 5
"""Width of lines and radius of points, as labelme draws them."""
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def _files(folder: Folder) -> list[Path]:
    return [path for path in walk(folder.root) if path.suffix.lower() == ".json"]


def detect(folder: Folder, settings: DataSettings) -> str | None:
    """Find a JSON file that has labelme's keys."""
    if settings.masks:
        return None
    for path in _files(folder)[:50]:
        if path.is_file():
            head, tail = both_ends(path, 2048)
            if head.lstrip().startswith("{") and len(set(_KEY.findall(head + tail))) >= 2:
                return path.relative_to(folder.root).as_posix()
    return None


def read(folder: Folder, settings: DataSettings) -> Found:
    """Draw the shapes of every file, in their order."""
    found = Found(splits={})
    tables, broken = {}, []
    for path in _files(folder):
        try:
            if "shapes" in (table := _load(path)):
                if not isinstance(table["shapes"], list):
                    raise DataError(f"{path}: shapes is no list, so it is no annotation of labelme. Save it again.")
                tables[path] = table
            elif _KEYS & table.keys():
                raise DataError(f"{path}: has no list of shapes, so it says nothing. Save it again.")
        except DataError as error:
            broken.append((path, error))
    found.problems += unreadable(broken, folder.root)
    labels = [shape.get("label") for table in tables.values() for shape in _listed(table)]
    names = sorted({str(label) for label in labels if label not in (None, "")})
    naming = Naming(settings, names, folder.root)
    locator = Locator(folder, settings)
    remarks = Remarks(settings, "fill")  # a rectangle is a shape like others there
    for path, table in tables.items():
        inner = path.relative_to(folder.root)
        stem, said = inner.with_suffix("").as_posix(), inner.as_posix()
        picture = _picture(table, path, locator, said)
        if picture is None:
            continue
        drawn = []
        for entry in _listed(table):
            if entry.get("label") in (None, ""):
                remarks.bad(stem, "shape without a label")
                continue
            label = naming.index(str(entry.get("label")), stem)
            if label is not None:
                shapes = _shapes(entry, label)
                if shapes and _is_flat(entry):
                    remarks.flat(stem, entry.get("shape_type") or "polygon")
                    continue
                asked = remarks.asked and entry.get("shape_type") == "rectangle"
                for shape in shapes:
                    remarks.extent(shape)
                drawn += [one for shape in shapes for one in (remarks.box(stem, shape) if asked else [shape])]
                if not shapes:
                    remarks.bad(stem, entry.get("shape_type") or "polygon")
        size = _stated_size(table, picture)
        mask = DrawnMask(path, f"{size}|{naming.key}", picture, size, naming.unlabeled, tuple(drawn))
        split = next((_SPLITS[part.lower()] for part in inner.parts[:-1] if part.lower() in _SPLITS), "")
        found.splits.setdefault(split, []).append(Sample(stem, picture, {"": mask}))
    found.problems += _annotated_twice(found, folder.root)
    if len(found.splits) > 1 and "" in found.splits:
        found.splits.setdefault("train", []).extend(found.splits.pop(""))
    found.problems += locator.problems(any(found.splits.values())) + naming.problems() + remarks.problems()
    found.settings = naming.settings(found.problems)
    return found


def _annotated_twice(found: Found, root: Path) -> list[Problem]:
    """Leave one file of each picture: the one of its name, else the first; say which others there are."""
    files: dict[Path, list[Sample]] = {}
    for sample in (sample for members in found.splits.values() for sample in members):
        if sample.image.is_relative_to(root):  # those inside the files are of one file each
            files.setdefault(sample.image, []).append(sample)
    left_out = []
    for picture, samples in files.items():
        own = next((sample for sample in samples if sample.stem.rpartition("/")[2] == picture.stem), samples[0])
        left_out += [sample for sample in samples if sample is not own]
    if not left_out:
        return []
    for split, members in found.splits.items():
        found.splits[split] = [sample for sample in members if not any(sample is other for other in left_out)]
    names = [f"{sample.stem}.json" for sample in left_out]
    words = "pictures have several files; the one of the picture's name counts, else the first, and these do not"
    return [problem("several-annotations", "warning", names, words, "Keep one of each.")]


def _picture(table: dict[str, Any], path: Path, locator: Locator, said: str) -> Path | None:
    """Find the picture of a file: as written, else by the file's own stem, else in the file."""
    written = str(table.get("imagePath") or "")
    own = locator.beside(path)
    picture = locator.find(written or path.stem, path.parent, said=said)
    if picture is None and (picture := own or (_embedded(table, path) if table.get("imageData") else None)) is not None:
        locator.missing.remove(said)
        locator.mended += [said] if own is not None and written else []
        locator.take(picture)
    elif picture is not None and picture.stem != path.stem and own is not None:
        locator.mended.append(said)  # the file was copied from another picture's
        locator.take(own)
        return own
    return picture


def _stated_size(table: dict[str, Any], picture: Path) -> tuple[int, int] | None:
    """Return the height and width that shapes were drawn at, where a file says so and the picture has others.

    Height and width are often exchanged by other programs; that says nothing about the shapes.
    """
    height, width = table.get("imageHeight"), table.get("imageWidth")
    if type(height) is not int or type(width) is not int or not (0 < height < 1 << 16 and 0 < width < 1 << 16):
        return None
    try:
        actual = image_size(picture)
    except FullconvError:  # told with the picture
        return None
    return None if (height, width) in (actual, actual[::-1]) else (height, width)


def _load(path: Path) -> dict[str, Any]:
    table = read_json(path, "Save it again, or remove it.")
    return table if isinstance(table, dict) else {}


def _listed(table: dict[str, Any]) -> list[dict[str, Any]]:
    shapes = table.get("shapes")
    return [shape for shape in shapes if isinstance(shape, dict)] if isinstance(shapes, list) else []


def _embedded(table: dict[str, Any], path: Path) -> Path | None:
    """Unpack the picture of a file into the cache; None where it is damaged."""
    try:
        data = base64.b64decode(table["imageData"], validate=True)
    except (binascii.Error, ValueError, TypeError):
        return None
    suffix = Path(str(table.get("imagePath") or "").replace("\\", "/")).suffix
    suffix = suffix if re.fullmatch(r"\.\w{1,5}", suffix, re.ASCII) else ".png"
    target = cache_folder() / "embedded" / f"{hashlib.sha256(data).hexdigest()[:32]}{suffix}"
    if not target.is_file():
        write_bytes(target, [data])
    return target


def _is_flat(entry: dict[str, Any]) -> bool:
    """Whether all points of an outline are the same, or only two differ, so that it holds nothing."""
    return len(set(points(entry.get("points")) or ())) < _LEAST.get(entry.get("shape_type") or "polygon", 1)


def _shapes(entry: dict[str, Any], label: int) -> list[Shape]:
    """Return what an entry draws, as labelme draws it; nothing where it cannot be drawn."""
    kind, found = entry.get("shape_type") or "polygon", points(entry.get("points"))
    if found is None:
        return []
    x, y = found[0]
    if kind in ("polygon", "oriented_rectangle", "rotation", "quadrilateral"):  # the last two are X-AnyLabeling's
        whole = len(found) > 2 if kind == "polygon" else len(found) == 4
        return [Shape("polygon", label, (found,))] if whole else []
    if kind == "rectangle" and len(found) in (2, 4):
        xs, ys = [p[0] for p in found], [p[1] for p in found]
        return [Shape("rectangle", label, (min(xs), min(ys), max(xs), max(ys)))]
    if kind == "circle" and len(found) == 2:
        return [_disc(x, y, math.hypot(found[1][0] - x, found[1][1] - y), label)]
    if kind == "points" or (kind == "point" and len(found) == 1):
        return [_disc(x, y, _POINT, label) for x, y in found]
    if kind in ("line", "linestrip") and len(found) > 1:
        return [Shape("line", label, found, _LINE)]
    if kind == "mask" and len(found) == 2:
        try:
            data = base64.b64decode(entry["mask"], validate=True)
            bits = decode(data, "mask", lambda image: np.asarray(image.convert("L")))
        except (KeyError, TypeError, ValueError):
            return []
        return [Shape("bitmap", label, (int(x), int(y), Bits.of(bits != 0)))] if bits.ndim == 2 else []
    return []


def _disc(x: float, y: float, radius: float, label: int) -> Shape:
    return Shape("ellipse", label, (x - radius, y - radius, x + radius, y + radius))


FORMATS = (Format("labelme", "labelme", detect, read),)
