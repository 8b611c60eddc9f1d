"""Roboflow's "Semantic Segmentation Masks": train/, valid/, test/ of x.jpg, x_mask.png and _classes.csv."""

from __future__ import annotations

import re
from pathlib import Path

from fullconv.data.config import DataSettings
from fullconv.data.files import Folder, load_rows
from fullconv.data.formats.format import SPLIT_NAMES, FormatResult
from fullconv.data.samples import MaskFile, Sample
from fullconv.errors import DataError

_TABLE, _MASK = "_classes.csv", "_mask"


def _folders(folder: Folder) -> dict[str, str]:
    """Return the folders that have a table: name -> split."""
    inner = {folder.folders[n]: split for split, names in SPLIT_NAMES.items() for n in names if n in folder.folders}
    return {name: split for name, split in (inner or {"": ""}).items() if (folder.root / name / _TABLE).is_file()}


def detect(folder: Folder, settings: DataSettings) -> str | None:
    """Find _classes.csv with masks beside it, unless the user sets `images` or `masks`."""
    for name in [] if settings.images or settings.masks else _folders(folder):
        if folder.files(f"*{_MASK}.*", name):
            return f"{name + '/' if name else ''}{_TABLE} with masks called ...{_MASK}"
    return None


def read(folder: Folder, settings: DataSettings) -> FormatResult:
    """Pair by name in each folder; the tables define the numbers in masks."""
    result = FormatResult(folder.root)
    values: dict[int, str] = {}
    taken: set[str] = set()
    for name, split in _folders(folder).items():
        _add_classes(values, folder.root / name / _TABLE)
        listed = folder.images(name or ".")
        result.problems += listed.duplicate_problems(folder.root, "files")
        unpaired: dict[str, Path] = {}
        lost = []
        for key, path in listed.files.items():
            if key.endswith(_MASK) and key + _MASK not in listed.files:
                lost += [] if key.removesuffix(_MASK) in listed.files else [path]
                continue
            stem = f"{split}/{key}" if key in taken else key
            taken.add(key)
            if (mask := listed.files.get(key + _MASK)) is not None:
                result.add(split, Sample(stem, path, {"": MaskFile(mask)}))
            else:
                unpaired[stem] = path
        fix = "Add the images, or move the masks elsewhere."
        result.report("missing-picture", "warning", lost, "masks have no image beside them", fix)
        cause = f"images have no mask called ...{_MASK}.png beside them"
        result.report("missing-mask", "error", unpaired.values(), cause, "Export them again.", list(unpaired))
        result.partial |= unpaired.keys()
    classes = list(dict.fromkeys(name for _, name in sorted(values.items()) if name != "void"))
    result.settings = {"classes": classes}
    if settings.values is None and settings.colors is None:
        result.settings = {"classes": classes, "values": values}
    return result


def _add_classes(values: dict[int, str], path: Path) -> None:
    """Add the rows "Pixel Value, Class" of a table."""
    for count, row in enumerate(load_rows(path, "Export it again."), 1):
        if len(row) > 1 and re.fullmatch(r"[0-9]{1,5}", row[0]):
            number, name = int(row[0]), row[1]
            if values.setdefault(number, name) != name:
                other = values[number]
                raise DataError(f"{path}, line {count}: {number} is {name}, but {other} elsewhere. Make them agree.")
        elif count > 1 and any(row):  # the first is a heading
            raise DataError(f"{path}, line {count}: {', '.join(row)!r} is not a number and a class. Export it again.")
    if not values:
        raise DataError(f"{path}: lists no class. Export it again.")
