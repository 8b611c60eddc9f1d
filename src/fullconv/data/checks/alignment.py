"""Whether masks fit their pictures: a fitting mask tells a picture's colours apart better than another one's does.

Whether the masks of a data set belong to its pictures.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from fullconv.data.checks.catalog import shown
from fullconv.data.dataset import Dataset
from fullconv.data.problems import Problem, problem
from fullconv.data.samples import Sample
from fullconv.data.scan.edges import from_text
from fullconv.data.scan.stats import MaskFacts, PictureFacts
from fullconv.images import apply_orientation

MOST = 256
"""Pairs of a split that are compared with each other; the time is the square of it."""

_TOGETHER = 16
"""Masks that are compared with all pictures at once."""

FEWEST = 6
"""Fewer pairs than this are not judged: chance would."""

CLEAR = 4.0
"""Standard errors from which on a fit is no chance."""

_LEAST_SHARE = 0.02  # of the cells that the second largest label must have, so that there is something to see
_CLEARLY_BETTER = 0.08  # of a picture's variance; EXIF already says that it was turned
_MUCH = 0.3  # of two pictures' variance; of whole masks none gains by an exchange
_SHIFTS = (1, -1, 2, -2, 3, -3)


@dataclass(frozen=True, eq=False)
class Pair:
    """A picture and its mask, small."""

    sample: Sample
    picture: NDArray[np.float32]
    """(SIDE, SIDE, 3), each channel with mean 0, all together with variance 1."""
    mask: NDArray[np.uint8]
    """(SIDE, SIDE) labels."""
    orientation: int
    """EXIF's, which `picture` follows."""

    @cached_property
    def by_turn(self) -> dict[int, float]:
        """How much of the picture the mask explains, by the orientation (EXIF, 1 to 8) that the picture is given."""
        places, ways = _turned_places(len(self.mask)), range(1, 9)
        turned = self.picture.reshape(-1, 3).take(places, axis=0).reshape(len(places), -1)  # a quarter of [places]
        return dict(zip(ways, explained([self.mask], turned)[0].tolist(), strict=True))


def make_pair(sample: Sample, picture: PictureFacts, mask: MaskFacts) -> Pair | None:
    """Return the pair, or None where one of them is too plain to be judged."""
    if not (picture.look and mask.look):
        return None
    labels = from_text(mask.look)
    counts = np.sort(np.bincount(labels.ravel()))[::-1]
    if len(counts) < 2 or counts[1] < _LEAST_SHARE * labels.size:
        return None
    colors = from_text(picture.look).astype(np.float32)
    cells = colors.reshape(-1, 3)
    cells -= np.full(len(cells), 1 / len(cells), np.float32) @ cells  # a tenth of the time of mean
    spread = float(np.sqrt(np.vdot(colors, colors) / labels.size))
    return None if spread < 2 else Pair(sample, colors / spread, labels, picture.orientation)


