"""Tiles give the whole picture's scores: a law over networks, sizes and tiles."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from fullconv.errors import NetworkError
from fullconv.geometry import Axis
from fullconv.nn import ModuleWrapper, build
from fullconv.segmenter import Segmenter
from fullconv.system import available_memory
from fullconv.tiling import choose_tile_size, estimate_bytes, explain_inexact, plan, plan_axis, row_chunks, tiled_scores
from fullconv.tiling.memory import SCRATCH, default_budget
from networks import enliven, random_images

NETS = [
    *[(variant, "tiny", 0.25) for variant in ("fcn32s", "fcn16s", "fcn8s", "fcn4s")],
    ("fcn8s", "resnet18", 1 / 16), ("fcn8s", "resnet50", 1 / 16), ("fcn32s", "vgg16", 1 / 32),
    ("fcn8s", "vgg16_bn", 1 / 32), ("fcn-os8", "resnet18", 1 / 16), ("fcn-os16", "resnet18", 1 / 16),
]  # fmt: skip
_made: dict[tuple[str, str, torch.dtype], nn.Module] = {}


@pytest.fixture(autouse=True, scope="module")
def _without_gradients():
    with torch.inference_mode():
        yield


def lively(variant: str, backbone: str, width: float, dtype: torch.dtype):
    key = variant, backbone, dtype
    if key not in _made:
        torch.manual_seed(0)
        _made[key] = enliven(build(variant, backbone=backbone, num_classes=3, width=width)).to(dtype)
    return _made[key]


@torch.no_grad()
def compared(network, height: int, width: int, core: int, dtype: torch.dtype) -> float:
    """Largest difference between tiled and whole scores, as a share of the largest score."""
    image = random_images(1, height, width, network.in_channels, dtype=dtype)

    def compute(window):
        return network.scores(window.permute(0, 3, 1, 2))

    whole = compute(image)
    tiled = tiled_scores(compute, image, *plan(network, height, width, core))
    assert tiled.shape == whole.shape
    assert whole.std() > 1e-3 * whole.abs().max()  # blind networks tile exactly
    return float((tiled - whole).abs().max() / whole.abs().max())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(net=st.sampled_from(NETS), height=st.integers(1, 300), width=st.integers(1, 300), core=st.integers(1, 320))
def test_tiled_scores_are_the_scores_of_the_whole(net, height, width, core):
    core = max(core, max(height, width) // 6)  # at most some 36 tiles
    assert compared(lively(*net, torch.float64), height, width, core, torch.float64) < 1e-12


@pytest.mark.parametrize("net", NETS, ids=lambda net: "-".join(net[:2]))
def test_in_single_precision_tiles_agree_to_rounding(net):
    assert compared(lively(*net, torch.float32), 131, 197, 64, torch.float32) < 1e-5


@pytest.mark.parametrize("size", [(1, 1), (64, 1), (1, 300), (65, 65), (96, 33), (160, 129)])
@pytest.mark.parametrize("core", [1, 32, 33, 64])
def test_sizes_at_the_edge_of_the_grid_tile_exactly(size, core):
    assert compared(lively("fcn8s", "tiny", 0.25, torch.float64), *size, core, torch.float64) < 1e-12


@pytest.mark.slow
def test_torchvisions_published_net_tiles_exactly():
    torch.manual_seed(0)
    network = enliven(build("torchvision-fcn_resnet50", num_classes=3)).double()
    for size, core in (((61, 530), 64), ((601, 33), 100), ((450, 470), 200)):
        assert compared(network, *size, core, torch.float64) < 1e-12


@pytest.mark.parametrize("side", ["lo", "hi"])
def test_a_halo_one_stride_short_is_noticed(side):
    """The law must fail where the geometry is wrong."""
    network = lively("fcn32s", "tiny", 0.25, torch.float64)
    kept = network.geometry
    less = {"rf_start": kept.x.rf_start + 32} if side == "lo" else {"rf_end": kept.x.rf_end - 32}
    try:
        network.geometry = replace(kept, x=replace(kept.x, **less), y=replace(kept.y, **less))
        assert compared(network, 200, 300, 32, torch.float64) > 1e-6
    finally:
        network.geometry = kept


@settings(max_examples=200, deadline=None)
@given(length=st.integers(1, 3000), tiles=st.integers(1, 9), stride=st.sampled_from([4, 8, 32]),
       lo=st.integers(-500, 0), hi=st.integers(0, 500), pad=st.booleans(), minimum=st.sampled_from([1, 64]))  # fmt: skip
def test_a_plan_covers_every_cell_once_within_the_picture(length, tiles, stride, lo, hi, pad, minimum):
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


def test_a_gate_that_sees_the_whole_picture_is_refused_by_name():
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


@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), core=st.integers(1, 90))
def test_a_network_from_outside_tiles_exactly_too(height, width, core):
    torch.manual_seed(0)
    network = ModuleWrapper(enliven(Own(nn.BatchNorm2d)).double(), 3, 4)
    assert network.halo is not None
    assert network.stride == 4
    assert compared(network, 4 * height, 4 * width, core, torch.float64) < 1e-12


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
    with pytest.raises(
        NetworkError, match=r"Conv2d returns \(1, 4, 6, 6\) for \(1, 3, 8, 8\); expected logits \(1, 4, 8, 8\)"
    ):
        network(torch.zeros(1, 3, 8, 8))


@given(height=st.integers(1, 500), width=st.integers(1, 5000), classes=st.integers(1, 255))
def test_strips_cut_the_rows_without_gap_within_the_budget(height, width, classes):
    cut = list(row_chunks(height, width, classes, budget=2**20))
    assert [row for a, b in cut for row in range(a, b)] == list(range(height))
    assert all(b - a == 1 or 4 * classes * width * (b - a) <= 2**20 for a, b in cut)


def test_memory_decides_on_tiles():
    network = lively("fcn8s", "tiny", 0.25, torch.float32)
    allowed = estimate_bytes(network, 1024, 1024)
    # two maps of the first layer, 4 channels at half the size, and the picture
    assert allowed > SCRATCH + 1024 * 1024 * (2 * 4 / 4 + 3) * 4
    assert choose_tile_size(network, 1000, 1000, allowed) is None
    core = choose_tile_size(network, 4000, 4000, allowed)
    assert core is not None
    assert core % 32 == 0
    assert 256 <= core < 1024
    assert choose_tile_size(network, 4000, 4000, budget=1) == 256  # smaller tiles would compute little but halo


def test_the_memory_that_is_free_is_some():
    assert available_memory() > 10 * 2**20
    assert default_budget() <= available_memory()


def test_pictures_that_fit_the_memory_one_by_one_only_do_not_go_together():
    network = lively("fcn8s", "tiny", 0.25, torch.float32)
    segmenter, batches = Segmenter.from_network(network, ("a", "b", "c"), device="cpu"), []
    engine = segmenter.engine.for_size(96, 96)
    compute = engine.scores
    engine.scores = lambda images: batches.append(len(images)) or compute(images)
    one = estimate_bytes(network, 96, 96)
    for limit, expected in ((3 * one, [3]), (2 * one, [1, 1, 1])):
        batches.clear()
        segmenter.with_options(memory=limit).predict_many(
            [np.full((96, 96, 3), value, np.uint8) for value in (1, 2, 3)]
        )
        assert batches == expected
