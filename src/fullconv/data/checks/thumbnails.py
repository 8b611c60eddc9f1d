"""An image and its mask as thumbnails, and how much of the image's colours the mask's labels explain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from fullconv.data.samples import Sample
from fullconv.images import apply_orientation

_BLOCK = 16  # masks that are compared with all images at once
_MIN_SECOND_SHARE = 0.02  # of the cells that the second largest label must have, so that there is something to compare
_MIN_CONTRAST = 2  # grey levels


@dataclass(frozen=True, eq=False)
class Thumbnails:
    """An image and its mask in 32x32 cells."""

    sample: Sample
    image: NDArray[np.float32]
    """(SIDE, SIDE, 3), each channel with mean 0, all together with variance 1."""
    mask: NDArray[np.uint8]
    """(SIDE, SIDE) labels."""
    classes: NDArray[np.uint8] | None = None
    """(256,) class of each label of `mask`; None where it is unclear."""

    @cached_property
    def score_by_orientation(self) -> dict[int, float]:
        """Share of the image's variance that the mask explains, by the EXIF orientation 1 to 8 given to the image."""
        cells = _oriented_cells(len(self.mask))
        turned = self.image.reshape(-1, 3).take(cells, axis=0).reshape(len(cells), -1)  # a quarter of [cells]'s time
        return dict(zip(range(1, 9), explained_variance([self.mask], turned)[0].tolist(), strict=True))


def make_thumbnails(sample: Sample, image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> Thumbnails | None:
    """Prepare (SIDE, SIDE, 3) colours and (SIDE, SIDE) labels to be compared; None where one of them is too plain."""
    counts = np.sort(np.bincount(mask.ravel()))[::-1]
    if len(counts) < 2 or counts[1] < _MIN_SECOND_SHARE * mask.size:
        return None
    colors = image.astype(np.float32)
    cells = colors.reshape(-1, 3)
    cells -= np.full(len(cells), 1 / len(cells), np.float32) @ cells  # a tenth of the time of mean
    spread = float(np.sqrt(np.vdot(colors, colors) / mask.size))
    return None if spread < _MIN_CONTRAST else Thumbnails(sample, colors / spread, mask)


def explained_variance(masks: Sequence[NDArray[np.uint8]], images: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return which share of each image's variance the labels of each mask explain.

    Args:
        masks: M of (SIDE, SIDE) labels.
        images: (SIDE * SIDE, 3 N), a row per cell, three columns per image of variance 1.

    Returns:
        (M, N) from 0 to 1.
    """
    return np.concatenate([_explained(masks[i : i + _BLOCK], images) for i in range(0, len(masks), _BLOCK)])


def _explained(masks: Sequence[NDArray[np.uint8]], images: NDArray[np.float32]) -> NDArray[np.float64]:
    counts = [np.bincount(mask.ravel()) for mask in masks]
    labels = [np.flatnonzero(count) for count in counts]
    regions = np.concatenate([mask.ravel() == present[:, None] for mask, present in zip(masks, labels, strict=True)])
    sizes = np.concatenate([count[present] for count, present in zip(counts, labels, strict=True)])
    sums = (regions.astype(np.float32) @ images).reshape(len(sizes), -1, 3).astype(np.float64)
    between = np.einsum("lnk,lnk->ln", sums, sums) / sizes[:, None]
    first = np.cumsum([0, *map(len, labels)])[:-1]
    return np.asarray(np.add.reduceat(between, first, axis=0) / masks[0].size)


@cache
def _oriented_cells(side: int) -> NDArray[np.intp]:
    """Return (side * side, 8): which cell of an image lies at each place after EXIF orientation 1 to 8."""
    cells = np.arange(side * side).reshape(side, side, 1)
    return np.stack([apply_orientation(cells, orientation).ravel() for orientation in range(1, 9)], axis=1)
