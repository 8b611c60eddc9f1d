"""Intervals of mIoU and IoU by bootstrap over images, and whether two models differ on the same images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fullconv.errors import InputError
from fullconv.metrics import Counts, Policy, check_policy, count, iou, mean_iou, mean_ious, ratio_or_nan, total

RESAMPLES = 2000
"""Resamples of the images for an interval."""

MIN_IMAGES = 20
"""Images from which on an interval of mIoU holds the true value as often as it says (benchmarks/intervals.py)."""

MIN_OCCURRENCES = 8
"""Images that half of the classes must be in for that."""

_GROUPS = 2000

_CHUNK = 100  # resamples at once: a few MB

_MIN_ERROR = 1e-9  # a standard error below this is rounding


class Difference(NamedTuple):
    """A difference of mIoU between two runs and its 95 % interval."""

    value: float
    """Second minus first."""
    low: float
    high: float


def resample(images: Counts, samples: int = RESAMPLES, seed: int = 0) -> Counts:
    """Draw images (P, K) with replacement, as many as there are, and add up their counts: (samples, K).

    More than 2,000 images are drawn in 2,000 random groups of equal size, whose spread is the same.
    """
    groups = _groups(images, seed)
    parts = [[(times @ part).astype(np.int64) for part in groups] for times in _draws(len(groups.hits), samples, seed)]
    return Counts(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _groups(images: Counts, seed: int) -> Counts:
    """Return the counts of images, or of random groups of them where they are many."""
    number = len(images.hits)
    if number <= _GROUPS:
        return images
    order = np.random.default_rng([seed, number]).permutation(number)
    starts = np.arange(_GROUPS) * number // _GROUPS
    return Counts(*(np.add.reduceat(part[order], starts) for part in images))


def _draws(number: int, samples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Yield how often each of some images is drawn, (resamples, number), in chunks."""
    random = np.random.default_rng(seed)
    # Only these numbers matter; float64 products with counts are exact below 2**53.
    for start in range(0, samples, _CHUNK):
        size = min(_CHUNK, samples - start)
        yield random.multinomial(number, np.full(number, 1 / number), size=size).astype(np.float64)


def interval_obstacle(confusions: NDArray[np.int64] | Counts) -> str | None:
    """Say why images, (P, K, K) int64 or Counts (P, K), are too few for an interval of mIoU; None where they suffice."""
    images = count(confusions)
    if len(images.hits) < MIN_IMAGES:
        return f"a 95 % interval needs {MIN_IMAGES} images or more, these are {len(images.hits)}"
    occurrences = (images.target > 0).sum(axis=0)
    occurrences = occurrences[occurrences > 0]
    if not len(occurrences):
        return "a 95 % interval needs pixels that are not void"
    if np.median(occurrences) < MIN_OCCURRENCES:
        few = int((occurrences < MIN_OCCURRENCES).sum())
        return f"a 95 % interval needs most classes in {MIN_OCCURRENCES} images or more, {few} of {len(occurrences)} are in fewer"
    return None


def bootstrap_interval(
    confusions: NDArray[np.int64] | Counts, policy: Policy = "nan", samples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of mIoU by bootstrap over images, (P, K, K) int64 or Counts (P, K); NaN where they are too few.

    It estimates how much the score would change with other images of the same kind. Frames of one video are more alike
    than that, so there it is too narrow. Equal seeds give equal intervals. `interval_obstacle` says why there is none.

    It is a symmetric bootstrap-t on the scale of the logit, whose coverage benchmarks/intervals.py measures: the distance
    of a resample's score is divided by its own standard error (linearized), and multiplied by that of the images (by
    jackknife). Percentiles of the scores themselves are too narrow for less than about 100 images.
    """
    images = count(confusions)
    if interval_obstacle(images) is not None:
        return float("nan"), float("nan")
    groups = _groups(images, seed)
    counted = _counted(total(groups), check_policy(policy))
    groups = Counts(*(part[:, counted] for part in groups))
    whole = total(groups)
    # Without an image; a class that is in no other one keeps its IoU.
    rest = Counts(*(a - b for a, b in zip(whole, groups, strict=True)))
    without = np.where(_counted(rest, policy), iou(rest), iou(whole)).mean(axis=1)
    error = np.sqrt((len(without) - 1) * without.var())
    spread = [_spread(groups, times, policy) for times in _draws(len(groups.hits), samples, seed)]
    scores, errors = (np.concatenate(part) for part in zip(*spread, strict=True))
    low, high = _bootstrap_t(mean_ious(whole, policy), error, scores, errors)
    return float(low), float(high)


def _counted(counts: Counts, policy: Policy) -> NDArray[np.bool_]:
    """Whether the mean runs over a class, (..., K)."""
    return counts.target > 0 if policy == "present_only" else counts.target + counts.predicted > 0


def _spread(
    images: Counts, times: NDArray[np.float64], policy: Policy
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mIoU of resamples (S,), each image drawn some times (S, P), and its linearized standard error (S,)."""
    number = times.shape[1]
    drawn = Counts(*((times @ part).astype(np.int64) for part in images))
    values, counted = iou(drawn), _counted(drawn, policy)
    weights = ratio_or_nan(counted, (drawn.target + drawn.predicted - drawn.hits) * counted.sum(axis=-1, keepdims=True))
    weights = np.nan_to_num(weights)
    union = images.target + images.predicted - images.hits
    # How much the mean changes with one more of each image, (S, P).
    influence = weights @ images.hits.T - (weights * np.nan_to_num(values)) @ union.T
    return mean_ious(drawn, policy), np.sqrt((times * influence**2).sum(axis=1) * number / (number - 1))


