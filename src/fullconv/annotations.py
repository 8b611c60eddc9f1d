"""Write predictions as annotations that labeling tools import, for people to correct.

Regions of a label map become polygons in drawing order. Label maps are read back one at a time, so any number of images takes
the memory of one.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from numpy.typing import NDArray

from fullconv._version import __version__
from fullconv.card import Labels
from fullconv.errors import InputError
from fullconv.labels import BACKGROUND_NAMES, VOID, format_color, read_label_map
from fullconv.rasters import import_rasterio
from fullconv.storage import write_bytes, write_text

_CLASSES_HEAD = "# The model's classes, for the corrected export: copy this beside it before training on it."


@dataclass(frozen=True)
class Outline:
    """The outer line of a region (pixels of one class that share edges)."""

    index: int
    """Class."""
    points: NDArray[np.float64]
    """(n, 2), x and y in pixels from the image's upper left corner, n >= 3; not closed."""
    area: float
    """In pixels, including its holes."""


def outlines(label_map: NDArray[np.uint8], tolerance: float = 1.0, background: int | None = 0) -> list[Outline]:
    """Trace all regions of a label map but void; those of the background only in holes of others.

    Drawn in the returned order, each over those before it, they restore the label map: outer lines only, the largest first,
    so that a region in a hole comes after the one around it. No representation of holes is common to all annotation tools.
    A line moves by at most `tolerance` pixels; 0 keeps every corner of every pixel.
    """
    import_rasterio("drawing the outlines of label maps")
    from rasterio.features import shapes

    found = []
    for geometry, value in shapes(label_map, connectivity=4):
        index = int(value)
        if index == VOID:
            continue
        ring = np.asarray(geometry["coordinates"][0], np.float64)[:-1]
        (x0, y0), (x1, y1) = ring.min(0), ring.max(0)
        touches_border = x0 == 0 or y0 == 0 or x1 == label_map.shape[1] or y1 == label_map.shape[0]
        if index == background and touches_border:
            continue
        found.append(Outline(index, simplify(ring, tolerance), _area(ring)))
    return sorted(found, key=lambda outline: -outline.area)


def _area(ring: NDArray[np.float64]) -> float:
    x, y = ring.T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def simplify(ring: NDArray[np.float64], tolerance: float) -> NDArray[np.float64]:
    """Remove points of a ring (n, 2), not closed, that stays within a distance of all of them; at least a triangle is left.

    Source: Douglas and Peucker 1973.
    """
    if len(ring) <= 4:
        return ring
    first = int(np.lexsort((ring[:, 1], ring[:, 0]))[0])  # a corner, independent of where the tracing began
    ring = np.roll(ring, -first, axis=0)
    middle = int(((ring - ring[0]) ** 2).sum(1).argmax())
    closed = np.vstack([ring, ring[:1]])
    keep = np.zeros(len(closed), bool)
    keep[[0, middle, len(closed) - 1]] = True
    pending = [(0, middle), (middle, len(closed) - 1)]
    while pending:
        a, b = pending.pop()
        if b - a < 2:
            continue
        points, start, along = closed[a + 1 : b], closed[a], closed[b] - closed[a]
        length = float(along @ along)
        t = np.clip((points - start) @ along / length, 0, 1) if length else np.zeros(len(points))
        distance = np.linalg.norm(points - (start + t[:, None] * along), axis=1)  # from the segment
        far = int(distance.argmax())
        if distance[far] > tolerance:
            keep[a + 1 + far] = True
            pending += [(a, a + 1 + far), (a + 1 + far, b)]
    kept = closed[:-1][keep[:-1]]
    return kept if len(kept) >= 3 and _area(kept) > 0 else ring


@dataclass(frozen=True)
class AnnotatedImage:
    """An image with its outlines."""

    number: int
    """From 0."""
    source: Path
    """The image file."""
    name: str
    """Its name for the tools: relative to the input of `predict`, with ``/``."""
    stem: str
    """The name without the suffix, unless another image would have the same."""
    height: int
    width: int
    outlines: list[Outline]


