"""The law: tiles, and bands of rows, give the whole image's scores. Random networks, sizes and cores."""

from __future__ import annotations

import math
import pickle
import random
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fullconv.errors import NetworkError
from fullconv.nn import ModuleWrapper, Network, build
from fullconv.tiling import (
    RowExecutor,
    RowGraph,
    UnsupportedOpError,
    find_divergence,
    plan,
    tiled_scores,
)
from networks import enliven, random_images

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
"""Largest difference, as a share of the largest logit."""
SMALL = [("fcn32s", "tiny", 0.25), ("fcn16s", "tiny", 0.25), ("fcn8s", "tiny", 0.25), ("fcn4s", "tiny", 0.25)]
OTHERS = [
    *[(variant, backbone, 1 / 16) for variant in ("fcn32s", "fcn16s", "fcn8s", "fcn4s") for backbone in
      ("resnet18", "resnet50", "convnext_tiny")],
    ("fcn8s", "vgg16", 1 / 32), ("fcn16s", "vgg16_bn", 1 / 32), ("fcn-os8", "resnet18", 1 / 16),
    ("fcn-os8", "resnet50", 1 / 16), ("fcn-os16", "resnet18", 1 / 16),
    ("torchvision-fcn_resnet50", None, 1 / 16), ("torchvision-fcn_resnet101", None, 1 / 16),
    ("voc-fcn32s", None, 1 / 32), ("voc-fcn16s", None, 1 / 32), ("voc-fcn8s", None, 1 / 32),
    ("voc-fcn8s-atonce", None, 1 / 32), ("voc-fcn-alexnet", None, 1 / 8), ("voc-fcn-googlenet", None, 1 / 16),
    ("siftflow-fcn8s", None, 1 / 32), ("nyud-fcn32s-color-hha", None, 1 / 32),
]  # fmt: skip
_made: dict[tuple[Any, torch.dtype], Network] = {}


@pytest.fixture(autouse=True, scope="module")
def _without_gradients():
    with torch.inference_mode():
        yield


def made(net: tuple[str, str | None, float], dtype: torch.dtype) -> Network:
    """A narrow network whose layers all show; the release's score layers start at 0, which would hide them."""
    if (net, dtype) not in _made:
        torch.manual_seed(0)
        variant, backbone, width = net
        built = build(variant, backbone=backbone, num_classes=3, width=width)
        draw = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for weight in built.parameters():
                if weight.ndim == 4 and not weight.any():
                    weight.copy_(torch.randn(weight.shape, generator=draw) / math.sqrt(weight[0].numel()))
        _made[net, dtype] = enliven(built).to(dtype)
    return _made[net, dtype]


