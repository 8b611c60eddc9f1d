"""Roboflow's "Semantic Segmentation Masks": train/, valid/, test/ of x.jpg, x_mask.png and _classes.csv."""

from __future__ import annotations

import csv
from pathlib import Path

from fullconv.data.config import DataSettings
from fullconv.data.files import Folder
from fullconv.data.formats import Format, Found
from fullconv.data.problems import problem
from fullconv.data.samples import MaskFile, Sample
from fullconv.data.text_files import read_text
from fullconv.errors import DataError

_TABLE, _MASK = "_classes.csv", "_mask"
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def _places(folder: Folder) -> dict[str, str]:
    """Return the folders that have a table and masks: name -> split."""
    inner = {folder.folders[name]: split for name, split in _SPLITS.items() if name in folder.folders}
    return {name: split for name, split in (inner or {"": ""}).items() if (folder.root / name / _TABLE).is_file()}


def detect(folder: Folder, settings: DataSettings) -> str | None:
    """Find _classes.csv with masks beside it; with `images` or `masks` the user says it otherwise."""
    if settings.images or settings.masks:
        return None
    for name in _places(folder):
        if folder.files(f"*{_MASK}.*", name):
            return f"{name + '/' if name else ''}{_TABLE} with masks called ...{_MASK}"
    return None


def read(folder: Folder, settings: DataSettings) -> Found:
    """Pair by name in each folder; the tables say what the numbers in masks mean."""
    found = Found(splits={})
    values: dict[int, str] = {}
    taken: set[str] = set()
    for name, split in _places(folder).items():
        _merge(values, folder.root / name / _TABLE)
        listed = folder.pictures(name or ".")
        files = listed.files
        found.problems += listed.duplicates(folder.root, "files")
        alone, lost = [], []
        for key, path in files.items():
            if key.endswith(_MASK) and key + _MASK not in files:
                lost += [] if key.removesuffix(_MASK) in files else [path.relative_to(folder.root).as_posix()]
                continue
            stem = f"{split}/{key}" if key in taken else key
            taken.add(key)
            if (mask := files.get(key + _MASK)) is not None:
                found.splits.setdefault(split, []).append(Sample(stem, path, {"": MaskFile(mask)}))
            else:
                alone.append(path.relative_to(folder.root).as_posix())
                found.partial |= {stem}
        if lost:
            words, remedy = "masks have no picture beside them", "Add the pictures, or move the masks away."
            found.problems.append(problem("missing-picture", "warning", lost, words, remedy))
        if alone:
            words, remedy = f"pictures have no mask called ...{_MASK}.png beside them", "Export them again."
            stems = sorted(found.partial)
            found.problems.append(problem("missing-mask", "error", alone, words, remedy, stems))
    classes = list(dict.fromkeys(name for _, name in sorted(values.items()) if name != "void"))
    found.settings = {"classes": classes}
    if settings.values is None and settings.colors is None:
        found.settings = {"classes": classes, "values": values}
    return found


def _merge(values: dict[int, str], path: Path) -> None:
    """Add the rows "Pixel Value, Class" of a table.

    Raises:
        DataError: It cannot be read, or gives a number two names.
    """
    try:
        rows = list(csv.reader(read_text(path).splitlines(), skipinitialspace=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}). Export it again.") from None
    before = len(values)
    for count, row in enumerate(rows, 1):
        if len(row) < 2 or not row[0].strip().isascii() or not row[0].strip().isdigit() or len(row[0].strip()) > 5:
            if count > 1 and "".join(row).strip():  # the first is a heading
                raise DataError(f"{path}, line {count}: {', '.join(row)!r} is no number and class. Export it again.")
            continue
        number, name = int(row[0]), row[1].strip()
        if values.setdefault(number, name) != name:
            raise DataError(
                f"{path}, line {count}: {number} is {name} here, {values[number]} elsewhere. Make them agree."
            )
    if not values and not before:
        raise DataError(f"{path}: names no class. Export it again.")


FORMATS = (Format("roboflow", "roboflow", detect, read),)