def write_annotations(tool: str, out: Path, log: Path, labels: Labels, tolerance: float) -> Path:
    """Write the label maps in `out` of a finished `predict` with this log (predictions.jsonl) as annotations for a tool.

    Returns the file or, for labelme, the folder with a file beside each label map. Outlines move by at most `tolerance` pixels.
    """
    background = 0 if labels.classes[0].lower() in BACKGROUND_NAMES else None  # any other first class is drawn, too
    written = TOOLS[tool](out, _images(out, log, tolerance, background), labels)
    path = out / "data.toml"  # keeps the order of the classes for the corrected export
    if not path.exists() or path.read_text(encoding="utf-8", errors="replace").startswith(_CLASSES_HEAD):
        classes = json.dumps(list(labels.classes), ensure_ascii=False)
        palette = [list(color) for color in labels.palette]
        unlabeled = "" if background == 0 else 'unlabeled = "void"\n'
        pairs = json.dumps(labels.mirror_pairs, ensure_ascii=False)
        mirror = "" if labels.mirror_pairs is None else f"mirror_pairs = {pairs}\n"
        write_text(path, f"{_CLASSES_HEAD}\nclasses = {classes}\npalette = {palette}\n{unlabeled}{mirror}")
    return written


def _images(out: Path, log: Path, tolerance: float, background: int | None) -> Iterator[AnnotatedImage]:
    stems = Counter(str(_name(out, row).with_suffix("")) for row in _finished(log))
    for number, row in enumerate(_finished(log)):
        name = _name(out, row)
        stem = str(name.with_suffix(""))
        label_map = read_label_map(path := Path(row["output"]))
        if label_map.dtype != "uint8":
            raise InputError(f"{path}: is not a label map of indices. Predict with --format index.")
        found = outlines(label_map, tolerance, background)
        stem = stem if stems[stem] == 1 else str(name)
        height, width = label_map.shape
        yield AnnotatedImage(number, Path(row["input"]), str(name), stem, height, width, found)


