"""Metrics of label maps: one integer confusion matrix, and everything derived from it.

n_ij is the number of pixels of true class i predicted as class j, t_i = sum_j n_ij, over the whole set::

    pixel_accuracy      sum_i n_ii / sum_i t_i
    mean_accuracy       mean_i  n_ii / t_i
    mean_iou            mean_i  n_ii / (t_i + sum_j n_ji - n_ii)
    freq_weighted_iou   sum_i t_i IoU_i / sum_i t_i

Void pixels are not counted. All scores are fractions in [0, 1], and NaN where there is nothing to score. The policy decides
over which classes a mean runs: ``"nan"`` over those that occur in the ground truth or in the prediction (one that is only
predicted has IoU 0); ``"present_only"`` over those in the ground truth, as the paper scores SIFT Flow.

Source: Long et al., CVPR 2015, section 5; `score.py` of the authors' release.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fullconv.errors import InputError, nearest
from fullconv.labels import MAX_CLASSES, VOID

Policy = Literal["nan", "present_only"]
POLICIES: tuple[Policy, ...] = ("nan", "present_only")
RESAMPLES = 2000
"""Resamples of the images for an interval."""
MIN_IMAGES = 20
"""Images from which on an interval of mIoU holds the true value as often as it says (benchmarks/intervals.py)."""
MIN_OCCURRENCES = 8
"""Images that half of the classes must be in for that."""


class Counts(NamedTuple):
    """What metrics need of a confusion matrix: three int64 arrays (..., K), pixels by class."""

    hits: NDArray[np.int64]
    """Predicted correctly: the diagonal."""
    target: NDArray[np.int64]
    """In the ground truth: row sums."""
    predicted: NDArray[np.int64]
    """Predicted where the ground truth is not void: column sums."""


class Difference(NamedTuple):
    """A difference of mIoU between two runs and its 95 % interval."""

    value: float
    """Second minus first."""
    low: float
    high: float


def confusion_matrix(target: Any, prediction: Any, num_classes: int, ignore_index: int = VOID) -> NDArray[np.int64]:
    """Count pixels by pair of true and predicted class.

    Args:
        target: Integers of any shape (array or tensor), 0..K-1 or ``ignore_index``. uint8 is fastest.
        prediction: Integers of the same shape, 0..K-1; any where the target is void.
        num_classes: K, at most 255.
        ignore_index: Target value whose pixels are not counted.

    Returns:
        (K, K) int64; rows are the target, columns the prediction.

    Raises:
        InputError: The shapes differ, or a value is not a class; the message has the value and the number of pixels.

    >>> confusion_matrix(np.array([0, 1, 1, 255]), np.array([0, 1, 0, 1]), num_classes=2)
    array([[1, 0],
           [1, 1]])
    """
    if not 1 <= num_classes <= MAX_CLASSES:
        raise InputError(f"a confusion matrix has 1 to {MAX_CLASSES} classes, not {num_classes}.")
    targets, predicted = _integers(target, "target"), _integers(prediction, "prediction")
    if targets.shape != predicted.shape:
        raise InputError(f"target is {targets.shape} and prediction is {predicted.shape}: their shapes must be equal.")
    if targets.dtype != np.uint8 or ignore_index != VOID or predicted.dtype != np.uint8:
        targets, predicted = _as_bytes(targets, predicted, num_classes, ignore_index)
    # Both bytes make one 16-bit number, so that a single bincount finds void and invalid values too, without masks.
    pairs = np.left_shift(targets, 8, dtype=np.uint16)
    np.bitwise_or(pairs, predicted, out=pairs)
    table = np.bincount(pairs.ravel(), minlength=1 << 16).reshape(256, 256)
    _check_absent(table[num_classes:VOID].sum(axis=1), num_classes, "target", f"a class or void ({ignore_index})")
    _check_absent(table[:num_classes, num_classes:].sum(axis=0), num_classes, "prediction", "a class")
    return table[:num_classes, :num_classes].astype(np.int64)


def _integers(values: Any, name: str) -> NDArray[Any]:
    """Return an array or a tensor of any device as an integer array."""
    array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    if array.dtype.kind not in "iub":
        raise InputError(f"{name} holds {array.dtype} numbers, not integers: pass labels, not scores.")
    return array


def _as_bytes(
    target: NDArray[Any], predicted: NDArray[Any], num_classes: int, ignore_index: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Check integers of any width and return them as bytes, with void as 255."""
    void = target == ignore_index
    wrong = ~void & ((target < 0) | (target >= num_classes))
    for name, array, bad in (
        ("target", target, wrong),
        ("prediction", predicted, ~void & ((predicted < 0) | (predicted >= num_classes))),
    ):
        if bad.any():
            kind = f"a class or void ({ignore_index})" if name == "target" else "a class"
            raise InputError(_invalid_value(name, int(array[bad].min()), int(bad.sum()), num_classes, kind))
    return np.where(void, VOID, target).astype(np.uint8), predicted.astype(np.uint8)


