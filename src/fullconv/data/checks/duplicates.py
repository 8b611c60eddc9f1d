"""Pictures that are alike across splits: the same once more, nearly the same, or a moment later in one video."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fullconv.data.checks.catalog import shown
from fullconv.data.dataset import Dataset
from fullconv.data.problems import Problem, problem
from fullconv.data.samples import Sample
from fullconv.data.scan.edges import from_text
from fullconv.data.scan.stats import PictureFacts
from fullconv.images import apply_orientation

_CELLS = 16
_SAME = 0.985
"""Correlation of what differs from the mean picture, from which on two pictures are one."""
_NEIGHBOUR = 0.9
_FEW = 20  # pictures whose mean is no ground that they share
_PLAIN = 1.5  # grey levels; pictures that differ less from the mean one cannot be told apart
_TURNED_WORK = 30_000_000  # comparisons up to which flipped and turned copies are looked for, too
_WORK = 3_000_000_000  # comparisons at most; of larger sets every n-th picture is compared


@dataclass
class Alike:
    """Gathers pictures split by split, 256 bytes each, and compares them at the end."""

    samples: dict[str, list[Sample]] = field(default_factory=lambda: defaultdict(list))
    looks: dict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    contents: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def add(self, split: str, sample: Sample, facts: PictureFacts) -> None:
        """Take one picture that can be read."""
        sums = from_text(facts.look).reshape(_CELLS, 2, _CELLS, 6).sum(axis=(1, 3), dtype=np.int32)
        small = (sums / 12).round().astype(np.uint8)
        self.samples[split].append(sample)
        self.looks[split].append(small.tobytes())
        self.contents[split].append(
            hash((facts.size, facts.channels, facts.dtype, *facts.total, *facts.squares, facts.look))
        )

    def problems(self, dataset: Dataset) -> list[Problem]:
        """Return what is alike across splits."""
        found = _Found()
        for split in self.samples:
            if split != "train" and "train" in self.samples:
                self._compare(split, found)
        return [*_copies(found, dataset), *_neighbours(found, dataset), *_left_out(found)]

    def _compare(self, split: str, found: _Found) -> None:
        mean = self._mean()
        cells = self._cells(split)
        train, other = _vectors(self._cells("train"), mean), _vectors(cells, mean)
        known = {content: i for i, content in enumerate(self.contents["train"])}
        step = max(1, -(-len(train) * len(other) // _WORK))
        ways = range(1, 9) if len(train) * len(other) <= _TURNED_WORK else range(1, 2)
        if len(ways) == 1:
            some = (
                ""
                if step == 1
                else f"only one in {step} pictures of {split} was compared with those of train for near copies, and "
            )
            found.left_out.append(f"{some}copies that were flipped or turned were not looked for in {split}")
        for sample, content in zip(self.samples[split], self.contents[split], strict=True):
            if (same := known.get(content)) is not None:
                found.same.append((self.samples["train"][same], sample))
        for start in range(0, len(other), 256 * step):
            chosen = np.arange(start, min(start + 256 * step, len(other)), step)
            best, which = _best(train, cells[chosen], mean, ways)
            for row, i in enumerate(chosen):
                sample = self.samples[split][i]
                if self.contents[split][i] in known:
                    continue
                if best[row] >= _SAME:
                    found.near.append((self.samples["train"][which[row]], sample))
                elif best[row] >= _NEIGHBOUR:
                    found.neighbours.append((self.samples["train"][which[row]], sample))
        found.compared += len(other[::step])

    def _cells(self, split: str) -> NDArray[np.float32]:
        return np.frombuffer(b"".join(self.looks[split]), np.uint8).reshape(-1, _CELLS, _CELLS).astype(np.float32)

    def _mean(self) -> NDArray[np.float32]:
        """Return the mean picture, which says nothing about any; 0 where there are too few for one."""
        total = sum(len(looks) for looks in self.looks.values())
        if total < _FEW:
            return np.zeros((_CELLS, _CELLS), np.float32)
        sums = sum(self._cells(split).sum(axis=0, dtype=np.float64) for split in self.looks)
        return np.asarray(sums / total, dtype=np.float32)


def _vectors(cells: NDArray[np.float32], mean: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (N, 256) of length 1 and mean 0; 0 for plain pictures, which resemble nothing."""
    flat = (cells - mean).reshape(len(cells), -1)
    flat -= flat.mean(axis=1, keepdims=True)
    length = np.where(flat.std(axis=1) < _PLAIN, np.inf, np.linalg.norm(flat, axis=1))
    return np.asarray(flat / length[:, None], dtype=np.float32)


