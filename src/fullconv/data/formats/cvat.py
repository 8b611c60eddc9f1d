"""CVAT: "for images 1.1", an XML file of shapes, and "Segmentation mask 1.1", VOC's folders with labelmap.txt."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import numpy as np

from fullconv.data.config import SPLITS, VOID_NAME, DataSettings
from fullconv.data.files import Folder, load_text, read_head
from fullconv.data.formats.annotation_files import ImageIndex, number, size, unique
from fullconv.data.formats.drawn import AnnotatedImage, Annotation, Annotations
from fullconv.data.formats.file_lists import report_overlap
from fullconv.data.formats.format import FormatResult, split_of
from fullconv.data.formats.rasterize import PackedMask, Shape, rotated_box
from fullconv.data.formats.voc import read_stems
from fullconv.data.samples import MaskFile, Sample
from fullconv.data.scan.scanner import Scanner
from fullconv.dataset_constants import LABELS
from fullconv.errors import DataError
from fullconv.images import max_pixels
from fullconv.labels import format_color

_AREAS = ("polygon", "box", "ellipse", "mask")
_NO_AREA = ("polyline", "points", "skeleton", "cuboid")
"""CVAT omits these from its own masks, too."""
_LINE = re.compile(r"(.+?):(\d{1,3}),(\d{1,3}),(\d{1,3}):[^:]*:[^:]*")


def find_files(folder: Folder) -> list[Path]:
    """Find XML files that begin as CVAT's do."""
    heads = {path: read_head(path, 4096) for path in folder.files("*.xml") + folder.files("*/annotations.xml")}
    tags = r"<annotations[\s>]", r"<(version|meta|image)[\s>]"
    return [path for path, head in heads.items() if all(re.search(tag, head) for tag in tags)]


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


def detect_masks(folder: Folder, settings: DataSettings) -> str | None:
    """Find labelmap.txt with SegmentationClass, or the masks with neither labelmap.txt nor VOC's JPEGImages."""
    if settings.masks or "segmentationclass" not in folder.folders:
        return None
    masks = folder.folders["segmentationclass"]
    if (folder.root / "labelmap.txt").is_file():
        return f"labelmap.txt with {masks}/"
    export = (folder.root / "ImageSets" / "Segmentation" / "default.txt").is_file()
    return f"{masks}/ with ImageSets/ and no JPEGImages/" if export and "jpegimages" not in folder.folders else None


def read_masks(folder: Folder, settings: DataSettings) -> FormatResult:
    """Pair masks with images in JPEGImages, in `images`, or anywhere beside them."""
    result = FormatResult(folder.root)
    masks, images = folder.images(folder.folders["segmentationclass"]), _images(folder, settings)
    lists: dict[str, Path] = {}
    stems: dict[str, list[str]] = {}
    for path in folder.files("*.txt", "ImageSets/Segmentation"):  # one a subset of CVAT's project
        split = split_of(path.stem)
        lists.setdefault(split, path)
        stems.setdefault(split, []).extend(read_stems(path, masks))
    stems = {split: stems[split] for split in (*SPLITS, "") if split in stems}
    split_by_stem = {stem: split for split, listed in reversed(stems.items()) for stem in listed}
    result.splits.update({split: [] for split in stems if split})
    lost, unlisted = [], []
    for stem, path in masks.files.items():
        image = images.get(stem) or images.get(PurePosixPath(stem).name)
        if image is None:
            lost.append(path)
        elif stems and stem not in split_by_stem:
            unlisted.append(path)
        else:
            result.add(split_by_stem.get(stem, ""), Sample(stem, image, {"": MaskFile(path)}))
    for split, listed in stems.items():
        name = lists[split].relative_to(folder.root).as_posix()
        absent = [stem for stem in dict.fromkeys(listed) if stem not in masks.files]
        cause, fix = f"lines of {name} name masks that do not exist", f"Correct {name}, or add the masks."
        result.report("missing-listed", "error", absent, cause, fix)
    report_overlap(result, lists, stems)
    result.problems += masks.duplicate_problems(folder.root, "masks")
    cause, fix = "masks are on no list in ImageSets/, and are omitted", "Add them to a list if they should count."
    result.report("unlisted", "note", unlisted, cause, fix)
    cause = 'masks have no image: CVAT exports them without unless "Save images" is on'
    fix = 'Put the images into JPEGImages/, or specify their folder in data.toml: images = "..."'
    result.report("missing-picture", "warning" if any(result.splits.values()) else "error", lost, cause, fix)
    result.settings = _label_settings(folder, result.samples)
    return result


def _images(folder: Folder, settings: DataSettings) -> dict[str, Path]:
    """Return images by stem and by name without folders; the masks do not count."""
    names = folder.folders
    places = [settings.images] if settings.images else [names.get("jpegimages"), names.get("images"), ""]
    found: dict[str, Path] = {}
    for place in places:
        for stem, path in () if place is None else folder.images(place).files.items():
            if place or not path.relative_to(folder.root).parts[0].lower().startswith("segmentation"):
                found.setdefault(stem, path)
                found.setdefault(PurePosixPath(stem).name, path)
    return found


def _label_settings(folder: Folder, samples: list[Sample]) -> dict[str, object]:
    """Return the classes with their colors, or with their numbers (the lines of labelmap.txt) if masks are gray."""
    path = folder.root / "labelmap.txt"
    if path.is_file():
        colors = _read_labelmap(path)
    else:
        voc = LABELS["voc"][""]
        colors = {format_color(color): name for color, name in zip(voc.palette, voc.classes, strict=True)}
        colors["#e0e0c0"] = VOID_NAME  # VOC's borders
    names = list(dict.fromkeys(name for name in colors.values() if name != VOID_NAME))
    classes = sorted(names, key=lambda name: name.lower() != "background")  # stable
    numbers: set[int] = set()
    for facts in Scanner(folder.root).masks(sample.masks[""] for sample in samples):
        if not facts.error and (facts.in_color or facts.palette):
            return {"classes": classes, "colors": colors}
        numbers.update(facts.counts)
    if all(format_color((value, value, value)) in colors for value in numbers):
        return {"classes": classes, "colors": colors}
    first = {name: color for color, name in reversed(colors.items())}
    palette = [[int(first[name][i : i + 2], 16) for i in (1, 3, 5)] for name in classes]
    return {"classes": classes, "values": dict(enumerate(colors.values())), "palette": palette}


def _read_labelmap(path: Path) -> dict[str, str]:
    """Return the lines label:r,g,b:parts:actions as color -> label, in order."""
    colors: dict[str, str] = {}
    for count, line in enumerate(map(str.strip, load_text(path, "Export it again.").splitlines()), 1):
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None or max(int(match[i]) for i in (2, 3, 4)) > 255:
            raise DataError(f"{path}, line {count}: '{line}' is not label:r,g,b:parts:actions. Export it again.")
        color = format_color((int(match[2]), int(match[3]), int(match[4])))
        if color in colors:
            raise DataError(f"{path}, line {count}: {match[1]} has the color of {colors[color]}. Give it another one.")
        colors[color] = match[1]
    if not colors:
        raise DataError(f"{path}: lists no label. Export it again.")
    return colors
