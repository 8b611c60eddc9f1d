"""Plans cover an image, stitching joins arrays of any kind, and networks without exact tiles are refused by name."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fullconv.errors import NetworkError
from fullconv.geometry import Axis
from fullconv.nn import ModuleWrapper, build
from fullconv.tiling import choose_tile_size, explain_inexact, plan, plan_axis, row_chunks, sliding_window, tiled_scores
from networks import enliven, random_images


@settings(max_examples=200, deadline=None)
@given(length=st.integers(1, 3000), tiles=st.integers(1, 9), stride=st.sampled_from([4, 8, 32]),
       lo=st.integers(-500, 0), hi=st.integers(0, 500), pad=st.booleans(), minimum=st.sampled_from([1, 64]))  # fmt: skip
def test_a_plan_covers_every_cell_once_within_the_image(length, tiles, stride, lo, hi, pad, minimum):
    align = 32
    padded = max(minimum, -(-length // 32) * 32) if pad else max(length, minimum)
    core = max(align, -(-padded // (align * tiles)) * align)
    axis = Axis(Fraction(stride), Fraction(0), Fraction(lo), Fraction(hi))
    spans = plan_axis(axis, length, padded, core, align, minimum)
    cell = 0
    for index, span in enumerate(spans):
        last = index == len(spans) - 1
        assert 0 <= span.start < length
        assert span.start % align == 0
        assert span.stop <= max(length, span.start + minimum)
        assert span.start // stride + span.crop == cell  # follows the one before without gap
        assert (span.cells is None) == last
        if span.start > 0:
            assert span.start <= cell * stride + lo  # all that the first cell reads
        if not last:
            cell += span.cells
            if span.stop < length:
                assert span.stop > (cell - 1) * stride + hi  # all that the last cell reads
    assert cell * stride < padded


def test_a_gate_that_sees_the_whole_image_is_refused_by_name():
    network = build("fcn8s", backbone="mobilenetv3_large_100", num_classes=2)
    assert network.halo is None
    words = r"tiles cannot be exact: .*SqueezeExcite: global average pooling\) sees the whole image \(and \d+ more\)\."
    with pytest.raises(NetworkError, match=words + " Use --tile none"):
        plan(network, 300, 300, 64)
    assert choose_tile_size(network, 10_000, 10_000, budget=1) is None  # the whole is the only answer


class Own(nn.Module):
    """A user's encoder and decoder; two of the tutorials' kind."""

    def __init__(self, norm: type[nn.Module]) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), norm(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1))
        self.up = nn.Sequential(nn.ConvTranspose2d(8, 8, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(8, 4, 4, 2, 1))

    def forward(self, x):
        return self.up(self.down(x))


@pytest.mark.parametrize(("height", "width", "tile_size"), [(4, 160, 8), (100, 96, 30), (160, 40, 90)])
@torch.inference_mode()
def test_a_wrapped_module_tiles_exactly(height, width, tile_size):
    torch.manual_seed(0)
    network = ModuleWrapper(enliven(Own(nn.BatchNorm2d)).double(), 3, 4)
    assert network.stride == 4
    image = random_images(1, height, width, 3, dtype=torch.float64)
    whole = network.scores(image.permute(0, 3, 1, 2))
    tiles = plan(network, height, width, tile_size)
    tiled = tiled_scores(lambda window: network.scores(window.permute(0, 3, 1, 2)), image, *tiles)
    assert tiled.shape == whole.shape
    assert (tiled - whole).abs().max() <= 1e-12 * whole.abs().max()


def test_a_network_from_outside_that_norms_over_the_picture_is_refused_by_name():
    network = ModuleWrapper(Own(lambda channels: nn.GroupNorm(2, channels)), 3, 4)
    assert network.halo is None
    with pytest.raises(NetworkError, match=r"down\.1 \(GroupNorm.*sees the whole image"):
        plan(network, 64, 64, 32)


def test_a_network_from_outside_that_cannot_be_traced_is_of_unknown_reach():
    class Branching(nn.Module):
        def forward(self, x):
            return x * 2 if float(x.sum()) > 0 else x

    network = ModuleWrapper(Branching(), 3, 3)
    assert network.halo is None
    assert "Branching" in explain_inexact(network)
    assert "unknown window" in explain_inexact(network)


def test_a_network_from_outside_of_another_output_size_is_told_so():
    network = ModuleWrapper(nn.Conv2d(3, 4, 3), 3, 4)
    message = r"Conv2d returns \(1, 4, 6, 6\) for \(1, 3, 8, 8\); expected logits \(1, 4, 8, 8\)"
    with pytest.raises(NetworkError, match=message):
        network(torch.zeros(1, 3, 8, 8))


@given(height=st.integers(1, 500), width=st.integers(1, 5000), classes=st.integers(1, 255))
def test_row_chunks_cover_the_rows_without_a_gap_within_the_budget(height, width, classes):
    cut = list(row_chunks(height, width, classes, budget=2**20))
    assert [row for a, b in cut for row in range(a, b)] == list(range(height))
    assert all(b - a == 1 or 4 * classes * width * (b - a) <= 2**20 for a, b in cut)


@pytest.mark.parametrize("stitch", ["tiled", "sliding"])
@torch.inference_mode()
def test_arrays_of_numpy_are_stitched_to_the_numbers_of_tensors(stitch):
    network = build("fcn8s", backbone="tiny", num_classes=2, width=0.25)
    image = random_images(1, 300, 260, 3)

    def tensors(window):
        return {"a": network.scores(window.permute(0, 3, 1, 2)), "b": window.permute(0, 3, 1, 2)[..., ::8, ::8]}

    def arrays(window):
        return {name: scores.numpy() for name, scores in tensors(torch.from_numpy(window)).items()}

    def run(compute, image):
        if stitch == "tiled":
            return tiled_scores(compute, image, *plan(network, 300, 260, 64))
        return sliding_window(compute, image, network, 64)

    expected, found = run(tensors, image), run(arrays, image.numpy())
    assert found.keys() == expected.keys()
    for name, scores in found.items():
        assert isinstance(scores, np.ndarray)
        assert np.array_equal(scores, expected[name])
