"""CVAT: "Segmentation mask 1.1", whose labelmap.txt names colours, and "CVAT for images 1.1", an XML file of shapes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import numpy as np

from fullconv.data.folder import Folder, Pictures
from fullconv.data.formats import Format, Found
from fullconv.data.formats.locate import Locator
from fullconv.data.formats.naming import Naming
from fullconv.data.formats.shapes import DrawnMask, Shape, number
from fullconv.data.problems import problem
from fullconv.data.samples import MaskFile, Sample
from fullconv.data.settings import VOID_NAME, DataSettings
from fullconv.data.splits import read_list
from fullconv.errors import DataError
from fullconv.images.limits import max_pixels
from fullconv.labels import format_color

_LINE = re.compile(r"(.+?):(\d{1,3}),(\d{1,3}),(\d{1,3}):[^:]*:[^:]*")
_SPLITS = {"train": "train", "val": "val", "validation": "val", "valid": "val", "test": "test"}


def detect_masks(folder: Folder, settings: DataSettings) -> str | None:
    """Find labelmap.txt with SegmentationClass."""
    if settings.masks or "segmentationclass" not in folder.folders or not (folder.root / "labelmap.txt").is_file():
        return None
    return f"labelmap.txt with {folder.folders['segmentationclass']}/"


def read_masks(folder: Folder, settings: DataSettings) -> Found:
    """Pair masks with pictures in JPEGImages, in `images`, or anywhere beside them."""
    masks = folder.pictures(folder.folders["segmentationclass"])
    pictures = _pictures(folder, settings)
    found = Found(splits={}, settings=_labelmap(folder.root / "labelmap.txt"))
    split_of = _lists(folder)
    lost = []
    for stem, path in masks.files.items():
        image = pictures.get(stem) or pictures.get(PurePosixPath(stem).name)
        if image is None:
            lost.append(path.relative_to(folder.root).as_posix())
            continue
        found.splits.setdefault(split_of.get(stem, ""), []).append(Sample(stem, image, {"": MaskFile(path)}))
    if len(found.splits) > 1 and "" in found.splits:
        found.splits.setdefault("train", []).extend(found.splits.pop(""))
    if lost:
        words = "masks have no picture: CVAT exports them without, unless it is told to save images"
        remedy = 'Put the pictures into JPEGImages/, or name their folder in data.toml: images = "..."'
        some = any(found.splits.values())
        found.problems.append(problem("missing-picture", "warning" if some else "error", lost, words, remedy))
    return found


def _pictures(folder: Folder, settings: DataSettings) -> dict[str, Path]:
    places = (
        [settings.images] if settings.images else [folder.folders.get("jpegimages"), folder.folders.get("images"), ""]
    )
    found: dict[str, Path] = {}
    for place in places:
        if place is None:
            continue
        listed: Pictures = folder.pictures(place)
        for stem, path in listed.files.items():
            if not place and path.relative_to(folder.root).parts[0].lower().startswith("segmentation"):
                continue
            found.setdefault(stem, path)
            found.setdefault(PurePosixPath(stem).name, path)
    return found


def _labelmap(path: Path) -> dict[str, object]:
    colors: dict[str, str] = {}
    for count, line in enumerate(_lines(path), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None or max(int(match[i]) for i in (2, 3, 4)) > 255:
            raise DataError(
                f"{path}, line {count}: '{line.strip()}' is not label:r,g,b:parts:actions. Export it again."
            )
        color = format_color((int(match[2]), int(match[3]), int(match[4])))
        if color in colors:
            raise DataError(f"{path}, line {count}: {match[1]} has the colour of {colors[color]}. Give it another one.")
        colors[color] = match[1]
    names = list(dict.fromkeys(name for name in colors.values() if name != VOID_NAME))
    first = [name for name in names if name.lower() == "background"]
    return {"classes": [*first, *(name for name in names if name not in first)], "colors": colors}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}). Export it again.") from error


def _lists(folder: Folder) -> dict[str, str]:
    base = folder.root / "ImageSets" / "Segmentation"
    found: dict[str, str] = {}
    for path in sorted(base.glob("*.txt")):
        if path.stem.lower() in _SPLITS:
            found.update({stem: _SPLITS[path.stem.lower()] for stem in read_list(path)})
    return found


def _files(folder: Folder) -> list[Path]:
    found = []
    for path in sorted(folder.root.glob("*.xml")) + sorted(folder.root.glob("*/annotations.xml")):
        if path.is_file():
            with path.open("rb") as file:
                head = file.read(4096).decode("utf-8-sig", "replace")
            if re.search(r"<annotations[\s>]", head) and re.search(r"<(version|meta|image)[\s>]", head):
                found.append(path)
    return found


def detect_xml(folder: Folder, settings: DataSettings) -> str | None:
    """Find an XML file that begins as CVAT's do."""
    files = [] if settings.masks else _files(folder)
    return files[0].relative_to(folder.root).as_posix() if files else None


