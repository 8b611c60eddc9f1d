"""Kaggle's run lengths: a CSV file with an image, "start length start length ...", and often a class in each row."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from fullconv.data.config import DataSettings
from fullconv.data.files import IMAGE_SUFFIXES, Folder, column, load_rows, read_head
from fullconv.data.formats.annotation_files import ImageIndex, single_class, unique
from fullconv.data.formats.drawn import AnnotatedImage, Annotation, Annotations
from fullconv.data.formats.format import FormatResult, split_in
from fullconv.data.formats.rasterize import Shape
from fullconv.errors import DataError, FullconvError
from fullconv.images import image_size

_RUNS = ("encodedpixels", "encoded_pixels", "rle", "rle_mask", "mask_rle", "encoding", "segmentation", "mask", "masks")
_CLASSES = ("classid", "class_id", "class", "class_name", "label", "labelid", "category", "category_id", "attribute_id")
_JOINED = ("imageid_classid", "image_id_class_id", "image_label", "imageid_label", "image_class", "image_id_class")
_IMAGES = (
    "imageid",
    "image_id",
    "image",
    "img",
    "img_id",
    "imgid",
    "image_name",
    "file_name",
    "filename",
    "file",
    "id",
)
_EMPTY = ("", "-1", "nan", "none")
_RUN_LIST = re.compile(r"\d+(\s+\d+)*")
_SAMPLE = re.compile(r"(?i)sample_?sub")
"""Names of files that show how to submit results; they hold no annotations."""
_FIX = "Correct the row, or download the file again."


class _Columns(NamedTuple):
    image: int
    runs: int
    label: int | None
    is_joined: bool
    """Whether a class follows the image's name: a.jpg_4."""


def _columns(heading: list[str]) -> _Columns | None:
    runs, joined = column(heading, *_RUNS), column(heading, *_JOINED)
    image = joined if joined is not None else next((i for n in _IMAGES if (i := column(heading, n)) is not None), None)
    if runs is None or image is None:
        return None
    return _Columns(image, runs, column(heading, *_CLASSES), joined is not None)


def find_files(folder: Folder) -> Iterator[Path]:
    """Find CSV files with headings of an image and of run lengths, and with run lengths in one of the first rows."""
    for inner in ("", *folder.folders.values()):
        for path in folder.files("*.csv", inner):
            lines = [line for line in read_head(path, 1 << 16).splitlines() if line.strip()]
            delimiter = max(",;\t", key=lines[0].count) if lines else ","
            rows = [[cell.strip(' "') for cell in line.split(delimiter)] for line in lines]
            columns = _columns(rows[0]) if rows and not _SAMPLE.search(path.name) else None
            if columns is not None:
                cells = [row[columns.runs] for row in rows[1:] if len(row) > columns.runs]
                if any(_RUN_LIST.match(cell) for cell in cells) or all(cell.lower() in _EMPTY for cell in cells):
                    yield path


def parse(folder: Folder, settings: DataSettings, index: ImageIndex, result: FormatResult) -> Annotations:
    """Parse the rows of every image, in order; a row without run lengths draws nothing."""
    images: dict[tuple[Path, str], AnnotatedImage] = {}
    taken: set[str] = set()
    names: set[str] = set()
    for path in find_files(folder):
        split, alone = split_in(path.stem), single_class(settings)
        heading, *rows = load_rows(path, _FIX)
        columns = _columns(heading)
        assert columns is not None
        found: dict[str, list[Annotation]] = {}
        wrong: dict[str, list[str]] = {}
        sizes: dict[str, tuple[Path, str, tuple[int, int]]] = {}
        for count, row in enumerate(rows, 2):
            if len(row) <= max(columns.image, columns.runs, columns.label or 0):
                raise DataError(f"{path}: row {count} has {len(row)} columns of {len(heading)}. {_FIX}")
            name, label = row[columns.image], alone if columns.label is None else row[columns.label]
            if columns.is_joined:
                name, _, label = name.rpartition("_")
            if not name:
                raise DataError(f"{path}: row {count} names no image. {_FIX}")
            if name not in found:
                found[name] = []
                if (image := _image(index, name, path, split)) is None:
                    continue
                stem = unique(image.relative_to(folder.root).with_suffix("").as_posix(), taken, prefix=path.stem)
                try:
                    sizes[name] = image, stem, image_size(image)
                except FullconvError:  # is reported with the image
                    sizes[name] = image, stem, (0, 0)
            if row[columns.runs].lower() in _EMPTY or name not in sizes:
                continue
            names.add(label)
            size = sizes[name][2]
            if not all(size):
                continue
            shape, reason = _shape(row[columns.runs], size)
            if shape is None:
                wrong.setdefault(reason, []).append(f"{name} in row {count}")
            found[name].append(Annotation(f"run lengths in {path.name}", label, () if shape is None else (shape,)))
        for reason, places in wrong.items():
            result.report("bad-shape", "error", places, f"run lengths in {path.name} {reason}", _FIX)
        for name, (image, stem, size) in sizes.items():
            images.setdefault((image, split), AnnotatedImage(name, image, stem, size if all(size) else None, split,
                                                             found[name], path, key=stem))  # fmt: skip
    ordered = sorted(names, key=lambda name: (not name.isdigit(), name.zfill(9) if name.isdigit() else name))
    return Annotations(ordered, list(images.values()), repeats_allowed=True)


def _image(index: ImageIndex, name: str, path: Path, split: str) -> Path | None:
    """Find an image by its name or, as Kaggle often has it, by its name without suffix."""
    if PurePosixPath(name).suffix.lower() not in IMAGE_SUFFIXES:
        for suffix in sorted(IMAGE_SUFFIXES):
            if (image := index.exactly(name + suffix, path.parent)) is not None:
                index.take(image)
                return image
    return index.find(name, path.parent, split)


def _shape(text: str, size: tuple[int, int]) -> tuple[Shape | None, str]:
    """Return the pixels that runs cover, which count from 1 down the columns; or None and what is wrong."""
    height, width = size
    if not _RUN_LIST.fullmatch(text):
        return None, "are not whole numbers"
    values = np.array([min(int(cell), 1 << 40) for cell in text.split()], np.int64)
    if len(values) % 2:
        return None, "are an odd number: a start has no length"
    starts, lengths = values[::2] - 1, values[1::2]
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], (starts + lengths)[order]
    if starts[0] < 0 or lengths.min() < 1:
        return None, "hold a start or a length below 1"
    if ends[-1] > height * width:
        return None, f"end beyond the image ({width}x{height} pixels)"
    if (starts[1:] < ends[:-1]).any():
        return None, "overlap: starts count from the first pixel, not from the end of the run before"
    runs = np.diff(np.concatenate([[0], np.stack([starts, ends], axis=1).ravel(), [height * width]]))
    return Shape("coco-rle", {"size": [height, width], "counts": runs.tolist()}), ""
