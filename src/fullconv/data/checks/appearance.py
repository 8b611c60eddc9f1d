"""Checks whether classes look the same in all masks: two that were exchanged, or a mask of 0 and 1 that was inverted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fullconv.data.checks.aggregates import MAX_PAIRS, Aggregates, Thumbnails
from fullconv.data.checks.alignment import MIN_SIGMAS
from fullconv.data.problems import Finding
from fullconv.data.samples import Sample

_MAX_CLASSES = 64  # of more, the table of all pairs would be large
_MAX_MASKS = 64  # of a split of more than two classes
_MIN_SHARE = 0.02  # of the cells that each of two classes must have
_MIN_MASKS = 4  # of a split that is judged
_MIN_REFERENCE = 8  # masks that define what is usual
_OPPOSITE = -0.5  # of the usual difference of two classes' colours
_AGREE = 0.9  # of the reference masks, in which of two classes is the brighter, and which the larger
_LARGER = 0.3  # of a logarithm: a third larger


@dataclass(frozen=True, eq=False)
class ClassAppearance:
    """Mean colour and size of K classes in N masks."""

    samples: Sequence[Sample]
    colors: NDArray[np.float64]
    """(N, K, 3) mean of the image under each class, where the image has mean 0 and variance 1."""
    shares: NDArray[np.float64]
    """(N, K) of the cells."""

    def __len__(self) -> int:
        return len(self.samples)

    def of(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> ClassAppearance:
        """Return some of the masks."""
        samples = [self.samples[i] for i in np.arange(len(self))[rows]]
        return ClassAppearance(samples, self.colors[rows], self.shares[rows])

    def usual(self) -> NDArray[np.float64]:
        """Return (K, 3): the colour of each class, the median over the masks that hold it; 0 of a class that none holds."""
        present = self.shares >= _MIN_SHARE
        found = np.zeros(self.colors.shape[1:])
        for index in np.flatnonzero(present.any(axis=0)):
            found[index] = np.median(self.colors[present[:, index], index], axis=0)
        return found

    def compare(
        self, usual: NDArray[np.float64], first: int, second: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Compare two classes in the M masks that hold both.

        Returned are (M,) their difference in colour along the usual one, 1 where it is the same and -1 where it is
        opposite, and (M,) the logarithm of how many times the first is as large as the second.
        """
        both = np.minimum(self.shares[:, first], self.shares[:, second]) >= _MIN_SHARE
        direction = usual[first] - usual[second]
        length = max(float(direction @ direction), 1e-6)
        signs = (self.colors[both, first] - self.colors[both, second]) @ direction / length
        return signs, np.log(self.shares[both, first] / self.shares[both, second])

    def distance(self, usual: NDArray[np.float64], first: int, second: int, crossed: bool = True) -> float:
        """Return how far two classes' colours are from the usual ones of each other, or of themselves."""
        pair = [first, second]
        own = self.usual()[pair]
        return float(np.linalg.norm(own - usual[pair[::-1] if crossed else pair], axis=1).sum())

    def others_unchanged(self, usual: NDArray[np.float64], first: int, second: int) -> bool:
        """Whether the further classes look as usual, so that the images are of the same kind."""
        further = [i for i in range(len(usual)) if i not in (first, second) and usual[i].any()]
        shares, colors = self.shares[:, further], self.colors[:, further]
        if not further or shares.sum(axis=1).mean() < _MIN_SHARE:
            return False
        off = (shares[..., None] * (colors - usual[further]) ** 2).sum()
        return bool(off < (shares[..., None] * colors**2).sum() / 2)


def measure_appearance(pairs: Sequence[Thumbnails], classes: int) -> ClassAppearance:
    """Measure K classes in thumbnails whose labels have a known class."""
    colors, shares = np.zeros((len(pairs), classes, 3)), np.zeros((len(pairs), classes))
    for i, pair in enumerate(pairs):
        assert pair.classes is not None
        labels = pair.classes[pair.mask].ravel()
        regions = (labels == np.arange(classes, dtype=np.uint8)[:, None]).astype(np.float32)
        sizes = regions.sum(axis=1)
        colors[i] = regions @ pair.image.reshape(-1, 3) / np.maximum(sizes, 1)[:, None]
        shares[i] = sizes / labels.size
    return ClassAppearance([pair.sample for pair in pairs], colors, shares)


