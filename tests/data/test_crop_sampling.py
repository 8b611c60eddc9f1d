from __future__ import annotations

import re

import numpy as np
import pytest

from fullconv.data import Statistics
from fullconv.data.crop_sampling import (
    center_probabilities,
    choose_sampling,
    class_weights,
    crops_per_image,
    sample_center,
)
from fullconv.errors import RecipeError
from fullconv.labels import VOID


def numbers(*pixels: int, size: tuple[int, int] = (100, 100), area: list[int] | None = None) -> Statistics:
    counts = np.array(pixels, np.int64)
    return Statistics(
        pixels=counts,
        pictures=(counts > 0).astype(np.int64),
        area=np.array(area or [sum(pixels)] * len(pixels), np.int64),
        void=0,
        mean=(0.5,),
        std=(0.2,),
        range=(0.0, 255.0),
        sizes=[size],
        channels=1,
        dtype="uint8",
    )


def test_inverse_log_is_that_of_enet_with_mean_one_over_pixels():
    weights, words = class_weights(numbers(900, 90, 10), "inverse_log")
    raw = 1 / np.log(1.02 + np.array([0.9, 0.09, 0.01]))
    np.testing.assert_allclose(weights / weights[0], raw / raw[0], rtol=1e-5)
    np.testing.assert_allclose((weights * [0.9, 0.09, 0.01]).sum(), 1, rtol=1e-5)
    assert "inverse logarithm" in words


def test_median_frequency_counts_over_the_images_that_have_the_class():
    weights, _ = class_weights(numbers(60, 30, 10, area=[100, 50, 40]), "median_frequency")
    frequency = np.array([0.6, 0.6, 0.25])
    np.testing.assert_allclose(weights, 0.6 / frequency, rtol=1e-6)


# CamVid's training pictures as published by SegNet: pixels of each class, and valid pixels of the pictures that have it
CAMVID = [10682767, 14750079, 623349, 20076880, 2845085, 6166762, 743859, 714595, 3719877, 405385, 184967]
CAMVID_AREA = [60742419, 60576720, 60742419, 60913605, 57891851, 53145620, 58219298, 28788115, 59722763, 52666175,
               33193217]  # fmt: skip


def test_median_frequency_on_camvid_is_near_the_published_weights():
    weights, _ = class_weights(numbers(*CAMVID, area=CAMVID_AREA), "median_frequency")
    # Badrinarayanan et al., SegNet; the sign class was counted otherwise there
    published = np.array([0.2595, 0.1826, 4.5640, 0.1417, 0.9051, 0.3826, 9.6446, 1.8418, 0.6823, 6.2478, 7.3614])
    ratio = np.delete(weights / published, 6)
    assert (ratio / np.median(ratio)).min() > 0.9
    assert (ratio / np.median(ratio)).max() < 1.15


@pytest.mark.parametrize(
    ("pixels", "expected", "words"),
    [
        ((60, 40), [1, 1], "All classes weigh the same: they differ by 1.5x"),
        ((990, 10), [0.99**-0.5, 0.01**-0.5], "inverse square root of their pixels.*The rarest class has 1 % of them"),
        ((0, 0), [1, 1], "All classes weigh the same"),
    ],
)
def test_auto_weights_are_explained(pixels, expected, words):
    weights, said = class_weights(numbers(*pixels))
    share = np.array(pixels) / max(sum(pixels), 1)
    expected = np.array(expected) / (max((share * expected).sum(), 1e-9) if sum(pixels) and expected[0] != 1 else 1)
    np.testing.assert_allclose(weights, expected, rtol=1e-5)
    assert re.search(words, said)


def test_auto_for_more_classes_is_the_inverse_fourth_root():
    """Milder than inverse_log, which finds rare classes at the price of their IU."""
    weights, words = class_weights(numbers(810_000, 160_000, 10_000))
    np.testing.assert_allclose(weights[1:] / weights[0], [(81 / 16) ** 0.25, 3], rtol=1e-6)
    np.testing.assert_allclose(weights @ np.array([81, 16, 1]) / 98, 1, rtol=1e-6)
    assert "inverse fourth root" in words


