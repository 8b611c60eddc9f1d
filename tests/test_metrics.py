"""Scores against naive loops, the worked example of the paper's metrics, and laws."""

from __future__ import annotations

import math
import time

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
    bootstrap_interval,
    class_intervals,
    confusion_matrix,
    count,
    dice,
    edge_band,
    freq_weighted_iou,
    interval_obstacle,
    iou,
    mean_accuracy,
    mean_iou,
    mean_ious,
    paired_difference,
    pixel_accuracy,
    resample,
    total,
)

TARGET = np.array([[0, 0, 1, 1], [0, 1, 1, 255], [2, 2, 0, 0]], dtype=np.uint8)
PREDICTION = np.array([[0, 1, 1, 1], [0, 1, 0, 3], [2, 0, 0, 0]], dtype=np.uint8)
CLASSES = 5
NAN = float("nan")


def naive_confusion(target, prediction, num_classes, ignore_index=255):
    matrix = np.zeros((num_classes, num_classes), dtype=np.int64)
    for true, predicted in zip(np.ravel(target).tolist(), np.ravel(prediction).tolist(), strict=True):
        if true != ignore_index:
            matrix[true, predicted] += 1
    return matrix


def naive_mean_iou(matrix, policy):
    values = []
    for k in range(len(matrix)):
        target, predicted = sum(matrix[k]), sum(row[k] for row in matrix)
        if target > 0 or (policy == "nan" and predicted > 0):
            values.append(matrix[k][k] / (target + predicted - matrix[k][k]))
    return sum(values) / len(values) if values else NAN


label_maps = hnp.arrays(np.uint8, (6, 7), elements=st.integers(0, 3))
targets = hnp.arrays(np.uint8, (6, 7), elements=st.sampled_from([0, 1, 2, 3, 255]))
matrices = hnp.arrays(np.int64, (4, 4), elements=st.integers(0, 9))


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


def random_confusions(number, classes=3, seed=0):
    random = np.random.default_rng(seed)
    return random.integers(0, 50, (number, classes, classes)) + 60 * np.eye(classes, dtype=np.int64)


def test_a_resample_is_a_sum_of_images_drawn_with_replacement():
    drawn = resample(count(random_confusions(3)), samples=40, seed=1)
    per_image = count(random_confusions(3))
    possible = {
        tuple((a * per_image.hits[0] + b * per_image.hits[1] + (3 - a - b) * per_image.hits[2]).tolist())
        for a in range(4)
        for b in range(4 - a)
    }
    assert {tuple(row) for row in drawn.hits.tolist()} <= possible
    assert len({tuple(row) for row in drawn.hits.tolist()}) > 5


def test_more_resamples_begin_with_the_same_ones():
    few, many = (resample(count(random_confusions(5)), samples=n, seed=2) for n in (100, 250))
    np.testing.assert_array_equal(many.target[:100], few.target)


def test_many_images_are_drawn_in_groups_of_the_same_spread():
    images = count(random_confusions(5000))
    drawn = mean_ious(resample(images, samples=500))
    one_by_one = mean_ious(
        Counts(*(np.stack([part[rows].sum(axis=0) for rows in draws(5000, 500)]) for part in images))
    )
    assert resample(images, samples=1).target.sum() == pytest.approx(images.target.sum(), rel=0.1)
    assert drawn.std() == pytest.approx(one_by_one.std(), rel=0.15)
    assert drawn.mean() == pytest.approx(mean_iou(total(images)), abs=3 * drawn.std())


def draws(number, samples):
    """Numbers of images drawn with replacement, a row per resample."""
    return np.random.default_rng(99).integers(0, number, (samples, number))


def uneven_images(number, seed=0):
    """Confusion matrices (number, 3, 3) of images that differ: class 2 is in a third of them, some are much worse."""
    random = np.random.default_rng(seed)
    matrices = []
    for _ in range(number):
        sizes = random.integers(20, 200, 3) * [1, 1, random.random() < 0.4]
        right = random.beta(6, 2)
        matrices.append(
            [random.multinomial(n, np.roll([right, *[(1 - right) / 2] * 2], k)) for k, n in enumerate(sizes)]
        )
    return np.array(matrices)


def naive_error(matrices, scores):
    """Standard error of the mean IoU of images by its first derivative, in loops over images and classes."""
    whole = matrices.sum(axis=0)
    changes = []
    for matrix in matrices:
        change = 0.0
        for k in range(len(whole)):
            union = whole[k].sum() + whole[:, k].sum() - whole[k, k]
            own = matrix[k].sum() + matrix[:, k].sum() - matrix[k, k]
            change += (matrix[k, k] - whole[k, k] / union * own) / union / len(whole)
        changes.append(change)
    return math.sqrt(sum(change**2 for change in changes) * len(matrices) / (len(matrices) - 1))


def test_the_interval_is_that_of_a_loop_over_resamples():
    matrices = uneven_images(25)
    score = naive_mean_iou(matrices.sum(axis=0), "nan")
    without = [naive_mean_iou(np.delete(matrices, i, axis=0).sum(axis=0), "nan") for i in range(25)]
    error = math.sqrt(24 / 25 * sum((value - np.mean(without)) ** 2 for value in without))
    odds = lambda value: math.log(value / (1 - value))  # noqa: E731
    ratios = []
    for rows in draws(25, 2000):
        drawn = naive_mean_iou(matrices[rows].sum(axis=0), "nan")
        ratios.append(abs(odds(drawn) - odds(score)) / (naive_error(matrices[rows], drawn) / drawn / (1 - drawn)))
    reach = np.percentile(ratios, 95) * error / score / (1 - score)
    expected = [1 / (1 + math.exp(-odds(score) + sign * reach)) for sign in (1, -1)]
    np.testing.assert_allclose(bootstrap_interval(matrices), expected, atol=0.004)