def exchanged_classes(scan: Aggregates) -> Iterator[Finding]:
    """Find two classes that look like each other in one split, or in some masks of two classes."""
    count = len(scan.names)
    if count > _MAX_CLASSES:
        return
    most = MAX_PAIRS if count == 2 else _MAX_MASKS
    usable = {split: [p for p in pairs if p.classes is not None][:most] for split, pairs in scan.pairs.items()}
    splits = {split: measure_appearance(pairs, count) for split, pairs in usable.items() if pairs}
    found = _by_split(splits, count) or (None if count != 2 else _by_mask(splits))
    if found is not None:
        first, second, samples, where = found
        alike = f"'{scan.names[first]}' looks like '{scan.names[second]}' in {where}, and the other way round"
        cause = f"{alike}, in colour and size: the two are probably exchanged"
        yield Finding("classes-exchanged", [scan.report_path(sample) for sample in samples], cause=cause)


def _joined(parts: Sequence[ClassAppearance]) -> ClassAppearance:
    samples = [sample for part in parts for sample in part.samples]
    colors = np.concatenate([part.colors for part in parts])
    return ClassAppearance(samples, colors, np.concatenate([part.shares for part in parts]))


def _by_split(splits: dict[str, ClassAppearance], classes: int) -> tuple[int, int, Sequence[Sample], str] | None:
    for split in reversed(list(splits)):  # of two splits the later one is reported
        own = splits[split]
        others = [part for name, part in splits.items() if name != split]
        if others and _MIN_MASKS <= len(own) <= sum(map(len, others)):
            rest = _joined(others)
            usual = rest.usual()
            for second in range(1, classes):
                for first in range(second):
                    if is_exchanged(own, rest, usual, first, second):
                        return first, second, own.samples, "the other splits"
    return None


def _by_mask(splits: dict[str, ClassAppearance]) -> tuple[int, int, Sequence[Sample], str] | None:
    if not splits:
        return None
    everyone = _joined(list(splits.values()))
    everyone = everyone.of(everyone.shares.min(axis=1) >= _MIN_SHARE)
    if len(everyone) < _MIN_REFERENCE:
        return None
    signs, sizes = everyone.compare(everyone.usual(), 0, 1)
    usual = np.sign(np.median(sizes))
    odd = (signs < _OPPOSITE) & (sizes * usual < -_LARGER)
    sound = (signs > 0) & (sizes * usual > 0)
    if not odd.any() or odd.sum() > len(odd) / 4 or sound.sum() < _AGREE * (~odd).sum():
        return None
    return 0, 1, everyone.of(odd).samples, "the other masks"


def is_exchanged(
    own: ClassAppearance, rest: ClassAppearance, usual: NDArray[np.float64], first: int, second: int
) -> bool:
    """Whether two classes look like each other in some masks, by what is usual in the rest."""
    signs, sizes = own.compare(usual, first, second)
    if len(signs) < _MIN_MASKS or signs.mean() > _OPPOSITE:
        return False
    if signs.mean() + MIN_SIGMAS * signs.std() / np.sqrt(len(signs)) > 0:
        return False
    if own.distance(usual, first, second) > own.distance(usual, first, second, crossed=False) / 2:
        return False
    their_signs, their_sizes = rest.compare(usual, first, second)
    if len(their_signs) < _MIN_REFERENCE or (their_signs > 0).mean() < _AGREE:
        return False
    if their_sizes.mean() * sizes.mean() < 0 and min(abs(their_sizes.mean()), abs(sizes.mean())) > _LARGER:
        return True
    return own.others_unchanged(usual, first, second)
