from __future__ import annotations

import colorsys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fullconv.data.augmentation import PRESETS, Augmentation, change_colors, preset
from fullconv.data.augmentation import augment as augment_all
from fullconv.errors import RecipeError
from fullconv.labels import VOID

RNG = np.random.default_rng(0)


def coordinates(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture whose numbers are its coordinates, and a mask that is a function of them."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([y, x], axis=-1).astype(np.float32)
    return image, ((y // 4 + 3 * (x // 4)) % 7).astype(np.uint8)


def augment(image, mask, *arguments):
    cut, masks = augment_all(image, {"": mask}, *arguments)
    return cut, masks[""]


def with_changes(name: str, crop: tuple[int, int], channels: int = 3, **changes) -> Augmentation:
    return replace(preset(name, crop, (100.0,) * channels), **changes)


sizes = st.integers(1, 90)
kinds = st.sampled_from([(1, "uint8"), (3, "uint8"), (5, "uint8"), (1, "uint16"), (3, "float32"), (4, "uint16")])


@settings(max_examples=150, deadline=None)
@given(sizes, sizes, sizes, sizes, st.sampled_from(sorted(PRESETS)), kinds, st.integers(0, 2**32), st.booleans())
def test_a_crop_of_any_image_has_the_size_type_and_labels_that_it_should(h, w, ch, cw, name, kind, seed, focused):
    channels, dtype = kind
    image = RNG.integers(0, 255, (h, w, channels)).astype(dtype)
    mask = RNG.integers(0, 5, (h, w), dtype=np.uint8)
    focus = (h // 2, w - 1) if focused else None
    cut, labels = augment(image, mask, np.random.default_rng(seed), with_changes(name, (ch, cw), channels), focus)
    assert cut.shape == (ch, cw, channels)
    assert cut.dtype == np.dtype(dtype)
    assert (labels.shape, labels.dtype) == ((ch, cw), np.uint8)
    assert set(np.unique(labels)) <= {*np.unique(mask).tolist(), VOID}
    assert (labels != VOID).any()
    assert cut.flags.c_contiguous
    assert cut.flags.writeable
    assert labels.flags.c_contiguous


@settings(max_examples=80, deadline=None)
@given(
    st.integers(20, 90), st.integers(20, 90), st.sampled_from(["aerial", "microscopy", "street"]), st.integers(0, 2**32)
)
def test_image_and_mask_are_cut_turned_and_resized_together(h, w, name, seed):
    image, mask = coordinates(h, w)
    plain = with_changes(name, (40, 56), 2, brightness=0, contrast=0, fill_value=(-1, -1))
    cut, labels = augment(image, mask, np.random.default_rng(seed), plain)
    inside = labels != VOID
    y, x = np.rint(cut[inside]).astype(int).T
    # half a pixel of resampling may cross into the neighbouring cell of the mask
    near = np.zeros(len(y), bool)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            near |= mask[np.clip(y + dy, 0, h - 1), np.clip(x + dx, 0, w - 1)] == labels[inside]
    assert near.all()
    assert (cut[~inside] == -1).all()


def test_without_any_change_a_crop_is_a_piece_of_the_image():
    image, mask = coordinates(50, 60)
    for seed in range(20):
        cut, labels = augment(image, mask, np.random.default_rng(seed), with_changes("none", (20, 30), 2))
        top, left = cut[0, 0].astype(int)
        np.testing.assert_array_equal(cut, image[top : top + 20, left : left + 30])
        np.testing.assert_array_equal(labels, mask[top : top + 20, left : left + 30])


def test_every_place_of_a_crop_is_as_likely():
    image, mask = coordinates(12, 12)
    counts = np.zeros((3, 3), int)
    for seed in range(1800):
        cut, _ = augment(image, mask, np.random.default_rng(seed), with_changes("none", (10, 10), 2))
        counts[tuple(cut[0, 0].astype(int))] += 1
    assert counts.sum() == 1800
    assert counts.min() > 140


def test_a_smaller_image_is_placed_at_random_and_padded_with_mean_and_void():
    image = np.full((4, 6, 3), 200, np.uint8)
    places = set()
    for seed in range(60):
        cut, labels = augment(
            image, np.ones((4, 6), np.uint8), np.random.default_rng(seed), with_changes("none", (6, 8))
        )
        assert (cut[labels == 1] == 200).all()
        assert (cut[labels == VOID] == 100).all()
        assert (labels == 1).sum() == 24
        places.add(tuple(np.argwhere(labels == 1)[0]))
    assert places == {(y, x) for y in range(3) for x in range(3)}


def test_all_flips_and_turns_occur():
    image = np.arange(16, dtype=np.float32).reshape(4, 4, 1)
    plain = with_changes("aerial", (4, 4), 1, scale=(1, 1), brightness=0, contrast=0)
    seen = {
        augment(image, np.zeros((4, 4), np.uint8), np.random.default_rng(s), plain)[0].tobytes() for s in range(200)
    }
    assert len(seen) == 8
    turned = with_changes("none", (4, 4), 1, rot90=True)
    seen = {
        augment(image, np.zeros((4, 4), np.uint8), np.random.default_rng(s), turned)[0].tobytes() for s in range(50)
    }
    assert len(seen) == 4
    street = with_changes("street", (4, 4), 1, scale=(1, 1), brightness=0, contrast=0)
    seen = {
        augment(image, np.zeros((4, 4), np.uint8), np.random.default_rng(s), street)[0].tobytes() for s in range(50)
    }
    assert len(seen) == 2


def test_scales_are_those_of_the_settings():
    image, mask = coordinates(400, 400)
    ratios = []
    for seed in range(200):
        cut, _ = augment(
            image,
            mask,
            np.random.default_rng(seed),
            with_changes("street", (64, 64), 2, scale=(0.5, 2.0), hflip=False, brightness=0, contrast=0),
        )
        ratios.append(63 / (cut[-1, 0, 0] - cut[0, 0, 0]))
    assert 0.45 < min(ratios) < 0.6
    assert 1.7 < max(ratios) < 2.2
    assert abs(np.median(ratios) - 1) < 0.2  # evenly on a logarithmic scale


@pytest.mark.parametrize("focus", [(0, 0), (10, 190), (99, 100), (50, 50)])
def test_a_focus_is_in_the_crop(focus):
    mask = np.zeros((100, 200), np.uint8)
    mask[focus] = 1
    image = np.zeros((100, 200, 3), np.uint8)
    for seed in range(50):
        near = with_changes("street", (32, 48), scale=(1, 1))
        _, labels = augment(image, mask, np.random.default_rng(seed), near, focus)
        assert (labels == 1).sum() == 1
        assert (labels != VOID).all()
        y, x = np.argwhere(labels == 1)[0]
        if 40 < focus[0] < 60 and 40 < focus[1] < 160:
            assert 7 <= y <= 24
            assert 11 <= x <= 36


@pytest.mark.parametrize("kind", [(3, "uint8"), (1, "uint8"), (5, "uint8"), (3, "uint16"), (2, "float32")])
@pytest.mark.parametrize("name", ["street", "aerial"])
def test_the_same_draw_gives_the_same_bits_on_any_number_of_threads(kind, name):
    image = RNG.integers(0, 255, (180, 240, kind[0])).astype(kind[1])
    mask = RNG.integers(0, 5, (180, 240), dtype=np.uint8)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        cuts = [
            augment(image, mask, np.random.default_rng(s), with_changes(name, (96, 128), kind[0])) for s in range(6)
        ]
        results.append([part.tobytes() for cut in cuts for part in cut])
    torch.set_num_threads(before)
    assert results[0] == results[1]


def test_masks_of_several_heads_are_cut_alike():
    image, mask = coordinates(60, 60)
    _, masks = augment_all(
        image, {"a": mask, "b": mask + 10}, np.random.default_rng(3), with_changes("aerial", (32, 32), 2)
    )
    inside = masks["a"] != VOID
    np.testing.assert_array_equal(masks["a"][inside] + 10, masks["b"][inside])


def test_changing_one_setting_does_not_change_the_other_draws():
    image, mask = coordinates(60, 80)
    one = augment(image, mask, np.random.default_rng(5), with_changes("street", (32, 32), 2))[1]
    other = augment(image, mask, np.random.default_rng(5), with_changes("street", (32, 32), 2, brightness=0, hue=0))[1]
    np.testing.assert_array_equal(one, other)


SWATCHES = RNG.integers(60, 190, (8, 8, 3), dtype=np.uint8)


def change(image, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.0, fill=(100.0, 100.0, 100.0), low=0.0):
    numbers = Augmentation(fill_value=fill, value_range=(low, low + 255))
    return change_colors(image, brightness, contrast, saturation, hue, numbers)


def test_no_change_of_colour_changes_nothing():
    assert change(SWATCHES) is SWATCHES


def test_brightness_multiplies_and_contrast_turns_about_the_mean():
    np.testing.assert_allclose(change(SWATCHES, brightness=1.2), SWATCHES * 1.2, atol=0.51)
    np.testing.assert_allclose(change(SWATCHES, contrast=0.5), 100 + (SWATCHES.astype(float) - 100) * 0.5, atol=0.51)


def test_no_saturation_is_grey_of_the_same_luma():
    grey = change(SWATCHES, saturation=0.0)
    np.testing.assert_allclose(grey[..., 0], SWATCHES @ [0.299, 0.587, 0.114], atol=0.51)
    assert (np.ptp(grey.astype(int), axis=-1) <= 1).all()


def test_hue_rotates_and_grey_stays_grey():
    grey = np.full((4, 4, 3), 77, np.uint8)
    assert np.abs(change(grey, hue=0.25).astype(int) - 77).max() <= 1
    red = np.full((1, 1, 3), 60, np.uint8)
    red[..., 0] = 160
    turned = change(red, hue=0.05)[0, 0] / 255
    before, after = colorsys.rgb_to_hsv(160 / 255, 60 / 255, 60 / 255)[0], colorsys.rgb_to_hsv(*turned)[0]
    shift = (after - before + 0.5) % 1 - 0.5
    assert 0.02 < abs(shift) < 0.09


@pytest.mark.parametrize(("channels", "dtype"), [(1, "uint8"), (4, "uint8"), (3, "uint16"), (2, "float32")])
def test_colours_of_other_images_change_by_the_same_formula(channels, dtype):
    image = (RNG.random((9, 9, channels)) * 200).astype(dtype)
    fill = tuple(float(10 * c + 50) for c in range(channels))
    changed = change(image, brightness=1.1, contrast=0.8, fill=fill, low=5)
    expected = np.array(fill) + 0.8 * (5 + 1.1 * (image.astype(float) - 5) - fill)
    np.testing.assert_allclose(changed, expected, atol=1e-3 if dtype == "float32" else 0.51)
    assert changed.dtype == image.dtype


def test_integers_stay_in_their_range():
    for dtype in (np.uint8, np.uint16):
        top = np.full((2, 2, 1), np.iinfo(dtype).max, dtype)
        assert (change(top, brightness=1.5, fill=(0.0,)) == top).all()


def test_an_unknown_preset_suggests_the_nearest():
    with pytest.raises(
        RecipeError, match=r"there is no augmentation 'strete'\. Did you mean 'street'\? Choose street, aerial"
    ):
        preset("strete", (8, 8), (0.0,))


SIDES = {"": [0, 2, 1]}


@pytest.mark.parametrize("name", ["street", "aerial", "none"])
def test_labels_of_mirror_pairs_are_exchanged_exactly_where_the_crop_is_a_mirror_image(name):
    """Each pixel's colour holds its place, so that a mirrored crop is known by the turn from one axis to the other."""
    image, _ = coordinates(40, 40)
    mask = np.where(image[..., 1] < 20, 1, 2).astype(np.uint8)
    mask[:3], mask[-3:] = 0, VOID
    seen = set()
    for seed in range(60):
        options = {"scale": (1.0, 1.0), "brightness": 0, "contrast": 0}
        settings = with_changes(name, (40, 40), 2, **options)
        cut, labels = augment(image, mask, np.random.default_rng(seed), replace(settings, mirror_orders=SIDES))
        _, plain = augment(image, mask, np.random.default_rng(seed), settings)
        down, across = cut[1, 0] - cut[0, 0], cut[0, 1] - cut[0, 0]  # steps in (row, column) of the image
        mirrored = np.linalg.det(np.stack([down, across])) < 0
        expected = np.array([0, 2, 1], np.uint8)[plain.clip(0, 2)] if mirrored else plain
        np.testing.assert_array_equal(labels, np.where(plain == VOID, VOID, expected))
        seen.add(bool(mirrored))
    assert seen == ({False} if name == "none" else {False, True})


def test_a_head_without_pairs_keeps_its_labels_when_mirrored():
    image, mask = coordinates(16, 16)
    settings = replace(with_changes("street", (16, 16), 2), mirror_orders=SIDES)
    for seed in range(10):
        _, both = augment_all(image, {"": mask, "state": mask}, np.random.default_rng(seed), settings)
        _, plain = augment_all(
            image, {"": mask, "state": mask}, np.random.default_rng(seed), replace(settings, mirror_orders={})
        )
        np.testing.assert_array_equal(both["state"], plain["state"])
