import doctest
import math
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fullconv.errors import NetworkError
from fullconv.geometry import IDENTITY, Axis, axis, chain, crop_between, graph, halo

WIDTHS = {1: 2, 2: 2, 3: 3, 4: 3, 5: 3}


def vgg(blocks: int, pad: int = 1) -> list[nn.Module]:
    """VGG-16 up to a pool, as the FCN release has it: first padding 100, pools rounding up."""
    layers: list[nn.Module] = []
    for block in range(1, blocks + 1):
        for _ in range(WIDTHS[block]):
            layers += [nn.Conv2d(1, 1, 3, padding=1 if layers else pad), nn.ReLU()]
        layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
    return layers


FC6 = [nn.Conv2d(1, 1, 7), nn.ReLU(), nn.Dropout(), nn.Conv2d(1, 1, 1)]
CAFFENET = [
    nn.Conv2d(1, 1, 11, 4, 100), nn.MaxPool2d(3, 2, ceil_mode=True), nn.LocalResponseNorm(5),
    nn.Conv2d(1, 1, 5, padding=2), nn.MaxPool2d(3, 2, ceil_mode=True), nn.LocalResponseNorm(5),
    nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1),
    nn.MaxPool2d(3, 2, ceil_mode=True), nn.Conv2d(1, 1, 6),
]  # fmt: skip


def grow(kernel: int, stride: int) -> nn.Module:
    return nn.ConvTranspose2d(1, 1, kernel, stride, bias=False)


@pytest.mark.parametrize(
    ("layers", "field", "stride"),
    [(vgg(3), 44, 8), (vgg(4), 100, 16), (vgg(5), 212, 32), (vgg(5) + FC6, 404, 32), (CAFFENET, 355, 32)],
    ids=["pool3", "pool4", "pool5", "fc6", "caffenet"],
)
def test_receptive_fields_are_those_of_the_paper(layers, field, stride):
    geometry = chain(layers)
    assert (geometry.receptive_field, geometry.stride, geometry.bounded) == (field, stride, True)


def test_the_crops_of_the_release_follow():
    image, pool3, pool4, coarse = IDENTITY.y, *(chain(vgg(n, 100)).y for n in (3, 4)), chain(vgg(5, 100) + FC6)
    assert crop_between(image, chain([grow(64, 32)], coarse).y) == 19
    twice = chain([grow(4, 2)], coarse)
    assert crop_between(twice.y, pool4) == 5
    assert crop_between(image, chain([grow(32, 16)], twice).y) == 27
    four = chain([grow(4, 2)], twice)
    assert crop_between(four.y, pool3) == 9
    assert crop_between(image, chain([grow(16, 8)], four).y) == 31
    assert crop_between(image, chain([*CAFFENET, grow(63, 32)]).y) == 18


def test_maps_of_other_strides_have_no_crop():
    with pytest.raises(NetworkError, match=r"map of stride 16 cannot be cropped to one of stride 8"):
        crop_between(chain(vgg(3)).y, chain(vgg(4)).y)


def test_maps_half_a_cell_apart_have_no_crop():
    with pytest.raises(NetworkError, match=r"cell 0 lies at 1/2 .* cell 0 lies at 0: they are -0\.5 cells of 1 pixels"):
        crop_between(IDENTITY.y, chain([nn.AvgPool2d(2, 1)]).y)


def test_a_stride_of_two_numbers_is_refused():
    uneven = chain([nn.Conv2d(1, 1, 3, stride=(2, 1))])
    with pytest.raises(NetworkError, match="stride of 2 pixels down and 1 across"):
        _ = uneven.stride
    with pytest.raises(NetworkError, match="stride of 1/2 pixels down and 1/2 across"):
        _ = chain([grow(4, 2)]).stride


@settings(max_examples=40, deadline=None)
@given(factor=st.integers(1, 5), phase=st.fractions(-3, 6, max_denominator=8))
def test_upsampling_at_any_phase_reads_the_cells_with_weight(factor, phase):
    axis = IDENTITY.y.upsample(factor, phase)
    assert axis.jump == Fraction(1, factor)
    needed = []
    for j in range(-20, 20):
        weights = {i: 1 - abs(j - factor * i - phase) / factor for i in range(-40, 40)}
        read = [i for i, weight in weights.items() if weight > 0]
        assert sum(weights[i] for i in read) == 1
        assert sum(weights[i] * i for i in read) == axis.offset + axis.jump * j  # bilinear: a ramp stays a ramp
        needed.append((min(read) - axis.jump * j, max(read) - axis.jump * j))
    assert (axis.rf_start, axis.rf_end) == (min(lo for lo, _ in needed), max(hi for _, hi in needed))


@settings(deadline=None)
@given(kernel=st.integers(1, 6), factor=st.integers(1, 4), padding=st.integers(0, 3))
def test_a_transposed_window_has_the_tight_bounds_of_its_formula(kernel, factor, padding):
    axis = IDENTITY.y.transposed(kernel, factor, padding)
    first = [math.ceil(Fraction(j + padding - kernel + 1, factor)) - Fraction(j, factor) for j in range(factor)]
    last = [math.floor(Fraction(j + padding, factor)) - Fraction(j, factor) for j in range(factor)]
    assert (axis.rf_start, axis.rf_end) == (min(first), max(last))
    assert axis.offset == -(Fraction(kernel - 1, 2) - padding) / factor


def test_padding_and_cropping_undo_each_other():
    axis = chain(vgg(2)).y
    assert axis.pad(3).crop(3) == axis
    assert chain([nn.ZeroPad2d((1, 0, 2, 0)), nn.ZeroPad2d((-1, 0, -2, 0))], IDENTITY) == IDENTITY


def test_padding_before_and_after_may_differ():
    assert IDENTITY.x.conv(3, 2, padding=(0, 1)) == IDENTITY.x.pad(0).conv(3, 2)
    assert IDENTITY.x.conv(3, 2, padding=(2, 0)) == IDENTITY.x.pad(2).conv(3, 2)
    same = chain([nn.Conv2d(1, 1, 4, padding="same")])
    assert (same.y.rf_start, same.y.rf_end, same.y.offset) == (-1, 2, Fraction(1, 2))


def test_a_halo_is_whole_pixels_on_the_grid_and_may_be_uneven():
    y = Axis(Fraction(8), Fraction(0), Fraction(-20), Fraction(3))
    assert halo(y, IDENTITY.x, 32) == (32, 32, 32, 32)
    assert halo(y, IDENTITY.x, 8) == (8, 32, 8, 8)
    assert all(type(n) is int for n in halo(y, IDENTITY.x, 8))


def test_the_lists_of_reasons_hold_each_name_once_and_end_the_bound():
    geometry = IDENTITY.flagged(global_ops=["a", "b"])
    geometry = geometry.flagged(global_ops=["b"], unknown_ops=["c"], size_dependent=["d"])
    assert (geometry.global_ops, geometry.unknown_ops, geometry.size_dependent) == (("a", "b"), ("c",), ("d",))
    assert not geometry.bounded
    assert geometry.receptive_field is None
    for name in ("global_ops", "unknown_ops", "size_dependent"):
        assert not replace(IDENTITY, **{name: ("x",)}).bounded


@pytest.mark.parametrize("module", [axis, graph])
def test_the_examples_in_the_docstrings_hold(module):
    assert doctest.testmod(module).failed == 0
