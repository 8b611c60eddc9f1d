"""Data sets of drawn shapes: a format parses its annotation files, one driver draws, splits and reports.

A format has two functions: `find_files` finds its annotation files, `parse` returns their `Annotations`. Everything that does
not depend on the tool is done here: class names, void and unlabeled pixels, boxes, images with several annotations, images
that are missing or not annotated, shapes that cannot be drawn.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from fullconv.data.config import Boxes, DataSettings
from fullconv.data.files import Folder
from fullconv.data.formats.class_names import ClassNames
from fullconv.data.formats.format import Format, FormatResult
from fullconv.data.formats.image_index import ImageIndex
from fullconv.data.formats.rasterize import DrawnMask, Shape
from fullconv.data.formats.shape_issues import ShapeIssues
from fullconv.data.samples import Sample
from fullconv.errors import DataError
from fullconv.labels import VOID


class Annotation(NamedTuple):
    """One annotation of an image."""

    type: str
    """What the tool calls it, for messages."""
    class_name: str | None
    """None where it has none."""
    shapes: Iterable[Shape] = ()
    """What it draws, without labels; empty if it cannot be drawn."""
    no_area: bool = False
    """Whether it is a point or a line, which is omitted."""
    is_box: bool = False
    """Whether it is a bounding box, so that `boxes` of data.toml decides about it."""
    is_void: bool = False
    """Whether its pixels are void, as COCO's crowds."""
    other_names: str = ""
    """All its class names if there are several; the first counts."""


class AnnotatedImage(NamedTuple):
    """An image that was found, with its annotations in drawing order: later ones lie on top."""

    name: str
    """What problems call it."""
    image: Path
    stem: str
    size: tuple[int, int] | None
    """Height and width at which it was annotated; the image's own if None."""
    split: str
    shapes: Iterable[Annotation]
    file: Path
    """The annotation file."""
    key: str = ""
    """What identifies it in the annotation file."""
    is_preferred: bool = False
    """Whether it counts if the image has several annotations; else the first does."""


@dataclass
class Annotations:
    """What a format found in its annotation files."""

    class_names: Iterable[str]
    images: list[AnnotatedImage]
    default_boxes: Boxes = "fill"
    """What happens to boxes if data.toml has no `boxes`."""
    unreadable: list[tuple[Path, DataError]] = field(default_factory=list)
    """Annotation files of single images that cannot be read; the others are used."""
    repeated: list[str] = field(default_factory=list)
    """Names of images with several annotations, of which one counts."""
    repeats_allowed: bool = False
    """Whether an image may be in several splits; otherwise one of its annotations counts."""


Parse = Callable[[Folder, DataSettings, ImageIndex, FormatResult], Annotations]
"""Parses the annotation files of a folder; problems of the format's own go into the result."""


def drawn(name: str, find_files: Callable[[Folder], Iterable[Path]], parse: Parse) -> Format:
    """Return the registry row of a format of drawn shapes."""

    def detect(folder: Folder, settings: DataSettings) -> str | None:
        files = () if settings.masks else find_files(folder)
        return next((path.relative_to(folder.root).as_posix() for path in files), None)

    def read(folder: Folder, settings: DataSettings) -> FormatResult:
        result = FormatResult(folder.root)
        index = ImageIndex(folder, settings)
        found = parse(folder, settings, index, result)
        _report_unreadable(result, found.unreadable)
        names = ClassNames(settings, found.class_names, folder.root)
        issues = ShapeIssues(settings, found.default_boxes)
        images = found.images if found.repeats_allowed else _choose_one_each(found, folder.root)
        for image in images:
            shapes = tuple(_label_shapes(image, names, issues))
            key = f"{image.key}|{names.key}" if image.key else names.key
            mask = DrawnMask(image.file, key, image.image, image.size, names.unlabeled, shapes)
            result.add(image.split, Sample(image.stem, image.image, {"": mask}))
        result.problems += index.problems(bool(images)) + names.problems() + issues.problems()
        cause = "images have several annotations, of which one counts (the ground truth or namesake, else the first)"
        result.report("several-annotations", "warning", list(dict.fromkeys(found.repeated)), cause, "Keep one of each.")
        result.settings = names.settings(result.problems)
        return result

    return Format(name, name, detect, read)


def _report_unreadable(result: FormatResult, broken: list[tuple[Path, DataError]]) -> None:
    if broken:
        path, error = broken[0]
        reason = re.split(r"\. (?=[A-Z])", str(error).removeprefix(f"{path}: "), maxsplit=1)[0]
        stems = [path.relative_to(result.root).with_suffix("").as_posix() for path, _ in broken]
        cause, fix = (
            f"annotation files cannot be read (the first {reason})",
            "Save or export them again, or remove them.",
        )
        result.report("unreadable", "error", [path for path, _ in broken], cause, fix, stems)


def _choose_one_each(found: Annotations, root: Path) -> list[AnnotatedImage]:
    """Return one annotation of each image, and add the names of the others to `repeated`."""
    chosen: dict[Path, AnnotatedImage] = {}
    for image in found.images:
        path = image.image if image.image.is_relative_to(root) else image.file  # it is embedded in this file
        first = chosen.setdefault(path, image)
        if first is not image:
            if image.is_preferred and not first.is_preferred:
                chosen[path], image = image, first
            found.repeated.append(image.name)
    return list(chosen.values())


def _label_shapes(image: AnnotatedImage, names: ClassNames, issues: ShapeIssues) -> Iterable[Shape]:
    """Yield the shapes of an image with the indices of their classes; note what cannot be drawn."""
    for annotation in image.shapes:
        label = None
        if annotation.class_name is not None and (label := names.index(annotation.class_name, image.stem)) is None:
            continue
        if annotation.other_names:
            issues.add("several-labels", image.stem, annotation.other_names)
        if annotation.no_area:
            issues.add("no-area", image.stem, annotation.type)
            continue
        shapes = list(annotation.shapes) if label is not None else []
        if not shapes:
            issues.add("invalid", image.stem, annotation.type or "no type")
        for shape in shapes:
            labeled = replace(shape, label=VOID if annotation.is_void or label is None else label)
            issues.add_extent(labeled)
            if annotation.is_box:
                yield from issues.add_box(image.stem, labeled)
            else:
                yield labeled
