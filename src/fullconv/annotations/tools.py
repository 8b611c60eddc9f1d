"""The files that CVAT, LabelMe, COCO's readers and Label Studio import, written from finished predictions.

Label maps are read back from the folder of results one at a time, so any number of pictures takes the memory of one.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from fullconv._version import __version__
from fullconv.annotations.outlines import Outline, outlines
from fullconv.card import Labels
from fullconv.data.formats.class_names import BACKGROUND
from fullconv.errors import InputError
from fullconv.labels import format_color, read_label_map
from fullconv.storage import write_bytes, write_text

CLASSES = "data.toml"
FIRST_LINE = "# The model's classes, for the corrected export: copy this beside it before training on it."


@dataclass(frozen=True)
class Annotated:
    """A picture with its outlines."""

    number: int
    """From 0."""
    source: Path
    """The picture."""
    name: str
    """Its name as the tools know it: relative to what was predicted, with ``/``."""
    beside: str
    """The name of a file about it: without its ending, unless another picture would have the same."""
    height: int
    width: int
    outlines: list[Outline]


def write_annotations(tool: str, out: Path, log: Path, labels: Labels, tolerance: float) -> Path:
    """Write the label maps of a finished `predict` as annotations.

    Args:
        tool: Of `TOOLS`.
        out: The folder of results.
        log: Its predictions.jsonl.
        labels: Classes and palette of the label maps.
        tolerance: Largest distance in pixels that an outline may be moved.

    Returns:
        What was written: a file, or for labelme the folder with a file beside each label map.

    Raises:
        InputError: A label map cannot be read back.
        OutputError: The file cannot be written.
    """
    written = TOOLS[tool](out, _pictures(out, log, labels, tolerance), labels)
    _write_classes(out / CLASSES, labels)
    return written


def _write_classes(path: Path, labels: Labels) -> None:
    """Write the classes as a data.toml for the corrected export, so that they keep their order; leave another one alone."""
    if path.exists() and not path.read_text(encoding="utf-8", errors="replace").startswith(FIRST_LINE):
        return
    rest = "" if _background(labels) == 0 else 'unlabeled = "void"\n'
    classes = json.dumps(list(labels.classes), ensure_ascii=False)
    write_text(
        path, f"{FIRST_LINE}\nclasses = {classes}\npalette = {[list(color) for color in labels.palette]}\n{rest}"
    )


def _background(labels: Labels) -> int | None:
    # Any other first class is drawn, too: nobody would take bare ground for "sky".
    return 0 if labels.classes[0].lower() in BACKGROUND else None


def _pictures(out: Path, log: Path, labels: Labels, tolerance: float) -> Iterator[Annotated]:
    background = _background(labels)
    shared = Counter(str(_name(out, row).with_suffix("")) for row in _done(log))
    for number, row in enumerate(_done(log)):
        name = _name(out, row)
        stem = str(name.with_suffix(""))
        label_map = _read(Path(row["output"]))
        height, width = label_map.shape
        found = outlines(label_map, tolerance, background)
        beside = stem if shared[stem] == 1 else str(name)
        yield Annotated(number, Path(row["input"]), str(name), beside, height, width, found)


def _done(log: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of predictions.jsonl that have a label map."""
    with log.open(encoding="utf-8") as lines:
        yield from (row for row in map(json.loads, lines) if row["output"] is not None and row["status"] != "failed")


def _name(out: Path, row: dict[str, Any]) -> PurePosixPath:
    """Return a picture's name relative to what was predicted; its label map may have kept the picture's ending or not."""
    stem = PurePosixPath(Path(row["output"]).relative_to(out).as_posix()).with_suffix("")
    suffix = Path(row["input"]).suffix
    return stem if suffix and stem.suffix.lower() == suffix.lower() else stem.with_name(stem.name + suffix)


def _read(path: Path) -> NDArray[np.uint8]:
    label_map = read_label_map(path)
    if label_map.dtype != np.uint8:
        raise InputError(f"{path}: is no label map of indices. Predict with --format index.")
    return label_map


def _points(outline: Outline, shift: float = 0.0) -> list[list[float]]:
    return [[round(float(x) + shift, 2), round(float(y) + shift, 2)] for x, y in outline.points]


def _labelme(out: Path, pictures: Iterator[Annotated], labels: Labels) -> Path:
    """Write a JSON file beside each label map, to be copied beside the picture, which it names without a folder.

    LabelMe counts from pixel centres, so by half a pixel less.
    """
    for picture in pictures:
        path = out / f"{picture.beside}.json"
        shapes: list[dict[str, Any]] = [
            {
                "label": labels.classes[outline.index], "points": _points(outline, -0.5), "group_id": None,
                "description": "", "shape_type": "polygon", "flags": {},
            }
            for outline in picture.outlines
        ]  # fmt: skip
        table: dict[str, Any] = {
            "version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": picture.source.name,
            "imageData": None, "imageHeight": picture.height, "imageWidth": picture.width,
        }  # fmt: skip
        write_text(path, json.dumps(table, ensure_ascii=False, indent=1) + "\n")
    return out


