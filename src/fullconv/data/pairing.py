"""Whether the masks of a data set belong to its pictures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from fullconv.data.dataset import Dataset
from fullconv.data.facts import MaskFacts, PictureFacts
from fullconv.data.findings import shown
from fullconv.data.fit import CLEAR, FEWEST, MOST, Fit, Pair, displaced, judge, make_pair, scaled
from fullconv.data.problems import Problem, problem
from fullconv.data.samples import Sample
from fullconv.data.traces import SIDE

_WAYS = {2: "mirrored", 3: "turned by 180 degrees", 4: "upside down (mirrored)", 5: "transposed",
         6: "turned by 90 degrees", 7: "transposed the other way", 8: "turned by 90 degrees"}  # fmt: skip
_TURNED = 0.12  # of a picture's variance that masks explain more when they are turned; sound ones explain less
_MOVED = 0.1  # the same of masks that are moved
_MOVED_AT_MOST = 64  # pairs that are tried so
_SCALED_AT_MOST = 16  # as there are more ways
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
    if (move := _common_move(pairs)) is not None:
        words = f"masks fit their pictures only where they are moved: they lie too far {_said(*move)}"
        return problem("mask-mismatch", "warning", files, words, "Export masks and pictures at one place and size.")
    if (scale := _common_scale(pairs)) is not None:
        words = f"masks fit their pictures only where they are made smaller or larger: they are {_times(*scale)}"
        remedy = "Cut out, pad and resize masks as their pictures, or export both at one size."
        return problem("mask-mismatch", "warning", files, words, remedy)
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


def _common_move(pairs: Sequence[Pair]) -> tuple[int, int] | None:
    """Return by how many cells all masks lie too far down or right, if they clearly do by two or more.

    One cell may be the border that people draw around things.
    """
    fits = [displaced(pair) for pair in pairs[:: -(-len(pairs) // _MOVED_AT_MOST)]]
    gains = {move: np.array([fit[move] - fit[0, 0] for fit in fits]) for move in fits[0]}
    best = max(gains, key=lambda move: float(gains[move].mean()))
    gain = gains[best]
    clear = gain.mean() > max(_MOVED, CLEAR * gain.std() / np.sqrt(len(gain)))
    return best if clear and max(map(abs, best)) > 1 else None


def _common_scale(pairs: Sequence[Pair]) -> tuple[float, float] | None:
    """Return how many times too high and too wide all masks are, if they clearly are."""
    fits = [scaled(pair) for pair in pairs[:: -(-len(pairs) // _SCALED_AT_MOST)]]
    gains = {scale: np.array([fit[scale] - fit[1.0, 1.0] for fit in fits]) for scale in fits[0]}
    best = max(gains, key=lambda scale: float(gains[scale].mean()))
    gain = gains[best]
    clear = gain.mean() > max(_MOVED, CLEAR * gain.std() / np.sqrt(len(gain)))
    return best if clear else None


def _times(down: float, right: float) -> str:
    """Say by how much masks are too large."""
    if down == right:
        return f"about {down:.2g} times as large as they should be, from the middle"
    which, factor = ("high", down) if right == 1 else ("wide", right)
    return f"about {factor:.2g} times as {which} as they should be, from the middle"


def _said(down: int, right: int) -> str:
    share = round(100 * max(abs(down), abs(right)) / SIDE)
    if down:
        return f"{'down' if down > 0 else 'up'} by about {share} % of the height"
    return f"to the {'right' if right > 0 else 'left'} by about {share} % of the width"


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
