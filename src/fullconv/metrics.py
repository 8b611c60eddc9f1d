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

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fullconv.errors import InputError, nearest
from fullconv.labels import MAX_CLASSES, VOID

Policy = Literal["nan", "present_only"]
POLICIES: tuple[Policy, ...] = ("nan", "present_only")


class Counts(NamedTuple):
    """What metrics need of a confusion matrix: three int64 arrays (..., K), pixels by class."""

    hits: NDArray[np.int64]
    """Predicted correctly: the diagonal."""
    target: NDArray[np.int64]
    """In the ground truth: row sums."""
    predicted: NDArray[np.int64]
    """Predicted where the ground truth is not void: column sums."""


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
    return ratio_or_nan(hits, target + predicted - hits)


def dice(confusion: NDArray[np.int64] | Counts) -> NDArray[np.float64]:
    """Dice score (F1), (..., K) float64 in [0, 1]: 2 IoU / (1 + IoU); NaN where IoU is."""
    hits, target, predicted = count(confusion)
    return ratio_or_nan(2 * hits, target + predicted)


def accuracy(confusion: NDArray[np.int64] | Counts) -> NDArray[np.float64]:
    """Share of a true class that was found (recall), (..., K) float64 in [0, 1]; NaN for a class not in the ground truth."""
    hits, target, _ = count(confusion)
    return ratio_or_nan(hits, target)


def pixel_accuracy(confusion: NDArray[np.int64] | Counts) -> float:
    """Share of valid pixels that are correct; NaN where there are none."""
    hits, target, _ = count(confusion)
    return float(ratio_or_nan(hits.sum(axis=-1), target.sum(axis=-1)))


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
    return float(ratio_or_nan(weighted.sum(axis=-1), counts.target.sum(axis=-1)))


def check_policy(policy: str) -> Policy:
    """Check a policy's name."""
    for known in POLICIES:
        if policy == known:
            return known
    raise InputError(f"there is no policy '{policy}', only {' and '.join(POLICIES)}.{nearest(policy, POLICIES)}")


def best_constant(confusion: NDArray[np.int64]) -> tuple[int, NDArray[np.int64]]:
    """Return the class with which labelling every pixel scores best, and the confusion matrix (K, K) of doing so.

    It is the class of most pixels, by every metric here: no other class is hit, and its IoU and recall are the largest.
    """
    target = np.asarray(confusion).sum(axis=1)
    best = int(target.argmax())
    matrix = np.zeros_like(confusion)
    matrix[:, best] = target
    return best, matrix


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


def ratio_or_nan(above: NDArray[Any], below: NDArray[Any]) -> NDArray[np.float64]:
    """Quotient as float64, NaN where the divisor is 0."""
    quotient = np.full(np.shape(below), np.nan)
    np.divide(above, below, out=quotient, where=np.asarray(below) > 0)
    return quotient


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the last axis without its NaN; NaN where all are."""
    known = ~np.isnan(values)
    return ratio_or_nan(np.where(known, values, 0.0).sum(axis=-1), known.sum(axis=-1))
