"""Mapillary Vistas: images, and masks of the numbers of the labels in config.json, version 1.2 or 2.0."""

from __future__ import annotations

import re
from pathlib import Path

from fullconv.data.config import VOID_NAME, DataSettings
from fullconv.data.files import Folder, read_head
from fullconv.data.formats.annotation_files import objects_in, read_object
from fullconv.data.formats.format import FormatResult
from fullconv.data.formats.pairs import SplitFolders, read_pairs, split_folders
from fullconv.errors import DataError

_VERSIONS = ("v2.0", "v1.2", "")
"""Folders of the labels within a split, the newest first; the first release has none."""
_LABELS = re.compile(r'"(labels|readable)"\s*:')
_FIX = "Copy it again from the download."


def _find(folder: Folder) -> tuple[Path, SplitFolders] | None:
    """Return the table of labels of the newest version, with its folders of images and masks."""
    splits = split_folders(folder.folders)
    for version in _VERSIONS:
        tables = [folder.root / name for name in (f"config_{version}.json", "config.json")]
        table = next((path for path in tables if path.is_file()), None)
        found = SplitFolders({}, {"": {}})
        for split, name in splits.items():
            if (folder.root / name / "images").is_dir():
                found.images[split] = f"{name}/images"
                if (folder.root / name / version / "labels").is_dir():
                    found.masks[""][split] = "/".join(filter(None, (name, version, "labels")))
        if table is not None and found.paired() and len(set(_LABELS.findall(read_head(table, 1 << 16)))) > 1:
            return table, found
    return None


def detect(folder: Folder, settings: DataSettings) -> str | None:
    """Find config.json with labels, and images/ and labels/ in the splits."""
    found = None if settings.images or settings.masks else _find(folder)
    return None if found is None else f"{found[0].name} with {next(iter(found[1].masks[''].values()))}/"


def read(folder: Folder, settings: DataSettings) -> FormatResult:
    """Pair by name; a mask holds the positions of the labels, of which those that are not evaluated are void."""
    found = _find(folder)
    assert found is not None
    path, folders = found
    rows = objects_in(read_object(path, _FIX).get("labels"))
    readable = [row.get("readable") for row in rows]
    if not rows or not all(isinstance(name, str) and name for name in readable):
        raise DataError(f"{path}: has no list of labels with readable names. {_FIX}")
    names = [
        str(row.get("name") if readable.count(name) > 1 else name) for row, name in zip(rows, readable, strict=True)
    ]
    counted = [row.get("evaluate") is not False for row in rows]
    result = read_pairs(folder, settings, folders)
    table: dict[str, object] = {
        "classes": [name for name, counts in zip(names, counted, strict=True) if counts],
        "values": {i: names[i] if counts else VOID_NAME for i, counts in enumerate(counted)},
    }
    colors = [row.get("color") for row, counts in zip(rows, counted, strict=True) if counts]
    if all(isinstance(color, list) and len(color) == 3 for color in colors):
        table["palette"] = colors
    result.settings = table
    return result
