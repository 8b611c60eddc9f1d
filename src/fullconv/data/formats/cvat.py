"""CVAT's "CVAT for images 1.1": an XML file of shapes, whose coordinates count from the image's left and upper edge."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import numpy as np

from fullconv.data.config import DataSettings
from fullconv.data.files import Folder
from fullconv.data.formats.drawn import AnnotatedImage, Annotation, Annotations
from fullconv.data.formats.format import FormatResult, split_of
from fullconv.data.formats.image_index import ImageIndex, unique
from fullconv.data.formats.json_io import number, size
from fullconv.data.formats.rasterize import PackedMask, Shape, rotated_box
from fullconv.data.text_files import read_head
from fullconv.errors import DataError
from fullconv.images import max_pixels

_AREAS = ("polygon", "box", "ellipse", "mask")
_NO_AREA = ("polyline", "points", "skeleton", "cuboid")
"""CVAT omits these from its own masks, too."""


def find_files(folder: Folder) -> list[Path]:
    """Find XML files that begin as CVAT's do."""
    found = []
    for path in folder.files("*.xml") + folder.files("*/annotations.xml"):
        head = read_head(path, 4096)
        if re.search(r"<annotations[\s>]", head) and re.search(r"<(version|meta|image)[\s>]", head):
            found.append(path)
    return found


def parse(folder: Folder, settings: DataSettings, index: ImageIndex, result: FormatResult) -> Annotations:
    """Parse the shapes of every image in z-order."""
    trees = {path: _load(path) for path in find_files(folder)}
    images: list[AnnotatedImage] = []
    taken: set[str] = set()
    for path, tree in trees.items():
        for element in tree.iter("image"):
            name, subset = element.get("name", ""), element.get("subset") or ""
            split = split_of(subset)
            inner = f"{subset}/{name}" if subset else name  # projects put their images into folders of subsets
            image = index.exactly(inner, path.parent) or index.find(name, path.parent, split)
            if image is None:
                continue
            index.take(image)
            stem = PurePosixPath(name.replace("\\", "/")).with_suffix("").as_posix().lstrip("/")
            stem = unique(stem, taken, prefix=subset)
            stated = size(_integer(element.get("height")), _integer(element.get("width")))
            children = [child for child in element if child.tag in (*_AREAS, *_NO_AREA)]
            children.sort(key=lambda child: _integer(child.get("z_order")) or 0)  # stable: later ones lie on top
            shapes = [_annotation(child) for child in children]
            images.append(AnnotatedImage(name, image, stem, stated, split, shapes, path, key=stem))
    return Annotations([name for tree in trees.values() for name in _labels(tree)], images, "void")


def _load(path: Path) -> ElementTree.Element:
    try:
        text = path.read_bytes()
        if b"<!DOCTYPE" in text or b"<!ENTITY" in text:  # entities can expand without limit
            raise DataError(f"{path}: has a DOCTYPE, which CVAT does not write. Export it again.")
        tree = ElementTree.fromstring(text)
    except DataError:
        raise
    except (OSError, ValueError, LookupError, ElementTree.ParseError) as error:  # LookupError: an unknown encoding
        raise DataError(f"{path}: cannot be read as XML ({error}). Export it again.") from None
    if tree.find("track") is not None and tree.find("image") is None:
        raise DataError(f'{path}: is "CVAT for video", which names no images. Export it as "CVAT for images 1.1".')
    return tree


def _labels(tree: ElementTree.Element) -> Iterable[str]:
    """Yield the labels that can have an area, in the order of the project; those of the shapes if it lists none."""
    meta = tree.find("meta")
    labels = [] if meta is None else list(meta.iter("label"))
    for label in labels:
        has_area = label.findtext("type") not in (*_NO_AREA, "tag") and not label.findtext("parent")
        if (name := label.findtext("name")) and has_area:
            yield name
    listed = {label.findtext("name") for label in labels}
    for image in tree.iter("image"):
        names = {child.get("label", "") for child in image if child.tag in _AREAS}
        yield from sorted(names & listed if listed else names)


def _annotation(element: ElementTree.Element) -> Annotation:
    if element.tag in _NO_AREA:
        return Annotation(element.tag, None, no_area=True)
    shape = _mask(element) if element.tag == "mask" else _outline(element)
    shapes = () if shape is None else (shape,)
    return Annotation(element.tag, element.get("label", ""), shapes, is_box=element.tag == "box")


def _integer(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"-?[0-9]{1,9}", text.strip()) else None


def _float(text: str | None) -> float | None:
    try:
        return number(float(text or ""))
    except ValueError:
        return None


def _outline(element: ElementTree.Element) -> Shape | None:
    if element.tag == "polygon":
        pairs = [pair.partition(",") for pair in (element.get("points") or "").split(";")]
        ring = [(_float(x), _float(y)) for x, _, y in pairs]
        valid = len(ring) > 2 and all(x is not None and y is not None for x, y in ring)
        return Shape("polygon", (tuple(ring),)) if valid else None
    keys = ("xtl", "ytl", "xbr", "ybr") if element.tag == "box" else ("cx", "cy", "rx", "ry")
    values = [value for key in keys if (value := _float(element.get(key))) is not None]
    degrees = _float(element.get("rotation") or "0")
    if len(values) < 4 or degrees is None:
        return None
    a, b, c, d = values
    if element.tag == "box":
        return Shape("polygon", (rotated_box((a, b, c, d), degrees),)) if c >= a and d >= b else None
    return Shape("ellipse", (a, b, c, d, degrees)) if min(c, d) >= 0 else None


def _mask(element: ElementTree.Element) -> Shape | None:
    """Unpack run lengths within a box, row by row; the first run is not in the mask."""
    left, top, width, height = (_integer(element.get(key)) for key in ("left", "top", "width", "height"))
    runs = [_integer(part) for part in (element.get("rle") or "").split(",")]
    counts = [run for run in runs if run is not None and run >= 0]
    if left is None or top is None or not width or not height or min(width, height) < 1 or len(counts) < len(runs):
        return None
    if sum(counts) != width * height or width * height > max_pixels():
        return None
    bits = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(height, width)
    return Shape("bitmap", (left, top, PackedMask.pack(bits)))
