"""Label Studio: its JSON export, with polygons, brushes, boxes and ellipses in percent of the picture."""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from fullconv.data.folder import IMAGE_SUFFIXES, Folder
from fullconv.data.formats import Format, Found
from fullconv.data.formats.locate import Locator
from fullconv.data.formats.naming import Naming
from fullconv.data.formats.shapes import FARTHEST, DrawnMask, Shape, number, points
from fullconv.data.problems import problem
from fullconv.data.samples import Sample
from fullconv.data.settings import DataSettings
from fullconv.errors import DataError
from fullconv.images.limits import max_pixels

_KINDS = ("polygonlabels", "brushlabels", "rectanglelabels", "ellipselabels")
_PREFIX = re.compile(r"^[0-9a-f]{8}-")
"""Of uploaded files."""


def _files(folder: Folder) -> list[Path]:
    found = []
    for path in sorted(folder.root.glob("*.json")):
        if path.is_file():
            with path.open("rb") as file:
                head = file.read(1 << 16).decode("utf-8-sig", "replace")
            if head.lstrip().startswith("[") and '"annotations"' in head and '"result"' in head:
                found.append(path)
    return found


def detect(folder: Folder, settings: DataSettings) -> str | None:
    """Find a JSON list of tasks with annotations."""
    files = [] if settings.masks else _files(folder)
    return files[0].name if files else None


def read(folder: Folder, settings: DataSettings) -> Found:
    """Draw one annotation of every task, in its order."""
    found = Found(splits={"": []})
    tasks = [(path, task) for path in _files(folder) for task in _load(path)]
    chosen = [(path, task, _choose(task)) for path, task in tasks]
    names = sorted({_label(row) for _, _, (rows, _) in chosen for row in rows} - {""})
    naming = Naming(settings, names, folder.root)
    locator = Locator(folder, settings)
    bad: list[str] = []
    several: list[str] = []
    unlabelled: list[str] = []
    known = {path.name for path in folder.pictures(settings.images or "").files.values()}
    for path, task, (rows, count) in chosen:
        name = _picture(task)
        if count == 0:
            unlabelled.append(name)
            continue
        last = PurePosixPath(name)
        plain = str(last.parent / _PREFIX.sub("", last.name))
        picture = locator.find(name if last.name in known else plain, folder.root, said=name)
        if picture is None:
            continue
        stem = picture.relative_to(folder.root).with_suffix("").as_posix()
        several += [stem] if count > 1 else []
        drawn = []
        for row in rows:
            if (label := naming.index(_label(row), stem)) is not None:
                shape = _shape(row, label)
                drawn += [shape] if shape is not None else []
                bad += [stem] if shape is None else []
        size = next((size for row in rows if (size := _size(row)) is not None), None)
        key = f"{task.get('id')}|{stem}|{naming.key}"
        mask = DrawnMask(path, key, picture, size, naming.unlabeled, tuple(drawn))
        found.splits[""].append(Sample(stem, picture, {"": mask}))
    found.splits[""] = list({sample.stem: sample for sample in found.splits[""]}.values())
    found.problems += locator.problems(bool(found.splits[""])) + naming.problems()
    if bad := list(dict.fromkeys(bad)):
        words = "shapes cannot be drawn: too few points, no numbers, turned, or brush strokes of another size"
        found.problems.append(problem("bad-shape", "error", bad, words, "Draw them again, or remove them.", bad))
    if several:
        words = "pictures were labelled by several people; the ground truth, or else the first, counts"
        found.problems.append(problem("several-annotations", "warning", several, words, "Keep one of each."))
    if unlabelled:
        words = "pictures are not labelled yet, and are left out"
        found.problems.append(problem("missing-mask", "warning", unlabelled, words, "Label them if they should count."))
    found.settings = naming.settings()
    return found


def _load(path: Path) -> list[dict[str, Any]]:
    try:
        table = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}). Export it again.") from None
    return [task for task in table if isinstance(task, dict)] if isinstance(table, list) else []


def _choose(task: dict[str, Any]) -> tuple[list[dict[str, Any]], int]:
    """Return the shapes of the annotation that counts, and how many there are."""
    listed = task.get("annotations")
    done = [a for a in listed if isinstance(a, dict) and not a.get("was_cancelled")] if isinstance(listed, list) else []
    if not done:
        return [], 0
    result = next((a for a in done if a.get("ground_truth")), done[0]).get("result")
    rows = result if isinstance(result, list) else []
    return [row for row in rows if isinstance(row, dict) and row.get("type") in _KINDS], len(done)


def _picture(task: dict[str, Any]) -> str:
    """Return the path in the address of a task's picture."""
    data = task.get("data")
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


def _label(row: dict[str, Any]) -> str:
    labels = _value(row).get(row["type"])
    return str(labels[0]) if isinstance(labels, list) and labels else ""


def _size(row: dict[str, Any]) -> tuple[int, int] | None:
    height, width = row.get("original_height"), row.get("original_width")
    if (
        type(height) is not int
        or type(width) is not int
        or not 0 < min(height, width) <= max(height, width) <= FARTHEST
    ):
        return None
    return height, width


def _shape(row: dict[str, Any], label: int) -> Shape | None:
    value, size = _value(row), _size(row)
    if size is None or row.get("image_rotation") not in (None, 0) or value.get("rotation") not in (None, 0):
        return None
    height, width = size
    if row["type"] == "brushlabels":
        bits = _strokes(value.get("rle"), height, width)
        return None if bits is None else Shape("bitmap", label, (0, 0, bits))
    if row["type"] == "polygonlabels":
        found = points(value.get("points"), 3)
        return None if found is None else Shape(
            "polygon", label, (tuple((x * width / 100, y * height / 100) for x, y in found),)
        )  # fmt: skip
    keys = ("x", "y", "width", "height") if row["type"] == "rectanglelabels" else ("x", "y", "radiusX", "radiusY")
    numbers = [n for key in keys if (n := number(value.get(key))) is not None]
    if len(numbers) < 4 or min(numbers[2:]) <= 0:
        return None
    x, y, w, h = (
        numbers[0] * width / 100,
        numbers[1] * height / 100,
        numbers[2] * width / 100,
        numbers[3] * height / 100,
    )
    if row["type"] == "rectanglelabels":
        return Shape("rectangle", label, (x, y, x + max(w - 1, 0), y + max(h - 1, 0)))
    return Shape("ellipse", label, (x - w, y - h, x + w, y + h))


def _strokes(code: object, height: int, width: int) -> NDArray[np.bool_] | None:
    """Unpack Label Studio's own run lengths of RGBA bytes; what is not transparent was painted."""
    if not isinstance(code, list) or not all(type(byte) is int and 0 <= byte < 256 for byte in code):
        return None
    bits = "".join(format(byte, "08b") for byte in code)
    place = 0

    def take(count: int) -> int:
        nonlocal place
        place += count
        if place > len(bits):
            raise ValueError("it ends too early")
        return int(bits[place - count : place], 2)

    try:
        total, word = take(32), take(5) + 1
        lengths = [take(4) + 1 for _ in range(4)]
        if total != height * width * 4 or height * width > max_pixels() or word != 8:
            return None
        out = np.zeros(total, np.uint8)
        at = 0
        while at < total:
            same = take(1)
            end = min(at + 1 + take(lengths[take(2)]), total)
            if same:
                out[at:end] = take(word)
            else:
                out[at:end] = [take(word) for _ in range(end - at)]
            at = end
    except ValueError:
        return None
    return np.asarray(out.reshape(height, width, 4)[..., 3] > 0)


FORMATS = (Format("labelstudio", "labelstudio", detect, read),)
