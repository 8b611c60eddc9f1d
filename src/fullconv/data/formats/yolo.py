"""YOLO segmentation: a text file of polygons for each image, and data.yaml with the names of the classes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from fullconv.data.config import SPLITS, DataSettings, read_classes
from fullconv.data.files import IMAGE_SUFFIXES, Folder, load_text, read_head, walk
from fullconv.data.formats.annotation_files import ImageIndex, unique
from fullconv.data.formats.drawn import AnnotatedImage, Annotation, Annotations
from fullconv.data.formats.format import SPLIT_NAMES, FormatResult, split_of
from fullconv.data.formats.rasterize import Shape, rotated_box
from fullconv.errors import DataError
from fullconv.images import image_size
from fullconv.labels import BACKGROUND_NAMES

LABEL_LINE = re.compile(r"\d+(\s+-?\d*\.?\d+(e-?\d+)?){4,}\s*")
_NAMES_KEY = re.compile(r"^names\s*:", re.MULTILINE)
_SEARCHED_FILES = 200
_BOX_NUMBERS = (4, 5)
"""Numbers after the class: center, size and, of predictions, confidence."""
_FAR = 2.0
"""Larger coordinates are no fractions of an image's side."""
_FIX = "Export it again."


def _label_files(folder: Folder) -> Iterator[Path]:
    """Yield text files in folders called labels, or beside an image of the same name."""
    for path in walk(folder.root):
        if path.suffix.lower() == ".txt":
            in_labels = "labels" in (part.lower() for part in path.relative_to(folder.root).parts[:-1])
            if in_labels or any(path.with_suffix(suffix).is_file() for suffix in IMAGE_SUFFIXES):
                yield path


def find_files(folder: Folder) -> Iterator[Path]:
    """Find label files whose first line is a class and at least four numbers."""
    for path in islice(_label_files(folder), _SEARCHED_FILES):
        line, rest, _ = read_head(path, 1 << 12).strip().partition("\n")
        if LABEL_LINE.fullmatch(line if rest or len(line) < 4000 else line[:4000].rpartition(" ")[0]):
            yield path


def parse(folder: Folder, settings: DataSettings, index: ImageIndex, result: FormatResult) -> Annotations:
    """Parse the label file of every image, in order; an image without one has no shapes, as YOLO defines it."""
    table, where = _load_yaml(folder)
    names = _names(folder, settings, table, where)
    images: list[AnnotatedImage] = []
    found = Annotations(names.values(), images, "void")
    listed = _listed_images(folder, table, where, index, result)
    if not listed:
        every = folder.images(settings.images or "").files.values()
        listed = [(path, split_of(*path.relative_to(folder.root).parts[:-1])) for path in every]
        labeled = {_label_file(folder, path).parent for path, _ in listed if _label_file(folder, path).is_file()}
        listed = [(path, split) for path, split in listed if _label_file(folder, path).parent in labeled]
    only_boxes, without = True, []
    taken: set[str] = set()
    for image, split in listed:
        path = _label_file(folder, image)
        index.take(image)
        inner = image.relative_to(folder.root)
        try:
            lines = _lines(path, names, where.name) if path.is_file() else []
            size = image_size(image) if lines else None
        except DataError as error:
            found.unreadable.append((path, error))
            continue
        if not path.is_file():
            without.append(image)
        only_boxes = only_boxes and not any(len(values) > max(_BOX_NUMBERS) for _, values in lines)
        shapes = [] if size is None else [_annotation(name, values, size) for name, values in lines]
        stem = unique(inner.with_suffix("").as_posix(), taken, prefix=split)
        file = path if path.is_file() else image
        images.append(AnnotatedImage(inner.as_posix(), image, stem, None, split, shapes, file, key=stem))
    drawn = [image.file for image in images if image.shapes]
    read = {image.file for image in images} | {path for path, _ in found.unreadable}
    lost = [path for path in find_files(folder) if path not in read]
    index.missing += [path.relative_to(folder.root).as_posix() for path in lost]
    if only_boxes and drawn and not found.unreadable and settings.boxes is None:
        raise _refuse_boxes(drawn[0])
    cause = "images have no label file, so they hold nothing but background, as YOLO defines it"
    result.report("unlisted", "note", without if drawn else [], cause, "Remove them if they are not annotated.")
    return found