def _finished(log: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of predictions.jsonl that have a label map."""
    with log.open(encoding="utf-8") as lines:
        yield from (row for row in map(json.loads, lines) if row["output"] is not None and row["status"] != "failed")


def _name(out: Path, row: dict[str, Any]) -> PurePosixPath:
    """Return an image's name relative to the input; its label map may have kept the image's suffix or not."""
    stem = PurePosixPath(Path(row["output"]).relative_to(out).as_posix()).with_suffix("")
    suffix = Path(row["input"]).suffix
    return stem if suffix and stem.suffix.lower() == suffix.lower() else stem.with_name(stem.name + suffix)


def _points(outline: Outline, shift: float = 0.0) -> list[list[float]]:
    return [[round(float(x) + shift, 2), round(float(y) + shift, 2)] for x, y in outline.points]


def _write_labelme(out: Path, images: Iterator[AnnotatedImage], labels: Labels) -> Path:
    """Write a JSON file beside each label map, to be copied beside the image, which it names without a folder.

    LabelMe counts from pixel centers, so by half a pixel less.
    """
    for image in images:
        shapes: list[dict[str, Any]] = [
            {
                "label": labels.classes[outline.index], "points": _points(outline, -0.5), "group_id": None,
                "description": "", "shape_type": "polygon", "flags": {},
            }
            for outline in image.outlines
        ]  # fmt: skip
        table: dict[str, Any] = {
            "version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": image.source.name,
            "imageData": None, "imageHeight": image.height, "imageWidth": image.width,
        }  # fmt: skip
        write_text(out / f"{image.stem}.json", json.dumps(table, ensure_ascii=False, indent=1) + "\n")
    return out


def _write_cvat(out: Path, images: Iterator[AnnotatedImage], labels: Labels) -> Path:
    """Write "CVAT for images 1.1"."""

    def parts() -> Iterator[str]:
        yield '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n<meta><task><labels>\n'
        for name, color in zip(labels.classes, labels.palette, strict=True):
            yield f"<label><name>{escape(name)}</name><color>{format_color(color)}</color></label>\n"
        yield "</labels></task></meta>\n"
        for image in images:
            size = f'width="{image.width}" height="{image.height}"'
            yield f'<image id="{image.number}" name={quoteattr(image.name)} {size}>\n'
            for z, outline in enumerate(image.outlines):
                points = ";".join(f"{x:.2f},{y:.2f}" for x, y in outline.points)
                attributes = f'label={quoteattr(labels.classes[outline.index])} source="auto" occluded="0"'
                yield f'<polygon {attributes} points="{points}" z_order="{z}"></polygon>\n'
            yield "</image>\n"
        yield "</annotations>\n"

    return _write(out / "annotations.xml", parts())


def _write_coco(out: Path, images: Iterator[AnnotatedImage], labels: Labels) -> Path:
    """Write COCO's three lists; the annotations of an image are in drawing order."""

    def parts() -> Iterator[str]:
        yield f'{{"info": {{"description": "written by fullconv {__version__}"}}, "images": ['
        count = 0
        with tempfile.TemporaryFile("w+", encoding="utf-8") as annotations:  # the list after that of the images
            for image in images:
                entry = {"id": image.number + 1, "file_name": image.name, "height": image.height, "width": image.width}
                yield (",\n" if image.number else "\n") + json.dumps(entry, ensure_ascii=False)
                for outline in image.outlines:
                    count += 1
                    annotations.write((",\n" if count > 1 else "\n") + json.dumps(_annotation(outline, image, count)))
            yield '\n], "annotations": ['
            annotations.seek(0)
            yield from iter(lambda: annotations.read(1 << 20), "")
        categories = [{"id": n, "name": name, "supercategory": ""} for n, name in enumerate(labels.classes, 1)]
        yield f'\n], "categories": {json.dumps(categories, ensure_ascii=False)}}}\n'

    return _write(out / "annotations.json", parts())


def _annotation(outline: Outline, image: AnnotatedImage, number: int) -> dict[str, Any]:
    (x0, y0), (x1, y1) = outline.points.min(0), outline.points.max(0)
    return {
        "id": number, "image_id": image.number + 1, "category_id": outline.index + 1, "iscrowd": 0,
        "segmentation": [[value for point in _points(outline) for value in point]],
        "area": outline.area, "bbox": [float(x0), float(y0), float(x1 - x0), float(y1 - y0)],
    }  # fmt: skip


def _write_labelstudio(out: Path, images: Iterator[AnnotatedImage], labels: Labels) -> Path:
    """Write Label Studio's tasks with predictions, for a labeling config with Image "image" and PolygonLabels "label"."""

    def parts() -> Iterator[str]:
        yield "["
        for image in images:
            result = [
                {
                    "id": f"{image.number}-{n}", "type": "polygonlabels", "from_name": "label", "to_name": "image",
                    "original_width": image.width, "original_height": image.height, "image_rotation": 0,
                    "value": {
                        "points": [[100 * float(x) / image.width, 100 * float(y) / image.height]
                                   for x, y in outline.points],
                        "polygonlabels": [labels.classes[outline.index]], "closed": True,
                    },
                }
                for n, outline in enumerate(image.outlines)
            ]  # fmt: skip
            prediction = {"model_version": f"fullconv {__version__}", "result": result}
            task = {"data": {"image": image.name}, "predictions": [prediction]}
            yield (",\n" if image.number else "\n") + json.dumps(task, ensure_ascii=False)
        yield "\n]\n"

    return _write(out / "tasks.json", parts())


def _write(path: Path, parts: Iterator[str]) -> Path:
    write_bytes(path, map(str.encode, parts))
    return path


TOOLS: dict[str, Callable[[Path, Iterator[AnnotatedImage], Labels], Path]] = {
    "cvat": _write_cvat,
    "labelme": _write_labelme,
    "coco": _write_coco,
    "labelstudio": _write_labelstudio,
}
"""By the value of `predict --to`."""
