"""Shapes, the pixels that they cover, and masks drawn from them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools import mask as coco_masks

from fullconv.data.samples import Colors, HiddenPixels
from fullconv.errors import DataError
from fullconv.images import check_pixels, image_size
from fullconv.labels import VOID

Point = tuple[float, float]
Window = tuple[int, int, NDArray[np.bool_]]
"""Top, left, and the covered pixels of a window of the image."""

ShapeType = Literal[
    "polygon",
    "ellipse",
    "pil-polygon",
    "pil-rectangle",
    "pil-ellipse",
    "pil-line",
    "bitmap",
    "coco-polygon",
    "coco-rle",
]
"""Tools count coordinates in two ways. In CVAT, Label Studio and COCO 0 is the left edge of the first pixel: `polygon` and
`ellipse` cover the pixels whose center lies inside. In LabelMe and Supervisely 0 is the first pixel itself: `pil-...` are
drawn with their outline, as these tools do."""

_CROSSINGS = 1 << 20
"""Crossings of edges and rows that are computed at a time."""
_STRIP_PIXELS = 1 << 20
"""Pixels of an ellipse that are computed at a time."""


@dataclass(frozen=True)
class Shape:
    """A shape and the class index (or VOID) that it draws."""

    type: ShapeType
    points: Any
    """Rings ((x, y), ...) of a polygon, the first outside and the others holes; (x, y, rx, ry, degrees) of an ellipse;
    corners (x0, y0, x1, y1) of a pil-rectangle or pil-ellipse; points of a pil-line; (left, top, PackedMask) of a bitmap;
    flat rings or an RLE of COCO."""
    width: int = 1
    """Width of a line in pixels."""
    label: int = VOID
    below: bool = False
    """Whether it lies below all shapes that are not."""

    def corners(self) -> NDArray[np.float64]:
        """Return the points (N, 2) of all outlines; not of ellipses, bitmaps and run lengths."""
        rings = self.points if self.type in ("polygon", "pil-polygon", "coco-polygon") else [self.points]
        return np.concatenate([np.empty((0, 2)), *(np.reshape(ring, (-1, 2)) for ring in rings)])


@dataclass(frozen=True)
class DrawnMask:
    """A mask that is drawn when it is read; a `MaskSource`."""

    path: Path
    key: str
    """The image's name, and what the drawing depends on besides the file."""
    image: Path
    size: tuple[int, int] | None
    """Height and width as the annotation states them; the image's own if None."""
    unlabeled: int
    shapes: tuple[Shape, ...] = field(repr=False)
    order: Literal["file", "smallest on top"] | tuple[int, ...] = "file"
    """Which shape lies on top: the last, the smallest, or by class index from bottom to top (others lie below)."""

    def raw(self, colors: Colors = "none") -> NDArray[Any]:
        """Return class indices and VOID, (H, W) uint8."""
        return self._draw(None)

    def with_hidden(self) -> tuple[NDArray[np.uint8], HiddenPixels]:
        """Return `raw`, and how much of each class larger shapes drawn later hide."""
        hidden = HiddenPixels()
        return self._draw(hidden), hidden

    def _draw(self, hidden: HiddenPixels | None) -> NDArray[np.uint8]:
        height, width = self.size or image_size(self.image)[:2]
        check_pixels(height, width, str(self.path))
        mask = np.full((height, width), self.unlabeled, np.uint8)
        areas = np.zeros((height, width), np.int32) if hidden is not None else None  # of the shape on top
        try:
            for shape in self._sorted(height, width):
                top, left, inside = cover(shape, height, width)
                window = np.s_[top : top + inside.shape[0], left : left + inside.shape[1]]
                if hidden is not None and areas is not None:
                    hidden.add(shape.label, mask[window][inside], areas[window][inside])
                    areas[window][inside] = np.count_nonzero(inside)
                mask[window][inside] = shape.label
        except DataError as error:
            raise DataError(f"{self.path}: {error} Export it again.") from None
        return mask

    def _sorted(self, height: int, width: int) -> list[Shape]:
        """Return the shapes from bottom to top."""
        shapes = list(self.shapes)
        if self.order == "smallest on top":
            shapes.sort(key=lambda shape: -np.count_nonzero(cover(shape, height, width)[2]))
        elif self.order != "file":
            place = {label: index for index, label in enumerate(self.order)}
            shapes.sort(key=lambda shape: place.get(shape.label, -1))
        return sorted(shapes, key=lambda shape: not shape.below)