def _load_yaml(folder: Folder) -> tuple[dict[str, Any], Path]:
    """Read the YAML file that names the classes; an empty table if there is none."""
    import yaml

    files = [path for ending in ("yaml", "yml") for inner in ("", *folder.folders.values())
             for path in folder.files(f"*.{ending}", inner) if _NAMES_KEY.search(read_head(path, 1 << 20))]  # fmt: skip
    where = next((path for path in files if path.stem == "data"), files[0] if files else folder.root / "data.yaml")
    if not files:
        return {}, where
    try:
        table = yaml.safe_load(load_text(where, _FIX))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = re.sub(r"\s+", " ", str(error))
        raise DataError(f"{where}: cannot be read as YAML ({reason}). {_FIX}") from None
    if not isinstance(table, dict):
        raise DataError(f"{where}: is not a table of keys. {_FIX}")
    if "kpt_shape" in table:
        raise DataError(f"{where}: has kpt_shape: these are YOLO's data for poses. Export YOLO segmentation instead.")
    return table, where


def _names(folder: Folder, settings: DataSettings, table: dict[str, Any], where: Path) -> dict[int, str]:
    """Return the class names by number, from data.yaml or classes.txt."""
    names = table.get("names")
    if names is None and (listed := folder.root / "classes.txt").is_file():
        names = read_classes(listed)[0]
        if settings.classes == names and settings.unlabeled is None and names[0].lower() not in BACKGROUND_NAMES:
            line = f"classes = {json.dumps(['background', *names], ensure_ascii=False)}"
            raise DataError(
                f"{listed}: names no class for pixels without a shape. Add to {folder.root / 'data.toml'}:\n{line}"
            )
    if names is None:
        files = list(find_files(folder))
        if settings.boxes is None and all(map(_holds_boxes, files)):
            raise _refuse_boxes(files[0])
        fix = 'Add it with the line names: ["first class", "second class", ...], in the order of their numbers.'
        cause = "names no classes" if where.is_file() else "does not exist"
        raise DataError(f"{where}: {cause}, so the numbers in YOLO's label files have no meaning. {fix}")
    rows = names.items() if isinstance(names, dict) else enumerate(names) if isinstance(names, list) else ()
    found = {key: str(name) for key, name in rows if type(key) is int and name not in (None, "")}
    if not found or len(found) < len(names) or len(set(found.values())) < len(found):
        raise DataError(f"{where}: names is no list of different class names, nor a table of numbers and names. {_FIX}")
    return found


def _holds_boxes(path: Path) -> bool:
    lines = map(str.split, load_text(path, _FIX).splitlines())
    return all(len(cells) - 1 in _BOX_NUMBERS for cells in lines if cells)


def _refuse_boxes(path: Path) -> DataError:
    cause = "holds only boxes, as all label files do: these are YOLO's data for detection, not for segmentation"
    fix = 'Export "YOLO segmentation", COCO or masks; to fill the boxes, set boxes = "fill" in data.toml.'
    return DataError(f"{path}: {cause}. {fix}")


def _listed_images(
    folder: Folder, table: dict[str, Any], where: Path, index: ImageIndex, result: FormatResult
) -> list[tuple[Path, str]]:
    """Return the images with their split that the paths in data.yaml name: folders, or lists of images."""
    seen: dict[Path, str] = {}
    again: dict[Path, None] = {}
    for split in SPLITS:
        keys = [name for name in SPLIT_NAMES[split] if table.get(name)]
        entries = table[keys[0]] if keys else []
        for entry in entries if isinstance(entries, list) else [entries]:
            place = _resolve(folder, str(table.get("path") or ""), str(entry), where)
            if place is None:
                fix = f"Correct {keys[0]} in {where.name}, or add the images."
                cause = f"{keys[0]} of {where.name} names a folder or list that does not exist"
                result.report("missing-folder", "note" if split == "test" else "error", [str(entry)], cause, fix)
                continue
            paths: Iterable[Path | None] = folder.images(place.relative_to(folder.root).as_posix()).files.values()
            if place.is_file():
                lines = filter(None, map(str.strip, load_text(place, _FIX).splitlines()))
                paths = [index.find(line, place.parent, split) for line in lines]
            for path in paths:
                if path is not None and seen.setdefault(path, split) != split:
                    again[path] = None
    cause = f"{where.name} lists images in several splits, of which the first counts"
    fix = f"List each image once in {where.name}, or scores would be too good."
    result.report("duplicate-across-splits", "warning", again, cause, fix)
    return list(seen.items())


