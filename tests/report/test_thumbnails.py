"""Thumbnails: panels of a prediction, the crop with the most errors, samples of a data set."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages import CARD, decoded, image_of

from fullconv.errors import InputError
from fullconv.report import ReportImage
from fullconv.report.thumbnails import ERROR, PANEL_SIDES, VOID_STRIPES, densest_window, error_panels


def decode_panels(shown):
    panels = error_panels(shown, CARD.labels())
    return [decoded(panel.uri) for panel in (*panels.panels.values(), *panels.close.values())]


@pytest.mark.parametrize(("dtype", "bands"), [(np.uint8, 3), (np.uint8, 1), (np.uint16, 2), (np.float32, 7)])
def test_any_dtype_and_number_of_bands_gives_four_panels(dtype, bands):
    images = decode_panels(image_of(dtype=dtype, bands=bands))
    assert [image.format for image in images] == ["JPEG", "PNG", "PNG", "JPEG"]
    assert {image.size for image in images} == {(60, 40)}
    assert np.asarray(images[0].convert("L")).std() > 20  # contrast is stretched


def test_panels_show_the_palette_void_stripes_and_errors():
    shown = image_of()
    images = decode_panels(shown)
    mask, errors = np.asarray(images[1].convert("RGB")), np.asarray(images[3]).astype(int)
    valid = shown.mask != 255
    np.testing.assert_array_equal(mask[valid], np.array(CARD.palette)[shown.mask[valid]])
    assert {tuple(color) for color in mask[~valid]} == set(VOID_STRIPES)
    np.testing.assert_array_equal(np.asarray(images[2]), shown.prediction)
    red = abs(errors - np.array(ERROR)).sum(axis=2) < 120
    wrong = valid & (shown.mask != shown.prediction)
    assert (red == wrong).mean() > 0.98


def test_thin_errors_stay_visible_in_thumbnails():
    large = image_of(size=(1200, 1800), error_rate=0)
    large.prediction[:, 900] = (large.mask[:, 900] + 1) % 3  # a pixel that nearest-neighbour steps over
    errors = decode_panels(large)[3]
    assert max(errors.size) == PANEL_SIDES[0]
    column = np.asarray(errors)[50, 390:410].astype(int)
    assert (column[:, 0] - column[:, 1]).max() > 60


def test_a_large_image_has_a_full_resolution_crop_with_its_most_errors():
    large = image_of(size=(600, 900), error_rate=0)
    large.prediction[400:440, 700:760] = (large.mask[400:440, 700:760] + 1) % 3
    images = decode_panels(large)
    assert [image.size for image in images] == [(800, 533)] * 4 + [(256, 256)] * 4
    top, left, bottom, right = densest_window(large.mask != large.prediction)
    assert top <= 400 < 440 <= bottom
    assert left <= 700 < 760 <= right
    np.testing.assert_array_equal(np.asarray(images[6]), large.prediction[top:bottom, left:right])
    box = error_panels(large, CARD.labels()).box
    np.testing.assert_allclose(box, [100 * left / 900, 100 * top / 600, 100 * 256 / 900, 100 * 256 / 600])


@given(
    height=st.integers(257, 700), width=st.integers(64, 700), y=st.floats(0, 1), x=st.floats(0, 1)
)  # fmt: skip
def test_the_crop_lies_in_the_image_and_holds_a_lone_error(height, width, y, x):
    wrong = np.zeros((height, width), bool)
    row, column = int(y * (height - 1)), int(x * (width - 1))
    wrong[row, column] = True
    top, left, bottom, right = densest_window(wrong)
    assert 0 <= top <= row < bottom <= height
    assert 0 <= left <= column < right <= width
    assert bottom - top == right - left


def test_small_or_faultless_images_have_no_crop():
    assert densest_window(np.ones((256, 256), bool)) is None
    assert densest_window(np.zeros((900, 900), bool)) is None
    assert densest_window(np.ones((20, 3000), bool)) is None


def test_panels_of_noise_are_shrunk_to_the_size_limit():
    noise = image_of(size=(1000, 1500), error_rate=0.5, noise=9)
    panels = error_panels(noise, CARD.labels())
    assert panels.nbytes < 1_500_000
    assert panels.panels["image"].width < PANEL_SIDES[0]


def test_an_image_and_a_mask_of_different_sizes_are_refused():
    shown = image_of()
    wrong = ReportImage("a", shown.image[:-1], shown.mask, shown.prediction, 0.5)
    with pytest.raises(InputError, match=r"'a': image, mask and prediction differ in size: \[\(39, 60\), \(40, 60\)\]"):
        error_panels(wrong, CARD.labels())
