"""Regions of a label map as polygons, in drawing order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fullconv.labels import VOID
from fullconv.rasters import import_rasterio


@dataclass(frozen=True)
class Outline:
    """The outer line of a region (pixels of one class that share edges)."""

    index: int
    """Class."""
    points: NDArray[np.float64]
    """(n, 2), x and y in pixels from the image's upper left corner, n >= 3; not closed."""
    area: float
    """In pixels, including its holes."""


def outlines(label_map: NDArray[np.uint8], tolerance: float = 1.0, background: int | None = 0) -> list[Outline]:
    """Trace all regions of a label map.

    Drawn in the returned order, each over those before it, they restore the label map: outer lines only, the largest first,
    so that a region in a hole comes after the one around it. No representation of holes is common to all annotation tools.

    Args:
        label_map: Class indices, (H, W) uint8; void is omitted, and so unlabeled.
        tolerance: Largest distance in pixels by which a line may be moved; 0 keeps every corner of every pixel.
        background: Class of unlabeled pixels; its regions are returned only in holes of others. None for none.

    Raises:
        MissingExtraError: rasterio is not installed.
    """
    import_rasterio()
    from rasterio.features import shapes

    found = []
    for geometry, value in shapes(label_map, connectivity=4):
        index = int(value)
        if index == VOID:
            continue
        ring = np.asarray(geometry["coordinates"][0], np.float64)[:-1]
        if index == background and _touches_border(ring, label_map.shape):
            continue
        found.append(Outline(index, simplify(ring, tolerance), _area(ring)))
    return sorted(found, key=lambda outline: -outline.area)


def _touches_border(ring: NDArray[np.float64], shape: tuple[int, ...]) -> bool:
    """Whether a ring reaches the edge of an image (H, W)."""
    x, y = ring.T
    return bool(x.min() == 0 or y.min() == 0 or x.max() == shape[1] or y.max() == shape[0])


def _area(ring: NDArray[np.float64]) -> float:
    x, y = ring.T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def simplify(ring: NDArray[np.float64], tolerance: float) -> NDArray[np.float64]:
    """Remove points of a closed line that stays within a distance of all of them.

    Args:
        ring: (n, 2), not closed.
        tolerance: Distance in the ring's units; 0 removes only points on a straight line.

    Returns:
        (m, 2), at least a triangle; the ring itself if less would be left.

    Source: Douglas and Peucker 1973.
    """
    if len(ring) <= 4:
        return ring
    start = int(np.lexsort((ring[:, 1], ring[:, 0]))[0])  # a corner, independent of where the tracing began
    ring = np.roll(ring, -start, axis=0)
    middle = int(((ring - ring[0]) ** 2).sum(1).argmax())
    closed = np.vstack([ring, ring[:1]])
    keep = np.zeros(len(closed), bool)
    keep[[0, middle, len(closed) - 1]] = True
    pending = [(0, middle), (middle, len(closed) - 1)]
    while pending:
        a, b = pending.pop()
        if b - a < 2:
            continue
        distance = _distances(closed[a + 1 : b], closed[a], closed[b])
        far = int(distance.argmax())
        if distance[far] > tolerance:
            keep[a + 1 + far] = True
            pending += [(a, a + 1 + far), (a + 1 + far, b)]
    kept = closed[:-1][keep[:-1]]
    return kept if len(kept) >= 3 and _area(kept) > 0 else ring


def _distances(points: NDArray[np.float64], a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distances of points (n, 2) from the line segment between a and b."""
    along = b - a
    length = float(along @ along)
    t = np.clip((points - a) @ along / length, 0, 1) if length else np.zeros(len(points))
    distance: NDArray[np.float64] = np.linalg.norm(points - (a + t[:, None] * along), axis=1)
    return distance
