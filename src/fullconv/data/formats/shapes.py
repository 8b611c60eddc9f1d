"""Masks that are drawn from the shapes of an annotation file, later ones on top."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fullconv.data.formats.area import Covered, oval_covers, rings_cover
from fullconv.data.samples import Colors
from fullconv.errors import DataError, MissingExtraError
from fullconv.images import image_size
from fullconv.images.limits import check_pixels

FARTHEST = 100_000
"""Coordinates beyond this are no pixels."""

Kind = Literal["area", "oval", "polygon", "rectangle", "ellipse", "line", "bitmap", "coco-polygon", "coco-rle"]
"""Tools count coordinates in two ways. To CVAT, Label Studio and COCO 0 is the left edge of the first pixel: `area` and
`oval` are the pixels whose centre lies inside. To LabelMe and Supervisely 0 is the first pixel itself: `polygon`,
`rectangle`, `ellipse` and `line` are drawn with their outline, as these tools do."""


@dataclass(frozen=True)
class Shape:
    """One shape: what it is drawn as, where, and the class index (or VOID) that it draws."""

    kind: Kind
    label: int
    points: Any
    """Rings ((x, y), ...) of an area or polygon, the first outside and the others holes; (x, y, rx, ry, degrees) of an
    oval; corners (x0, y0, x1, y1); points of a line; (left, top, Bits) of a bitmap; flat rings or an RLE of COCO."""
    width: int = 1
    """Of a line, in pixels."""
    below: bool = False
    """Whether it lies below all shapes that are not."""


@dataclass(frozen=True)
class DrawnMask:
    """A mask that is drawn when it is asked for; a `MaskSource`."""

    path: Path
    key: str
    """The picture's name, and what the drawing depends on besides the file."""
    picture: Path
    size: tuple[int, int] | None
    """Height and width as the annotation says; the picture's own where None."""
    unlabeled: int
    shapes: tuple[Shape, ...]

    def raw(self, colors: Colors = "none") -> NDArray[Any]:
        """Return class indices and VOID, (H, W) uint8."""
        height, width = self.size or image_size(self.picture)[:2]
        check_pixels(height, width, str(self.path))
        mask = np.full((height, width), self.unlabeled, np.uint8)
        try:
            for shape in sorted(self.shapes, key=lambda shape: not shape.below):
                _draw(mask, shape)
        except DataError as error:
            raise DataError(f"{self.path}: {error} Export it again.") from None
        return mask


def _draw(mask: NDArray[np.uint8], shape: Shape) -> None:
    if shape.kind in ("coco-polygon", "coco-rle"):
        mask[_coco(shape, *mask.shape[:2])] = shape.label
    elif shape.kind in ("area", "oval", "bitmap"):
        top, left, inside = _covered(shape, mask.shape[0], mask.shape[1])
        mask[top : top + inside.shape[0], left : left + inside.shape[1]][inside] = shape.label
    else:
        _draw_outlined(mask, shape)


def _covered(shape: Shape, height: int, width: int) -> Covered:
    if shape.kind == "bitmap":
        left, top, bits = shape.points
        return bits.cover(height, width, top, left)  # type: ignore[no-any-return]
    return (rings_cover if shape.kind == "area" else oval_covers)(shape.points, height, width)


def _draw_outlined(mask: NDArray[np.uint8], shape: Shape) -> None:
    flat = [c for ring in shape.points for c in ring] if shape.kind == "polygon" else list(shape.points)
    if shape.kind in ("rectangle", "ellipse"):
        flat = [(flat[0], flat[1]), (flat[2], flat[3])]
    left, top = (max(math.floor(min(p[i] for p in flat)) - shape.width, 0) for i in (0, 1))
    right, bottom = (math.ceil(max(p[i] for p in flat)) + shape.width + 1 for i in (0, 1))
    window = mask[top : max(bottom, 0), left : max(right, 0)]
    if not window.size:
        return
    image = Image.new("1", (window.shape[1], window.shape[0]))
    pen = ImageDraw.Draw(image)

    def moved(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(x - left, y - top) for x, y in points]

    if shape.kind == "polygon":
        pen.polygon(moved(shape.points[0]), fill=1, outline=1)
        for hole in shape.points[1:]:
            pen.polygon(moved(hole), fill=0, outline=0)
    elif shape.kind == "rectangle":
        pen.rectangle(moved(flat), fill=1, outline=1)
    elif shape.kind == "ellipse":
        pen.ellipse(moved(flat), fill=1, outline=1)
    else:
        pen.line(moved(flat), fill=1, width=shape.width)
    window[np.asarray(image)] = shape.label


def _coco(shape: Shape, height: int, width: int) -> NDArray[np.bool_]:
    try:
        from pycocotools import mask as tools
    except ImportError:
        raise MissingExtraError("pycocotools", "formats", "drawing COCO annotations") from None
    if shape.kind == "coco-rle":
        code = shape.points
        if list(code["size"]) != [height, width]:
            raise DataError(f"run lengths are of {code['size'][1]}x{code['size'][0]}, the picture is {width}x{height}.")
        packed = tools.frPyObjects(code, height, width) if isinstance(code["counts"], list) else code
    else:
        packed = tools.merge(tools.frPyObjects([list(ring) for ring in shape.points], height, width))
    runs = unpack(packed["counts"].decode("ascii") if isinstance(packed["counts"], bytes) else packed["counts"])
    assert runs is not None
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(width, height).T


def unpack(text: str) -> list[int] | None:
    """Unpack a compressed run length code as pycocotools does, which does not check it."""
    runs: list[int] = []
    value, shift = 0, 0
    for char in text:
        code = ord(char) - 48
        if not 0 <= code < 64 or shift > 30:
            return None
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            if code & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value, shift = 0, 0
    return None if shift else runs


def number(value: object) -> float | None:
    """Return a finite number of pixels, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if -FARTHEST <= value <= FARTHEST else None  # false of NaN, and of integers of any length


def outline_length(ring: Sequence[float]) -> float:
    """Return how far it is around a flat ring (x, y, x, y, ...), in pixels."""
    corners = list(zip(ring[::2], ring[1::2], strict=True))
    return sum(math.dist(one, two) for one, two in zip(corners, [*corners[1:], corners[0]], strict=True))


def numbers(table: dict[str, Any], *keys: str) -> tuple[float, ...] | None:
    """Return the numbers under some keys; None where one is none."""
    found = tuple(value for key in keys if (value := number(table.get(key))) is not None)
    return found if len(found) == len(keys) else None


def points(value: object, least: int = 1) -> tuple[tuple[float, float], ...] | None:
    """Return a list [[x, y], ...] as tuples; None where it is none, or has too few."""
    if not isinstance(value, list) or len(value) < least:
        return None
    found = []
    for pair in value:
        if not isinstance(pair, list) or len(pair) < 2:
            return None
        x, y = number(pair[0]), number(pair[1])
        if x is None or y is None:
            return None
        found.append((x, y))
    return tuple(found)


def turned_box(
    box: tuple[float, float, float, float], degrees: float = 0, about: tuple[float, float] | None = None
) -> tuple[tuple[float, float], ...]:
    """Return the corners of (x0, y0, x1, y1) turned clockwise, about its centre where no point is given."""
    x0, y0, x1, y1 = box
    x, y = about or ((x0 + x1) / 2, (y0 + y1) / 2)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
    if not degrees:
        return corners
    return tuple((x + (u - x) * cos - (v - y) * sin, y + (u - x) * sin + (v - y) * cos) for u, v in corners)