@pytest.mark.parametrize("kind", ["auto", "none", "inverse_log", "median_frequency"])
def test_a_class_without_pixels_weighs_one(kind):
    weights, _ = class_weights(numbers(900, 0, 10), kind)
    assert weights[1] == 1
    assert np.isfinite(weights).all()


def test_given_weights_are_checked():
    np.testing.assert_array_equal(class_weights(numbers(5, 5), (1.0, 3.0))[0], [1, 3])
    with pytest.raises(RecipeError, match="class_weights has 1 numbers for 2 classes"):
        class_weights(numbers(5, 5), (1.0,))
    for wrong in ((-1.0, 1.0), (0.0, 0.0), (float("nan"), 1.0), (float("inf"), 1.0)):
        with pytest.raises(RecipeError, match="must be finite numbers from 0"):
            class_weights(numbers(5, 5), wrong)
    with pytest.raises(RecipeError, match="class_weights = 'enet' is unknown"):
        class_weights(numbers(5, 5), "enet")


@pytest.mark.parametrize(
    ("pixels", "crop", "scale", "expected", "words"),
    [
        ((990, 10), (32, 32), 1.0, "rare", "rarest has only 1 % of the pixels"),
        ((500, 500), (32, 32), 1.0, "uniform", "rarest class has 50 % of the pixels"),
        ((500, 0), (32, 32), 1.0, "uniform", "rarest class has 100 % of the pixels"),
        ((990, 10), (90, 90), 1.0, "uniform", "one covers 81 % of it"),
        ((990, 10), (45, 45), 0.5, "uniform", "one covers 81 % of it"),
    ],
)
def test_auto_sampling_centres_on_rare_classes_where_that_changes_something(pixels, crop, scale, expected, words):
    chosen, said = choose_sampling(numbers(*pixels), "auto", crop, scale)
    assert chosen == expected
    assert words in said


def test_stated_sampling_is_taken_and_an_unknown_one_refused():
    assert choose_sampling(numbers(5, 5), "rare", (8, 8), 1)[0] == "rare"
    assert choose_sampling(numbers(999, 1), "uniform", (8, 8), 1)[0] == "uniform"
    with pytest.raises(RecipeError, match="sampling = 'rar' is unknown"):
        choose_sampling(numbers(5, 5), "rar", (8, 8), 1)


def test_the_focus_is_a_pixel_of_a_class_that_is_there_rare_ones_more_often():
    mask = np.zeros((30, 40), np.uint8)
    mask[5, 6:9] = 1
    mask[20, 20] = VOID
    likely = center_probabilities(numbers(990, 10, 0))
    rng = np.random.default_rng(0)
    found = [sample_center(mask, likely, rng) for _ in range(400)]
    assert {mask[place] for place in found} == {0, 1}
    rare = np.mean([mask[place] == 1 for place in found])
    assert abs(rare - 10 / 11) < 0.06  # inverse roots of 0.99 and 0.01
    assert {place for place in found if mask[place] == 1} == {(5, 6), (5, 7), (5, 8)}


def test_there_is_no_focus_in_a_void_mask_or_among_classes_that_training_lacks():
    likely = center_probabilities(numbers(10, 0))
    assert sample_center(np.full((4, 4), VOID, np.uint8), likely, np.random.default_rng(0)) is None
    assert sample_center(np.ones((4, 4), np.uint8), likely, np.random.default_rng(0)) is None


@pytest.mark.parametrize(
    ("size", "crop", "scale", "crops"),
    [
        ((360, 480), (288, 384), 1.0, 1),
        ((1024, 2048), (512, 1024), 1.0, 4),
        ((1024, 2048), (512, 1024), 0.5, 1),
        ((9000, 9000), (512, 512), 1.0, 8),
    ],
)
def test_large_images_give_several_crops(size, crop, scale, crops):
    assert crops_per_image(numbers(5, 5, size=size), crop, scale) == crops
