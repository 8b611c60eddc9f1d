"""What to label next: unlabelled pictures in the order in which labels would teach most.

Two things make a picture worth its label: the model is unsure of it, and it is unlike those that come before it. The
first alone picks the same hard scene twenty times, the second alone picks the odd and the easy.

- Uncertainty: entropy of the class probabilities, as a share of its largest value (the logarithm of the number of
  classes), averaged over all pixels. 0 is certain, 1 is a guess.
- Novelty: distance to the nearest picture that comes before it or is labelled already. Pictures are compared by how much of
  each class the model sees in each cell of a grid laid over them.

The next picture is the one of the largest product. Sources: entropy sampling, Settles 2009; farthest-first
traversal, Gonzalez 1985, as in core-set selection by Sener and Savarese, ICLR 2018.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fullconv.data import Dataset
from fullconv.errors import FullconvError, InputError
from fullconv.prediction import Prediction
from fullconv.segmenter import Segmenter

GRID = 4
"""Cells a side of the grid on which pictures are compared."""


@dataclass(frozen=True)
class ImageSummary:
    """What the model makes of a picture, in a few numbers."""

    image: str
    uncertainty: float
    """0 to 1."""
    seen: NDArray[np.float32]
    """(K * GRID * GRID,), mean probability of each class in each cell."""


@dataclass(frozen=True)
class Ranked:
    """A picture's place."""

    rank: int
    """From 1."""
    image: str
    uncertainty: float
    novelty: float | None
    """Distance to the nearest picture before it, 0 to 1; None where there is none, or for pictures below the top."""


def summarize(prediction: Prediction, image: str) -> ImageSummary:
    """Sum up a prediction, strip by strip."""
    height, width = prediction.label_map.shape
    classes = len(prediction.classes)
    sums = torch.zeros(classes, GRID, GRID, dtype=torch.float64)
    columns = _cells(width)
    entropy = 0.0
    for a, b, logits in prediction.logit_strips():
        log_p = logits.cpu().log_softmax(0)
        p = log_p.exp()
        entropy -= float((p * log_p).double().sum())
        by_column = (p.double() @ columns).permute(1, 2, 0)  # (rows, GRID, K)
        rows = _cells(height)[a:b]
        sums += torch.einsum("rg,rck->kgc", rows, by_column)
    area = _cells(height).sum(0)[:, None] * columns.sum(0)[None]
    seen = (sums / area.clamp(min=1)).flatten().float().numpy()
    return ImageSummary(image, entropy / (height * width * math.log(max(2, classes))), seen)


def _cells(length: int) -> Tensor:
    """Return which of `GRID` cells each pixel of an axis lies in, (length, GRID) float64 of 0 and 1."""
    index = torch.arange(length) * GRID // max(1, length)
    return torch.nn.functional.one_hot(index, GRID).double()


def summarize_images(
    segmenter: Segmenter,
    paths: Iterable[str],
    on_failure: Callable[[str, str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[ImageSummary]:
    """Look at pictures; those that cannot be read are reported and left out."""
    paths = list(paths)
    glances = []
    for done, path in enumerate(paths, 1):
        try:
            glances.append(summarize(segmenter.predict(path), path))
        except (FullconvError, OSError) as error:
            if on_failure is not None:
                on_failure(path, str(error))
        if progress is not None:
            progress(done, len(paths))
    return glances


def summarize_labeled(segmenter: Segmenter, dataset: Dataset) -> list[ImageSummary]:
    """Look at the pictures of the training split of a data set."""
    return [
        summarize(segmenter.predict(dataset.read_image(sample)), sample.stem)
        for sample in dataset.splits.get("train", [])
    ]


def rank(glances: Sequence[ImageSummary], top: int = 100, labelled: Sequence[ImageSummary] = ()) -> list[Ranked]:
    """Order pictures by what their labels would teach.

    Args:
        glances: Of the unlabelled pictures.
        top: So many are chosen one after the other, each unlike those before; the rest follows by uncertainty alone.
        labelled: Pictures that have labels already; what they show is not new.

    Returns:
        All pictures, first the ones to label first. Ties are broken by name, so the order is always the same.

    Raises:
        InputError: There is no picture.
    """
    if not glances:
        raise InputError("there is no picture to rank.")
    glances = sorted(glances, key=lambda g: g.image)
    uncertainty = np.array([g.uncertainty for g in glances])
    seen = np.stack([g.seen for g in glances])
    scale = math.sqrt(2) * GRID  # between two pictures that are all one class each, of different classes
    nearest = np.full(len(glances), np.inf)
    for other in labelled:
        nearest = np.minimum(nearest, _distance(seen, other.seen) / scale)
    left = np.ones(len(glances), bool)
    order: list[Ranked] = []
    for _ in range(min(top, len(glances))):
        gain = uncertainty if np.isinf(nearest).all() else uncertainty * nearest
        best = int(np.argmax(np.where(left, gain, -np.inf)))
        novelty = None if np.isinf(nearest[best]) else float(nearest[best])
        order.append(Ranked(len(order) + 1, glances[best].image, float(uncertainty[best]), novelty))
        left[best] = False
        nearest = np.minimum(nearest, _distance(seen, seen[best]) / scale)
    for index in sorted(np.flatnonzero(left), key=lambda i: (-uncertainty[i], glances[i].image)):
        order.append(Ranked(len(order) + 1, glances[index].image, float(uncertainty[index]), None))
    return order


def _distance(all_seen: NDArray[np.float32], one: NDArray[np.float32]) -> NDArray[np.float64]:
    distance: NDArray[np.float64] = np.linalg.norm((all_seen - one).astype(np.float64), axis=1)
    return distance


def to_csv(order: Sequence[Ranked]) -> str:
    """Write a ranking as CSV with a header: rank, image, uncertainty, novelty."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["rank", "image", "uncertainty", "novelty"])
    for row in order:
        writer.writerow([row.rank, row.image, f"{row.uncertainty:.6f}", _number(row.novelty)])
    return buffer.getvalue()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def to_dict(order: Sequence[Ranked]) -> list[dict[str, Any]]:
    """Return a ranking for JSON."""
    return [
        {"rank": row.rank, "image": row.image, "uncertainty": row.uncertainty, "novelty": row.novelty} for row in order
    ]
