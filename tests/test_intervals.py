"""Intervals by bootstrap over images, against loops, simulated data sets and known cases."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from fullconv.errors import InputError
from fullconv.intervals import bootstrap_interval, class_intervals, interval_obstacle, paired_difference, resample
from fullconv.metrics import (
    Counts,
    count,
    iou,
    mean_iou,
    mean_ious,
    total,
)
from synthetic.confusions import naive_mean_iou, random_confusions


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