def read_xml(folder: Folder, settings: DataSettings) -> Found:
    """Draw the shapes of every picture by their z-order."""
    found = Found(splits={})
    trees = {path: _parse(path) for path in _files(folder)}
    listed = [name for tree in trees.values() for name in _labels(tree)]
    naming = Naming(settings, listed, folder.root)
    locator = Locator(folder, settings)
    bad: list[str] = []
    boxes: list[str] = []
    for path, tree in trees.items():
        for image in tree.iter("image"):
            name = image.get("name", "")
            split = _SPLITS.get((image.get("subset") or "").lower(), "")
            picture = locator.find(name, path.parent, split)
            if picture is None:
                continue
            stem = PurePosixPath(name.replace("\\", "/")).with_suffix("").as_posix().lstrip("/")
            drawn: list[tuple[int, Shape]] = []
            for element in image:
                label = naming.index(element.get("label", ""), stem) if element.tag in _KINDS else None
                if label is None:
                    continue
                shape = _shape(element, label)
                if shape is None:
                    bad.append(stem)
                    continue
                boxes += [stem] if element.tag == "box" else []
                drawn.append((_whole(element.get("z_order")) or 0, shape))
            drawn.sort(key=lambda pair: pair[0])  # stable: later ones of one height stay on top
            height, width = _whole(image.get("height")), _whole(image.get("width"))
            size = (height, width) if height and width and min(height, width) > 0 else None
            shapes = tuple(shape for _, shape in drawn)
            mask = DrawnMask(path, f"{stem}|{naming.key}", picture, size, naming.unlabeled, shapes)
            found.splits.setdefault(split, []).append(Sample(stem, picture, {"": mask}))
    if len(found.splits) > 1 and "" in found.splits:
        found.splits.setdefault("train", []).extend(found.splits.pop(""))
    found.problems += locator.problems(any(found.splits.values())) + naming.problems()
    if bad := list(dict.fromkeys(bad)):
        words = "shapes cannot be drawn: too few points, no numbers, or run lengths of another size"
        found.problems.append(problem("bad-shape", "error", bad, words, "Draw them again, or remove them.", bad))
    if boxes := list(dict.fromkeys(boxes)):
        words = "shapes are boxes, and are filled as such"
        found.problems.append(problem("box-only", "warning", boxes, words, "Draw outlines, or remove the boxes."))
    found.settings = naming.settings()
    return found


_KINDS = ("polygon", "polyline", "points", "box", "ellipse", "mask")


def _parse(path: Path) -> ElementTree.Element:
    try:
        text = path.read_bytes()
        if b"<!DOCTYPE" in text or b"<!ENTITY" in text:  # entities can grow without end
            raise DataError(f"{path}: has a DOCTYPE, which CVAT does not write. Export it again.")
        return ElementTree.fromstring(text)
    except (OSError, ElementTree.ParseError) as error:
        raise DataError(f"{path}: cannot be read as XML ({error}). Export it again.") from None


def _labels(tree: ElementTree.Element) -> Iterable[str]:
    meta = tree.find("meta")
    if meta is not None:
        for label in meta.iter("label"):
            if name := label.findtext("name"):
                yield name
    for image in tree.iter("image"):
        yield from sorted({e.get("label", "") for e in image if e.tag in _KINDS})


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"-?\d{1,9}", text.strip()) else None


def _float(text: str | None) -> float | None:
    try:
        return number(float(text or ""))
    except ValueError:
        return None


def _shape(element: ElementTree.Element, label: int) -> Shape | None:
    if element.tag == "mask":
        return _mask(element, label)
    if element.tag in ("box", "ellipse"):
        keys = ("xtl", "ytl", "xbr", "ybr") if element.tag == "box" else ("cx", "cy", "rx", "ry")
        values = [value for key in keys if (value := _float(element.get(key))) is not None]
        if len(values) < 4 or _float(element.get("rotation") or "0") != 0:
            return None
        a, b, c, d = values
        if element.tag == "box":
            return Shape("rectangle", label, (a, b, c, d)) if c >= a and d >= b else None
        return Shape("ellipse", label, (a - c, b - d, a + c, b + d)) if min(c, d) >= 0 else None
    pairs = []
    for pair in (element.get("points") or "").split(";"):
        x, _, y = pair.partition(",")
        pairs.append((_float(x), _float(y)))
    found = tuple((x, y) for x, y in pairs if x is not None and y is not None)
    if len(found) < len(pairs):
        return None
    if element.tag == "polygon":
        return Shape("polygon", label, (found,)) if len(found) > 2 else None
    return Shape("line", label, found if len(found) > 1 else (*found, *found))


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
    return Shape("bitmap", label, (left, top, bits))


FORMATS = (
    Format("cvat-masks", "cvat-masks", detect_masks, read_masks),
    Format("cvat", "cvat", detect_xml, read_xml),
)
