"""Pictures that are alike across splits: the same once more, nearly the same, or a moment later in one video."""

from __future__ import annotations

import re
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
from fullconv.images import tiff

_CELLS = 16
_SAME = 0.985
"""Correlation of what differs from the mean picture, from which on two pictures are one."""
_NEIGHBOUR = 0.6
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
        numbers = _numbers(self.samples["train"])
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
                else:
                    next_one = _neighbour(sample, numbers)
                    place = which[row] if next_one is None else next_one
                    # the most alike of many are alike by chance; that they follow each other is none
                    likeness = float(other[i] @ train[place]) - (0.3 if next_one is None else 0)
                    found.steps.append((likeness, self.samples["train"][place], sample))
        found.usual.extend(_usual(train, other))

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
        vectors = _vectors(tiff.orient(cells.transpose(1, 2, 0), way).transpose(2, 0, 1), mean)
        for start in range(0, len(train), 8192):
            likeness = vectors @ train[start : start + 8192].T
            place = likeness.argmax(axis=1)
            value = likeness[np.arange(len(cells)), place]
            better = value > best
            best[better], which[better] = value[better], place[better] + start
    return best, which


def _usual(train: NDArray[np.float32], other: NDArray[np.float32]) -> list[float]:
    """Return how alike pictures are that have nothing to do with each other."""
    first = train[:: max(1, len(train) // 64)]
    second = other[:: max(1, len(other) // 64)]
    return list((first @ second.T).ravel().tolist())


def _counted(stem: str) -> tuple[str, int] | None:
    """Split "seq01_frame0042" into what stays and the number that counts."""
    match = re.fullmatch(r"(.*?)(\d{1,15})(\D{0,12})", stem.rpartition("/")[2])
    return None if match is None else (f"{match[1]}|{match[3]}", int(match[2]))


_Numbers = dict[str, tuple[NDArray[np.int64], NDArray[np.intp]]]


def _numbers(samples: list[Sample]) -> _Numbers:
    """Return the numbers in the names of pictures in order, with their places, by what else is in the name."""
    by_name: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for place, sample in enumerate(samples):
        if (found := _counted(sample.stem)) is not None:
            by_name[found[0]].append((found[1], place))
    ordered = {name: np.array(sorted(pairs), np.int64) for name, pairs in by_name.items()}
    return {name: (pairs[:, 0], pairs[:, 1].astype(np.intp)) for name, pairs in ordered.items()}


def _neighbour(sample: Sample, numbers: _Numbers) -> int | None:
    """Return the place of the picture whose number comes next to this one's."""
    found = _counted(sample.stem)
    if found is None or found[0] not in numbers:
        return None
    values, places = numbers[found[0]]
    at = int(np.searchsorted(values, found[1]))
    near = min((i for i in (at - 1, at) if 0 <= i < len(values)), key=lambda i: abs(int(values[i]) - found[1]))
    return int(places[near])


@dataclass
class _Found:
    """What is alike."""

    same: list[tuple[Sample, Sample]] = field(default_factory=list)
    near: list[tuple[Sample, Sample]] = field(default_factory=list)
    steps: list[tuple[float, Sample, Sample]] = field(default_factory=list)
    usual: list[float] = field(default_factory=list)
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
    if not found.steps:
        return []
    usual = float(np.percentile(found.usual, 97.5)) if found.usual else 0.0
    limit = max(_NEIGHBOUR, min(usual, 0.9))
    close = [(before, sample) for likeness, before, sample in found.steps if likeness >= limit]
    if len(close) < max(3, 0.1 * len(found.steps)):
        return []
    before, sample = close[0]
    files = [shown(other.image, dataset.root) for _, other in close]
    words = (
        f"pictures of val or test look like neighbours in train, as {files[0]} and {shown(before.image, dataset.root)}:"
        " frames of one video, or parts of one picture, so scores would be too good"
    )
    remedy = "Put each video, or each picture that was cut up, into one split as a whole."
    prefixes = {name[0] for s in dataset.samples("all") if (name := _counted(s.stem)) is not None}
    if before.image.parent == sample.image.parent and len(prefixes) > 1 and dataset.settings.groups is None:
        remedy = "Add to data.toml, so that frames of one name stay together:\ngroups = '^(.*?)\\d+\\D*$'"
    return [problem("video-neighbours", "warning", files, words, remedy)]