def class_intervals(
    confusions: NDArray[np.int64] | Counts, samples: int = RESAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """95 % interval of every class's IoU as of `bootstrap_interval`, (K, 2) float64; NaN where a class is in too few images."""
    images = count(confusions)
    result = np.full((images.hits.shape[1], 2), np.nan)
    enough = (images.target > 0).sum(axis=0) >= MIN_OCCURRENCES
    if len(images.hits) < MIN_IMAGES or not enough.any():
        return result
    groups = _groups(Counts(*(part[:, enough] for part in images)), seed)
    number, whole = len(groups.hits), total(groups)
    rest = Counts(*(a - b for a, b in zip(whole, groups, strict=True)))
    error = np.sqrt((number - 1) * iou(rest).var(axis=0))
    largest = (whole.target + whole.predicted).astype(np.float64)
    hits, union = groups.hits / largest, (groups.target + groups.predicted - groups.hits) / largest
    scores, errors = [], []
    for times in _draws(number, samples, seed):
        below = times @ union
        values = ratio_or_nan(times @ hits, below)
        squares = times @ hits**2 - 2 * values * (times @ (hits * union)) + values**2 * (times @ union**2)
        scores.append(values)
        errors.append(ratio_or_nan(np.sqrt(np.maximum(squares, 0) * number / (number - 1)), below))
    result[enough] = _bootstrap_t(iou(whole), error, np.concatenate(scores), np.concatenate(errors))
    return result


def _bootstrap_t(
    score: NDArray[np.float64], error: Any, scores: NDArray[np.float64], errors: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return symmetric 95 % intervals on the scale of the logit, (..., 2), of scores (...) with resamples (S, ...)."""
    slope, middle = _logit_slope(score), _logit(score)
    # Without a spread there is nothing to divide by: such resamples, as of one image alone, tell nothing.
    distance = ratio_or_nan(
        np.abs(_logit(scores) - middle), np.where(errors > _MIN_ERROR, errors * _logit_slope(scores), 0.0)
    )
    known = np.where(np.isnan(distance).all(axis=0), 0.0, distance)
    reach = np.nanquantile(known, 0.95, axis=0) * error * slope
    ends = 1 / (1 + np.exp(-np.stack([middle - reach, middle + reach], axis=-1)))
    return np.where((reach > 0)[..., None], ends, np.stack([score, score], axis=-1))


def _logit(score: NDArray[np.float64]) -> NDArray[np.float64]:
    inside = np.clip(score, 1e-6, 1 - 1e-6)
    return np.log(inside / (1 - inside))


def _logit_slope(score: NDArray[np.float64]) -> NDArray[np.float64]:
    inside = np.clip(score, 1e-6, 1 - 1e-6)
    return 1 / (inside * (1 - inside))


def paired_difference(
    confusions_a: NDArray[np.int64] | Counts,
    confusions_b: NDArray[np.int64] | Counts,
    policy: Policy = "nan",
    samples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Difference of mIoU of two models (b minus a) on the same images, and its 95 % interval by paired bootstrap.

    Both are (P, K, K) int64 or Counts (P, K) in the same order. They are scored on the same resampled images, so an image
    that is hard for both cancels out. Equal seeds give equal intervals; for fewer than two images they are NaN.
    """
    a, b = count(confusions_a), count(confusions_b)
    if a.target.shape != b.target.shape or (a.target != b.target).any():
        raise InputError(
            f"a paired comparison needs the same images in the same order: {a.target.shape[0]} images of"
            f" {a.target.shape[-1]} classes and {b.target.shape[0]} of {b.target.shape[-1]} have other ground truth."
        )
    value = mean_iou(total(b), policy) - mean_iou(total(a), policy)
    if len(a.hits) < 2:
        return Difference(value, float("nan"), float("nan"))
    differences = mean_ious(resample(b, samples, seed), policy) - mean_ious(resample(a, samples, seed), policy)
    low, high = _percentiles(differences[:, None])[0]
    return Difference(value, float(low), float(high))


def _percentiles(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """2.5th and 97.5th percentile of each column of (samples, K) without its NaN, (K, 2); NaN where all are."""
    result = np.full((values.shape[1], 2), np.nan)
    for column, known in enumerate(~np.isnan(values).T):
        if known.any():
            result[column] = np.percentile(values[known, column], [2.5, 97.5])
    return result
