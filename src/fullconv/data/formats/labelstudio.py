"""Label Studio: its JSON and JSON-MIN exports, with shapes in percent of the picture."""

from __future__ import annotations

import base64
import re
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from fullconv.data.config import DataSettings
from fullconv.data.files import IMAGE_SUFFIXES, Folder
from fullconv.data.formats import Format, Found
from fullconv.data.formats.area import Bits
from fullconv.data.formats.class_names import Naming
from fullconv.data.formats.image_index import Locator
from fullconv.data.formats.shape_issues import Remarks
from fullconv.data.formats.shapes import FARTHEST, DrawnMask, Shape, numbers, points, turned_box
from fullconv.data.formats.strokes import unpack_strokes
from fullconv.data.formats.tables import read_json
from fullconv.data.problems import problem
from fullconv.data.samples import Sample
from fullconv.data.text_files import beginning
from fullconv.errors import DataError, FullconvError
from fullconv.images import image_size
from fullconv.images.read import decode

_AREAS = ("polygon", "brush", "rectangle", "ellipse", "bitmask")
_FLAT = ("keypoint", "vector")
_LABELS = re.compile(rf"(?:{'|'.join((*_AREAS, *_FLAT))})?labels")
"""Keys that hold the labels of a shape: polygonlabels, ..., or labels where one list serves all kinds of shapes."""
_PREFIX = re.compile(r"^[0-9a-f]{8}-")
"""Of uploaded files."""


def _files(folder: Folder) -> list[Path]:
    found = []
    for path in folder.files("*.json"):
        head = beginning(path, 1 << 16).lstrip()
        whole = '"annotations"' in head and '"result"' in head
        if head.startswith("[") and (whole or ('"original_width"' in head and 'labels"' in head)):
            found.append(path)
    return found


def detect(folder: Folder, settings: DataSettings) -> str | None:
    """Find a JSON list of tasks with annotations."""
    files = [] if settings.masks else _files(folder)
    return files[0].name if files else None


def read(folder: Folder, settings: DataSettings) -> Found:
    """Draw one annotation of every picture, in its order."""
    found = Found(splits={"": []})
    tasks = [(path, task, *_choose(task)) for path in _files(folder) for task in _load(path)]
    if tasks and not any(count for *_, count in tasks):
        raise DataError(
            f"{tasks[0][0]}: no task of it is labelled yet; predictions count once somebody has submitted them. Submit"
            " them in Label Studio, and export again."
        )
    names = sorted({_label(row) for _, _, rows, _ in tasks for row in rows} - {""})
    naming = Naming(settings, names, folder.root)
    locator = Locator(folder, settings)
    remarks = Remarks(settings, "fill")  # drawn for segmentation as well as for detection
    several: list[str] = []
    unlabelled: list[str] = []
    samples: dict[str, Sample] = {}
    known = {path.name for path in folder.pictures(settings.images or "").files.values()}
    for path, task, rows, count in tasks:
        name = _picture(task)
        if count == 0:
            unlabelled += [] if task.get("annotations") else [name]  # else somebody skipped it
            continue
        last = PurePosixPath(name)
        plain = str(last.parent / _PREFIX.sub("", last.name))
        picture = locator.find(name if last.name in known else plain, folder.root, said=name)
        if picture is None:
            continue
        stem = picture.relative_to(folder.root).with_suffix("").as_posix()
        several += [stem] if count > 1 or stem in samples else []
        if stem in samples and not any(row.get("ground_truth") for row in _annotations(task)):
            continue
        size = next((size for row in rows if (size := _size(row)) is not None), None)
        shapes = _shapes(rows, size or _stored_size(picture), stem, naming, remarks)
        mask = DrawnMask(path, f"{task.get('id')}|{stem}|{naming.key}", picture, size, naming.unlabeled, shapes)
        samples[stem] = Sample(stem, picture, {"": mask})
    found.splits[""] = list(samples.values())
    found.problems += locator.problems(bool(samples)) + naming.problems() + remarks.problems()
    if several := list(dict.fromkeys(several)):
        words = "pictures were labelled by several people; the ground truth, or else the first, counts"
        found.problems.append(problem("several-annotations", "warning", several, words, "Keep one of each."))
    if unlabelled:
        words = "pictures are not labelled yet, and are left out"
        found.problems.append(problem("missing-mask", "warning", unlabelled, words, "Label them if they should count."))
    found.settings = naming.settings()
    return found


def _load(path: Path) -> list[dict[str, Any]]:
    table = read_json(path, "Export it again.")
    return [task for task in table if isinstance(task, dict)] if isinstance(table, list) else []


def _annotations(task: dict[str, Any]) -> list[dict[str, Any]]:
    listed = task.get("annotations")
    listed = listed if isinstance(listed, list) else []
    return [entry for entry in listed if isinstance(entry, dict) and not entry.get("was_cancelled")]


def _choose(task: dict[str, Any]) -> tuple[list[dict[str, Any]], int]:
    """Return the shapes of the annotation that counts, and how many annotations there are."""
    if "annotations" not in task and "predictions" in task:  # as it is imported, before anybody has looked at it
        return [], 0
    if "annotations" not in task:  # JSON-MIN has the shapes in the task itself, one annotation each
        lists = [value for value in task.values() if isinstance(value, list)]
        entries = [entry for value in lists for entry in value if isinstance(entry, dict)]
        return [row for entry in entries if (row := _widened(entry)) is not None], 1 if entries else 0
    done = _annotations(task)
    if not done:
        return [], 0
    result = next((entry for entry in done if entry.get("ground_truth")), done[0]).get("result")
    if not isinstance(result, list):  # a shape that nobody can draw: it is told, and does not pass for an empty picture
        return [{"type": "polygonlabels"}], len(done)
    rows = [row for row in result if isinstance(row, dict)]
    labelled = {str(row["id"]) for row in rows if "id" in row and _label(row)}  # a row of the shape, one of its label
    return [row for row in rows if _kind(row) and (_label(row) or str(row.get("id")) not in labelled)], len(done)


