"""Scores against naive loops, the worked example of the paper's metrics, and laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fullconv.errors import InputError
from fullconv.metrics import (
    Counts,
    accuracy,
    best_constant,
    confusion_matrix,
    count,
    dice,
    edge_band,
    freq_weighted_iou,
    iou,
    mean_accuracy,
    mean_iou,
    mean_ious,
    pixel_accuracy,
    total,
)
from synthetic.confusions import NAN, matrices, naive_mean_iou, random_confusions

TARGET = np.array([[0, 0, 1, 1], [0, 1, 1, 255], [2, 2, 0, 0]], dtype=np.uint8)
PREDICTION = np.array([[0, 1, 1, 1], [0, 1, 0, 3], [2, 0, 0, 0]], dtype=np.uint8)
CLASSES = 5


def naive_confusion(target, prediction, num_classes, ignore_index=255):
    matrix = np.zeros((num_classes, num_classes), dtype=np.int64)
    for true, predicted in zip(np.ravel(target).tolist(), np.ravel(prediction).tolist(), strict=True):
        if true != ignore_index:
            matrix[true, predicted] += 1
    return matrix


label_maps = hnp.arrays(np.uint8, (6, 7), elements=st.integers(0, 3))
targets = hnp.arrays(np.uint8, (6, 7), elements=st.sampled_from([0, 1, 2, 3, 255]))


# the confusion matrix


@given(target=targets, prediction=label_maps)
def test_the_matrix_is_that_of_a_loop_over_pixels(target, prediction):
    matrix = confusion_matrix(target, prediction, 4)
    assert matrix.dtype == np.int64
    np.testing.assert_array_equal(matrix, naive_confusion(target, prediction, 4))


@given(target=targets, prediction=label_maps, cut=st.integers(0, 6))
def test_the_matrix_of_a_whole_is_the_sum_over_its_parts_in_any_grouping(target, prediction, cut):
    parts = [confusion_matrix(target[rows], prediction[rows], 4) for rows in (slice(0, cut), slice(cut, None))]
    np.testing.assert_array_equal(parts[1] + parts[0], confusion_matrix(target, prediction, 4))


def test_integers_of_any_width_and_tensors_count_the_same():
    expected = naive_confusion(TARGET, PREDICTION, CLASSES)
    for dtype in (np.int64, np.int32, np.uint16):
        matrix = confusion_matrix(TARGET.astype(dtype), PREDICTION.astype(dtype), CLASSES)
        np.testing.assert_array_equal(matrix, expected)
    matrix = confusion_matrix(torch.from_numpy(TARGET).long(), torch.from_numpy(PREDICTION), CLASSES)
    np.testing.assert_array_equal(matrix, expected)


@pytest.mark.parametrize("ignore_index", [-1, 0, 1000])
def test_another_void_value_drops_its_pixels(ignore_index):
    target = np.array([ignore_index, 1, 2, 2])
    prediction = np.array([1, 1, 2, 1])
    expected = naive_confusion(target, prediction, 3, ignore_index)
    np.testing.assert_array_equal(confusion_matrix(target, prediction, 3, ignore_index=ignore_index), expected)


def test_bytes_with_another_void_value_count_as_wider_integers_do():
    labels, prediction = np.array([0, 11, 1, 0], np.uint8), np.array([0, 1, 0, 1], np.uint8)
    for ignore_index in (11, 0):
        target = np.where(labels == 11, ignore_index, labels).astype(np.uint8)
        expected = naive_confusion(target, prediction, 3, ignore_index)
        np.testing.assert_array_equal(confusion_matrix(target, prediction, 3, ignore_index=ignore_index), expected)


def test_255_classes_fit_beside_void():
    labels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(confusion_matrix(labels, labels, 255), np.eye(255, dtype=np.int64))


def test_what_is_predicted_under_void_does_not_count():
    everything = np.arange(256, dtype=np.uint8)
    assert confusion_matrix(np.full(256, 255, np.uint8), everything, 2).sum() == 0
    assert confusion_matrix(np.full(256, 255), everything.astype(np.int64) * 9, 2).sum() == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_values_outside_the_classes_are_named_with_their_number_of_pixels(dtype):
    prediction = np.array([0, 7, 255, 1], dtype=dtype)
    with pytest.raises(InputError, match=r"prediction holds 7, which is not a class; classes are 0 to 2 \(2 such"):
        confusion_matrix(np.zeros(4, dtype), prediction, 3)
    with pytest.raises(InputError, match=r"target holds 3, which is not a class or void \(255\); classes are 0 to 2"):
        confusion_matrix(np.array([3, 0], dtype), np.zeros(2, dtype), 3)
    if dtype == np.int64:
        with pytest.raises(InputError, match=r"prediction holds -1"):
            confusion_matrix(np.array([0]), np.array([-1]), 3)


def test_other_shapes_other_types_and_other_numbers_of_classes_are_refused():
    with pytest.raises(InputError, match=r"target is \(3, 4\) and prediction is \(4, 3\)"):
        confusion_matrix(TARGET, PREDICTION.T, CLASSES)
    with pytest.raises(InputError, match=r"prediction holds float32 numbers, not integers"):
        confusion_matrix(TARGET, PREDICTION.astype(np.float32), CLASSES)
    with pytest.raises(InputError, match=r"1 to 255 classes, not 256"):
        confusion_matrix(TARGET, PREDICTION, 256)
    with pytest.raises(InputError, match=r"a confusion matrix is \(K, K\), not \(2, 3\)"):
        iou(np.zeros((2, 3), np.int64))


# scores


def test_the_worked_example_to_twelve_digits():
    matrix = confusion_matrix(TARGET, PREDICTION, CLASSES)
    assert math.isclose(pixel_accuracy(matrix), 8 / 11, abs_tol=1e-12)
    assert math.isclose(mean_accuracy(matrix), (4 / 5 + 3 / 4 + 1 / 2) / 3, abs_tol=1e-12)
    np.testing.assert_allclose(iou(matrix), [4 / 7, 3 / 5, 1 / 2, NAN, NAN], atol=1e-12)
    np.testing.assert_allclose(dice(matrix), [8 / 11, 3 / 4, 2 / 3, NAN, NAN], atol=1e-12)
    np.testing.assert_allclose(accuracy(matrix), [4 / 5, 3 / 4, 1 / 2, NAN, NAN], atol=1e-12)
    assert math.isclose(mean_iou(matrix), (4 / 7 + 3 / 5 + 1 / 2) / 3, abs_tol=1e-12)
    assert math.isclose(mean_iou(matrix), 0.55714, abs_tol=1e-5)
    assert math.isclose(mean_iou(matrix, "present_only"), mean_iou(matrix), abs_tol=1e-12)
    assert math.isclose(freq_weighted_iou(matrix), (5 * 4 / 7 + 4 * 3 / 5 + 2 * 1 / 2) / 11, abs_tol=1e-12)
    assert math.isclose(freq_weighted_iou(matrix), 0.56883, abs_tol=1e-5)


def test_a_class_that_is_only_predicted_has_iou_0_and_the_policies_differ():
    prediction = PREDICTION.copy()
    prediction[0, 0] = 3
    matrix = confusion_matrix(TARGET, prediction, CLASSES)
    np.testing.assert_array_equal(iou(matrix)[3:], [0, NAN])
    np.testing.assert_array_equal(dice(matrix)[3:], [0, NAN])
    np.testing.assert_array_equal(accuracy(matrix)[3:], [NAN, NAN])
    assert math.isclose(mean_iou(matrix, "nan"), 0.38214, abs_tol=1e-5)
    assert math.isclose(mean_iou(matrix, "present_only"), 0.50952, abs_tol=1e-5)


@given(matrix=matrices, policy=st.sampled_from(["nan", "present_only"]))
def test_mean_iou_is_that_of_a_loop_over_classes(matrix, policy):
    expected = naive_mean_iou(matrix.tolist(), policy)
    np.testing.assert_allclose(mean_iou(matrix, policy), expected, rtol=1e-12)


@given(matrix=matrices)
def test_dice_is_twice_iou_over_one_plus_iou(matrix):
    np.testing.assert_allclose(dice(matrix), 2 * iou(matrix) / (1 + iou(matrix)), rtol=1e-12)


@given(matrix=matrices, order=st.permutations(range(4)))
def test_naming_the_classes_in_another_order_changes_no_score(matrix, order):
    shuffled = matrix[np.ix_(order, order)]
    for score in (pixel_accuracy, mean_accuracy, mean_iou, freq_weighted_iou):
        np.testing.assert_allclose(score(shuffled), score(matrix), rtol=1e-12)
    np.testing.assert_array_equal(iou(shuffled), iou(matrix)[order])


@given(matrix=matrices)
def test_counts_give_the_scores_of_their_matrix(matrix):
    for score in (pixel_accuracy, mean_accuracy, mean_iou, freq_weighted_iou):
        np.testing.assert_array_equal(score(count(matrix)), score(matrix))


def test_where_nothing_is_valid_every_score_is_nan():
    nothing = np.zeros((3, 3), np.int64)
    for score in (pixel_accuracy, mean_accuracy, mean_iou, freq_weighted_iou):
        assert math.isnan(score(nothing))
    assert np.isnan(iou(nothing)).all()


def test_an_unknown_policy_is_refused_with_the_nearest():
    message = r"no policy 'present', only nan and present_only\. Did you mean 'present_only'"
    with pytest.raises(InputError, match=message):
        mean_iou(np.eye(2, dtype=np.int64), "present")


# the bootstrap


@given(matrix=matrices)
def test_no_constant_prediction_scores_better_than_the_best(matrix):
    best, confusion = best_constant(matrix)
    for k in range(len(matrix)):
        other = np.zeros_like(matrix)
        other[:, k] = matrix.sum(axis=1)
        for score in (mean_iou, pixel_accuracy, mean_accuracy, freq_weighted_iou):
            assert not score(other) > score(confusion)
    assert confusion[:, best].sum() == matrix.sum() == confusion.sum()


# along edges


def naive_band(target, width):
    height, length = target.shape
    marked = np.zeros(target.shape, bool)
    for y in range(height):
        for x in range(length):
            window = target[max(0, y - width) : y + width + 1, max(0, x - width) : x + width + 1]
            marked[y, x] = (window != target[y, x]).any()
    return marked


@settings(max_examples=50)
@given(target=targets, width=st.integers(1, 5))
def test_the_band_is_where_a_window_holds_two_labels(target, width):
    np.testing.assert_array_equal(edge_band(target, width), naive_band(target, width))


def test_a_band_of_a_straight_edge_is_as_wide_as_asked_on_both_sides():
    target = np.zeros((9, 20), np.uint8)
    target[:, 10:] = 1
    np.testing.assert_array_equal(np.flatnonzero(edge_band(target, 3)[4]), [7, 8, 9, 10, 11, 12])


def test_a_band_below_one_pixel_is_refused():
    with pytest.raises(InputError, match=r"at least 1 pixel wide, not 0"):
        edge_band(TARGET, 0)


def test_coarser_labels_lose_more_along_edges_and_score_lower():
    """The paper's upper bounds: target reduced by 32, 16, 8, 4 and enlarged again scores ever higher."""
    y, x = np.mgrid[0:256, 0:256]
    target = (((y - 120) ** 2 + (x - 131) ** 2 < 90**2) + ((abs(y - 60) < 25) & (abs(x - 180) < 37))).astype(np.uint8)
    scores, along_edges = [], []
    for factor in (32, 16, 8, 4):
        coarse = target[factor // 2 :: factor, factor // 2 :: factor].repeat(factor, 0).repeat(factor, 1)
        scores.append(mean_iou(confusion_matrix(target, coarse, 3)))
        trimap = np.where(edge_band(target, 4), target, 255)
        along_edges.append(mean_iou(confusion_matrix(trimap, coarse, 3)))
    assert scores == sorted(scores)
    assert along_edges == sorted(along_edges)
    assert all(edge < score for edge, score in zip(along_edges, scores, strict=True))


def test_totals_and_means_by_image_are_two_things():
    confusions = random_confusions(4)
    np.testing.assert_array_equal(total(count(confusions)).hits, count(confusions.sum(axis=0)).hits)
    assert isinstance(total(count(confusions)), Counts)
    np.testing.assert_allclose(mean_ious(confusions), [mean_iou(one) for one in confusions])