def _best(
    train: NDArray[np.float32], cells: NDArray[np.float32], mean: NDArray[np.float32], ways: range
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Return the highest correlation of each picture with one of train, turned or not, and which that is."""
    best = np.full(len(cells), -1, np.float32)
    which = np.zeros(len(cells), np.intp)
    for way in ways:
        vectors = _vectors(apply_orientation(cells.transpose(1, 2, 0), way).transpose(2, 0, 1), mean)
        for start in range(0, len(train), 8192):
            likeness = vectors @ train[start : start + 8192].T
            place = likeness.argmax(axis=1)
            value = likeness[np.arange(len(cells)), place]
            better = value > best
            best[better], which[better] = value[better], place[better] + start
    return best, which


@dataclass
class _Found:
    """What is alike."""

    same: list[tuple[Sample, Sample]] = field(default_factory=list)
    near: list[tuple[Sample, Sample]] = field(default_factory=list)
    neighbours: list[tuple[Sample, Sample]] = field(default_factory=list)
    compared: int = 0
    left_out: list[str] = field(default_factory=list)
    """What was not compared, in words."""


def _left_out(found: _Found) -> list[Problem]:
    """Say what was not looked for, as the set is large."""
    words = "pictures are many: {}"
    return [problem("compared-in-part", "note", [], words.format(said), "") for said in found.left_out]


def _copies(found: _Found, dataset: Dataset) -> list[Problem]:
    problems = []
    remedy = "Delete one of each two, picture and mask; scores would be too good."
    twice = [second for first, second in found.same if first.image == second.image]
    found.same = [pair for pair in found.same if pair[0].image != pair[1].image]
    if twice and all(known.code != "duplicate-across-splits" for known in dataset.problems):  # else their lists say it
        files = [shown(sample.image, dataset.root) for sample in twice]
        words = "files are in two splits, by their lists or annotations, so scores would be too good"
        problems.append(problem("duplicate-across-splits", "warning", files, words, "Take each out of one of the two."))
    for code, pairs, words in (
        ("duplicate-across-splits", found.same, "pictures are in two splits with the same content"),
        ("near-duplicate", found.near, "pictures are in two splits nearly the same: saved again, resized, or turned"),
    ):
        if pairs:
            files = [shown(second.image, dataset.root) for _, second in pairs]
            cause = f"{words}, as {files[0]} and {shown(pairs[0][0].image, dataset.root)}"
            problems.append(problem(code, "warning", files, cause, remedy))
    return problems


def _neighbours(found: _Found, dataset: Dataset) -> list[Problem]:
    """Find frames whose neighbours in the same video are in train."""
    if len(found.neighbours) < max(3, 0.1 * found.compared):
        return []
    before = found.neighbours[0][0]
    files = [shown(other.image, dataset.root) for _, other in found.neighbours]
    words = (
        f"images of val or test resemble images of train, as {files[0]} and {shown(before.image, dataset.root)}:"
        " they may be frames of one video or tiles of one image, so scores would be too good"
    )
    remedy = "Put each video, or each image that was cut up, into one split as a whole (groups in data.toml)."
    return [problem("video-neighbours", "note", files, words, remedy)]
