"""Patches of a label map as polygons, to be painted one after the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fullconv.labels import VOID
from fullconv.rasters.reader import import_rasterio


@dataclass(frozen=True)
class Outline:
    """The outer line of a patch (pixels of one class that share edges)."""

    index: int
    """Class."""
    points: NDArray[np.float64]
    """(n, 2), x and y in pixels from the picture's left upper corner, n >= 3; not closed."""
    area: float
    """In pixels, what lies in its holes included."""


def outlines(label_map: NDArray[np.uint8], tolerance: float = 1.0, background: int | None = 0) -> list[Outline]:
    """Trace all patches of a label map (H, W) uint8.

    Painted in the given order, each over those before it, they give the label map back: outer lines only, the largest
    first, so that what lies in a hole comes after what is around it. Annotation tools have no holes that all of them
    understand.

    Args:
        label_map: Class indices; void is left out, and so unlabelled.
        tolerance: Largest distance in pixels that a line may be moved; 0 keeps every corner of every pixel.
        background: Class that is what nobody painted; its patches are written only in holes of others. None for none.

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
    """Say whether a ring reaches the edge of a picture (H, W)."""
    x, y = ring.T
    return bool(x.min() == 0 or y.min() == 0 or x.max() == shape[1] or y.max() == shape[0])


def _area(ring: NDArray[np.float64]) -> float:
    x, y = ring.T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def simplify(ring: NDArray[np.float64], tolerance: float) -> NDArray[np.float64]:
    """Leave out points of a closed line while it stays within a distance of all of them.

    Args:
        ring: (n, 2), not closed.
        tolerance: In the ring's units; 0 leaves out only points on a straight line.

    Returns:
        (m, 2), at least a triangle; the ring itself where less would be left.

    Source: Douglas and Peucker 1973.
    """
    if len(ring) <= 4:
        return ring
    start = int(np.lexsort((ring[:, 1], ring[:, 0]))[0])  # a corner, whatever point the tracing began with
    ring = np.roll(ring, -start, axis=0)
    middle = int(((ring - ring[0]) ** 2).sum(1).argmax())
    closed = np.vstack([ring, ring[:1]])
    keep = np.zeros(len(closed), bool)
    keep[[0, middle, len(closed) - 1]] = True
    waiting = [(0, middle), (middle, len(closed) - 1)]
    while waiting:
        a, b = waiting.pop()
        if b - a < 2:
            continue
        distance = _distances(closed[a + 1 : b], closed[a], closed[b])
        far = int(distance.argmax())
        if distance[far] > tolerance:
            keep[a + 1 + far] = True
            waiting += [(a, a + 1 + far), (a + 1 + far, b)]
    kept = closed[:-1][keep[:-1]]
    return kept if len(kept) >= 3 and _area(kept) > 0 else ring


def _distances(points: NDArray[np.float64], a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of points (n, 2) from the stretch between a and b."""
    along = b - a
    length = float(along @ along)
    share = np.clip((points - a) @ along / length, 0, 1) if length else np.zeros(len(points))
    distance: NDArray[np.float64] = np.linalg.norm(points - (a + share[:, None] * along), axis=1)
    return distance
