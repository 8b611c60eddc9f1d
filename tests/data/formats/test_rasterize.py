"""Which pixels a shape covers, against GDAL's rasterizer, pycocotools and arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as tools
from rasterio.features import rasterize

from fullconv.data.formats.rasterize import (
    DrawnMask,
    PackedMask,
    Shape,
    rasterize_ellipse,
    rasterize_polygon,
    rotated_box,
)
from fullconv.data.formats.shape_issues import BoundsCheck
from fullconv.data.samples import Sample

SIZE = (23, 31)
coordinate = st.floats(-40, 70).map(lambda x: round(x, 2) + 0.003)  # never on the middle of a pixel
ring = st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=9)


def whole(covered, size=SIZE):
    top, left, inside = covered
    mask = np.zeros(size, bool)
    mask[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return mask


def by_winding(rings, size):
    """Count crossings to the right of each center, one by one."""
    mask = np.zeros(size, bool)
    for row, column in np.ndindex(*size):
        x, y = column + 0.5, row + 0.5
        for points in rings:
            for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
                if (y0 > y) != (y1 > y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0):
                    mask[row, column] ^= True
    return mask


@settings(max_examples=60, deadline=None)
@given(st.lists(ring, min_size=1, max_size=3))
def test_a_polygon_covers_the_pixels_whose_center_is_inside(rings):
    left, right = (by_winding([[(x + shift, y) for x, y in r] for r in rings], SIZE) for shift in (-1e-9, 1e-9))
    clear = left == right  # of an edge through a center, rounding decides
    np.testing.assert_array_equal(whole(rasterize_polygon(rings, *SIZE))[clear], left[clear])
    assert clear.mean() > 0.8


@settings(max_examples=40, deadline=None)
@given(st.tuples(coordinate, coordinate), st.floats(3, 40), st.integers(3, 12), st.floats(0.2, 0.8))
def test_gdal_draws_the_same_polygon_with_a_hole(centre, radius, corners, share):
    def star(r):
        angles = np.linspace(0, 2 * math.pi, corners, endpoint=False) + 0.1234
        return [(centre[0] + r * math.cos(a), centre[1] + r * math.sin(a)) for a in angles]

    rings = [star(radius), star(radius * share)]
    closed = [[*points, points[0]] for points in rings]
    theirs = rasterize([({"type": "Polygon", "coordinates": closed}, 1)], out_shape=SIZE, dtype="uint8")
    np.testing.assert_array_equal(whole(rasterize_polygon(rings, *SIZE)), theirs.astype(bool))


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
@given(st.integers(-9, 40), st.integers(-9, 40), st.integers(1, 30), st.integers(1, 30))
def test_coco_draws_the_same_box(x, y, w, h):
    box = rotated_box((x, y, x + w, y + h))
    theirs = tools.decode(tools.merge(tools.frPyObjects([[c for p in box for c in p]], *SIZE)))
    np.testing.assert_array_equal(whole(rasterize_polygon([box], *SIZE)), theirs.astype(bool))


@settings(max_examples=60, deadline=None)
@given(coordinate, coordinate, st.floats(0.3, 30), st.floats(0.3, 30), st.floats(-400, 400))
def test_an_ellipse_covers_the_pixels_whose_center_is_inside(x, y, rx, ry, degrees):
    v, u = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    rotated = ((u - x) + 1j * (v - y)) * np.exp(-1j * math.radians(degrees))
    distance = (rotated.real / rx) ** 2 + (rotated.imag / ry) ** 2
    ours = whole(rasterize_ellipse((x, y, rx, ry, degrees), *SIZE))
    clear = abs(distance - 1) > 1e-9
    np.testing.assert_array_equal(ours[clear], (distance <= 1)[clear])


def test_a_box_rotates_clockwise_about_its_center_or_a_corner():
    np.testing.assert_allclose(rotated_box((0, 0, 4, 2), 90), [(3, -1), (3, 3), (1, 3), (1, -1)], atol=1e-12)
    np.testing.assert_allclose(rotated_box((0, 0, 4, 2), 90, (0, 0)), [(0, 0), (0, 4), (-2, 4), (-2, 0)], atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 40), st.integers(-50, 50), st.integers(-50, 50))
def test_a_packed_mask_covers_the_pixels_that_were_packed(seed, h, w, top, left):
    bits = np.random.default_rng(seed).random((h, w)) < 0.1
    expected = np.zeros(SIZE, bool)
    for y, x in np.argwhere(bits):
        if 0 <= y + top < SIZE[0] and 0 <= x + left < SIZE[1]:
            expected[y + top, x + left] = True
    np.testing.assert_array_equal(whole(PackedMask.pack(bits).cover(*SIZE, top, left)), expected)


@pytest.mark.parametrize(
    "rings", [[[(0, 0)]], [[(1, 1), (1, 1), (1, 1)]], [[(5, 2.5), (9, 2.5)]], [[(-9, 3), (-1, 3), (-1, 9)]]]
)
def test_a_shape_without_an_area_covers_nothing(rings):
    assert not whole(rasterize_polygon(rings, *SIZE)).any()
    assert not whole(rasterize_ellipse((5, 5, 0, 3, 0), *SIZE)).any()


@pytest.mark.parametrize(
    ("shape", "outside"),
    [
        (Shape("ellipse", (-9.0, 5.0, 3.0, 3.0, 0.0)), True),
        (Shape("coco-polygon", ((1.0, 30.0, 9.0, 30.0, 9.0, 39.0),)), True),
        (Shape("pil-rectangle", (1.0, 1.0, 9.0, 9.0)), False),
        (Shape("pil-line", ((40.0, 1.0), (44.0, 9.0))), True),
        (Shape("pil-polygon", (((1.0, 1.0), (9.0, 1.0), (9.0, 9.0)),)), False),
        (Shape("coco-rle", {}), False),
    ],
)
def test_a_shape_of_any_type_outside_of_its_image_is_reported(tmp_path, shape, outside):
    bounds = BoundsCheck()
    inside = Shape("polygon", (((1.0, 1.0), (30.0, 1.0), (9.0, 9.0)),))
    mask = DrawnMask(tmp_path, "", tmp_path, (24, 32), 0, (inside, shape))
    bounds.add(Sample("p", tmp_path, {"": mask}), mask, (24, 32))
    assert [found.code for found in bounds.problems()] == ["outside-picture"] * outside