def _check_absent(pixels: NDArray[np.int64], first: int, name: str, kind: str) -> None:
    """Raise where any of the values first, first+1, ... was counted."""
    if pixels.any():
        raise InputError(_invalid_value(name, first + int(pixels.argmax()), int(pixels.sum()), first, kind))


def _invalid_value(name: str, value: int, pixels: int, num_classes: int, kind: str) -> str:
    return (
        f"{name} holds {value}, which is not {kind}; classes are 0 to {num_classes - 1} ({pixels} such pixels in all)."
    )


def count(confusion: NDArray[np.int64] | Counts) -> Counts:
    """Reduce confusion matrices (..., K, K) to what scores need; Counts stay as they are."""
    if isinstance(confusion, Counts):
        return confusion
    matrix = np.asarray(confusion)
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise InputError(f"a confusion matrix is (K, K), not {matrix.shape}.")
    return Counts(np.diagonal(matrix, axis1=-2, axis2=-1), matrix.sum(axis=-1), matrix.sum(axis=-2))


def total(images: Counts) -> Counts:
    """Add up the counts of images (P, K) to those of the set (K,)."""
    return Counts(*(part.sum(axis=0) for part in images))


def iou(confusion: NDArray[np.int64] | Counts) -> NDArray[np.float64]:
    """Intersection over union, (..., K) float64 in [0, 1]; NaN for a class neither in the ground truth nor predicted."""
    hits, target, predicted = count(confusion)
    return _ratio(hits, target + predicted - hits)


def dice(confusion: NDArray[np.int64] | Counts) -> NDArray[np.float64]:
    """Dice score (F1), (..., K) float64 in [0, 1]: 2 IoU / (1 + IoU); NaN where IoU is."""
    hits, target, predicted = count(confusion)
    return _ratio(2 * hits, target + predicted)


def accuracy(confusion: NDArray[np.int64] | Counts) -> NDArray[np.float64]:
    """Share of a true class that was found (recall), (..., K) float64 in [0, 1]; NaN for a class not in the ground truth."""
    hits, target, _ = count(confusion)
    return _ratio(hits, target)


def pixel_accuracy(confusion: NDArray[np.int64] | Counts) -> float:
    """Share of valid pixels that are correct; NaN where there are none."""
    hits, target, _ = count(confusion)
    return float(_ratio(hits.sum(axis=-1), target.sum(axis=-1)))


def mean_accuracy(confusion: NDArray[np.int64] | Counts) -> float:
    """Mean of `accuracy` over the classes in the ground truth."""
    return float(_mean(accuracy(confusion)))


def mean_iou(confusion: NDArray[np.int64] | Counts, policy: Policy = "nan") -> float:
    """Mean of `iou` over the classes of the policy."""
    return float(mean_ious(confusion, policy))


def mean_ious(confusion: NDArray[np.int64] | Counts, policy: Policy = "nan") -> NDArray[np.float64]:
    """Mean IoU of each matrix (..., K, K) or Counts (..., K), not of their sum; (...) float64."""
    counts = count(confusion)
    values = iou(counts)
    if check_policy(policy) == "present_only":
        values = np.where(counts.target > 0, values, np.nan)
    return _mean(values)


def freq_weighted_iou(confusion: NDArray[np.int64] | Counts) -> float:
    """Mean of `iou` weighted by the true pixels of each class."""
    counts = count(confusion)
    weighted = np.where(counts.target > 0, counts.target * np.nan_to_num(iou(counts)), 0.0)
    return float(_ratio(weighted.sum(axis=-1), counts.target.sum(axis=-1)))


def check_policy(policy: str) -> Policy:
    """Check a policy's name."""
    for known in POLICIES:
        if policy == known:
            return known
    raise InputError(f"there is no policy '{policy}', only {' and '.join(POLICIES)}.{nearest(policy, POLICIES)}")


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


