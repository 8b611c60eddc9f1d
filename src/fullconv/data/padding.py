"""Pictures of several sizes in one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.data.augmentation import as_dtype
from fullconv.labels import VOID


def pad_together(
    images: Sequence[NDArray[Any]], masks: Sequence[Mapping[str, NDArray[np.uint8]]], fill: Sequence[float]
) -> tuple[list[NDArray[Any]], list[dict[str, NDArray[np.uint8]]]]:
    """Pad pictures with their masks, right and bottom, to the largest height and width among them.

    Args:
        images: Each (H, W, C), of one type.
        masks: Of each picture, (H, W) uint8 by head.
        fill: (C,) the mean colour, which normalised pictures have as 0.

    Returns:
        Pictures of one size, the mean colour where there was nothing; masks, void there. So nothing that was added
        counts in a loss. What the network says near it is not what it says of the picture alone.
    """
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    padded: list[NDArray[Any]] = []
    labels: list[dict[str, NDArray[np.uint8]]] = []
    for image, by_head in zip(images, masks, strict=True):
        h, w = image.shape[:2]
        whole = np.empty((height, width, image.shape[2]), image.dtype)
        whole[:] = as_dtype(np.asarray(fill, np.float64), image.dtype)
        whole[:h, :w] = image
        padded.append(whole)
        labels.append({head: np.full((height, width), VOID, np.uint8) for head in by_head})
        for head, mask in by_head.items():
            labels[-1][head][:h, :w] = mask
    return padded, labels
