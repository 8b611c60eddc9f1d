"""Test-time augmentation: what is averaged, through tiles too, and what cannot be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fullconv.errors import RecipeError
from fullconv.nn import build
from fullconv.rasters import predict_raster
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


@pytest.mark.parametrize("tta", ["flip", "flip,0.5"])
def test_flip_exchanges_the_classes_of_mirror_pairs(segmenter, image, tta):
    """Of an image and its mirror image the answers are mirrored, and left and right exchanged."""
    card = segmenter.card.model_copy(update={"mirror_pairs": (("disc", "ground"),)})
    paired = Segmenter(segmenter.network, card, device="cpu")
    one, other = seen(paired, image, tta), seen(paired, np.ascontiguousarray(image[:, ::-1]), tta)
    np.testing.assert_allclose(one, other[[1, 0, 2], :, ::-1], atol=1e-5)
    assert np.abs(one - other[..., ::-1]).max() > 1e-3
    tiled = seen(paired, image, tta, tile=32)
    np.testing.assert_allclose(tiled, one, atol=1e-5)
    logits = paired.with_options(tta=tta).logits(image)
    np.testing.assert_array_equal(logits.argmax(0), one.argmax(0))


@pytest.mark.parametrize("pairs", [None, (), (("left", "right"),)])
def test_a_mirrored_view_of_left_and_right_without_pairs_is_a_notice(segmenter, image, pairs, tmp_path):
    card = segmenter.card.model_copy(update={"classes": ("ground", "left", "right"), "mirror_pairs": pairs})
    paired = Segmenter(segmenter.network, card, device="cpu").with_options(tta="flip")
    codes = [notice.code for notice in paired.predict(image).notices]
    assert codes == (["mirror-pairs"] if pairs is None else [])
    assert paired.with_options(tta="0.5").predict(image).notices == ()


def test_a_raster_s_mirror_image_exchanges_the_same_classes(segmenter, image, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", width=image.shape[1], height=image.shape[0], count=3, dtype="uint8",
        crs="EPSG:32633", transform=rasterio.Affine(1, 0, 500000, 0, -1, 0),
    ) as file:  # fmt: skip
        file.write(image.transpose(2, 0, 1))
    card = segmenter.card.model_copy(update={"mirror_pairs": (("disc", "ground"),)})
    paired = Segmenter(segmenter.network, card, device="cpu").with_options(tta="flip")
    predict_raster(paired, tmp_path / "a.tif", tmp_path / "labels.tif", tile=32, probabilities=tmp_path / "p.tif")
    whole = paired.predict(image, probabilities=True)
    with rasterio.open(tmp_path / "labels.tif") as file:
        assert (file.read(1) == whole.label_map).mean() > 0.999
    with rasterio.open(tmp_path / "p.tif") as file:
        np.testing.assert_allclose(file.read(), whole.probabilities, atol=1e-3)


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
