"""Shapes that leave their pictures: coordinates in other units, x and y exchanged, a picture of another size."""

from __future__ import annotations

from collections.abc import Sequence

from fullconv.data.formats.shapes import DrawnMask, Shape
from fullconv.data.problems import Problem, problem
from fullconv.data.samples import MaskSource, Sample

_FAR = 0.2
"""Part of a picture's side by which a shape must pass its edge; hands slip by less."""
_CORNER = 0.01
"""Part of a picture's side in which all shapes lie where fractions are taken for percent."""
_FEWEST, _SHARE = 3, 0.1
"""Shapes that do, from which on it is no chance."""
_REMEDY = (
    "Check what the coordinates are: pixels, percent or fractions, x before y, of the picture as it is now; shapes are"
    " cut off at its edges."
)

Extent = tuple[float, float, float, float]
"""Left, top, right, bottom."""


class Frame:
    """Counts, shape by shape, what lies outside of the pictures, or where all that lies inside is a corner."""

    def __init__(self) -> None:
        self._shapes = 0
        self._far = 0
        self._corner = 0
        self._reach = (0.0, 0.0)
        self._leaving: dict[str, None] = {}
        self._outside: dict[str, None] = {}

    def add(self, sample: Sample, mask: MaskSource, size: tuple[int, int]) -> None:
        """Look at the shapes of one mask of (height, width), if it is drawn from some."""
        if not isinstance(mask, DrawnMask):
            return
        height, width = size
        for shape in mask.shapes:
            if (found := extent(shape)) is None:
                continue
            left, top, right, bottom = found
            self._shapes += 1
            self._reach = max(self._reach[0], right / width), max(self._reach[1], bottom / height)
            self._corner += right <= max(1, _CORNER * width) and bottom <= max(1, _CORNER * height)
            if left >= width or top >= height or right <= 0 or bottom <= 0:
                self._outside[sample.stem] = None
            beyond_x, beyond_y = max(-left, right - width), max(-top, bottom - height)
            if beyond_x > _FAR * width or beyond_y > _FAR * height:
                self._far += 1
                self._leaving[sample.stem] = None

    def problems(self) -> list[Problem]:
        """Return what was seen."""
        if self._corner == self._shapes > 1:
            words = (
                "all shapes lie in the upper left corner of their pictures, so their coordinates are of another unit"
            )
            return [problem("outside-picture", "warning", [], words, _REMEDY)]
        if self._far >= max(_FEWEST, _SHARE * self._shapes):
            words = (
                f"{self._far} of {self._shapes} shapes pass the edges of their pictures by more than a fifth of them"
            )
            if 2 * self._far > self._shapes:
                across, down = self._reach
                words += f", the furthest to {across:.2g} times the width and {down:.2g} times the height"
            return [problem("outside-picture", "warning", list(self._leaving), words, _REMEDY)]
        if self._outside:
            words = "shapes lie wholly outside of their pictures, so they draw nothing"
            return [problem("outside-picture", "warning", list(self._outside), words, _REMEDY)]
        return []


def extent(shape: Shape) -> Extent | None:
    """Return the box around a shape in pixels; None of run lengths, which cannot leave a picture, and of empty ones."""
    if shape.kind == "coco-rle":
        return None
    if shape.kind == "bitmap":
        left, top, bits = shape.points
        left, top = left + bits.left, top + bits.top
        return (left, top, left + bits.width, top + bits.height) if bits.height else None
    if shape.kind == "oval":
        x, y, rx, ry = shape.points[:4]
        return x - rx, y - ry, x + rx, y + ry
    if shape.kind == "coco-polygon":
        return _around(
            [x for ring in shape.points for x in ring[::2]], [y for ring in shape.points for y in ring[1::2]]
        )
    if shape.kind in ("rectangle", "ellipse"):
        return _around(shape.points[::2], shape.points[1::2])
    corners = shape.points if shape.kind == "line" else shape.points[0]
    return _around([x for x, _ in corners], [y for _, y in corners])


def _around(xs: Sequence[float], ys: Sequence[float]) -> Extent | None:
    return (min(xs), min(ys), max(xs), max(ys)) if xs and ys else None