@dataclass
class Case:
    net: tuple[str, str | None, float]
    dtype: torch.dtype
    height: int
    width: int
    core: int
    rows: int
    place: tuple[float, float]
    """Where the core lies outside of which NaN is planted."""

    @classmethod
    def drawn(cls, draw: random.Random, largest: int) -> Case:
        net = draw.choice(SMALL) if draw.random() < 0.6 else draw.choice(OTHERS)
        dtype = draw.choice([torch.float32, torch.float64])
        top = largest if net in SMALL or dtype == torch.float32 else min(largest, 250)
        sides = [round(math.exp(draw.uniform(0, math.log(top)))) for _ in range(2)]  # most are small
        core = max(draw.randint(1, 400), max(sides) // 5)  # at most some 25 tiles
        return cls(net, dtype, *sides, core, draw.randint(1, 120), (draw.random(), draw.random()))


def of_first_head(scores: Any) -> Tensor:
    return next(iter(scores.values())) if isinstance(scores, dict) else scores


def by_rows(network: Network, x: Tensor, rows: int) -> Tensor:
    stream = RowExecutor(RowGraph(network), *x.shape[-2:])
    parts = [stream.push(x[:, :, row : row + rows]) for row in range(0, x.shape[-2], rows)]
    return torch.cat([of_first_head(part) for part in parts if part is not None], dim=-2)


@torch.no_grad()  # as predictions run; with gradients scores grow by matrix products, which spread NaN
def check(case: Case) -> None:
    """Hold one case against the law."""
    network, tolerance = made(case.net, case.dtype), TOLERANCE[case.dtype]
    image = random_images(1, case.height, case.width, network.in_channels, dtype=case.dtype)
    x = image.permute(0, 3, 1, 2)
    whole = of_first_head(network.scores(x))
    assert whole.std() > 1e-3 * whole.abs().max(), "a blind network tiles exactly"

    def compute(window: Tensor) -> Tensor:
        return of_first_head(network.scores(window.permute(0, 3, 1, 2)))

    tiled = tiled_scores(compute, image, *plan(network, case.height, case.width, case.core))
    streamed = by_rows(network, x, case.rows)
    size = case.height, case.width
    logits = network.upsample(whole, size)
    for name, scores in (("tiles", tiled), ("bands", streamed)):
        assert scores.shape == whole.shape, f"{case}, {name}"
        found = network.upsample(scores, size)
        allowed = tolerance * logits.abs().max()
        if not (apart := (found - logits).abs().max()) <= allowed:
            named = find_divergence(network, x, case.core, tolerance)
            raise AssertionError(f"{case}, {name}: {apart / logits.abs().max():.1e} of the largest logit. {named}")
        best, second = logits.topk(2, dim=1).values.unbind(1)
        clear = best - second > 2 * allowed
        assert (found.argmax(1) == logits.argmax(1))[clear].all(), f"{case}, {name}"
    check_nan(case, network, x, whole, network.halo)


@torch.no_grad()
def check_nan(case: Case, network: Network, x: Tensor, whole: Tensor, halo: tuple[int, int, int, int]) -> None:
    """NaN beyond a core and its halo reaches no cell of the core, nor the one beside it."""
    align = network.stride
    core = max(align, case.core // align * align)
    left, top, right, bottom = halo
    seen, cells = torch.full_like(x, math.nan), []
    window = []
    for axis, length, share, before, after, count in (
        (network.geometry.y, x.shape[-2], case.place[0], top, bottom, whole.shape[-2]),
        (network.geometry.x, x.shape[-1], case.place[1], left, right, whole.shape[-1]),
    ):
        start = int(share * length) // align * align
        stop = start + core
        # what lies beyond the border is padding, not NaN: the core goes on to it
        window.append(slice(max(0, start - before), stop + after))
        inside = [i for i in range(count) if start <= axis.offset + axis.jump * i < stop]
        cells.append(slice(max(0, min(inside) - 1), max(inside) + 2) if inside else slice(0, 0))
    seen[..., window[0], window[1]] = x[..., window[0], window[1]]
    found = of_first_head(network.scores(seen))[..., cells[0], cells[1]]
    expected = whole[..., cells[0], cells[1]]
    assert not found.isnan().any(), f"{case}: NaN outside the tile and its halo shows"
    assert (found - expected).abs().max() <= TOLERANCE[case.dtype] * whole.abs().max() if found.numel() else True


def check_random_cases(seed: int, cases: int, largest: int) -> None:
    draw = random.Random(seed)
    for _ in range(cases):
        check(Case.drawn(draw, largest))


@pytest.mark.parametrize("seed", range(4))
def test_tiles_and_rows_give_the_scores_of_the_whole(seed):
    check_random_cases(seed, 10, 300)


@pytest.mark.parametrize("size", [(1, 1), (64, 1), (1, 300), (65, 65), (96, 33), (160, 129)])
@pytest.mark.parametrize("tile_size", [1, 33, 64])
def test_sizes_at_the_edge_of_the_grid_tile_exactly(size, tile_size):
    check(Case(SMALL[2], torch.float64, *size, tile_size, 32, (0.3, 0.6)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 120))
def test_tiles_and_rows_give_the_scores_of_the_whole_in_a_thousand_cases(seed):
    check_random_cases(seed, 50, 900)


@pytest.mark.parametrize("net", [SMALL[0], SMALL[2], ("fcn8s", "resnet18", 1 / 16)], ids=lambda net: "-".join(net[:2]))
def test_through_a_halo_one_stride_short_nan_shows(net):
    network = made(net, torch.float32)
    x = random_images(1, 3, 640, 640)
    case = Case(net, torch.float32, 640, 640, 64, 64, (0.5, 0.5))
    whole = network.scores(x)
    check_nan(case, network, x, whole, network.halo)
    for side in range(4):
        short = [reach - network.stride * (place == side) for place, reach in enumerate(network.halo)]
        with pytest.raises(AssertionError, match="NaN outside the tile and its halo shows"):
            check_nan(case, network, x, whole, tuple(short))


class Understated(nn.Conv2d):
    """A convolution whose geometry states that it reads less than it does."""

    def trace_geometry(self, geometry):
        axis = geometry.y.conv(3, padding=1)
        return replace(geometry, y=axis, x=geometry.x.conv(3, padding=1))


class Body(nn.Module):
    def __init__(self, wrong: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.middle = nn.Sequential(nn.ReLU(), wrong, nn.ReLU())
        self.last = nn.Conv2d(6, 4, 5, padding=2)

    def forward(self, x):
        return self.last(self.middle(self.stem(x)))


def test_a_layer_of_wrong_geometry_is_caught_and_named():
    torch.manual_seed(0)
    network = ModuleWrapper(Body(Understated(6, 6, 7, padding=3)).double(), 3, 4)
    x = random_images(1, 3, 60, 70, dtype=torch.float64)
    image = x.permute(0, 2, 3, 1)
    whole = network.scores(x)
    tiled = tiled_scores(lambda window: network.scores(window.permute(0, 3, 1, 2)), image, *plan(network, 60, 70, 20))
    assert (tiled - whole).abs().max() > 1e-3 * whole.abs().max()
    found = find_divergence(network, x, 20, 1e-12)
    assert found is not None
    assert found.layer == "middle.1 (Understated)"
    assert "middle.1 (Understated) differs first" in str(found)
    assert found.size > 1e-3


def test_layers_of_right_geometry_do_not_diverge():
    torch.manual_seed(0)
    network = ModuleWrapper(Body(nn.Conv2d(6, 6, 7, padding=3)).double(), 3, 4)
    assert find_divergence(network, random_images(1, 3, 60, 70, dtype=torch.float64), 20, 1e-12) is None
    for net in (SMALL[2], ("voc-fcn8s", None, 1 / 32)):
        x = random_images(1, 3, 150, 97, dtype=torch.float64)
        assert find_divergence(made(net, torch.float64), x, 32, 1e-12) is None


class Decoder(nn.Module):
    """What encoders and decoders of others are made of: every operation that has a form by rows."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.ZeroPad2d((1, 2, 2, 1)), nn.Conv2d(3, 8, 4, stride=2), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
            nn.AvgPool2d(3, 2, padding=1, count_include_pad=False), nn.Conv2d(8, 8, 3, padding="same"), nn.GELU(),
        )  # fmt: skip
        self.pool = nn.AvgPool2d(3, 1, padding=1)
        self.up = nn.ConvTranspose2d(8, 8, 3, stride=2, padding=1, output_padding=1)
        self.deep = nn.Sequential(
            nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=2, dilation=2), nn.Upsample(scale_factor=2)
        )
        self.norm = nn.LayerNorm(8)
        self.last = nn.Conv2d(16, 4, 1)

    def forward(self, x):
        x = self.down(x)
        deep = self.deep(x)
        x = self.norm((x + 0.5 * deep).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = torch.cat([self.up(x), nn.functional.interpolate(self.pool(x), scale_factor=2, mode="bilinear")], dim=1)
        return nn.functional.interpolate(self.last(x), scale_factor=2, mode="nearest")


@pytest.mark.parametrize("rows", [1, 7, 32, 200])
@pytest.mark.parametrize("size", [(128, 48), (8, 16), (200, 24)])
def test_every_operation_that_has_a_form_by_rows_gives_the_whole(rows, size):
    torch.manual_seed(0)
    network = ModuleWrapper(enliven(Decoder()).double(), 3, 4)
    x = random_images(1, 3, *size, dtype=torch.float64)
    whole = network.scores(x)
    assert (by_rows(network, x, rows) - whole).abs().max() <= 1e-12 * whole.abs().max()


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        y = self.conv(x)
        z = nn.functional.max_pool2d(y, 3, 1, 1)
        return y.relu_() + z


class Mirrored(nn.Module):
    def forward(self, x):
        return nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")[..., 1:-1, 1:-1]


@pytest.mark.parametrize(("module", "words"), [
    (InPlace(), r"changes root_conv in place, which others read"),
    (nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")), r"Conv2d\) pads by reflect"),
    (nn.Sequential(Mirrored(), nn.Conv2d(3, 4, 1)), r"pads by reflect"),
    (nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4)), r"sees the whole image"),
], ids=["in place", "reflect", "mirror", "norm"])  # fmt: skip
def test_what_has_no_form_by_rows_is_refused_by_name(module, words):
    with pytest.raises(UnsupportedOpError, match=words):
        RowGraph(ModuleWrapper(module, 3, 4))


def test_rows_that_are_kept_are_few():
    """Memory is width times depth: what waits between two bands does not grow with the image."""
    network = made(SMALL[2], torch.float32)
    stream = RowExecutor(RowGraph(network), 1024, 64)
    x = random_images(1, 3, 1024, 64)
    held = []
    for row in range(0, 1024 - 64, 64):
        stream.push(x[:, :, row : row + 64])
        held.append(sum(rows.kept.numel() for rows in stream.maps if rows.kept is not None))
    assert held[-1] == held[5]
    assert held[-1] < 12 * 64 * 3  # the values of twelve rows of the image, of 1024
    assert all(rows.stop - rows.start <= 12 for rows in stream.maps if rows.kept is not None)


def test_every_cell_is_computed_once():
    network = made(SMALL[2], torch.float32)
    program = RowGraph(network)
    counted = [0] * len(program.nodes)
    for place, node in enumerate(program.nodes):
        if node.op is None:
            continue

        def counting(first, last, maps, place=place, compute=node.op.compute):
            counted[place] += last - first
            found = compute(first, last, maps)
            assert found.shape[program.nodes[place].dim] == last - first
            return found

        node.op.compute = counting  # type: ignore[method-assign]
    stream = RowExecutor(program, 500, 40)
    x = random_images(1, 3, 500, 40)
    for row in range(0, 500, 37):
        stream.push(x[:, :, row : row + 37])
    assert counted[1:] == [rows.total for rows in program.buffers(512)[1:]]


def test_find_divergence_refuses_networks_without_exact_tiles():
    network = ModuleWrapper(nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4)), 3, 4)
    with pytest.raises(NetworkError, match="sees the whole image"):
        find_divergence(network, random_images(1, 3, 32, 32), 16)


def test_a_row_graph_pickles():
    network, x = made(SMALL[2], torch.float32), random_images(1, 3, 96, 64)
    executor = RowExecutor(pickle.loads(pickle.dumps(RowGraph(network))), 96, 64)
    assert torch.equal(executor.push(x), RowExecutor(RowGraph(network), 96, 64).push(x))
