"""Whether masks fit their pictures: a fitting mask tells a picture's colours apart better than another one's does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from fullconv.data.facts import MaskFacts, PictureFacts
from fullconv.data.samples import Sample
from fullconv.data.traces import from_text
from fullconv.images import tiff

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
_MARGIN = 4  # cells, an eighth of a picture
_STEPS = [step for step in range(-_MARGIN, _MARGIN + 1) if step]
_MOVES = [(0, 0), *((step, 0) for step in _STEPS), *((0, step) for step in _STEPS)]
_FACTORS = (0.67, 0.8, 0.9, 1.12, 1.25, 1.5)
SCALES = ((1.0, 1.0), *((f, f) for f in _FACTORS), *((f, 1.0) for f in _FACTORS), *((1.0, f) for f in _FACTORS))
"""Height and width by which masks may be too large: both, as of a cut-out, or one, as where one of two kept its proportions."""
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
    return np.stack([tiff.orient(cells, way).ravel() for way in range(1, 9)], axis=1)


@cache
def _moved_places(side: int) -> NDArray[np.intp]:
    """Return (inner * inner, moves): which cell of a picture lies at each place of the middle after each of `_MOVES`."""
    cells, inner = np.arange(side * side).reshape(side, side), side - 2 * _MARGIN
    corners = [(_MARGIN - down, _MARGIN - right) for down, right in _MOVES]
    return np.stack([cells[y : y + inner, x : x + inner].ravel() for y, x in corners], axis=1)


def displaced(pair: Pair) -> dict[tuple[int, int], float]:
    """Return how much of a picture's middle its mask explains, by how many cells (down, right) the mask is taken to lie too far.

    The middle leaves out what is moved beyond an edge.
    """
    parts = _normalized(pair.picture.reshape(-1, 3).take(_moved_places(len(pair.mask)), axis=0))
    inner = pair.mask[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
    return dict(zip(_MOVES, explained([inner], parts)[0].tolist(), strict=True))


@cache
def _scaled_places(side: int) -> NDArray[np.intp]:
    """Return (side * side, scales): which cell of a picture lies at each place of a mask that is so many times too large.

    Beside the picture, which a mask that is too small shows as well, it is the nearest cell.
    """
    middle = (np.arange(side) + 0.5) / side - 0.5
    places = []
    for down, right in SCALES:
        y, x = (np.floor((middle / scale + 0.5) * side).astype(np.intp).clip(0, side - 1) for scale in (down, right))
        places.append((y[:, None] * side + x).ravel())
    return np.stack(places, axis=1)


def scaled(pair: Pair) -> dict[tuple[float, float], float]:
    """Return how much of a picture its mask explains, by how many times too high and too wide it is taken to be."""
    parts = _normalized(pair.picture.reshape(-1, 3).take(_scaled_places(len(pair.mask)), axis=0))
    return dict(zip(SCALES, explained([pair.mask], parts)[0].tolist(), strict=True))


def _normalized(parts: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give each of N pictures (cells, N, 3) mean 0 and variance 1; as `columns`."""
    parts = parts - parts.mean(axis=0)
    variance = np.square(parts.reshape(len(parts), -1)).mean(axis=0).reshape(-1, 3).sum(axis=1)
    parts /= np.maximum(np.sqrt(variance), 1e-3)[:, None]
    return parts.reshape(len(parts), -1)


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
