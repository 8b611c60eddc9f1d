"""Checks whether masks belong to their images: a fitting mask explains an image's colours better than another one does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fullconv.data.checks.aggregates import MAX_PAIRS, Aggregates, Thumbnails, explained_variance
from fullconv.data.problems import Finding
from fullconv.images import apply_orientation

MIN_PAIRS = 6
"""Fewer pairs than this are not judged: chance would."""

MIN_SIGMAS = 4.0
"""Standard errors from which on a fit is no chance."""

_MIN_GAIN = 0.3  # of two images' variance by an exchange of their masks; of sound masks none gains so much
_MIN_TURNED_GAIN = 0.12  # of an image's variance that masks explain more when they are turned; sound ones explain less
_MIN_EFFECT = 1.5  # standard deviations of the scores; up to 1.1 of sound masks when they are turned
_MIN_FIT = 2.0  # the same, of the median mask, where single ones are judged by the others
_MIN_EXIF_GAIN = 0.08  # of an image's variance; EXIF already records a rotation
_MIN_OUTLIERS = 3  # masks that fit other images, from which on that is no chance
_SHIFTS = (1, -1, 2, -2, 3, -3)
_ORIENTATIONS = {2: "mirrored", 3: "turned by 180 degrees", 4: "upside down (mirrored)", 5: "transposed",
                 6: "turned by 90 degrees", 7: "transposed the other way", 8: "turned by 90 degrees"}  # fmt: skip


@dataclass(frozen=True)
class AlignmentMatrix:
    """How well the masks of a split fit its images."""

    pairs: Sequence[Thumbnails]
    scores: NDArray[np.float64]
    """(N, N): share of image j's variance that mask i explains, less what is usual for mask i and for image j."""
    noise: float
    """Standard deviation of the scores off the diagonal."""

    def effect(self) -> float:
        """Return by how many standard deviations a mask explains its image better than any other.

        Frames of a video are no independent evidence, so that their number does not count here.
        """
        return float(np.diagonal(self.scores).mean()) / self.noise

    def strength(self, shift: int = 0) -> float:
        """Return by how many standard errors mask i explains image i + shift better than any other."""
        found = np.diagonal(self.scores, shift)
        return float(found.mean() * np.sqrt(len(found)) / self.noise) if len(found) >= MIN_PAIRS else 0.0

    def best_shift(self) -> int | None:
        """Return by how many places the list of masks is shifted; None where by none."""
        best = max(_SHIFTS, key=self.strength)
        return best if self.strength(best) >= max(MIN_SIGMAS, 2 * self.strength()) else None

    def swapped(self) -> list[Thumbnails]:
        """Return pairs that fit much better with their masks exchanged between two of them."""
        own = np.diagonal(self.scores)
        gain = self.scores + self.scores.T - own[:, None] - own[None]
        np.fill_diagonal(gain, -np.inf)
        best = gain.argmax(axis=1)
        clear = gain.max(axis=1) > max(_MIN_GAIN, 4 * self.noise)
        return [self.pairs[int(i)] for i in np.flatnonzero(clear) if best[best[i]] == i]

    def mismatched(self) -> list[tuple[Thumbnails, Thumbnails]]:
        """Return pairs whose mask fits another pair's image much better than either fits its own, with that other pair.

        Each is the best of all for the other; sound masks of similar images (a video) gain less than an eighth so.
        """
        own, others = np.diagonal(self.scores), self.scores.copy()
        np.fill_diagonal(others, -np.inf)
        finite = others[np.isfinite(others)]
        sigma = 1.4826 * float(np.median(np.abs(finite - float(np.median(finite)))))  # robust against pairs that fit
        best, inverse = others.argmax(axis=1), others.argmax(axis=0)
        gain = others.max(axis=1) - np.maximum(own, own[best])
        clear = (gain > max(_MIN_GAIN / 2, 3 * sigma)) & (inverse[best] == np.arange(len(own)))
        return [(self.pairs[int(i)], self.pairs[int(best[i])]) for i in np.flatnonzero(clear)]

    def outliers(self) -> list[Thumbnails]:
        """Return pairs that fit much worse than nearly all others do, and no better than chance.

        An image with little in it fits its mask badly, but still better than it fits the masks of others.
        """
        own = np.diagonal(self.scores)
        median = float(np.median(own))
        if self.strength() < 3 * MIN_SIGMAS or median < 5 * self.noise:
            return []
        most = max(1, len(own) // 5)
        better = np.maximum((self.scores > own).sum(axis=0), (self.scores > own[:, None]).sum(axis=1))
        return [self.pairs[int(i)] for i in np.flatnonzero((own < median / 4) & (better > most))]


def align(pairs: Sequence[Thumbnails], orientation: int = 1) -> AlignmentMatrix | None:
    """Compare all masks with all images in an EXIF orientation; None where there are too few."""
    if len(pairs) < MIN_PAIRS:
        return None
    images = [pair.image if orientation == 1 else apply_orientation(pair.image, orientation) for pair in pairs]
    cells = np.stack(images).reshape(len(pairs), -1, 3)
    columns = np.ascontiguousarray(cells.transpose(1, 0, 2)).reshape(cells.shape[1], -1)
    scores = explained_variance([pair.mask for pair in pairs], columns)
    scores = scores - scores.mean(axis=1, keepdims=True) - scores.mean(axis=0) + scores.mean()
    others = scores[~np.eye(len(pairs), dtype=bool)]
    return AlignmentMatrix(pairs, scores, max(float(others.std()), 1e-6))


def alignment(scan: Aggregates) -> Iterable[Finding]:
    """Find masks that are turned, drawn without an EXIF orientation, shifted in their list, exchanged, or of other images."""
    everyone = [pair for pairs in scan.pairs.values() for pair in pairs]
    parts = list(scan.pairs.values())
    if any(len(pairs) < MIN_PAIRS for pairs in parts):  # judged with the others
        parts = [everyone[:: -(-len(everyone) // MAX_PAIRS) or 1]]
    found: list[Finding] = []
    for matrix in filter(None, map(align, parts)):
        whole = _whole_split(scan, matrix)
        found += [whole] if whole is not None else _single_pairs(scan, matrix)
    if not found and len(parts) > 1:  # masks may have moved from split to split
        matrix_of_all = align(everyone[:: -(-len(everyone) // MAX_PAIRS)])
        whole = None if matrix_of_all is None else _of_other_images(scan, matrix_of_all)
        found += [] if whole is None else [whole]
    merged: dict[tuple[str, str, str], Finding] = {}
    for one in found:  # of several splits
        key = (one.code, one.cause, one.detail)
        files = [*merged[key].files, *one.files] if key in merged else one.files
        merged[key] = Finding(one.code, files, one.detail, one.cause, one.fix)
    return [*merged.values(), *_ignored_orientations(scan)]


def _whole_split(scan: Aggregates, matrix: AlignmentMatrix) -> Finding | None:
    """Find out why the masks of a whole split do not fit: turned, shifted, or of other images."""
    pairs = matrix.pairs
    files = _names(scan, pairs)
    orientation = _common_orientation(matrix)
    if orientation is not None:
        cause = f"masks fit their images only where they are {_ORIENTATIONS[orientation]}"
        return Finding("mask-turned", files, cause=cause)
    shift = matrix.best_shift()
    if shift is not None:
        first, second = pairs[max(0, -shift)], pairs[max(0, -shift) + shift]
        side = "after" if shift > 0 else "before"
        cause = f"masks fit the image {abs(shift)} {side} their own in the order of names, so the list was shifted"
        return Finding("mask-mismatch", files, _example(scan, first, second), cause)
    return _of_other_images(scan, matrix)


def _of_other_images(scan: Aggregates, matrix: AlignmentMatrix) -> Finding | None:
    """Find masks that fit images of other names."""
    mismatched = matrix.mismatched()
    if len(mismatched) < max(_MIN_OUTLIERS, len(matrix.pairs) / 5):
        return None
    most = 2 * len(mismatched) > len(matrix.pairs)
    files = _names(scan, matrix.pairs if most else [mask for mask, _ in mismatched])
    cause = "masks fit images of other names much better than their own"
    return Finding("mask-mismatch", files, _example(scan, *mismatched[0]), cause)


def _example(scan: Aggregates, mask: Thumbnails, image: Thumbnails) -> str:
    return f"{scan.display(mask.sample.report_path())} fits {scan.display(image.sample.image)}"


def _names(scan: Aggregates, pairs: Iterable[Thumbnails]) -> list[str]:
    return [scan.display(pair.sample.report_path()) for pair in pairs]


def _common_orientation(matrix: AlignmentMatrix) -> int | None:
    """Return the orientation of the images in which the masks fit clearly better than as they are.

    A mask of road covers the sky when it is turned and explains it well, but that of any other image just as well: each must
    fit its own image better than the others' turned masks do.
    """
    scores = [pair.score_by_orientation for pair in matrix.pairs]
    best = None
    for orientation in _ORIENTATIONS:
        gains = np.array([score[orientation] - score[1] for score in scores])
        error = gains.std() / np.sqrt(len(gains)) + 1e-6
        gain = float(gains.mean())
        if gain > _MIN_TURNED_GAIN and gain > MIN_SIGMAS * error and (best is None or gain > best[0]):
            turned = align(matrix.pairs, orientation)
            if turned is not None and turned.effect() > max(_MIN_EFFECT, 2 * matrix.effect()):
                best = (gain, orientation)
    return None if best is None else best[1]


def _ignored_orientations(scan: Aggregates) -> Iterator[Finding]:
    """Find images whose masks were drawn without their EXIF orientation, where the sizes do not tell."""
    upright = [pair for pairs in scan.pairs.values() for pair in pairs]
    for orientation, members in scan.oriented.items():
        found = _drawn_without(orientation, members[:MAX_PAIRS], upright[: MAX_PAIRS - len(members[:MAX_PAIRS])])
        if found:
            files = [scan.display(pair.sample.image) for pair in found]
            stems = [pair.sample.stem for pair in found]
            yield Finding("exif-orientation", files, f"the first has orientation {orientation}", stems=stems)


def _drawn_without(orientation: int, own: Sequence[Thumbnails], others: Sequence[Thumbnails]) -> list[Thumbnails]:
    """Return pairs that fit clearly better without the orientation, and so better than other masks would fit."""
    stored = {6: 8, 8: 6}.get(orientation, orientation)
    without, shown = align([*own, *others], stored), align([*own, *others])
    if without is None or shown is None:
        return []
    count = len(own)
    gains = np.array([pair.score_by_orientation[stored] - pair.score_by_orientation[1] for pair in own])
    effects = np.diagonal(without.scores)[:count] / without.noise
    before = np.diagonal(shown.scores)[:count] / shown.noise
    clear = (gains > _MIN_EXIF_GAIN) & (effects > np.maximum(2 * _MIN_EFFECT, 2 * before))
    if count >= MIN_PAIRS and effects.mean() > max(_MIN_EFFECT, 2 * before.mean()):  # together they are no chance
        clear = gains > _MIN_EXIF_GAIN
    return [own[int(i)] for i in np.flatnonzero(clear)]


def _is_turned(pair: Thumbnails, matrix: AlignmentMatrix) -> bool:
    """Whether a mask fits its image much better turned, and so better than it fits any other image of the set."""
    scores = pair.score_by_orientation
    best = max(scores, key=scores.__getitem__)
    if scores[best] <= max(0.5, scores[1] + 2 * _MIN_TURNED_GAIN):
        return False
    others = np.stack([apply_orientation(other.image, best) for other in matrix.pairs if other is not pair])
    columns = others.reshape(len(others), -1, 3).transpose(1, 0, 2).reshape(pair.mask.size, -1)
    usual = explained_variance([pair.mask], np.ascontiguousarray(columns))[0]
    excess = scores[best] - float(usual.mean())
    return excess > max(2 * _MIN_TURNED_GAIN, MIN_SIGMAS * float(usual.std())) and scores[best] > float(usual.max())


def _single_pairs(scan: Aggregates, matrix: AlignmentMatrix) -> Iterator[Finding]:
    """Find the few pairs that do not fit where the others do."""
    fit = float(np.median(np.diagonal(matrix.scores)))
    if matrix.strength() < MIN_SIGMAS or matrix.effect() < _MIN_EFFECT or fit < _MIN_FIT * matrix.noise:
        return
    turned = [pair for pair in matrix.pairs if _is_turned(pair, matrix)]
    odd = [pair for pair in dict.fromkeys([*matrix.swapped(), *matrix.outliers()]) if pair not in turned]
    if turned:
        yield Finding("mask-turned", _names(scan, turned))
    if odd:
        yield Finding("mask-mismatch", _names(scan, odd), cause="masks do not fit their images, while the others do")
