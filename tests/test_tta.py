"""Test-time augmentation: what is averaged, through tiles too, and what cannot be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fullconv.errors import RecipeError
from fullconv.nn import build
from fullconv.segmenter import Segmenter
from fullconv.tta import TTAView, parse_views
from networks import enliven
from synthetic.shapes import draw

CLASSES = ("ground", "disc", "box")


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    return Segmenter.from_network(enliven(build("fcn8s", backbone="tiny", num_classes=3)), CLASSES, device="cpu")


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return draw(np.random.default_rng(0), (150, 101), 3)[0]


def seen(segmenter: Segmenter, image: np.ndarray, tta: str, **options) -> np.ndarray:
    """Probabilities (K, H, W) with test-time augmentation."""
    return segmenter.with_options(tta=tta).predict(image, probabilities=True, **options).probabilities


def test_flip_is_the_mean_of_the_image_and_its_mirror_image(segmenter, image):
    plain = seen(segmenter, image, "")
    mirrored = seen(segmenter, np.ascontiguousarray(image[:, ::-1]), "")[..., ::-1]
    assert np.abs(plain - mirrored).max() > 1e-3  # else there is nothing to average
    np.testing.assert_allclose(seen(segmenter, image, "flip"), (plain + mirrored) / 2, atol=1e-5)


def test_a_image_and_its_mirror_image_get_mirrored_answers(segmenter, image):
    one = seen(segmenter, image, "flip,0.5")
    other = seen(segmenter, np.ascontiguousarray(image[:, ::-1]), "flip,0.5")
    np.testing.assert_allclose(one, other[..., ::-1], atol=1e-5)


def test_sizes_are_those_of_a_model_that_works_at_them(segmenter, image):
    scaled = []
    for scale in (1.0, 0.5, 1.25):
        other = Segmenter(segmenter.network, segmenter.card.model_copy(update={"scale": scale}), device="cpu")
        scaled.append(seen(other, image, ""))
    np.testing.assert_allclose(seen(segmenter, image, "0.5,1.25"), np.mean(scaled, axis=0), atol=1e-5)


@pytest.mark.parametrize("tta", ["flip", "0.75", "flip,1.5"])
def test_through_tiles_the_answer_is_the_same(segmenter, image, tta):
    np.testing.assert_allclose(
        seen(segmenter, image, tta, tile=32), seen(segmenter, image, tta, tile="none"), atol=1e-5
    )


def test_label_map_logits_and_several_images_agree(segmenter, image):
    augmented = segmenter.with_options(tta="flip,0.75")
    prediction = augmented.predict(image, probabilities=True)
    assert np.array_equal(prediction.label_map, prediction.probabilities.argmax(0))
    assert np.array_equal(augmented.logits(image).argmax(0), prediction.label_map)
    np.testing.assert_allclose(prediction.confidence, prediction.probabilities.max(0), atol=1e-6)
    both = augmented.predict_many([image, image])
    assert all(np.array_equal(each.label_map, prediction.label_map) for each in both)


def test_views_are_parsed():
    assert parse_views("") == (TTAView(),)
    assert parse_views("flip") == (TTAView(), TTAView(True))
    assert parse_views("0.75, flip,0.75,1") == (TTAView(), TTAView(True), TTAView(False, 0.75), TTAView(True, 0.75))
    for text in ("flop", "0", "flip,11", "1e9", "nan"):
        with pytest.raises(RecipeError, match=rf"--tta {text}: use flip, factors of size from 0\.1 to 10, or both"):
            parse_views(text)