@pytest.mark.parametrize("number", [20, 50])
def test_the_interval_holds_the_true_value_as_often_as_it_says(number):
    truth = mean_iou(uneven_images(20_000, seed=1).sum(axis=0))
    held = []
    for seed in range(200):
        low, high = bootstrap_interval(uneven_images(number, seed=10 + seed), seed=seed)
        held.append(low <= truth <= high)
    assert 0.91 <= np.mean(held) <= 0.985  # 0.93 to 0.97, and what 200 data sets may differ


def test_class_intervals_are_those_of_the_class_alone():
    images = count(uneven_images(40))
    alone = [bootstrap_interval(Counts(*(part[:, [k]] for part in images))) for k in range(3)]
    np.testing.assert_allclose(class_intervals(images), alone, rtol=1e-6)


def test_the_interval_is_the_same_every_time_and_another_for_another_seed():
    assert bootstrap_interval(random_confusions(20)) == bootstrap_interval(random_confusions(20))
    assert bootstrap_interval(random_confusions(20)) != bootstrap_interval(random_confusions(20), seed=1)


def test_equal_images_have_no_spread():
    same = np.repeat(random_confusions(1), 21, axis=0)
    np.testing.assert_allclose(bootstrap_interval(same), [mean_iou(same[0])] * 2)


@pytest.mark.parametrize("number", [0, 1, 19])
def test_too_few_images_have_no_interval(number):
    assert all(math.isnan(end) for end in bootstrap_interval(random_confusions(number)))
    assert np.isnan(class_intervals(random_confusions(number))).all()
    assert class_intervals(random_confusions(number)).shape == (3, 2)
    assert interval_obstacle(random_confusions(number)) == (
        f"a 95 % interval needs 20 images or more, these are {number}"
    )


def test_classes_that_are_mostly_in_few_images_have_no_interval():
    confusions = np.zeros((30, 5, 5), np.int64)
    for i in range(30):
        rare = 1 + i % 4 if i < 12 else 0  # 3 images each
        confusions[i, 0, 0], confusions[i, rare, rare] = 90, 10
    assert np.isnan(bootstrap_interval(confusions)).all()
    assert interval_obstacle(confusions) == (
        "a 95 % interval needs most classes in 8 images or more, 4 of 5 are in fewer"
    )
    assert interval_obstacle(confusions[:, :2, :2]) is None


def test_void_alone_has_no_interval():
    assert interval_obstacle(np.zeros((25, 3, 3), np.int64)) == "a 95 % interval needs pixels that are not void"


@pytest.mark.parametrize("number", [101, 50_000])
def test_an_interval_takes_about_a_second_at_most(number):
    images = count(np.tile(random_confusions(101, classes=11), (-(-number // 101), 1, 1))[:number])
    start = time.process_time()
    bootstrap_interval(images)
    assert time.process_time() - start < 2


@given(matrix=matrices)
def test_no_constant_prediction_scores_better_than_the_best(matrix):
    best, confusion = best_constant(matrix)
    for k in range(len(matrix)):
        other = np.zeros_like(matrix)
        other[:, k] = matrix.sum(axis=1)
        for score in (mean_iou, pixel_accuracy, mean_accuracy, freq_weighted_iou):
            assert not score(other) > score(confusion)
    assert confusion[:, best].sum() == matrix.sum() == confusion.sum()


def test_class_intervals_hold_the_scores_and_skip_absent_classes():
    confusions = np.pad(random_confusions(25), [(0, 0), (0, 1), (0, 1)])
    intervals = class_intervals(confusions)
    assert intervals.shape == (4, 2)
    values = iou(confusions.sum(axis=0))
    assert (intervals[:3, 0] < values[:3]).all()
    assert (values[:3] < intervals[:3, 1]).all()
    assert np.isnan(intervals[3]).all()


def test_the_interval_follows_the_policy():
    confusions = random_confusions(20)
    confusions[:, 2] = 0  # never in the target, but predicted
    nan, present = (bootstrap_interval(confusions, policy) for policy in ("nan", "present_only"))
    assert nan[1] < present[0]


def test_a_model_does_not_differ_from_itself():
    assert paired_difference(random_confusions(8), random_confusions(8)) == (0, 0, 0)


def worse(confusions, pixels):
    """Move some right pixels of class 0 to the wrong class 1; the target stays."""
    changed = confusions.copy()
    changed[:, 0, 0] -= pixels
    changed[:, 0, 1] += pixels
    return changed


def test_a_paired_difference_finds_what_intervals_of_each_run_hide():
    good, bad = random_confusions(30), worse(random_confusions(30), 4)
    value, low, high = paired_difference(good, bad)
    assert math.isclose(value, mean_iou(bad.sum(axis=0)) - mean_iou(good.sum(axis=0)), abs_tol=1e-15)
    assert low < value < high < 0
    assert bootstrap_interval(bad)[1] > bootstrap_interval(good)[0]  # unpaired, the two overlap
    turned = paired_difference(bad, good)
    np.testing.assert_allclose([turned.low, turned.high], [-high, -low])


def test_runs_on_other_images_are_not_compared():
    with pytest.raises(InputError, match=r"same images in the same order: 4 images of 3 classes and 5"):
        paired_difference(random_confusions(4), random_confusions(5))
    with pytest.raises(InputError, match=r"have other ground truth"):
        paired_difference(random_confusions(4), random_confusions(4, seed=1))


def test_one_image_gives_a_difference_without_an_interval():
    value, low, high = paired_difference(random_confusions(1), worse(random_confusions(1), 5))
    assert value < 0
    assert math.isnan(low)
    assert math.isnan(high)


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
