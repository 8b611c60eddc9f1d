"""Which pixels a shape covers: those whose centre lies inside. Pixel (0, 0) has its centre at (0.5, 0.5)."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Covered = tuple[int, int, NDArray[np.bool_]]
"""Top, left, and the pixels of a window of the picture."""

_CROSSINGS = 1 << 20
"""Crossings of edges and rows that are computed at a time."""
_STRIP = 1 << 20
"""Pixels of an oval that are computed at a time."""


@dataclass(frozen=True)
class Bits:
    """A bitmap as an annotation holds it, cut to what is set and packed: a data set may have very many large ones."""

    top: int
    left: int
    height: int
    width: int
    data: bytes

    @classmethod
    def of(cls, bits: NDArray[np.bool_]) -> Bits:
        """Pack (h, w) bool."""
        rows, columns = np.flatnonzero(bits.any(1)), np.flatnonzero(bits.any(0))
        if not len(rows):
            return cls(0, 0, 0, 0, b"")
        top, left = int(rows[0]), int(columns[0])
        cut = bits[top : rows[-1] + 1, left : columns[-1] + 1]
        return cls(top, left, cut.shape[0], cut.shape[1], zlib.compress(np.packbits(cut).tobytes(), 1))

    def cover(self, height: int, width: int, top: int, left: int) -> Covered:
        """Return what it covers of a picture where its upper left corner lies at (top, left)."""
        top, left = top + self.top, left + self.left
        y, x, bottom, right = _window(left, top, left + self.width, top + self.height, height, width)
        if bottom <= y or right <= x:
            return y, x, np.zeros((0, 0), np.bool_)
        packed = np.frombuffer(zlib.decompress(self.data), np.uint8)
        bits = np.unpackbits(packed, count=self.height * self.width).reshape(self.height, self.width)
        return y, x, bits[y - top : bottom - top, x - left : right - left].astype(np.bool_)


def rings_cover(rings: Sequence[Sequence[tuple[float, float]]], height: int, width: int) -> Covered:
    """Return what rings cover by the even-odd rule, so that a ring within another one is a hole.

    Args:
        rings: Closed lines of (x, y) in pixels, anywhere.
        height: Of the picture.
        width: Of the picture.
    """
    every = np.array([point for ring in rings for point in ring], dtype=np.float64)
    (x0, y0), (x1, y1) = every.min(0), every.max(0)
    top, left, bottom, right = _window(x0, y0, x1, y1, height, width)
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


def oval_covers(oval: tuple[float, float, float, float, float], height: int, width: int) -> Covered:
    """Return what an oval (x, y, rx, ry, degrees clockwise) covers."""
    x, y, rx, ry, degrees = oval
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    dx, dy = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
    top, left, bottom, right = _window(x - dx, y - dy, x + dx, y + dy, height, width)
    inside = np.zeros((bottom - top, right - left), np.bool_)
    if not inside.size or not rx or not ry:
        return top, left, inside
    u = np.arange(left, right)[None] + 0.5 - x
    rows = max(_STRIP // inside.shape[1], 1)
    for start in range(top, bottom, rows):
        v = np.arange(start, min(start + rows, bottom))[:, None] + 0.5 - y
        inside[start - top : start - top + rows] = ((u * cos + v * sin) / rx) ** 2 + (
            (v * cos - u * sin) / ry
        ) ** 2 <= 1
    return top, left, inside


def _window(x0: float, y0: float, x1: float, y1: float, height: int, width: int) -> tuple[int, int, int, int]:
    top, left = min(max(math.floor(y0), 0), height), min(max(math.floor(x0), 0), width)
    return top, left, min(max(math.ceil(y1), top), height), min(max(math.ceil(x1), left), width)
