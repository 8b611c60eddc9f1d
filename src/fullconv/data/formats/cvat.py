"""CVAT's "CVAT for images 1.1": an XML file of shapes, whose coordinates count from the picture's left and upper edge."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import numpy as np

from fullconv.data.config import DataSettings
from fullconv.data.files import Folder
from fullconv.data.formats import Format, Found
from fullconv.data.formats.area import Bits
from fullconv.data.formats.class_names import Naming
from fullconv.data.formats.image_index import Locator, unique
from fullconv.data.formats.shape_issues import Remarks
from fullconv.data.formats.shapes import DrawnMask, Shape, number, turned_box
from fullconv.data.problems import problem
from fullconv.data.samples import Sample
from fullconv.data.text_files import beginning
from fullconv.errors import DataError
from fullconv.images.limits import max_pixels

_SPLITS = {"train": "train", "val": "val", "validation": "val", "valid": "val", "test": "test"}
_AREAS = ("polygon", "box", "ellipse", "mask")
_FLAT = ("polyline", "points", "skeleton", "cuboid")
"""Without an area; CVAT leaves them out of its own masks, too."""


def _files(folder: Folder) -> list[Path]:
    found = []
    for path in folder.files("*.xml") + folder.files("*/annotations.xml"):
        head = beginning(path, 4096)
        if re.search(r"<annotations[\s>]", head) and re.search(r"<(version|meta|image)[\s>]", head):
            found.append(path)
    return found


def detect(folder: Folder, settings: DataSettings) -> str | None:
    """Find an XML file that begins as CVAT's do."""
    files = [] if settings.masks else _files(folder)
    return files[0].relative_to(folder.root).as_posix() if files else None


def read(folder: Folder, settings: DataSettings) -> Found:
    """Draw the shapes of every picture by their z-order."""
    found = Found(splits={})
    trees = {path: _parse(path) for path in _files(folder)}
    naming = Naming(settings, [name for tree in trees.values() for name in _labels(tree)], folder.root)
    locator = Locator(folder, settings)
    remarks = Remarks(settings, "void")
    taken: set[str] = set()
    drawn: set[Path] = set()
    again: dict[str, None] = {}
    for path, tree in trees.items():
        for image in tree.iter("image"):
            name, subset = image.get("name", ""), image.get("subset") or ""
            split = _SPLITS.get(subset.lower(), "")
            inner = f"{subset}/{name}" if subset else name  # projects put their pictures into folders of subsets
            picture = locator.exactly(inner, path.parent) or locator.find(name, path.parent, split)
            if picture is None:
                continue
            locator.take(picture)
            if picture in drawn:
                again[name] = None
                continue
            drawn.add(picture)
            stem = PurePosixPath(name.replace("\\", "/")).with_suffix("").as_posix().lstrip("/")
            stem = unique(stem, taken, prefix=subset)
            shapes = _shapes(image, stem, naming, remarks)
            height, width = _whole(image.get("height")), _whole(image.get("width"))
            size = (height, width) if height and width and min(height, width) > 0 else None
            mask = DrawnMask(path, f"{stem}|{naming.key}", picture, size, naming.unlabeled, shapes)
            found.splits.setdefault(split, []).append(Sample(stem, picture, {"": mask}))
    if len(found.splits) > 1 and "" in found.splits:
        found.splits.setdefault("train", []).extend(found.splits.pop(""))
    found.problems += locator.problems(any(found.splits.values())) + naming.problems() + remarks.problems()
    if again:
        words = "pictures are annotated several times; the first counts"
        found.problems.append(problem("several-annotations", "warning", list(again), words, "Keep one of each."))
    found.settings = naming.settings()
    return found


