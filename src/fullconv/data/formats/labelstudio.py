"""Label Studio: its JSON and JSON-MIN exports, with shapes in percent of the image."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from fullconv.data.config import DataSettings
from fullconv.data.files import IMAGE_SUFFIXES, Folder, has_matches, read_head
from fullconv.data.formats.annotation_files import (
    MAX_COORDINATE,
    ImageIndex,
    numbers,
    objects_in,
    points,
    read_json,
    size,
)
from fullconv.data.formats.drawn import AnnotatedImage, Annotation, Annotations
from fullconv.data.formats.format import FormatResult
from fullconv.data.formats.rasterize import PackedMask, Shape, rotated_box
from fullconv.errors import DataError, FullconvError
from fullconv.images import decode, image_size, max_pixels

_AREAS = ("polygon", "brush", "rectangle", "ellipse", "bitmask")
_NO_AREA = ("keypoint", "vector")
_LABELS = re.compile(rf"(?:{'|'.join((*_AREAS, *_NO_AREA))})?labels")
"""Keys that hold the labels of a shape: polygonlabels, ..., or labels if one list serves all types of shapes."""
_TASK_KEYS = re.compile(r'"(annotations|result)"\s*:')
_SHAPE_KEYS = re.compile(r'"(original_width)"\s*:|labels"\s*:')
"""Of JSON-MIN; whatever the labels are called, they are one match."""
_TYPE_OF_KEY = {"points": "polygon", "rle": "brush", "radiusX": "ellipse", "height": "rectangle",
                "imageDataURL": "bitmask", "vertices": "vector", "x": "keypoint"}  # fmt: skip
_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")


def find_files(folder: Folder) -> list[Path]:
    """Find JSON lists of tasks with annotations."""
    return [
        path
        for path in folder.files("*.json")
        if read_head(path, 64).lstrip().startswith("[")
        and (has_matches(path, _TASK_KEYS, 2) or has_matches(path, _SHAPE_KEYS, 2))
    ]


def parse(folder: Folder, settings: DataSettings, index: ImageIndex, result: FormatResult) -> Annotations:
    """Parse one annotation of every image, in its order."""
    tables = {path: objects_in(read_json(path, "Export it again.")) for path in find_files(folder)}
    tasks = [(path, task, *_choose(task)) for path, table in tables.items() for task in table]
    if tasks and not any(count for *_, count in tasks):
        raise DataError(f"{tasks[0][0]}: no task has a submitted annotation. Submit them, and export again.")
    images: list[AnnotatedImage] = []
    names = {name for _, _, rows, _ in tasks for row in rows for name in _names(row)[:1]}
    found = Annotations(sorted(names - {""}), images)
    unlabeled: list[str] = []
    known = {path.name for path in folder.images(settings.images or "").files.values()}
    for path, task, rows, count in tasks:
        name = _image_path(task)
        if count == 0:
            unlabeled += [] if task.get("annotations") else [name]  # otherwise it was skipped on purpose
            continue
        last = PurePosixPath(name)
        plain = str(last.parent / _UPLOAD_PREFIX.sub("", last.name))
        image = index.find(name if last.name in known else plain, folder.root, reported=name)
        if image is None:
            continue
        stem = image.relative_to(folder.root).with_suffix("").as_posix()
        found.repeated += [stem] if count > 1 else []
        stated = next((stated for row in rows if (stated := _size(row)) is not None), None)
        shown_size = stated
        if shown_size is None:
            with suppress(FullconvError):  # is reported with the image
                shown_size = image_size(image)
        shapes = _annotations(rows, shown_size)
        is_ground_truth = any(row.get("ground_truth") for row in _submitted(task))
        key = f"{task.get('id')}|{stem}"
        images.append(AnnotatedImage(stem, image, stem, stated, "", shapes, path, key, is_ground_truth))
    cause = "images are not labeled yet, and are omitted"
    result.report("missing-mask", "warning", unlabeled, cause, "Label them if they should count.")
    return found


def _submitted(task: dict[str, Any]) -> list[dict[str, Any]]:
    return [entry for entry in objects_in(task.get("annotations")) if not entry.get("was_cancelled")]


def _choose(task: dict[str, Any]) -> tuple[list[dict[str, Any]], int]:
    """Return the shapes of the annotation that counts, and how many annotations there are."""
    if "annotations" not in task and "predictions" in task:  # imported, not yet labeled
        return [], 0
    if "annotations" not in task:  # JSON-MIN has the shapes in the task itself, one annotation each
        entries = [entry for value in task.values() for entry in objects_in(value)]
        keys = [next(filter(_LABELS.fullmatch, entry), None) for entry in entries]
        rows = [{**entry, "type": key, "value": entry} for entry, key in zip(entries, keys, strict=True) if key]
        return rows, 1 if entries else 0
    done = _submitted(task)
    if not done:
        return [], 0
    result = next((entry for entry in done if entry.get("ground_truth")), done[0]).get("result")
    if not isinstance(result, list):  # a shape that cannot be drawn, so that it is not taken for an empty image
        return [{"type": "polygonlabels"}], len(done)
    rows = [row for row in result if isinstance(row, dict)]
    # a shape may have a row of its own, and one of its label
    labeled = {str(row["id"]) for row in rows if "id" in row and any(_names(row)[:1])}
    rows = [row for row in rows if _type(row) and (any(_names(row)[:1]) or str(row.get("id")) not in labeled)]
    return rows, len(done)


def _type(row: dict[str, Any]) -> str:
    """Return the type of a shape: that of the row or, if that is `labels`, by the keys of its value."""
    kind = str(row.get("type")).removesuffix("labels")
    if kind:
        return kind if kind in (*_AREAS, *_NO_AREA) else ""
    value = _value(row)
    return next((named for key, named in _TYPE_OF_KEY.items() if key in value), "")


def _image_path(task: dict[str, Any]) -> str:
    """Return the path in the address of a task's image."""
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


