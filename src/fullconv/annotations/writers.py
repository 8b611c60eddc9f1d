"""Write finished predictions as the files that CVAT, LabelMe, COCO's readers and Label Studio import.

Label maps are read back one at a time, so any number of images takes the memory of one.
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

from fullconv._version import __version__
from fullconv.annotations.outlines import Outline, outlines
from fullconv.card import Labels
from fullconv.errors import InputError
from fullconv.labels import BACKGROUND_NAMES, format_color, read_label_map
from fullconv.storage import write_bytes, write_text

_CLASSES_FILE = "data.toml"
_CLASSES_HEAD = "# The model's classes, for the corrected export: copy this beside it before training on it."


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
    """Write the label maps of a finished `predict` as annotations.

    Args:
        tool: Key of `TOOLS`.
        out: The output folder.
        log: Its predictions.jsonl.
        labels: Classes and palette of the label maps.
        tolerance: Largest distance in pixels by which an outline may be moved.

    Returns:
        The file that was written or, for labelme, the folder with a file beside each label map.

    Raises:
        InputError: A label map cannot be read back.
        OutputError: The file cannot be written.
    """
    background = 0 if labels.classes[0].lower() in BACKGROUND_NAMES else None  # any other first class is drawn, too
    written = TOOLS[tool](out, _images(out, log, tolerance, background), labels)
    path = out / _CLASSES_FILE  # keeps the order of the classes for the corrected export
    if not path.exists() or path.read_text(encoding="utf-8", errors="replace").startswith(_CLASSES_HEAD):
        classes = json.dumps(list(labels.classes), ensure_ascii=False)
        palette = [list(color) for color in labels.palette]
        unlabeled = "" if background == 0 else 'unlabeled = "void"\n'
        write_text(path, f"{_CLASSES_HEAD}\nclasses = {classes}\npalette = {palette}\n{unlabeled}")
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
