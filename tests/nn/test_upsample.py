"""Upsampling against transposed convolution, torch's interpolation, and itself by rows."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fullconv.nn.upsample import (
    Upsample,
    bilinear_kernel,
    half_pixel_coords,
    interp1d,
    interp2d,
    interpolation_matrix,
    upsample1d,
)
from networks import random_images

PHASES = [Fraction(0), Fraction(1, 2), Fraction(31, 2), Fraction(-1, 2), Fraction(-5), Fraction(2, 3)]
phases = st.fractions(min_value=-40, max_value=40, max_denominator=64)


def by_transposed_convolution(x, factor: int, phase: Fraction, size: tuple[int, int], border: str = "replicate"):
    """The definition: weights max(0, 1 - |t - phase| / f) at every output, over cells copied far beyond the border."""
    margin = 2 + math.ceil((max(size) + abs(float(phase)) + 2 * factor) / factor)
    mode = {"mode": "replicate"} if border == "replicate" else {}
    wide = F.pad(x, (margin,) * 4, **mode)
    reach = 2 * factor  # output t of cell 0 runs over floor(phase) - reach .. + reach
    t = torch.arange(-reach, reach + 1, dtype=torch.float64) + math.floor(phase)
    kernel = (1 - (t - float(phase)).abs() / factor).clamp(min=0)
    plane = torch.outer(kernel, kernel).to(x.dtype).expand(x.shape[1], 1, -1, -1)
    out = F.conv_transpose2d(wide, plane, stride=factor, groups=x.shape[1])
    skip = margin * factor + reach - math.floor(phase)  # index of output 0
    return out[..., skip : skip + size[0], skip : skip + size[1]]


@pytest.mark.parametrize("border", ["replicate", "zero"])
@pytest.mark.parametrize("factor", [2, 4, 8, 32])
@pytest.mark.parametrize("phase", PHASES)
def test_fixed_upsampling_is_the_transposed_convolution_with_bilinear_weights(factor, phase, border):
    x = random_images(2, 3, 4, 3, dtype=torch.float64)
    size = (4 * factor + 5, 3 * factor - 1)
    got = Upsample(3, factor, phase, border=border).to_size(x, *size)
    torch.testing.assert_close(got, by_transposed_convolution(x, factor, phase, size, border), rtol=0, atol=1e-12)


@pytest.mark.parametrize("factor", [2, 4, 8, 16, 32])
def test_at_the_half_pixel_phase_it_is_pytorchs_bilinear_interpolation(factor):
    x = random_images(1, 2, 5, 7, dtype=torch.float64)
    got = Upsample(2, factor, Fraction(factor - 1, 2)).to_size(x, 5 * factor, 7 * factor)
    expected = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(factor=st.sampled_from([2, 4, 8]), phase=phases, height=st.integers(1, 40), width=st.integers(1, 40),
       h=st.integers(1, 4), w=st.integers(1, 4))  # fmt: skip
def test_learned_upsampling_starts_as_the_fixed_one_at_any_phase(factor, phase, height, width, h, w):
    x = random_images(1, 2, h, w)
    fixed, learned = Upsample(2, factor, phase), Upsample(2, factor, phase, learned=True)
    with torch.no_grad():
        expected, got = fixed.to_size(x, height, width), learned.to_size(x, height, width)
    assert got.shape == (1, 2, height, width)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_fixed_upsampling_has_no_parameter_and_the_learned_one_gets_gradients():
    assert list(Upsample(3, 2, Fraction(1, 2)).parameters()) == []
    learned = Upsample(3, 2, Fraction(1, 2), learned=True)
    assert {name: tuple(p.shape) for name, p in learned.named_parameters()} == {"weight": (3, 1, 4, 4)}
    learned.to_size(random_images(1, 3, 4, 4), 8, 8).square().sum().backward()
    assert (learned.weight.grad != 0).all()


@settings(max_examples=40, deadline=None)
@given(factor=st.sampled_from([1, 2, 8, 32]), phase=phases, cells=st.integers(1, 5), start=st.integers(0, 30),
       count=st.integers(1, 40), border=st.sampled_from(["replicate", "zero"]))  # fmt: skip
def test_some_rows_are_rows_of_the_whole_and_the_matrix_says_the_same(factor, phase, cells, start, count, border):
    x = random_images(2, cells, 3, dtype=torch.float64)
    whole = upsample1d(x, -2, factor, phase, 0, start + count, border)
    assert torch.equal(upsample1d(x, -2, factor, phase, start, start + count, border), whole[:, start:])
    matrix = interpolation_matrix(start + count, cells, factor, phase, border, x)
    torch.testing.assert_close(matrix @ x, whole, rtol=0, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(factor=st.sampled_from([2, 4, 8]), phase=phases, cells=st.integers(1, 5),
       border=st.sampled_from(["replicate", "zero"]))  # fmt: skip
def test_sampling_at_the_places_of_an_upsampling_gives_the_upsampling(factor, phase, cells, border):
    x = random_images(2, cells, dtype=torch.float64)
    places = (torch.arange(50, dtype=torch.float64) - float(phase)) / factor
    got = interp1d(x, -1, places, border)
    torch.testing.assert_close(got, upsample1d(x, -1, factor, phase, 0, 50, border), rtol=0, atol=1e-12)


sides = st.integers(1, 40)


@settings(max_examples=30, deadline=None)
@given(cells=st.tuples(sides, sides), full=st.tuples(sides, sides))
def test_a_plane_at_half_pixels_is_what_torch_resizes(cells, full):
    x = random_images(2, 3, *cells, dtype=torch.float64)
    rows, columns = (half_pixel_coords(0, size, n, size, x.device) for size, n in zip(full, cells, strict=True))
    expected = F.interpolate(x, size=full, mode="bilinear", align_corners=False)
    torch.testing.assert_close(interp2d(x, rows, columns), expected, rtol=0, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(cells=st.tuples(sides, sides), start=st.integers(0, 30), count=st.integers(1, 40), step=st.floats(0.05, 3),
       phase=st.floats(-5, 5), border=st.sampled_from(["replicate", "zero"]))  # fmt: skip
def test_rows_of_a_plane_are_those_of_the_whole_to_the_bit(cells, start, count, step, phase, border):
    x = random_images(1, 3, *cells)
    rows, columns = (torch.arange(80, dtype=torch.float64) * step + phase for _ in range(2))
    whole = interp2d(x, rows, columns, border)
    part = slice(start, start + count)
    assert torch.equal(interp2d(x, rows[part], columns, border), whole[:, :, part])
    other = interp1d(interp1d(x, -2, rows, border), -1, columns, border)
    torch.testing.assert_close(whole, other, rtol=0, atol=1e-5)


def test_constants_stay_constant_up_to_the_border():
    ones = torch.ones(1, 1, 2, 3)
    assert torch.equal(Upsample(1, 32, Fraction(31, 2)).to_size(ones, 70, 99), torch.ones(1, 1, 70, 99))
    faded = Upsample(1, 32, Fraction(31, 2), border="zero").to_size(ones, 70, 99)
    assert float(faded[0, 0, 0, 0]) == pytest.approx((1 - 15.5 / 32) ** 2)


def test_the_kernel_of_factor_two_is_the_papers():
    assert bilinear_kernel(2, Fraction(1, 2)).tolist() == [0.25, 0.75, 0.75, 0.25]
    for factor in (2, 4, 8, 16, 32):
        kernel = bilinear_kernel(factor, Fraction(factor - 1, 2))
        assert float(kernel.sum()) == pytest.approx(factor)  # and f^2 a plane
        assert torch.equal(kernel, kernel.flip(0))


def test_gradients_are_those_of_the_definition():
    x = random_images(1, 2, 3, 4, dtype=torch.float64).requires_grad_()
    up = Upsample(2, 4, Fraction(3, 2))
    assert torch.autograd.gradcheck(lambda x: up.to_size(x, 13, 11), (x,))