def cover(shape: Shape, height: int, width: int) -> Window:
    """Return the pixels of an image that a shape covers."""
    if shape.type == "polygon":
        return rasterize_polygon(shape.points, height, width)
    if shape.type == "ellipse":
        return rasterize_ellipse(shape.points, height, width)
    if shape.type == "bitmap":
        left, top, packed = shape.points
        return packed.cover(height, width, top, left)  # type: ignore[no-any-return]
    if shape.type in ("coco-polygon", "coco-rle"):
        return 0, 0, _decode_coco(shape, height, width)
    return _draw_with_outline(shape, height, width)


def _draw_with_outline(shape: Shape, height: int, width: int) -> Window:
    rings: Sequence[Sequence[Point]] = shape.points if shape.type == "pil-polygon" else [shape.points]
    if shape.type in ("pil-rectangle", "pil-ellipse"):
        rings = [[shape.points[:2], shape.points[2:]]]
    corners = shape.corners()
    left, top = (max(math.floor(low) - shape.width, 0) for low in corners.min(axis=0))
    right, bottom = (max(math.ceil(high) + shape.width + 1, 0) for high in corners.max(axis=0))
    size = max(min(right, width) - left, 0), max(min(bottom, height) - top, 0)
    if not all(size):
        return 0, 0, np.zeros((0, 0), np.bool_)
    image = Image.new("1", size)
    pen = ImageDraw.Draw(image)
    first, *holes = [[(x - left, y - top) for x, y in ring] for ring in rings]
    if shape.type == "pil-polygon":
        pen.polygon(first, fill=1, outline=1)
        for hole in holes:
            pen.polygon(hole, fill=0, outline=0)
    elif shape.type == "pil-line":
        pen.line(first, fill=1, width=shape.width)
    else:
        (pen.rectangle if shape.type == "pil-rectangle" else pen.ellipse)(first, fill=1, outline=1)
    return top, left, np.asarray(image)


def _decode_coco(shape: Shape, height: int, width: int) -> NDArray[np.bool_]:
    if shape.type == "coco-polygon":
        rings = [list(ring) for ring in shape.points]
        counts = coco_masks.merge(coco_masks.frPyObjects(rings, height, width))["counts"].decode("ascii")
    else:
        counts, stated = shape.points["counts"], shape.points["size"]
        if stated != [height, width]:
            raise DataError(f"the RLE is of size {stated[1]}x{stated[0]}, the image is {width}x{height}.")
    # not coco_masks.decode: its array protocol is deprecated since NumPy 2
    runs = unpack_rle(counts) if isinstance(counts, str) else counts
    assert runs is not None
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def unpack_rle(text: str) -> list[int] | None:
    """Return the runs of a compressed RLE; None if it is invalid, which pycocotools does not check."""
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


@dataclass(frozen=True)
class PackedMask:
    """A bitmap, cropped to the pixels that are set and compressed: a data set may have very many large ones."""

    top: int
    left: int
    height: int
    width: int
    data: bytes

    @classmethod
    def pack(cls, bits: NDArray[np.bool_]) -> PackedMask:
        """Pack (h, w) bool."""
        rows, columns = np.flatnonzero(bits.any(1)), np.flatnonzero(bits.any(0))
        if not len(rows):
            return cls(0, 0, 0, 0, b"")
        top, left = int(rows[0]), int(columns[0])
        crop = bits[top : rows[-1] + 1, left : columns[-1] + 1]
        return cls(top, left, crop.shape[0], crop.shape[1], zlib.compress(np.packbits(crop).tobytes(), 1))

    def cover(self, height: int, width: int, top: int, left: int) -> Window:
        """Return the pixels of an image that it covers with its upper left corner at (top, left)."""
        top, left = top + self.top, left + self.left
        y, x, bottom, right = _clip_box(left, top, left + self.width, top + self.height, height, width)
        if bottom <= y or right <= x:
            return y, x, np.zeros((0, 0), np.bool_)
        packed = np.frombuffer(zlib.decompress(self.data), np.uint8)
        bits = np.unpackbits(packed, count=self.height * self.width).reshape(self.height, self.width)
        return y, x, bits[y - top : bottom - top, x - left : right - left].astype(np.bool_)


