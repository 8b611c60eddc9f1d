"""Shapes that cannot be drawn, were drawn in a way that their author may not have meant, or leave their images."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Literal

import numpy as np

from fullconv.data.config import Boxes, DataSettings
from fullconv.data.formats.rasterize import DrawnMask, Shape
from fullconv.data.problems import Problem, Severity, problem
from fullconv.data.samples import MaskSource, Sample
from fullconv.labels import VOID

Issue = Literal["invalid", "no-area", "several-labels", "box"]
_ROWS: dict[Issue, tuple[str, Severity, str, str]] = {
    "invalid": (
        "bad-shape", "error",
        "shapes cannot be drawn ({}): too few points, not numbers, wrong sizes, or an unknown type",
        "Draw them again, or remove them.",
    ),
    "no-area": (
        "no-area", "warning", "shapes have no area ({}), and are omitted", "Draw outlines where they should count.",
    ),
    "several-labels": (
        "several-labels", "warning", "shapes have several labels (as {}); the first counts",
        "Keep one label of each shape: a pixel has one class.",
    ),
}  # fmt: skip
"""Code, severity, cause with its details, and fix."""
_BOX_CAUSES = {
    "fill": "shapes are boxes, and are filled as such",
    "void": "shapes are boxes without an outline, so their pixels are void where nothing else is drawn",
    "skip": "shapes are boxes without an outline, and are omitted",
}
_FAR = 0.2
"""Fraction of an image's side by which a shape must pass its edge; hand-drawn ones exceed it by less."""
_CORNER = 0.01
"""Fraction of an image's side in which all shapes lie if fractions are taken for percent."""
_MIN_FAR, _MIN_FAR_SHARE = 3, 0.1
"""Number and share of such shapes from which on they are reported."""
_OUTSIDE_FIX = "Check the coordinates: pixels, percent or fractions, x before y, of the image as it is now."


class ShapeIssues:
    """Collects the stems of images by what must be reported about their shapes."""

    def __init__(self, settings: DataSettings, default_boxes: Boxes) -> None:
        self._box_rule: Boxes = settings.boxes or default_boxes
        self._is_set = settings.boxes is not None
        self._stems: dict[Issue, dict[str, None]] = defaultdict(dict)
        self._details: dict[Issue, dict[str, None]] = defaultdict(dict)
        self._outlines, self._farthest = 0, 0.0

    def add(self, issue: Issue, stem: str, detail: str = "") -> None:
        """Add an issue of a shape of an image, with the shape's type or labels."""
        self._stems[issue][stem] = None
        self._details[issue][detail[:80]] = None

    def add_box(self, stem: str, shape: Shape) -> list[Shape]:
        """Return what a box draws: its class, void where nothing else is drawn, or nothing."""
        self.add("box", stem)
        if self._box_rule == "void":
            return [replace(shape, label=VOID, below=True)]
        return [shape] if self._box_rule == "fill" else []

    def add_extent(self, shape: Shape) -> None:
        """Note how far the points of an outline reach."""
        if shape.type in ("coco-polygon", "pil-polygon"):
            corners = np.abs(shape.corners())
            self._outlines += 1
            self._farthest = max(self._farthest, float(corners.max()) if corners.size else 2.0)

    def problems(self) -> list[Problem]:
        """Return the problems, each with the images that it concerns."""
        found = []
        if self._outlines > 1 and self._farthest <= 1:
            cause = "all points of all outlines lie between 0 and 1, so they are fractions of the image and not pixels"
            fix = "Export them in pixels: x times the width, y times the height."
            found.append(problem("bad-shape", "error", [], cause, fix))
        for issue, (code, severity, cause, fix) in _ROWS.items():
            if stems := list(self._stems[issue]):
                cause = cause.format(", ".join(self._details[issue]))
                found.append(problem(code, severity, stems, cause, fix, stems if severity == "error" else ()))
        if boxes := list(self._stems["box"]):
            severity = "note" if self._is_set or self._box_rule == "fill" else "warning"
            fix = "" if self._is_set else 'Draw outlines, or set boxes = "fill", "void" or "skip" in data.toml.'
            found.append(problem("box-only", severity, boxes, _BOX_CAUSES[self._box_rule], fix))
        return found


class BoundsCheck:
    """Counts shapes that lie outside of their images, or in one corner: other units, x and y swapped, resized images."""

    def __init__(self) -> None:
        self._shapes = self._far = self._in_corner = 0
        self._reach = (0.0, 0.0)
        self._leaving: dict[str, None] = {}
        self._outside: dict[str, None] = {}

    def add(self, sample: Sample, mask: MaskSource, size: tuple[int, int]) -> None:
        """Add the shapes of a mask of (height, width), if it is drawn."""
        if not isinstance(mask, DrawnMask):
            return
        height, width = size
        for shape in mask.shapes:
            if (box := bounding_box(shape)) is None:
                continue
            left, top, right, bottom = box
            self._shapes += 1
            self._reach = max(self._reach[0], right / width), max(self._reach[1], bottom / height)
            self._in_corner += right <= max(1, _CORNER * width) and bottom <= max(1, _CORNER * height)
            if left >= width or top >= height or right <= 0 or bottom <= 0:
                self._outside[sample.stem] = None
            if max(-left, right - width) > _FAR * width or max(-top, bottom - height) > _FAR * height:
                self._far += 1
                self._leaving[sample.stem] = None

    def problems(self) -> list[Problem]:
        """Return the most telling of the problems, if there is any."""
        stems: list[str] = []
        if self._in_corner == self._shapes > 1:
            cause = "all shapes lie in the upper left corner of their images, so their coordinates are of another unit"
        elif self._far >= max(_MIN_FAR, _MIN_FAR_SHARE * self._shapes):
            stems = list(self._leaving)
            cause = f"{self._far} of {self._shapes} shapes pass the edges of their images by more than a fifth of them"
            if 2 * self._far > self._shapes:
                across, down = self._reach
                cause += f", the furthest to {across:.1f} times the width and {down:.1f} times the height"
        elif self._outside:
            stems = list(self._outside)
            cause = "shapes lie wholly outside of their images, so they draw nothing"
        else:
            return []
        return [problem("outside-picture", "warning", stems, cause, _OUTSIDE_FIX)]


def bounding_box(shape: Shape) -> tuple[float, float, float, float] | None:
    """Return left, top, right, bottom in pixels; None of run lengths, which cannot leave an image, and of empty shapes."""
    if shape.type == "coco-rle":
        return None
    if shape.type == "bitmap":
        left, top, packed = shape.points
        left, top = left + packed.left, top + packed.top
        return (left, top, left + packed.width, top + packed.height) if packed.height else None
    if shape.type == "ellipse":
        x, y, rx, ry = shape.points[:4]
        return x - rx, y - ry, x + rx, y + ry
    if not len(corners := shape.corners()):
        return None
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    return left, top, right, bottom
