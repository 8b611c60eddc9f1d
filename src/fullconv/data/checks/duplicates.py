"""Checks for images that occur in two splits: the same, nearly the same, or neighbouring frames of one video."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fullconv.data.checks.aggregates import DUPLICATE_SIDE, Aggregates
from fullconv.data.problems import Finding
from fullconv.data.samples import Sample
from fullconv.images import apply_orientation

_SAME = 0.985  # correlation of what differs from the mean image, from which on two images are one
_SIMILAR = 0.9
_MIN_FOR_MEAN = 20  # images; the mean of fewer is no background that they share
_MIN_CONTRAST = 1.5  # grey levels; images that differ less from the mean one cannot be distinguished
_MAX_ORIENTED = 30_000_000  # comparisons up to which flipped and turned copies are searched, too
_MAX_COMPARISONS = 3_000_000_000  # of larger sets every n-th image is compared
_BLOCK, _TRAIN_BLOCK = 256, 8192


@dataclass
class _Matches:
    """Images of val or test with their counterpart in train."""

    same: list[tuple[Sample, Sample]] = field(default_factory=list)
    near: list[tuple[Sample, Sample]] = field(default_factory=list)
    similar: list[tuple[Sample, Sample]] = field(default_factory=list)
    compared: int = 0
    omitted: list[str] = field(default_factory=list)
    """What was not compared, in prose."""


def duplicates(scan: Aggregates) -> Iterator[Finding]:
    """Find images of val or test that resemble one of train."""
    found = _Matches()
    for split in scan.images:
        if split != "train" and "train" in scan.images:
            _compare(scan, split, found)
    listed_twice = [scan.display(second.image) for first, second in found.same if first.image == second.image]
    if listed_twice and all(known.code != "duplicate-across-splits" for known in scan.dataset.problems):
        cause = "files are in two splits, by their lists or annotations, so scores would be too high"
        fix = "Remove each from one of the two."
        yield Finding("duplicate-across-splits", listed_twice, cause=cause, fix=fix)
    enough = len(found.similar) >= max(3, 0.1 * found.compared)
    copies = [pair for pair in found.same if pair[0].image != pair[1].image]
    neighbours = found.similar if enough else []
    codes = ("duplicate-across-splits", "near-duplicate", "video-neighbours")
    for code, pairs in zip(codes, (copies, found.near, neighbours), strict=True):
        if pairs:
            files = [scan.display(second.image) for _, second in pairs]
            yield Finding(code, files, f"{files[0]} and {scan.display(pairs[0][0].image)}")
    for omitted in found.omitted:
        yield Finding("compared-in-part", detail=omitted)


def _compare(scan: Aggregates, split: str, found: _Matches) -> None:
    mean = _mean(scan)
    samples, cells = scan.images[split], _cells(scan, split)
    train = _vectors(_cells(scan, "train"), mean)
    work = len(train) * len(cells)
    step = max(1, -(-work // _MAX_COMPARISONS))
    orientations = range(1, 9) if work <= _MAX_ORIENTED else range(1, 2)
    if len(orientations) == 1:
        part = f"only one in {step} images of {split} was compared with train for near copies, and " if step > 1 else ""
        found.omitted.append(f"{part}flipped and turned copies were not searched in {split}")
    known = {content: i for i, content in enumerate(scan.duplicate_keys["train"])}
    contents = scan.duplicate_keys[split]
    for sample, content in zip(samples, contents, strict=True):
        if (same := known.get(content)) is not None:
            found.same.append((scan.images["train"][same], sample))
    for start in range(0, len(cells), _BLOCK * step):
        chosen = np.arange(start, min(start + _BLOCK * step, len(cells)), step)
        best, which = _best_match(train, cells[chosen], mean, orientations)
        found.compared += len(chosen)
        for row, i in enumerate(chosen):
            if contents[i] not in known and best[row] >= _SIMILAR:
                matches = found.near if best[row] >= _SAME else found.similar
                matches.append((scan.images["train"][which[row]], samples[i]))


def _cells(scan: Aggregates, split: str) -> NDArray[np.float32]:
    cells = np.frombuffer(b"".join(scan.duplicate_cells[split]), np.uint8)
    return cells.reshape(-1, DUPLICATE_SIDE, DUPLICATE_SIDE).astype(np.float32)


def _mean(scan: Aggregates) -> NDArray[np.float32]:
    """Return the mean image, which characterizes none; 0 where there are too few for one."""
    total = sum(map(len, scan.duplicate_cells.values()))
    if total < _MIN_FOR_MEAN:
        return np.zeros((DUPLICATE_SIDE, DUPLICATE_SIDE), np.float32)
    sums = sum(_cells(scan, split).sum(axis=0, dtype=np.float64) for split in list(scan.duplicate_cells))
    return np.asarray(sums / total, dtype=np.float32)


def _vectors(cells: NDArray[np.float32], mean: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (N, 256) of length 1 and mean 0; 0 for plain images, which resemble nothing."""
    flat = (cells - mean).reshape(len(cells), -1)
    flat -= flat.mean(axis=1, keepdims=True)
    length = np.where(flat.std(axis=1) < _MIN_CONTRAST, np.inf, np.linalg.norm(flat, axis=1))
    return np.asarray(flat / length[:, None], dtype=np.float32)


def _best_match(
    train: NDArray[np.float32], cells: NDArray[np.float32], mean: NDArray[np.float32], orientations: range
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Return the highest correlation of each image with one of train, in any orientation, and which that is."""
    best = np.full(len(cells), -1, np.float32)
    which = np.zeros(len(cells), np.intp)
    for orientation in orientations:
        vectors = _vectors(apply_orientation(cells.transpose(1, 2, 0), orientation).transpose(2, 0, 1), mean)
        for start in range(0, len(train), _TRAIN_BLOCK):
            scores = vectors @ train[start : start + _TRAIN_BLOCK].T
            place = scores.argmax(axis=1)
            value = scores[np.arange(len(cells)), place]
            better = value > best
            best[better], which[better] = value[better], place[better] + start
    return best, which