def columns(pictures: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Lay N pictures (SIDE, SIDE, 3) side by side: a row a cell, three columns a picture."""
    cells = np.stack(pictures).reshape(len(pictures), -1, 3)
    return np.ascontiguousarray(cells.transpose(1, 0, 2)).reshape(cells.shape[1], -1)


def explained(masks: Sequence[NDArray[np.uint8]], pictures: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return which share of each picture's variance the labels of each mask explain.

    Args:
        masks: M of (SIDE, SIDE) labels.
        pictures: (SIDE * SIDE, 3 N), as `columns` lays those of pairs.

    Returns:
        (M, N) from 0 to 1.
    """
    return np.concatenate([_explained(masks[i : i + _TOGETHER], pictures) for i in range(0, len(masks), _TOGETHER)])


def _explained(masks: Sequence[NDArray[np.uint8]], pictures: NDArray[np.float32]) -> NDArray[np.float64]:
    counts = [np.bincount(mask.ravel()) for mask in masks]
    labels = [np.flatnonzero(count) for count in counts]
    regions = np.concatenate([mask.ravel() == there[:, None] for mask, there in zip(masks, labels, strict=True)])
    sizes = np.concatenate([count[there] for count, there in zip(counts, labels, strict=True)])
    sums = (regions.astype(np.float32) @ pictures).reshape(len(sizes), -1, 3).astype(np.float64)
    between = np.einsum("lnk,lnk->ln", sums, sums) / sizes[:, None]
    first = np.cumsum([0, *map(len, labels)])[:-1]
    return np.asarray(np.add.reduceat(between, first, axis=0) / masks[0].size)


@dataclass(frozen=True)
class Fit:
    """How well the masks of a split fit its pictures."""

    pairs: tuple[Pair, ...]
    table: NDArray[np.float64]
    """(N, N): how much of picture j mask i explains, less what is usual for mask i and for picture j."""
    noise: float
    """Standard deviation of the table off its diagonal."""

    def strength(self, shift: int = 0) -> float:
        """Return by how many standard errors mask i explains picture i + shift better than any other."""
        found = np.diagonal(self.table, shift)
        return float(found.mean() * np.sqrt(len(found)) / self.noise) if len(found) >= FEWEST else 0.0

    def best_shift(self) -> int | None:
        """Return by how many places the list of masks is shifted; None where by none."""
        best = max(_SHIFTS, key=self.strength)
        return best if self.strength(best) >= max(CLEAR, 2 * self.strength()) else None

    def swapped(self) -> list[Pair]:
        """Return pairs that fit much better with their masks exchanged between two of them."""
        own = np.diagonal(self.table)
        gain = self.table + self.table.T - own[:, None] - own[None]
        np.fill_diagonal(gain, -np.inf)
        best = gain.argmax(axis=1)
        clear = gain.max(axis=1) > max(_MUCH, 4 * self.noise)
        return [self.pairs[i] for i in np.flatnonzero(clear) if best[best[i]] == i]

    def astray(self) -> list[tuple[Pair, Pair]]:
        """Return pairs whose mask fits another pair's picture much better than either fits its own, with that other pair.

        Each is the best of all for the other; sound masks of like pictures (a video) gain less than an eighth so.
        """
        own, away = np.diagonal(self.table), self.table.copy()
        np.fill_diagonal(away, -np.inf)
        middle = float(np.median(away[np.isfinite(away)]))
        usual = 1.4826 * float(np.median(np.abs(away[np.isfinite(away)] - middle)))  # not moved by the pairs that fit
        best, back = away.argmax(axis=1), away.argmax(axis=0)
        gain = away.max(axis=1) - np.maximum(own, own[best])
        clear = (gain > max(_MUCH / 2, 3 * usual)) & (back[best] == np.arange(len(own)))
        return [(self.pairs[i], self.pairs[best[i]]) for i in np.flatnonzero(clear)]

    def strangers(self) -> list[Pair]:
        """Return pairs whose mask fits the picture much worse than nearly all others do theirs, and no better than chance.

        A picture with little in it fits its mask badly, but still better than it fits the masks of others.
        """
        own = np.diagonal(self.table)
        middle = float(np.median(own))
        if self.strength() < 3 * CLEAR or middle < 5 * self.noise:
            return []
        most = max(1, len(own) // 5)
        better = np.maximum((self.table > own).sum(axis=0), (self.table > own[:, None]).sum(axis=1))
        return [self.pairs[i] for i in np.flatnonzero((own < middle / 4) & (better > most))]


def judge(pairs: Sequence[Pair]) -> Fit | None:
    """Compare the masks of a split with its pictures; None where there are too few to tell."""
    if len(pairs) < FEWEST:
        return None
    pictures = columns([pair.picture for pair in pairs])
    table = explained([pair.mask for pair in pairs], pictures)
    table = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    others = table[~np.eye(len(pairs), dtype=bool)]
    return Fit(tuple(pairs), table, max(float(others.std()), 1e-6))


@cache
def _turned_places(side: int) -> NDArray[np.intp]:
    """Return (side * side, 8): which cell of a picture lies at each place when it is turned as EXIF's 1 to 8 ask."""
    cells = np.arange(side * side).reshape(side, side, 1)
    return np.stack([apply_orientation(cells, way).ravel() for way in range(1, 9)], axis=1)


def back(orientation: int) -> int:
    """Return the orientation that undoes one."""
    return {6: 8, 8: 6}.get(orientation, orientation)


def exif_is_missed(sample: Sample, picture: PictureFacts, mask: MaskFacts) -> bool:
    """Whether a mask was drawn on a picture without its EXIF orientation: by the sizes, else by what fits better."""
    turns = picture.orientation in (5, 6, 7, 8)
    if turns and picture.size[0] != picture.size[1]:
        return mask.size == (picture.size[1], picture.size[0])
    pair = make_pair(sample, picture, mask)
    if pair is None or mask.size != picture.size:
        return False
    fits = pair.by_turn
    return fits[back(picture.orientation)] - fits[1] > _CLEARLY_BETTER


_WAYS = {2: "mirrored", 3: "turned by 180 degrees", 4: "upside down (mirrored)", 5: "transposed",
         6: "turned by 90 degrees", 7: "transposed the other way", 8: "turned by 90 degrees"}  # fmt: skip
_TURNED = 0.12  # of a picture's variance that masks explain more when they are turned; sound ones explain less
_SEVERAL = 3  # masks that fit elsewhere, from which on that is no chance
_ENOUGH = 16  # pairs of which one can say that they do not fit; few that fit badly may be chance
_REMEDY = "Pair them anew, by names or lists that belong together; open a few pictures beside their masks."


class Pairing:
    """Keeps the first pairs of each split, small, and compares them at the end."""

    def __init__(self) -> None:
        self.pairs: dict[str, list[Pair]] = defaultdict(list)
        self.looked: dict[str, int] = defaultdict(int)

    def add(self, split: str, sample: Sample, picture: PictureFacts, mask: MaskFacts) -> Pair | None:
        """Take one pair that can be read, and return it where it is compared."""
        fitting = mask.size == picture.size and picture.orientation == 1  # others are judged by themselves
        pair = make_pair(sample, picture, mask) if self.looked[split] < MOST and fitting else None
        if pair is not None:
            self.pairs[split].append(pair)
        self.looked[split] += 1
        return pair

    def problems(self, dataset: Dataset) -> list[Problem]:
        """Return the pairs that do not fit."""
        everyone = [pair for pairs in self.pairs.values() for pair in pairs]
        parts = list(self.pairs.values())
        if any(len(pairs) < FEWEST for pairs in parts):  # judged with the others
            parts = [everyone[:: -(-len(everyone) // MOST) or 1]]
        found: list[Problem] = []
        for pairs in parts:
            fit = judge(pairs)
            if fit is None:
                continue
            told = _whole(dataset, pairs, fit)
            found += [told] if told is not None else _single(dataset, fit)
        if not found and len(parts) > 1:  # masks may have gone from split to split
            fit = judge(everyone[:: -(-len(everyone) // MOST)])
            told = None if fit is None else _elsewhere(dataset, fit)
            found += [] if told is None else [told]
        return _merged(found)


def _whole(dataset: Dataset, pairs: Sequence[Pair], fit: Fit) -> Problem | None:
    """Say why the masks of a whole split do not fit: shifted, turned, or for no reason that is seen."""
    files = [shown(pair.sample.judged(), dataset.root) for pair in pairs]
    way = _common_way(pairs)
    if way is not None:
        words = f"masks fit their pictures only where they are {_WAYS[way]}"
        return problem("mask-turned", "warning", files, words, "Turn the masks, or export them again.")
    shift = fit.best_shift()
    if shift is not None:
        first, second = pairs[max(0, -shift)], pairs[max(0, -shift) + shift]
        words = (
            f"masks fit the picture {abs(shift)} {'after' if shift > 0 else 'before'} their own in the order of names, as"
            f" {shown(first.sample.judged(), dataset.root)} fits {shown(second.sample.image, dataset.root)}"
        )
        return problem("mask-mismatch", "warning", files, words, f"The list was shifted. {_REMEDY}")
    if (told := _elsewhere(dataset, fit)) is not None:
        return told
    if abs(fit.strength()) > CLEAR / 2 or len(pairs) < _ENOUGH:
        return None
    words = (
        "masks fit their pictures no better than those of other pictures, so names and contents may not belong together"
    )
    return problem("mask-mismatch", "warning", files, words, _REMEDY)


def _elsewhere(dataset: Dataset, fit: Fit) -> Problem | None:
    """Say that masks fit pictures of other names."""
    astray = fit.astray()
    if len(astray) < max(_SEVERAL, len(fit.pairs) / 10):
        return None
    most = 2 * len(astray) > len(fit.pairs)
    named = fit.pairs if most else [mask for mask, _ in astray]
    files = [shown(pair.sample.judged(), dataset.root) for pair in named]
    mask, picture = astray[0]
    words = (
        "masks fit pictures of other names much better than their own, as"
        f" {shown(mask.sample.judged(), dataset.root)} fits {shown(picture.sample.image, dataset.root)}"
    )
    return problem("mask-mismatch", "warning", files, words, _REMEDY)


def _common_way(pairs: Sequence[Pair]) -> int | None:
    """Return the orientation of the pictures in which the masks fit, clearly better than as they are."""
    fits = [pair.by_turn for pair in pairs]
    best = None
    for way in _WAYS:
        gains = np.array([fit[way] - fit[1] for fit in fits])
        error = gains.std() / np.sqrt(len(gains)) + 1e-6
        if gains.mean() > _TURNED and gains.mean() > CLEAR * error and (best is None or gains.mean() > best[0]):
            best = (float(gains.mean()), way)
    return None if best is None else best[1]


def _single(dataset: Dataset, fit: Fit) -> list[Problem]:
    """Name the few pairs that do not fit where the others do."""
    if fit.strength() < CLEAR:
        return []
    lying = [pair for pair in fit.pairs if _lies_wrong(pair)]
    odd = [pair for pair in dict.fromkeys([*fit.swapped(), *fit.strangers()]) if pair not in lying]
    problems = []
    if lying:
        files = [shown(pair.sample.judged(), dataset.root) for pair in lying]
        words = "masks fit their pictures much better turned or mirrored, while the others do as they are"
        problems.append(problem("mask-turned", "warning", files, words, "Turn them, or export them again."))
    if odd:
        files = [shown(pair.sample.judged(), dataset.root) for pair in odd]
        words = "masks do not fit their pictures, while the others do"
        problems.append(problem("mask-mismatch", "warning", files, words, _REMEDY))
    return problems


def _lies_wrong(pair: Pair) -> bool:
    fits = pair.by_turn
    return max(fits.values()) > max(0.5, fits[1] + 2 * _TURNED)


def _merged(found: list[Problem]) -> list[Problem]:
    """Put the problems of several splits with the same code and cause together."""
    merged: dict[tuple[str, str], Problem] = {}
    for one in found:
        key = (one.code, one.cause)
        if (before := merged.get(key)) is not None:
            one = problem(one.code, one.severity, [*before.files, *one.files], one.cause, one.remedy)
        merged[key] = one
    return list(merged.values())
