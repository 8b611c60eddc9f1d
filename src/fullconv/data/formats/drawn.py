"""Data sets of drawn shapes: a format finds and parses its annotation files, one driver draws, splits and reports."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

from fullconv.data.config import VOID_NAME, Boxes, DataSettings, similar_class_names
from fullconv.data.files import Folder
from fullconv.data.formats.annotation_files import ImageIndex
from fullconv.data.formats.format import Format, FormatResult
from fullconv.data.formats.rasterize import DrawnMask, Shape
from fullconv.data.formats.shape_issues import ShapeIssues
from fullconv.data.problems import BadDataError, Problem, problem
from fullconv.data.samples import Sample
from fullconv.errors import DataError, nearest
from fullconv.labels import BACKGROUND_NAMES, VOID

_IGNORED = (VOID_NAME, "__ignore__", "_ignore_", "ignore")
"""Class names that mean void."""


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


class ClassNames:
    """Maps the names in annotation files to class indices; pixels that no shape covers are `unlabeled`."""

    def __init__(self, settings: DataSettings, names: Iterable[str], root: Path) -> None:
        where = root / "data.toml"
        for key in ("values", "colors"):
            if getattr(settings, key) is not None:
                raise DataError(f"{where}: {key} is for masks that are image files. Remove it: names count.")
        self._root = root
        there = list(dict.fromkeys(name for name in names if name not in _IGNORED))
        rest = settings.unlabeled
        if settings.classes is not None:
            self.classes = list(settings.classes)
            if rest is None and self.classes[0] in there and self.classes[0].lower() not in BACKGROUND_NAMES:
                cause = f"pixels without a shape would be '{self.classes[0]}', which shapes draw, too"
                raise DataError(f'{where}: {cause}. Put "background" first in classes, or set unlabeled = "void".')
        else:
            named = next((name for name in there if name.lower() in BACKGROUND_NAMES), None)
            first = rest if rest not in (None, VOID_NAME) else named or ("background" if rest is None else None)
            self.classes = [*([first] if first else []), *(name for name in there if name != first)]
        self._index = {name: i for i, name in enumerate(self.classes)}
        self._index.update({name: VOID for name in _IGNORED if name not in self._index})
        self.rest = self.classes[0] if rest is None else rest
        self.unlabeled = VOID if self.rest == VOID_NAME else self._index.get(self.rest, 0)
        self._boxes, self._overlap = settings.boxes, settings.overlap
        for name in settings.overlap if isinstance(settings.overlap, list) else ():
            if name not in self._index:
                raise DataError(
                    f"{where}: overlap names '{name}', which is not among the classes.{nearest(name, self.classes)}"
                )
        self._unknown: dict[str, list[str]] = {}
        self._any_shape = False

    def index(self, name: str, stem: str) -> int | None:
        """Return the class index (or VOID) of a name in the annotation of an image; None, which is reported, if it has none."""
        if (found := self._index.get(name)) is None:
            self._unknown.setdefault(name, []).append(stem)
        self._any_shape = True
        return found

    @property
    def key(self) -> str:
        """The settings that a drawn mask depends on."""
        return f"{self._boxes}|{self._overlap}|{self.unlabeled}|{'|'.join(self.classes)}"

    @property
    def order(self) -> Literal["file", "smallest on top"] | tuple[int, ...]:
        """Which shapes lie on top; see `DrawnMask`."""
        return tuple(self._index[name] for name in self._overlap) if isinstance(self._overlap, list) else self._overlap

    def problems(self) -> list[Problem]:
        """Return the class of unlabeled pixels as a note, and the names that are not classes."""
        cause = f"pixels without a shape are '{self.rest}'"
        found = [problem("unlabeled", "note", [], cause, 'Set unlabeled in data.toml for another class, or "void".')]
        fix = "Give all shapes of a class the same name."
        found += similar_class_names(self.classes, fix)
        for name, stems in self._unknown.items():
            cause = f"shapes are called '{name}', which is not among the classes"
            fix = f"Add it to classes in data.toml, or rename the shapes.{nearest(name, self.classes)}"
            found.append(problem("unknown-class", "error", stems, cause, fix, stems))
        return found

    def settings(self, problems: Sequence[Problem]) -> dict[str, object]:
        """Return the keys of data.toml that follow; files that cannot be read are the reason if nothing is drawn."""
        if len(self.classes) < 2:
            unreadable = [found for found in problems if found.code == "unreadable"]
            if unreadable and not self._any_shape:
                raise BadDataError(str(self._root), unreadable)
            cause = "annotations draw nothing, so there is no class to learn"
            if self._any_shape:
                cause = f"annotations draw only '{self.classes[0]}', but a network needs at least two classes"
            fix = 'Draw shapes, or list all classes in data.toml: classes = ["background", "..."].'
            raise BadDataError(str(self._root), [problem("few-classes", "error", [], cause, fix)])
        return {"classes": self.classes}


Parse = Callable[[Folder, DataSettings, ImageIndex, FormatResult], Annotations]
"""Parses the annotation files of a folder; problems of the format's own go into the result."""


def drawn(name: str, find_files: Callable[[Folder], Iterable[Path]], parse: Parse, priority: int = 0) -> Format:
    """Return the registry row of a format of drawn shapes."""

    def detect(folder: Folder, settings: DataSettings) -> str | None:
        files = () if settings.masks else find_files(folder)
        return next((path.relative_to(folder.root).as_posix() for path in files), None)

    def read(folder: Folder, settings: DataSettings) -> FormatResult:
        result = FormatResult(folder.root)
        index = ImageIndex(folder, settings)
        found = parse(folder, settings, index, result)
        if found.unreadable:
            path, error = found.unreadable[0]
            reason = re.split(r"\. (?=[A-Z])", str(error).removeprefix(f"{path}: "), maxsplit=1)[0]
            files = [path for path, _ in found.unreadable]
            stems = [path.relative_to(folder.root).with_suffix("").as_posix() for path in files]
            cause = f"annotation files cannot be read (the first {reason})"
            result.report("unreadable", "error", files, cause, "Save or export them again, or remove them.", stems)
        names = ClassNames(settings, found.class_names, folder.root)
        issues = ShapeIssues(settings, found.default_boxes)
        images = found.images if found.repeats_allowed else _choose_one_each(found, folder.root)
        for image in images:
            shapes = tuple(_label_shapes(image, names, issues))
            key = f"{image.key}|{names.key}" if image.key else names.key
            mask = DrawnMask(image.file, key, image.image, image.size, names.unlabeled, shapes, names.order)
            result.add(image.split, Sample(image.stem, image.image, {"": mask}))
        result.problems += index.problems(bool(images)) + names.problems() + issues.problems()
        cause = "images have several annotations, of which one counts (the ground truth or namesake, else the first)"
        result.report("several-annotations", "warning", list(dict.fromkeys(found.repeated)), cause, "Keep one of each.")
        result.settings = names.settings(result.problems)
        return result

    return Format(name, name, detect, read, priority)


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
