"""Whether classes look the same in all masks: two that were exchanged, or a mask of 0 and 1 the wrong way round."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fullconv.data.checks.alignment import CLEAR, MOST, Pair
from fullconv.data.checks.catalog import shown
from fullconv.data.dataset import Dataset
from fullconv.data.problems import Problem, problem
from fullconv.data.samples import Sample

_MOST_CLASSES = 64
"""Of more, the table of all pairs would be large."""
_ENOUGH = 64  # masks of a split of more than two classes
_LEAST = 0.02  # of the cells that each of two classes must have
_FEWEST = 4  # masks of a split from which on it can be judged
_USUAL = 8  # masks that say what is usual
_OPPOSITE = -0.5  # of the usual difference of two classes' colours
_AGREE = 0.9  # of the usual masks, in which of two classes is the brighter, and which the larger
_LARGER = 0.3  # of a logarithm: a third larger


@dataclass(frozen=True, eq=False)
class _Seen:
    """One mask: how its classes look."""

    sample: Sample
    colors: NDArray[np.float32]
    """(K, 3) mean of the picture under each class, where the picture has mean 0 and variance 1."""
    shares: NDArray[np.float32]
    """(K,) of the cells."""


class Appearance:
    """Keeps the mean colours of classes in the first pairs of each split."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._seen: dict[str, list[_Seen]] = defaultdict(list)

    def add(self, split: str, pair: Pair, meaning: NDArray[np.uint8]) -> None:
        """Take one pair; `meaning` gives the class of each of 256 numbers."""
        count = len(self.names)
        if count > _MOST_CLASSES or len(self._seen[split]) >= (MOST if count == 2 else _ENOUGH):
            return
        labels = meaning[pair.mask].ravel()
        regions = (labels == np.arange(count, dtype=np.uint8)[:, None]).astype(np.float32)
        sizes = regions.sum(axis=1)
        colors = regions @ pair.picture.reshape(-1, 3) / np.maximum(sizes, 1)[:, None]
        self._seen[split].append(_Seen(pair.sample, colors, sizes / labels.size))

    def problems(self, dataset: Dataset, head: str) -> list[Problem]:
        """Return two classes that look like each other in one split, or in some masks of two classes."""
        found = self._by_split() or ([] if len(self.names) != 2 else self._by_mask())
        problems = []
        for first, second, seen, where in found:
            files = [shown(one.sample.judged(head), dataset.root) for one in seen]
            words = (
                f"'{self.names[first]}' looks as '{self.names[second]}' does in {where}, and the other way round, in"
                " colour and size, so the two seem to be exchanged"
            )
            remedy = "Look at a few beside their pictures, and export these masks as the others."
            problems.append(problem("classes-exchanged", "warning", files, words, remedy))
        return problems

    def _by_split(self) -> list[tuple[int, int, list[_Seen], str]]:
        for split in reversed(list(self._seen)):  # of two splits the later one is told
            own = self._seen[split]
            rest = [one for other, members in self._seen.items() if other != split for one in members]
            if _FEWEST <= len(own) <= len(rest):
                these, others = _Looks.of(own), _Looks.of(rest)
                usual = others.usual()
                for second in range(1, len(self.names)):
                    for first in range(second):
                        if _is_exchanged(these, others, usual, first, second):
                            return [(first, second, own, "the other splits")]
        return []

    def _by_mask(self) -> list[tuple[int, int, list[_Seen], str]]:
        everyone = [one for members in self._seen.values() for one in members if one.shares.min() >= _LEAST]
        if len(everyone) < _USUAL:
            return []
        looks = _Looks.of(everyone)
        signs, sizes = looks.compare(looks.usual(), 0, 1)
        usual = np.sign(np.median(sizes))
        odd = (signs < _OPPOSITE) & (sizes * usual < -_LARGER)
        sound = (signs > 0) & (sizes * usual > 0)
        if not odd.any() or odd.sum() > len(odd) / 4 or sound.sum() < _AGREE * (~odd).sum():
            return []
        return [(0, 1, [one for one, is_odd in zip(everyone, odd, strict=True) if is_odd], "the other masks")]


@dataclass(frozen=True, eq=False)
class _Looks:
    """How the classes of N masks look."""

    colors: NDArray[np.float64]
    """(N, K, 3)."""
    shares: NDArray[np.float64]
    """(N, K)."""

    @classmethod
    def of(cls, seen: Sequence[_Seen]) -> _Looks:
        colors, shares = np.stack([one.colors for one in seen]), np.stack([one.shares for one in seen])
        return cls(colors.astype(np.float64), shares.astype(np.float64))

    def usual(self) -> NDArray[np.float64]:
        """Return (K, 3): the colour of each class, the median over the masks that hold it; 0 of a class that none holds."""
        there = self.shares >= _LEAST
        found = np.zeros(self.colors.shape[1:])
        for index in np.flatnonzero(there.any(axis=0)):
            found[index] = np.median(self.colors[there[:, index], index], axis=0)
        return found

    def compare(
        self, usual: NDArray[np.float64], first: int, second: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Compare two classes in the M masks that hold both.

        Returns:
            (M,) their difference in colour along the usual one: 1 where it is the same, -1 where it is opposite; (M,) the
            logarithm of how many times the first is as large as the second.
        """
        both = np.minimum(self.shares[:, first], self.shares[:, second]) >= _LEAST
        direction = usual[first] - usual[second]
        length = max(float(direction @ direction), 1e-6)
        signs = (self.colors[both, first] - self.colors[both, second]) @ direction / length
        return signs, np.log(self.shares[both, first] / self.shares[both, second])

    def distance(self, usual: NDArray[np.float64], first: int, second: int, crossed: bool = True) -> float:
        """Return how far two classes' colours are from the usual ones of each other, or of themselves."""
        pair = [first, second]
        own = self.usual()[pair]
        return float(np.linalg.norm(own - usual[pair[::-1] if crossed else pair], axis=1).sum())

    def stay(self, usual: NDArray[np.float64], first: int, second: int) -> bool:
        """Whether the further classes look as usual, so that the pictures are of the same kind."""
        further = [i for i in range(len(usual)) if i not in (first, second) and usual[i].any()]
        shares, colors = self.shares[:, further], self.colors[:, further]
        if not further or shares.sum(axis=1).mean() < _LEAST:
            return False
        off = (shares[..., None] * (colors - usual[further]) ** 2).sum()
        return bool(off < (shares[..., None] * colors**2).sum() / 2)


def _is_exchanged(own: _Looks, rest: _Looks, usual: NDArray[np.float64], first: int, second: int) -> bool:
    """Whether two classes look like each other in some masks, by what is usual in the rest."""
    signs, sizes = own.compare(usual, first, second)
    if len(signs) < _FEWEST or signs.mean() > _OPPOSITE or signs.mean() + CLEAR * signs.std() / np.sqrt(len(signs)) > 0:
        return False
    if own.distance(usual, first, second) > own.distance(usual, first, second, crossed=False) / 2:
        return False
    their_signs, their_sizes = rest.compare(usual, first, second)
    if len(their_signs) < _USUAL or (their_signs > 0).mean() < _AGREE:
        return False
    if their_sizes.mean() * sizes.mean() < 0 and min(abs(their_sizes.mean()), abs(sizes.mean())) > _LARGER:
        return True
    return own.stay(usual, first, second)