_GROUPS = 2000
_CHUNK = 100  # resamples at once: a few MB


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
    weights = _ratio(counted, (drawn.target + drawn.predicted - drawn.hits) * counted.sum(axis=-1, keepdims=True))
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
        values = _ratio(times @ hits, below)
        squares = times @ hits**2 - 2 * values * (times @ (hits * union)) + values**2 * (times @ union**2)
        scores.append(values)
        errors.append(_ratio(np.sqrt(np.maximum(squares, 0) * number / (number - 1)), below))
    result[enough] = _bootstrap_t(iou(whole), error, np.concatenate(scores), np.concatenate(errors))
    return result


def _bootstrap_t(
    score: NDArray[np.float64], error: Any, scores: NDArray[np.float64], errors: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return symmetric 95 % intervals on the scale of the logit, (..., 2), of scores (...) with resamples (S, ...)."""
    slope, middle = _logit_slope(score), _logit(score)
    # Without a spread there is nothing to divide by: such resamples, as of one image alone, tell nothing.
    distance = _ratio(
        np.abs(_logit(scores) - middle), np.where(errors > _MIN_ERROR, errors * _logit_slope(scores), 0.0)
    )
    known = np.where(np.isnan(distance).all(axis=0), 0.0, distance)
    reach = np.nanquantile(known, 0.95, axis=0) * error * slope
    ends = 1 / (1 + np.exp(-np.stack([middle - reach, middle + reach], axis=-1)))
    return np.where((reach > 0)[..., None], ends, np.stack([score, score], axis=-1))


_MIN_ERROR = 1e-9  # a standard error below this is rounding


def _logit(score: NDArray[np.float64]) -> NDArray[np.float64]:
    inside = np.clip(score, 1e-6, 1 - 1e-6)
    return np.log(inside / (1 - inside))


def _logit_slope(score: NDArray[np.float64]) -> NDArray[np.float64]:
    inside = np.clip(score, 1e-6, 1 - 1e-6)
    return 1 / (inside * (1 - inside))


def best_constant(confusion: NDArray[np.int64]) -> tuple[int, NDArray[np.int64]]:
    """Return the class with which labelling every pixel scores best, and the confusion matrix (K, K) of doing so.

    It is the class of most pixels, by every metric here: no other class is hit, and its IoU and recall are the largest.
    """
    target = np.asarray(confusion).sum(axis=1)
    best = int(target.argmax())
    matrix = np.zeros_like(confusion)
    matrix[:, best] = target
    return best, matrix


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


def edge_band(target: NDArray[np.uint8], width: int) -> NDArray[np.bool_]:
    """Mark the pixels within some distance of an edge of the ground truth, to score there only (a trimap).

    An edge is where neighbouring labels differ; void counts as a label, as VOC draws its edges as strips of void.
    ``np.where(edge_band(target, 3), target, VOID)`` is the target with all else void.

    Args:
        target: (H, W) uint8.
        width: Largest distance in pixels, along rows, columns or diagonals; 1 marks the pixels that touch an edge.
    """
    if width < 1:
        raise InputError(f"an edge band is at least 1 pixel wide, not {width}.")
    highest = _window_max(_window_max(target, width, 0), width, 1)
    lowest = 255 - _window_max(_window_max(255 - target, width, 0), width, 1)
    marked: NDArray[np.bool_] = highest != lowest
    return marked


def _window_max(values: NDArray[np.uint8], reach: int, axis: int) -> NDArray[np.uint8]:
    """Largest value within `reach` cells along an axis, by windows of doubling size."""
    result = np.pad(values, [(reach, reach) if a == axis else (0, 0) for a in range(values.ndim)], mode="edge")
    result = np.moveaxis(result, axis, 0)
    span = 1
    while span < 2 * reach + 1:
        step = min(span, 2 * reach + 1 - span)
        result = np.maximum(result[:-step], result[step:])
        span += step
    return np.moveaxis(result, 0, axis)


def _ratio(above: NDArray[Any], below: NDArray[Any]) -> NDArray[np.float64]:
    """Quotient as float64, NaN where the divisor is 0."""
    quotient = np.full(np.shape(below), np.nan)
    np.divide(above, below, out=quotient, where=np.asarray(below) > 0)
    return quotient


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the last axis without its NaN; NaN where all are."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0.0).sum(axis=-1), known.sum(axis=-1))


def _percentiles(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """2.5th and 97.5th percentile of each column of (samples, K) without its NaN, (K, 2); NaN where all are."""
    result = np.full((values.shape[1], 2), np.nan)
    for column, known in enumerate(~np.isnan(values).T):
        if known.any():
            result[column] = np.percentile(values[known, column], [2.5, 97.5])
    return result