def _cvat(out: Path, pictures: Iterator[Annotated], labels: Labels) -> Path:
    """Write "CVAT for images 1.1"."""

    def parts() -> Iterator[bytes]:
        yield b'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n<meta><task><labels>\n'
        for name, color in zip(labels.classes, labels.palette, strict=True):
            yield f"<label><name>{_text(name)}</name><color>{format_color(color)}</color></label>\n".encode()
        yield b"</labels></task></meta>\n"
        for p in pictures:
            size = f'width="{p.width}" height="{p.height}"'
            yield f'<image id="{p.number}" name={quoteattr(p.name)} {size}>\n'.encode()
            for z, outline in enumerate(p.outlines):
                points = ";".join(f"{x:.2f},{y:.2f}" for x, y in outline.points)
                label = quoteattr(labels.classes[outline.index])
                yield (
                    f'<polygon label={label} source="auto" occluded="0" points="{points}" z_order="{z}"></polygon>\n'
                ).encode()
            yield b"</image>\n"
        yield b"</annotations>\n"

    path = out / "annotations.xml"
    write_bytes(path, parts())
    return path


def _text(value: str) -> str:
    from xml.sax.saxutils import escape

    return escape(value)


def _coco(out: Path, pictures: Iterator[Annotated], labels: Labels) -> Path:
    """Write COCO's three lists. Annotations of a picture are in the order in which they are to be painted."""
    path = out / "annotations.json"
    with ExitStack() as stack:
        spool: IO[str] = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8"))

        def parts() -> Iterator[bytes]:
            yield f'{{"info": {{"description": "written by fullconv {__version__}"}}, "images": ['.encode()
            count = 0
            for p in pictures:
                image = {"id": p.number + 1, "file_name": p.name, "height": p.height, "width": p.width}
                yield ((",\n" if p.number else "\n") + json.dumps(image, ensure_ascii=False)).encode()
                for outline in p.outlines:
                    count += 1
                    spool.write((",\n" if count > 1 else "\n") + json.dumps(_coco_annotation(outline, p, count)))
            yield b'\n], "annotations": ['
            spool.seek(0)
            while block := spool.read(1 << 20):
                yield block.encode()
            named = [{"id": n, "name": name, "supercategory": ""} for n, name in enumerate(labels.classes, 1)]
            yield f'\n], "categories": {json.dumps(named, ensure_ascii=False)}}}\n'.encode()

        write_bytes(path, parts())
    return path


def _coco_annotation(outline: Outline, picture: Annotated, number: int) -> dict[str, Any]:
    (x0, y0), (x1, y1) = outline.points.min(0), outline.points.max(0)
    return {
        "id": number, "image_id": picture.number + 1, "category_id": outline.index + 1, "iscrowd": 0,
        "segmentation": [[value for point in _points(outline) for value in point]],
        "area": outline.area, "bbox": [float(x0), float(y0), float(x1 - x0), float(y1 - y0)],
    }  # fmt: skip


def _labelstudio(out: Path, pictures: Iterator[Annotated], labels: Labels) -> Path:
    """Write Label Studio's tasks with predictions, for a labelling config with Image "image" and PolygonLabels "label"."""

    def parts() -> Iterator[bytes]:
        yield b"["
        for p in pictures:
            result = [
                {
                    "id": f"{p.number}-{n}", "type": "polygonlabels", "from_name": "label", "to_name": "image",
                    "original_width": p.width, "original_height": p.height, "image_rotation": 0,
                    "value": {
                        "points": [[100 * float(x) / p.width, 100 * float(y) / p.height] for x, y in outline.points],
                        "polygonlabels": [labels.classes[outline.index]], "closed": True,
                    },
                }
                for n, outline in enumerate(p.outlines)
            ]  # fmt: skip
            prediction = {"model_version": f"fullconv {__version__}", "result": result}
            task = {"data": {"image": p.name}, "predictions": [prediction]}
            yield ((",\n" if p.number else "\n") + json.dumps(task, ensure_ascii=False)).encode()
        yield b"\n]\n"

    path = out / "tasks.json"
    write_bytes(path, parts())
    return path


TOOLS: dict[str, Callable[[Path, Iterator[Annotated], Labels], Path]] = {
    "cvat": _cvat,
    "labelme": _labelme,
    "coco": _coco,
    "labelstudio": _labelstudio,
}
"""By the word that `predict --to` takes."""
