"""What a folder looks like that no format fits: a word that helps on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from fullconv.data.files import IMAGE_SUFFIXES, Folder, is_clutter
from fullconv.data.formats.unlike import BRUSH, BRUSH_WORDS
from fullconv.data.text_files import beginning
from fullconv.errors import DataError

_MOST = 60
"""Folders that are looked into."""
_TOOLS = {
    "shape_attributes": "of the VGG Image Annotator",
    "<bndbox>": "of PASCAL VOC's boxes",
    "FeatureCollection": "GeoJSON",
    "segments_info": "a panoptic file",
    '"tagIds"': "of Azure",
    "data_row": "of Labelbox",
}
"""What stands in files of other tools."""
_YOLO = re.compile(r"\d+(\s+-?\d*\.?\d+(e-?\d+)?){4,}\s*")


def hint(folder: Folder, fits: Callable[[Folder], bool]) -> str:
    """Return a sentence with a space before it, or nothing.

    Args:
        folder: What no format fits.
        fits: Whether a folder is laid out as one of the formats.
    """
    for look in (_further_in, _brush, _no_meta, _yolo, _other_tools, _two_suffixes):
        if words := look(folder, fits):
            return f" {words}"
    return ""


def _inner(folder: Folder) -> Iterator[Path]:
    """Yield folders one and two levels below."""
    below = [folder.root / name for name in folder.folders.values()][:_MOST]
    yield from below
    for path in below:
        try:
            yield from sorted(p for p in path.iterdir() if p.is_dir() and not is_clutter(p.name))[: _MOST // 4]
        except OSError:
            continue


def _further_in(folder: Folder, fits: Callable[[Folder], bool]) -> str:
    found: list[Path] = []
    for path in _inner(folder):
        try:
            if not any(path.is_relative_to(other) for other in found) and fits(Folder(path)):
                found.append(path)
        except DataError:  # cannot be read
            continue
    named = [path.relative_to(folder.root).as_posix() + "/" for path in found]
    if len(found) > 1:
        return f"{', '.join(named[:4])} look like data sets: name one of them."
    return f"{named[0]} looks like one: did you mean {found[0]}?" if found else ""


def _files(place: Path) -> list[Path]:
    try:
        return sorted(path for path in place.iterdir() if not is_clutter(path.name) and path.is_file())
    except OSError:
        return []


def _brush(folder: Folder, _: object) -> str:
    for place in (folder.root, *_inner(folder)):
        if any(BRUSH.fullmatch(path.name) for path in _files(place)[:20]):
            return BRUSH_WORDS
    return ""


def _no_meta(folder: Folder, _: object) -> str:
    for place in (folder.root, *_inner(folder)):
        if (place / "img").is_dir() and (place / "ann").is_dir() and not (folder.root / "meta.json").is_file():
            where = f"{place.relative_to(folder.root).as_posix()}/".removeprefix("./")
            return (
                f"{where}img/ and {where}ann/ are Supervisely's, but the project's meta.json is not here: copy it, too."
            )
    return ""


def _yolo(folder: Folder, _: object) -> str:
    for place in _inner(folder):
        texts = [path for path in _files(place)[:20] if path.suffix.lower() == ".txt"]
        for path in texts[:3]:
            lines = path.read_bytes()[:2000].decode("utf-8", "replace").splitlines()[:1]
            if lines and _YOLO.fullmatch(lines[0]):
                where = place.relative_to(folder.root).as_posix()
                return f"{where}/ holds labels of YOLO, which are not read: export COCO, or masks, instead."
    return ""


def _other_tools(folder: Folder, _: object) -> str:
    for place in (folder.root, *_inner(folder)):
        texts = [
            path for path in _files(place) if path.suffix.lower() in (".json", ".xml", ".geojson", ".ndjson", ".jsonl")
        ]
        for path in texts[:3]:
            start = beginning(path, 1 << 14)
            if tool := next((tool for key, tool in _TOOLS.items() if key in start), None):
                return f"{path.relative_to(folder.root).as_posix()} is {tool}, which is not read: export COCO, or masks, instead."
    return ""


def _two_suffixes(folder: Folder, _: object) -> str:
    """Find pictures and masks of the same names in one folder: a.jpg with a.png."""
    for place in (folder.root, *_inner(folder)):
        stems: dict[str, set[str]] = {}
        for path in _files(place):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                stems.setdefault(path.suffix, set()).add(path.stem)
        masks = stems.pop(".png", set())
        for suffix, pictures in stems.items():
            if len(pictures & masks) > 1 and 2 * len(pictures & masks) > len(pictures):
                where = place.relative_to(folder.root).as_posix() + "/"
                where = "" if where == "./" else where
                lines = f'images = "{where}*{suffix}"\nmasks = "{where}*.png"\n'
                return f"If the PNGs are the masks of the {suffix} files, add to data.toml:\n{lines}Else:"
    return ""