def _widened(entry: dict[str, Any]) -> dict[str, Any] | None:
    """Return a shape of JSON-MIN as the row that JSON would hold."""
    key = next((key for key in entry if _LABELS.fullmatch(key)), None)
    return None if key is None else {**entry, "type": key, "value": entry}


def _kind(row: dict[str, Any]) -> str:
    """Return which kind of shape a row is: its type says so, or, where that is `labels`, the keys of its value."""
    kind = str(row.get("type")).removesuffix("labels")
    if kind:
        return kind if kind in (*_AREAS, *_FLAT) else ""
    value = _value(row)
    for key, named in (("points", "polygon"), ("rle", "brush"), ("radiusX", "ellipse"), ("height", "rectangle"),
                       ("imageDataURL", "bitmask"), ("vertices", "vector")):  # fmt: skip
        if key in value:
            return named
    return "keypoint" if "x" in value else ""


def _picture(task: dict[str, Any]) -> str:
    """Return the path in the address of a task's picture."""
    data = task.get("data", task)
    for value in data.values() if isinstance(data, dict) else ():
        if isinstance(value, str):
            try:
                parts = urlsplit(value) if "://" in value or "?" in value else None
            except ValueError:
                continue
            local = re.search(r"(?:^|&)d=([^&]+)", parts.query) if parts is not None else None
            path = unquote(local[1] if local else parts.path if parts is not None else value)
            if PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES:
                return path.lstrip("/")
    return str(task.get("file_upload") or f"task {task.get('id')}")


def _value(row: dict[str, Any]) -> dict[str, Any]:
    value = row.get("value")
    return value if isinstance(value, dict) else {}


def _names(row: dict[str, Any]) -> list[str]:
    value = _value(row)
    labels = next((value[key] for key in value if _LABELS.fullmatch(key)), None)
    return list(map(str, labels)) if isinstance(labels, list) else []


def _label(row: dict[str, Any]) -> str:
    return next(iter(_names(row)), "")


def _size(row: dict[str, Any]) -> tuple[int, int] | None:
    height, width = row.get("original_height"), row.get("original_width")
    if type(height) is not int or type(width) is not int:
        return None
    return (height, width) if 0 < min(height, width) <= max(height, width) <= FARTHEST else None


def _stored_size(picture: Path) -> tuple[int, int] | None:
    try:
        return image_size(picture)
    except FullconvError:
        return None  # will be said where the picture is read


def _shapes(
    rows: list[dict[str, Any]], size: tuple[int, int] | None, stem: str, naming: Naming, remarks: Remarks
) -> tuple[Shape, ...]:
    drawn: list[Shape] = []
    for row in rows:
        kind = _kind(row)
        if kind in _FLAT:
            remarks.flat(stem, kind)
            continue
        if not (name := _label(row)):
            remarks.bad(stem, f"{kind} without a label")
        elif (label := naming.index(name, stem)) is not None:
            if len(set(_names(row))) > 1:
                remarks.twofold(stem, " and ".join(_names(row)))
            shape = None if size is None else _shape(row, kind, size, label)
            if shape is None:
                turned = row.get("image_rotation")
                remarks.bad(stem, f"{kind}, turned by {turned} degrees" if turned else kind)
            else:
                drawn += remarks.box(stem, shape) if kind == "rectangle" else [shape]
    return tuple(drawn)


def _shape(row: dict[str, Any], kind: str, size: tuple[int, int], label: int) -> Shape | None:
    value, (height, width) = _value(row), _size(row) or size
    if row.get("image_rotation") not in (None, 0):
        return None
    if kind == "brush":
        bits = unpack_strokes(value.get("rle"), height, width)
        return None if bits is None else Shape("bitmap", label, (0, 0, Bits.of(bits)))
    if kind == "bitmask":
        return _bitmask(value.get("imageDataURL"), (height, width), label)
    if kind == "polygon":
        found = points(value.get("points"), 3)
        return None if found is None else Shape(
            "area", label, (tuple((x * width / 100, y * height / 100) for x, y in found),)
        )  # fmt: skip
    sides = ("width", "height") if kind == "rectangle" else ("radiusX", "radiusY")
    there = numbers({"rotation": 0, **value}, "x", "y", *sides, "rotation")
    if there is None or min(there[2:4]) <= 0:
        return None
    x, y, w, h, degrees = (
        there[0] * width / 100,
        there[1] * height / 100,
        there[2] * width / 100,
        there[3] * height / 100,
        there[4],
    )
    if kind == "ellipse":
        return Shape("oval", label, (x, y, w, h, degrees))
    return Shape("area", label, (turned_box((x, y, x + w, y + h), degrees, about=(x, y)),))


def _bitmask(address: object, size: tuple[int, int], label: int) -> Shape | None:
    """Read a PNG in a data address; what is not transparent, or not black, is set."""
    head, _, data = str(address).partition(",")
    if not re.fullmatch(r"data:image/\w+;base64", head):
        return None
    try:
        bits = decode(base64.b64decode(data, validate=True), "bitmask", lambda image: np.asarray(image.convert("LA")))
    except (ValueError, FullconvError):
        return None
    if bits.shape != (*size, 2):
        return None
    return Shape("bitmap", label, (0, 0, Bits.of((bits[..., 0] > 0) & (bits[..., 1] > 0))))


FORMATS = (Format("labelstudio", "labelstudio", detect, read),)