def rasterize_polygon(rings: Sequence[Sequence[Point]], height: int, width: int) -> Window:
    """Return the pixels whose center (x + 0.5, y + 0.5) lies in rings, by the even-odd rule: a ring in another is a hole."""
    corners = np.array([point for ring in rings for point in ring], dtype=np.float64)
    (x0, y0), (x1, y1) = corners.min(0), corners.max(0)
    top, left, bottom, right = _clip_box(x0, y0, x1, y1, height, width)
    crossed = np.zeros((bottom - top, right - left + 1), np.uint8)
    if crossed.shape[0]:
        edges = np.concatenate([np.hstack([ring, np.roll(ring, -1, axis=0)]) for ring in map(np.asarray, rings)])
        for row, x in _crossings(edges, top, bottom):
            column = np.clip(np.ceil(x - 0.5) - left, 0, right - left).astype(np.intp)
            np.add.at(crossed, (row - top, column), 1)  # a byte may wrap: only odd or even counts
    inside = np.cumsum(crossed, axis=1, dtype=np.uint8)[:, :-1] & 1
    return top, left, inside.astype(np.bool_)


def _crossings(
    edges: NDArray[np.float64], top: int, bottom: int
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float64]]]:
    """Yield rows and the x at which edges (n, 4) cross the middle of these rows, in parts."""
    x0, y0, x1, y1 = edges.T
    first = np.clip(np.ceil(np.minimum(y0, y1) - 0.5), top, bottom).astype(np.intp)
    last = np.clip(np.ceil(np.maximum(y0, y1) - 0.5), top, bottom).astype(np.intp)
    total = np.cumsum(last - first)
    start = 0
    while start < len(edges):
        done = total[start - 1] if start else 0
        end = max(int(np.searchsorted(total, done + _CROSSINGS)), start + 1)
        count = (last - first)[start:end]
        edge = np.repeat(np.arange(start, end), count)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
        yield row, x0[edge] + (row + 0.5 - y0[edge]) * ((x1 - x0)[edge] / (y1 - y0)[edge])
        start = end


def rasterize_ellipse(ellipse: tuple[float, float, float, float, float], height: int, width: int) -> Window:
    """Return the pixels whose center lies in an ellipse (x, y, rx, ry, degrees clockwise)."""
    x, y, rx, ry, degrees = ellipse
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    dx, dy = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
    top, left, bottom, right = _clip_box(x - dx, y - dy, x + dx, y + dy, height, width)
    inside = np.zeros((bottom - top, right - left), np.bool_)
    if not inside.size or not rx or not ry:
        return top, left, inside
    u = np.arange(left, right)[None] + 0.5 - x
    rows = max(_STRIP_PIXELS // inside.shape[1], 1)
    for start in range(top, bottom, rows):
        v = np.arange(start, min(start + rows, bottom))[:, None] + 0.5 - y
        along, across = (u * cos + v * sin) / rx, (v * cos - u * sin) / ry
        inside[start - top : start - top + rows] = along**2 + across**2 <= 1
    return top, left, inside


def _clip_box(x0: float, y0: float, x1: float, y1: float, height: int, width: int) -> tuple[int, int, int, int]:
    """Return top, left, bottom and right of the pixels of an image that a box touches."""
    top, left = min(max(math.floor(y0), 0), height), min(max(math.floor(x0), 0), width)
    return top, left, min(max(math.ceil(y1), top), height), min(max(math.ceil(x1), left), width)


def rotated_box(
    box: tuple[float, float, float, float], degrees: float = 0, about: Point | None = None
) -> tuple[Point, ...]:
    """Return the corners of (x0, y0, x1, y1) rotated clockwise about a point (its center by default)."""
    x0, y0, x1, y1 = box
    x, y = about or ((x0 + x1) / 2, (y0 + y1) / 2)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
    if not degrees:
        return corners
    return tuple((x + (u - x) * cos - (v - y) * sin, y + (u - x) * sin + (v - y) * cos) for u, v in corners)