def _resolve(folder: Folder, base: str, entry: str, where: Path) -> Path | None:
    """Return the folder or list that a path in data.yaml means, which may be of another machine."""
    parts = [part for part in PurePosixPath(entry.replace("\\", "/")).parts if part not in ("..", ".", "/")]
    ends = ["/".join(parts[start:]) for start in range(len(parts))] or ["."]
    inner = PurePosixPath(base.replace("\\", "/"))
    roots = [where.parent / inner.relative_to(inner.anchor), where.parent, folder.root]
    for place in (root / end for end in ends for root in roots):
        resolved = Path(*place.parts) if ".." not in place.parts else folder.root / "\0"
        if resolved.is_relative_to(folder.root) and "\0" not in str(resolved) and resolved.exists():
            return resolved
    return None


def _label_file(folder: Folder, image: Path) -> Path:
    """Return where the labels of an image lie: labels/ instead of the last images/, else labels/ or the image's folder."""
    inner = image.relative_to(folder.root).with_suffix(".txt")
    parts = list(inner.parts)
    last = next((i for i in range(len(parts) - 2, -1, -1) if parts[i].lower() == "images"), None)
    places = [
        image.with_suffix(".txt"),
        image.parent / "labels" / inner.name,
        image.parent.parent / "labels" / inner.name,
    ]
    if last is not None:
        parts[last] = "labels"
        places.insert(0, folder.root.joinpath(*parts))
    there = [place for place in places if place.is_relative_to(folder.root)]
    return next((place for place in there if place.is_file()), there[0])


def _lines(path: Path, names: dict[int, str], source: str) -> list[tuple[str, list[float]]]:
    """Return the class name and the numbers of each line."""
    found = []
    for count, line in enumerate(load_text(path, _FIX).splitlines(), 1):
        if not (cells := line.split()):
            continue
        try:
            number, values = int(float(cells[0])), [float(cell) for cell in cells[1:]]
        except ValueError:
            raise DataError(f"{path}: line {count} is not a class number and coordinates. {_FIX}") from None
        if number not in names or number != float(cells[0]):
            known = f"{min(names)} to {max(names)}"
            raise DataError(
                f"{path}: line {count} has class {cells[0]}, but {source} names {known}. Correct one of them."
            )
        if len(values) < _BOX_NUMBERS[0] or (len(values) not in _BOX_NUMBERS and len(values) % 2):
            cause = f"line {count} has {len(values)} coordinates, which are neither a box nor points of a polygon"
            raise DataError(f"{path}: {cause}. {_FIX}")
        if not all(abs(value) <= _FAR for value in values):  # NaN, too
            cause = f"line {count} has coordinates that are no fractions of the image's width and height"
            raise DataError(f"{path}: {cause}. Divide x by the width and y by the height.")
        found.append((names[number], values))
    return found


def _annotation(name: str, values: list[float], size: tuple[int, int]) -> Annotation:
    height, width = size
    if len(values) in _BOX_NUMBERS:
        x, y, w, h = values[:4]
        box = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
        return Annotation("box", name, (Shape("polygon", (rotated_box(box),)),), is_box=True)
    ring = tuple((x * width, y * height) for x, y in zip(values[::2], values[1::2], strict=True))
    return Annotation("polygon", name, (Shape("polygon", (ring,)),), no_area=len(set(ring)) < 3)