def _shapes(image: ElementTree.Element, stem: str, naming: Naming, remarks: Remarks) -> tuple[Shape, ...]:
    drawn: list[tuple[int, Shape]] = []
    for element in image:
        if element.tag in _FLAT:
            remarks.flat(stem, element.tag)
        if element.tag not in _AREAS:
            continue
        label = naming.index(element.get("label", ""), stem)
        if label is None:
            continue
        if (shape := _shape(element, label)) is None:
            remarks.bad(stem, element.tag)
            continue
        height = _whole(element.get("z_order")) or 0
        drawn += [(height, one) for one in (remarks.box(stem, shape) if element.tag == "box" else [shape])]
    drawn.sort(key=lambda pair: pair[0])  # stable: later ones of one height stay on top
    return tuple(shape for _, shape in drawn)


def _parse(path: Path) -> ElementTree.Element:
    try:
        text = path.read_bytes()
        if b"<!DOCTYPE" in text or b"<!ENTITY" in text:  # entities can grow without end
            raise DataError(f"{path}: has a DOCTYPE, which CVAT does not write. Export it again.")
        tree = ElementTree.fromstring(text)
    except (OSError, ValueError, LookupError, ElementTree.ParseError) as error:  # an encoding that nobody knows, too
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: cannot be read as XML ({error}). Export it again.") from None
    if tree.find("track") is not None and tree.find("image") is None:
        raise DataError(f'{path}: is "CVAT for video", which names no pictures. Export it as "CVAT for images 1.1".')
    return tree


def _labels(tree: ElementTree.Element) -> Iterable[str]:
    """Yield the labels that can have an area, in the order of the project; those of shapes where it lists none."""
    meta = tree.find("meta")
    labels = [] if meta is None else list(meta.iter("label"))
    for label in labels:
        flat = label.findtext("type") in (*_FLAT, "tag") or label.findtext("parent")
        if (name := label.findtext("name")) and not flat:
            yield name
    listed = {label.findtext("name") for label in labels}
    for image in tree.iter("image"):
        names = {e.get("label", "") for e in image if e.tag in _AREAS}
        yield from sorted(names & listed if listed else names)


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"-?[0-9]{1,9}", text.strip()) else None


def _float(text: str | None) -> float | None:
    try:
        return number(float(text or ""))
    except ValueError:
        return None


def _shape(element: ElementTree.Element, label: int) -> Shape | None:
    if element.tag == "mask":
        return _mask(element, label)
    if element.tag == "polygon":
        pairs = [pair.partition(",") for pair in (element.get("points") or "").split(";")]
        ring = [(_float(x), _float(y)) for x, _, y in pairs]
        whole = len(ring) > 2 and all(x is not None and y is not None for x, y in ring)
        return Shape("area", label, (tuple(ring),)) if whole else None
    keys = ("xtl", "ytl", "xbr", "ybr") if element.tag == "box" else ("cx", "cy", "rx", "ry")
    values = [value for key in keys if (value := _float(element.get(key))) is not None]
    degrees = _float(element.get("rotation") or "0")
    if len(values) < 4 or degrees is None:
        return None
    a, b, c, d = values
    if element.tag == "box":
        return Shape("area", label, (turned_box((a, b, c, d), degrees),)) if c >= a and d >= b else None
    return Shape("oval", label, (a, b, c, d, degrees)) if min(c, d) >= 0 else None


def _mask(element: ElementTree.Element, label: int) -> Shape | None:
    """Unpack run lengths within a box, row by row, the first of what is not in the mask."""
    left, top, width, height = (_whole(element.get(key)) for key in ("left", "top", "width", "height"))
    runs = [_whole(part) for part in (element.get("rle") or "").split(",")]
    counts = [run for run in runs if run is not None and run >= 0]
    if left is None or top is None or not width or not height or min(width, height) < 1 or len(counts) < len(runs):
        return None
    if sum(counts) != width * height or width * height > max_pixels():
        return None
    bits = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(height, width)
    return Shape("bitmap", label, (left, top, Bits.of(bits)))


FORMATS = (Format("cvat", "cvat", detect, read),)