def _size(row: dict[str, Any]) -> tuple[int, int] | None:
    stated = size(row.get("original_height"), row.get("original_width"))
    return stated if stated is not None and max(stated) <= MAX_COORDINATE else None


def _annotations(rows: list[dict[str, Any]], image_size: tuple[int, int] | None) -> Iterable[Annotation]:
    for row in rows:
        kind, names = _type(row), _names(row)
        if kind in _NO_AREA:
            yield Annotation(kind, None, no_area=True)
        elif not any(names[:1]):
            yield Annotation(f"{kind} without a label", None)
        else:
            shape = None if image_size is None else _shape(row, kind, image_size)
            rotation = row.get("image_rotation")
            reported = f"{kind}, rotated by {rotation} degrees" if shape is None and rotation else kind
            others = " and ".join(names) if len(set(names)) > 1 else ""
            shapes = () if shape is None else (shape,)
            yield Annotation(reported, names[0], shapes, is_box=kind == "rectangle", other_names=others)


def _shape(row: dict[str, Any], kind: str, image_size: tuple[int, int]) -> Shape | None:
    value, (height, width) = _value(row), _size(row) or image_size
    if row.get("image_rotation") not in (None, 0):
        return None
    if kind == "brush":
        bits = unpack_brush_rle(value.get("rle"), height, width)
        return None if bits is None else Shape("bitmap", (0, 0, PackedMask.pack(bits)))
    if kind == "bitmask":
        return _bitmask(value.get("imageDataURL"), (height, width))
    if kind == "polygon":
        ring = [(x * width / 100, y * height / 100) for x, y in points(value.get("points"), 3) or ()]
        return Shape("polygon", (tuple(ring),)) if ring else None
    sides = ("width", "height") if kind == "rectangle" else ("radiusX", "radiusY")
    found = numbers({"rotation": 0, **value}, "x", "y", *sides, "rotation")
    if found is None or min(found[2:4]) <= 0:
        return None
    x, w = found[0] * width / 100, found[2] * width / 100
    y, h = found[1] * height / 100, found[3] * height / 100
    if kind == "ellipse":
        return Shape("ellipse", (x, y, w, h, found[4]))
    return Shape("polygon", (rotated_box((x, y, x + w, y + h), found[4], about=(x, y)),))


def _bitmask(address: object, image_size: tuple[int, int]) -> Shape | None:
    """Decode a PNG in a data address; pixels that are neither transparent nor black are set."""
    head, _, data = str(address).partition(",")
    if not re.fullmatch(r"data:image/\w+;base64", head):
        return None
    try:
        bits = decode(base64.b64decode(data, validate=True), "bitmask", lambda image: np.asarray(image.convert("LA")))
    except (ValueError, FullconvError):
        return None
    if bits.shape != (*image_size, 2):
        return None
    return Shape("bitmap", (0, 0, PackedMask.pack((bits[..., 0] > 0) & (bits[..., 1] > 0))))


def unpack_brush_rle(code: object, height: int, width: int) -> NDArray[np.bool_] | None:
    """Decode the RLE of brush strokes into (H, W) bool, whether a pixel is opaque; None if it is invalid or of another size.

    It is a stream of bits over RGBA bytes. 32 bits: number of bytes. 5 bits: bits of a byte, less one. Four times 4 bits:
    bits of a run length, less one. Then runs: 1 bit, whether all bytes are equal; 2 bits, which of the four; the length less
    one; one byte, or all.

    Source: github.com/thi-ng/umbrella, packages/rle-pack, which Label Studio uses.
    """
    if not isinstance(code, list) or not all(type(byte) is int and 0 <= byte < 256 for byte in code):
        return None
    data, place = bytes(code), 0

    def take(count: int) -> int:
        nonlocal place
        first, last = place >> 3, (place + count + 7) >> 3
        if last > len(data):
            raise EOFError
        place += count
        return (int.from_bytes(data[first:last], "big") >> (8 * last - place)) & ((1 << count) - 1)

    try:
        total, word = take(32), take(5) + 1
        lengths = [take(4) + 1 for _ in range(4)]
        if total != height * width * 4 or height * width > max_pixels() or word != 8:
            return None
        opaque = np.zeros(height * width, np.bool_)
        at = 0
        while at < total:
            same = take(1)
            end = min(at + 1 + take(lengths[take(2)]), total)
            if same:
                opaque[at // 4 : end // 4] = take(word) > 0  # the alphas among bytes at ... end - 1
            else:
                for byte in range(at, end):
                    value = take(word)
                    if byte % 4 == 3:
                        opaque[byte // 4] = value > 0
            at = end
    except EOFError:
        return None
    return opaque.reshape(height, width)
