"""Image to network input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.functional import _compute_resized_output_size

from fullconv import preprocess
from fullconv.card import Card
from fullconv.preprocess import as_tensor, normalization, normalize, rescale, working_size


def card(**more) -> Card:
    channels = more.get("in_channels", 3)
    settings = {"mean": (0.4,) * channels, "std": (0.2,) * channels, **more}
    return Card(variant="fcn8s", classes=("a",), **settings)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_the_input_is_value_to_range_minus_mean_by_std(dtype, channels):
    mean, std = tuple(np.linspace(0.1, 0.6, channels)), tuple(np.linspace(0.2, 0.3, channels))
    rule = card(in_channels=channels, mean=mean, std=std, range=(10.0, 210.0))
    image = np.random.default_rng(0).uniform(0, 255, (5, 7, channels)).astype(dtype)
    wanted = ((image.astype(np.float64) - 10) / 200 - mean) / std
    kept = image.copy()
    got = normalize(as_tensor(image[None]), rule)
    assert got.shape == (1, channels, 5, 7)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got[0].permute(1, 2, 0).numpy(), wanted, atol=2e-5)
    assert np.array_equal(image, kept)  # the image itself is not written to


def test_bgr_networks_get_the_first_three_channels_reversed():
    image = np.random.default_rng(0).integers(0, 255, (2, 2, 4), np.uint8)
    mean, std = (0.1, 0.2, 0.3, 0.4), (0.5, 0.6, 0.7, 0.8)
    rgb = normalize(as_tensor(image[None]), card(in_channels=4, mean=mean, std=std))
    bgr = normalize(as_tensor(image[None]), card(in_channels=4, mean=mean, std=std, channel_order="bgr"))
    assert torch.equal(bgr, rgb[:, [2, 1, 0, 3]])


def test_the_rule_can_be_turned_back_to_the_very_bytes():
    rule = card(mean=(0.4, 0.45, 0.5), std=(0.2, 0.25, 0.3))
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    factor, shift = map(torch.from_numpy, normalization(rule))
    back = ((normalize(as_tensor(image[None]), rule)[0].permute(1, 2, 0) - shift) / factor).round()
    assert np.array_equal(back.numpy().astype(np.uint8), image)


@given(st.integers(1, 5000), st.integers(1, 5000), st.floats(0.001, 8))
def test_a_working_image_has_at_least_a_pixel(height, width, scale):
    h, w = working_size(height, width, scale)
    assert min(h, w) >= 1
    assert abs(h - height * scale) <= 0.5 or h == 1


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 1000))
def test_a_shorter_side_makes_the_size_of_torchvisions_resize(height, width, side):
    assert list(working_size(height, width, 1.0, side)) == _compute_resized_output_size((height, width), [side])


@pytest.mark.parametrize("scale", [0.5, 0.3, 2.0])
def test_rescaling_agrees_with_pillows(scale):
    image = np.random.default_rng(0).integers(0, 255, (40, 61, 3), np.uint8)
    size = working_size(40, 61, scale)
    got = rescale(image[None], size)
    assert got.shape == (1, *size, 3)
    assert got.dtype == np.uint8
    wanted = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
    assert np.abs(got[0].astype(int) - wanted).max() <= 1


def test_full_resolution_is_untouched_and_floats_stay_floats():
    images = np.random.default_rng(0).random((1, 9, 8, 2), np.float32)
    assert rescale(images, (9, 8)) is images
    assert rescale(images, (4, 4)).dtype == np.float32


@pytest.mark.parametrize("scale", [0.5, 0.3, 1.7])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_without_torch_rescaling_gives_the_same_values(monkeypatch, scale, dtype):
    images = np.random.default_rng(0).integers(0, 255, (2, 40, 61, 3)).astype(dtype)
    with_torch = rescale(images, working_size(40, 61, scale))
    monkeypatch.setattr(preprocess, "is_importable", lambda _: False)
    without = rescale(images, working_size(40, 61, scale))
    assert without.dtype == dtype
    tolerance = 0.01 if dtype == np.float32 else 1  # integers: a tie may round to the other side
    np.testing.assert_allclose(without.astype(np.float64), with_torch.astype(np.float64), atol=tolerance)
    assert (np.abs(without.astype(np.float64) - with_torch) > 0.01).mean() < 0.001
