"""Modules from elsewhere: exact tiles are kept or refused by name, and the user's module stays as it is."""

from __future__ import annotations

import copy
import os
import random
import threading
from collections import OrderedDict
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fullconv import Segmenter
from fullconv.errors import NetworkError
from fullconv.nn import ModuleWrapper, build, private_copy
from fullconv.tiling import explain_inexact, prove_tiles

CLASSES = ["a", "b", "c", "d"]
IMAGE = np.random.default_rng(0).integers(0, 256, (131, 157, 3), dtype=np.uint8)


def conv(i: int, o: int, kernel: int = 3, **options) -> nn.Conv2d:
    return nn.Conv2d(i, o, kernel, padding=kernel // 2, **options)


class Net(nn.Module):
    """Two convolutions, and between them a function of the module and the first one's output."""

    def __init__(self, function, **children) -> None:
        super().__init__()
        self.a, self.b, self.function = conv(3, 8), conv(8, 4), function
        for name, child in children.items():
            setattr(self, name, child)

    def forward(self, x):
        return self.b(F.relu(self.function(self, self.a(x))))


def wrap(net: nn.Module, pad_to: int = 1) -> Segmenter:
    return Segmenter.from_network(net, CLASSES, pad_to=pad_to, device="cpu", precision="fp32")


def difference(segmenter: Segmenter, image=IMAGE, tile: int = 32) -> float:
    whole, tiled = segmenter.logits(image, tile="none"), segmenter.logits(image, tile=tile)
    assert whole.shape == tiled.shape == (4, *image.shape[:2])
    return float(np.abs(whole - tiled).max() / np.abs(whole).max())


def assert_kept_or_refused(net: nn.Module, layer: str | None, pad_to: int = 1) -> None:
    """Tiles are exact, or refused with a sentence that holds the layer's name."""
    torch.manual_seed(0)
    segmenter = wrap(net.eval(), pad_to)
    if layer is None:
        assert difference(segmenter) < 1e-5
        return
    with pytest.raises(NetworkError, match="tiles cannot be exact") as refusal:
        segmenter.logits(IMAGE, tile=32)
    assert layer in str(refusal.value)


class BatchStatistics(nn.BatchNorm2d):
    def __init__(self) -> None:
        super().__init__(8, track_running_stats=False)


class AlwaysTraining(nn.BatchNorm2d):
    def train(self, mode: bool = True):
        return super().train(True)


class AlwaysDropping(nn.Dropout):
    def train(self, mode: bool = True):
        return super().train(True)


@pytest.mark.parametrize(
    ("net", "layer"),
    [
        (Net(lambda m, y: m.norm(y), norm=BatchStatistics()), "norm (BatchStatistics: statistics of this very image)"),
        (Net(lambda m, y: m.norm(y), norm=AlwaysTraining(8)), "norm (AlwaysTraining: statistics of this very image)"),
        (Net(lambda m, y: m.norm(y), norm=nn.BatchNorm2d(8)), None),
        (Net(lambda m, y: F.batch_norm(y, None, None, training=True)), "Net: statistics of this very image"),
        (Net(lambda m, y: F.batch_norm(y, m.n.running_mean, m.n.running_var), n=nn.BatchNorm2d(8)), None),
        (Net(lambda m, y: m.norm(y), norm=nn.InstanceNorm2d(8)), "norm (InstanceNorm2d: instance norm over positions)"),
        (Net(lambda m, y: m.norm(y), norm=nn.InstanceNorm2d(8, track_running_stats=True)), None),
        (Net(lambda m, y: m.norm(y), norm=nn.GroupNorm(2, 8)), "norm (GroupNorm: group norm over positions)"),
    ],
)
def test_statistics_of_the_image_are_refused_and_stored_ones_are_exact(net, layer):
    assert_kept_or_refused(net, layer)


@pytest.mark.parametrize(
    ("function", "layer"),
    [
        (lambda m, y: y - y.std(False), "Net: std over positions"),
        (lambda m, y: y - y.var(unbiased=False), "Net: var over positions"),
        (lambda m, y: y - y.std((2, 3), False, keepdim=True), "Net: std over positions"),
        (lambda m, y: y - y.std(1, False, keepdim=True), None),
        (lambda m, y: y - torch.var_mean(y, False)[1], "Net: var_mean over positions"),
        (lambda m, y: y - y.amax(()), "Net: global maximum pooling"),
        (lambda m, y: y - y.sum(()) / 1e4, "Net: a sum over positions"),
    ],
)
def test_statistics_without_dimensions_are_of_the_whole_image(function, layer):
    assert_kept_or_refused(Net(function), layer)


def halved_and_doubled(m, y):
    half = F.interpolate(y, scale_factor=0.5, mode="bilinear", recompute_scale_factor=True)
    return y + F.pad(F.interpolate(half, scale_factor=2.0), (0, 1, 0, 1))[..., : y.shape[-2], : y.shape[-1]]


@pytest.mark.parametrize(
    ("function", "pad_to", "layer"),
    [
        (halved_and_doubled, 1, "Net: resizing to a size; the factor depends on the image's size"),
        (halved_and_doubled, 2, None),
        (lambda m, y: m.up(y[..., ::2, ::2]), 2, None),
        (
            lambda m, y: F.interpolate(y, scale_factor=1.5, recompute_scale_factor=True)[..., : y.shape[-2], :],
            1,
            "Net: resizing to a size; the factor depends on the image's size",
        ),
        (lambda m, y: F.interpolate(y, size=y.shape[-2:]), 1, None),
        (lambda m, y: F.interpolate(m.down(y), size=y.shape[2:], mode="bilinear"), 1, "Net: resizing to a size"),
        (lambda m, y: F.interpolate(m.down(y), size=y.shape[2:], mode="bilinear"), 2, None),
        (lambda m, y: F.interpolate(m.down(y), (y.size(2), y.size(3)), mode="bilinear"), 4, None),
        (
            lambda m, y: F.interpolate(m.down(y), size=y.shape[2:], align_corners=True, mode="bilinear"),
            2,
            "Net: the factor",
        ),
    ],
)
def test_resizing_is_exact_where_the_factor_is_the_same_for_all_images(function, pad_to, layer):
    up = nn.Upsample(scale_factor=2, recompute_scale_factor=True)
    assert_kept_or_refused(Net(function, down=nn.MaxPool2d(2), up=up), layer, pad_to)


SIZE = "Net: depends on the image's size"


@pytest.mark.parametrize(
    ("function", "layer"),
    [
        (lambda m, y: y * (y.shape[-1] / 64), SIZE),
        (lambda m, y: y + y.numel() / 1e5, SIZE),
        (lambda m, y: y * torch.tensor([y.shape[2] / 64.0]), "Net (Net cannot be traced: "),
        (lambda m, y: y + torch.linspace(0, 1, y.shape[3]), SIZE),
        (lambda m, y: y * m.table[y.shape[2] % 8], SIZE),
        (lambda m, y: torch.where(y > y.shape[2] / 1e3, y, 0), SIZE),
        (lambda m, y: y * int(y.shape[3]), SIZE),
        (lambda m, y: y + y.shape[1] / 8, None),
        (lambda m, y: y * (y.shape[3] - y.shape[3] + 2), None),
        (lambda m, y: y * 2 if y.shape[2:] == m.a2(y).shape[2:] else y, None),
        (lambda m, y: y * 2 if y.shape[2] % 2 else y, SIZE),
        (lambda m, y: y * 2 if len(y[0, 0]) > 500 else y, SIZE),
        (lambda m, y: y * 2 if len(y[0]) > 4 else y, None),
        (lambda m, y: y * 2 if y[y > 1].numel() > 5000 else y, SIZE),
        (lambda m, y: y * 2 if torch.where(y > 0)[0].shape[0] > 5000 else y, SIZE),
        (lambda m, y: y * 2 if len((y > 1).nonzero()) > 5000 else y, SIZE),
        (lambda m, y: F.max_pool2d(y, 3, 1, 1, return_indices=True)[1] / 1e4 + y, "Net: places in the whole map as numbers"),
        (lambda m, y: m.pool(y)[1] / 1e4 + y, "pool (MaxPool2d: places in the whole map as numbers)"),
        (lambda m, y: m.pool(y)[0], None),
        (lambda m, y: y.argmax(1, keepdim=True) + y, None),
        (lambda m, y: y.flatten(2).argmax(2)[..., None, None] / 1e4 + y, "Net: argmax over positions"),
    ],
)  # fmt: skip
def test_numbers_of_size_and_position_are_refused(function, layer):
    net = Net(function, table=nn.Parameter(torch.rand(8, 1)), a2=conv(8, 8))
    net.pool = nn.MaxPool2d(3, 1, 1, return_indices=True)
    assert_kept_or_refused(net, layer)


@pytest.mark.parametrize(
    ("function", "layer"),
    [
        (lambda m, y: F.dropout(y, 0.5), "Net: random numbers"),
        (lambda m, y: F.dropout(y, 0.5, m.training), None),
        (lambda m, y: F.dropout2d(y), "Net: random numbers"),
        (lambda m, y: F.dropout(y, 0.0), None),
        (lambda m, y: F.rrelu(y, training=True), "Net: random numbers"),
        (lambda m, y: m.drop(y), "drop (AlwaysDropping: random numbers)"),
        (lambda m, y: y + torch.rand_like(y), "Net: random numbers"),
        (lambda m, y: y + torch.rand(1, 8, 1, 1), "gives other values each time"),
        (lambda m, y: y * random.random(), "gives other values each time"),
        (lambda m, y: y.clone().bernoulli_(0.5) + y, "Net: random numbers"),
    ],
)
def test_random_layers_are_refused(function, layer):
    assert_kept_or_refused(Net(function, drop=AlwaysDropping()), layer)


@pytest.mark.parametrize(
    ("function", "layer"),
    [
        (lambda m, y: F.pad(y[..., 5:-5, 5:-5], (5, 5, 5, 5)), None),
        (lambda m, y: F.pad(y[..., 9:, 9:], (0, 9, 0, 9)), None),
        (lambda m, y: F.pad(y, (7, 0, 7, 0))[..., :-7, :-7], None),
        (lambda m, y: F.pad(y, (7, -7, 7, -7)), None),
        (lambda m, y: F.pad(y, (-7, 7, -7, 7)), None),
        (lambda m, y: F.pad(F.pad(y, (-9,) * 4), (9,) * 4), None),
        (lambda m, y: F.pad(y.narrow(2, 4, y.shape[2] - 4), (0, 0, 4, 0)), None),
        (lambda m, y: F.pad(y[..., : y.shape[3] - 6], (0, 6)), None),
        (lambda m, y: F.pad(y, (0, 9))[..., 9:], None),
        (lambda m, y: F.pad(y, (-70, 70)), None),
        (lambda m, y: F.pad(y[..., :100], (0, y.shape[3] - 100)), SIZE),
        (lambda m, y: F.pad(y[..., y.shape[3] // 2 :], (y.shape[3] // 2, 0)), SIZE),
        (lambda m, y: F.pad(y, (0, -y.shape[3] % 8, 0, -y.shape[2] % 8))[..., : y.shape[2], : y.shape[3]], None),
        (lambda m, y: F.pad(y, (-y.shape[3] % 8, 0))[..., : y.shape[3]], SIZE),
        (lambda m, y: m.up(m.down(y))[..., : y.shape[2], : y.shape[3]] + y, None),
        (lambda m, y: m.up(F.max_pool2d(y, 2, ceil_mode=True))[..., : y.shape[2], : y.shape[3]] + y, None),
        (lambda m, y: m.valid(F.pad(y, (3, 3, 3, 3), mode="reflect")), None),
        (
            lambda m, y: m.short(y[..., ::2, ::2]).repeat_interleave(1, 1)[..., :1, :1] + y,
            "Net (add: branches with strides of 1 and 2 pixels",
        ),
    ],
)
def test_crops_pads_and_shifts_are_exact_or_refused(function, layer):
    down, up = nn.Conv2d(8, 8, 3, 2, 1), nn.ConvTranspose2d(8, 8, 4, 2, 1)
    assert_kept_or_refused(Net(function, down=down, up=up, valid=nn.Conv2d(8, 8, 7), short=conv(8, 8)), layer)


def test_cells_that_a_transposed_convolution_lacks_are_counted():
    net = Net(lambda m, y: F.pad(m.up(y[..., ::2, ::2]), (0, 1, 0, 1)), up=nn.ConvTranspose2d(8, 8, 1, 2))
    segmenter = wrap(net.eval())
    image = IMAGE[:130, :156]
    assert difference(segmenter, image) < 1e-5


def centred(module, args):
    return (args[0] - args[0].mean((2, 3), keepdim=True),)


@pytest.mark.parametrize(
    ("register", "layer"),
    [
        (lambda net: net.b.register_forward_pre_hook(centred), "b (Conv2d: global average pooling)"),
        (lambda net: net.b.register_forward_pre_hook(lambda m, args: (args[0] * 2,)), None),
        (lambda net: net.b.register_forward_pre_hook(lambda m, args: args[0] * 2), None),
        (
            lambda net: net.b.register_forward_pre_hook(lambda m, args, kw: (centred(m, args), kw), with_kwargs=True),
            "b (Conv2d: global average pooling)",
        ),
        (lambda net: net.register_forward_pre_hook(centred), "Net: global average pooling"),
        (lambda net: net.a.register_forward_hook(lambda m, args, out: out - out.mean()), "a (Conv2d: global"),
        (lambda net: net.a.register_forward_hook(lambda m, args, kw, out: out * 2, with_kwargs=True), None),
    ],
)
def test_hooks_are_followed(register, layer):
    net = Net(lambda m, y: y)
    register(net)
    assert_kept_or_refused(net, layer)


# --- the proof -------------------------------------------------------------------------------------------------------


class Understated(nn.Conv2d):
    """Sees 15 pixels and states 3."""

    def trace_geometry(self, geometry):
        return geometry.each(lambda axis: axis.conv(3, padding=1))


class Python(nn.Module):
    """Hides what it does from the tracer."""

    def forward(self, x):
        return x - x.detach().mean() if type(x) is torch.Tensor else x


class AtOddSizes(nn.Module):
    """Computes something else where the traced operations cannot run."""

    def forward(self, x):
        try:
            return x + F.interpolate(F.max_pool2d(x, 2), scale_factor=2)
        except RuntimeError:
            return x


@pytest.mark.parametrize(
    ("child", "layer"),
    [
        (Understated(8, 8, 15, padding=7), "child (Understated: other values in a window than in the whole image)"),
        (Python(), "other values in a window than in the whole image, and other ones than were traced"),
        (AtOddSizes(), "other values in a window than in the whole image, and other ones than were traced"),
    ],
)
def test_a_promise_that_is_not_kept_is_found_and_its_layer_named(child, layer):
    net = Net(lambda m, y: m.child(y), child=child)
    with torch.no_grad():
        for weight in child.parameters():
            nn.init.ones_(weight)
    assert_kept_or_refused(net, layer)
    assert ModuleWrapper(net, 3, 4).halo is not None  # by its description it would be exact


def test_the_layer_is_named_behind_maps_of_truth_values_and_whole_numbers():
    net = Net(lambda m, y: y * (y > 0) * (y > 1).int() + m.child(y), child=Understated(8, 8, 15, padding=7))
    nn.init.ones_(net.child.weight)
    assert_kept_or_refused(net, "child (Understated: other values in a window than in the whole image)")


def test_networks_that_are_exact_prove_to_be():
    torch.manual_seed(0)
    net = nn.Sequential(conv(3, 8), nn.MaxPool2d(2), conv(8, 8), nn.Upsample(scale_factor=2), conv(8, 4))
    assert prove_tiles(ModuleWrapper(net, 3, 4)) is None
    assert prove_tiles(ModuleWrapper(net.double(), 3, 4)) is None
    assert prove_tiles(ModuleWrapper(net.bfloat16(), 3, 4)) is None


def test_what_cannot_be_traced_says_where_and_why():
    def write(m, y):
        y = y.clone()
        y[:, :1] = 0
        return y

    net = nn.Sequential(nn.Identity(), Net(write))
    segmenter = wrap(net.eval())
    assert explain_inexact(segmenter.network).startswith(
        "1 (Net: cannot be traced: 'ConcreteProxy' object does not support"
    )
    assert "Net cannot be traced: 'ConcreteProxy' object" in explain_inexact(ModuleWrapper(Net(write), 3, 4))
    assert segmenter.logits(IMAGE).shape == (4, 131, 157)
    assert "stride of 2 pixels" in explain_inexact(ModuleWrapper(nn.MaxPool2d(2), 3, 4))
    unpooled = Net(lambda m, y: F.max_unpool2d(*F.max_pool2d(y, 2, return_indices=True), 2))
    assert explain_inexact(ModuleWrapper(unpooled, 3, 4)).startswith("Net: places in the whole map as numbers")


# --- the user's module -----------------------------------------------------------------------------------------------


def state(value, seen=None):
    """Return all that can be seen of an object, through modules, containers and closures, with the identities of tensors."""
    seen = {} if seen is None else seen
    if isinstance(value, torch.Tensor):
        return "tensor", id(value), value._version, value.stride(), value.detach().clone().numpy().tobytes()
    if id(value) in seen:
        return "seen", seen[id(value)]
    seen[id(value)] = len(seen)
    if isinstance(value, nn.Module):
        return type(value), id(value), state(vars(value), seen)
    if isinstance(value, (dict, OrderedDict)):
        return id(value), [(key, state(item, seen)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [state(item, seen) for item in value]
    if callable(value):
        cells = [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
        return id(value), state(cells, seen)
    return repr(value)


class Busy(nn.Module):
    """Assigns, counts, collects and draws while it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = conv(3, 8), nn.BatchNorm2d(8), conv(8, 4)
        self.last, self.collected, self.by_name, self.lock = None, [], {"n": []}, threading.Lock()
        self.register_buffer("calls", torch.zeros(1))
        self.table = [self.a, {"b": self.b}]
        self.result = self.a(torch.ones(1, 3, 8, 8))  # requires a gradient
        outside = []
        self.a.register_forward_hook(lambda m, args, out: outside.append(out))
        self.a.register_forward_hook(self.keep)
        self.b.register_forward_hook(partial(self.keep_as, name="partial"))
        self.b.register_forward_pre_hook(lambda m, args: setattr(self, "given", args[0]))
        self.norm.eval()

    def keep(self, module, args, out) -> None:
        self.hooked = out

    def keep_as(self, module, args, out, name) -> None:
        setattr(self, name, out)

    def forward(self, x):
        self.last = self.a(x)
        self.calls += 1
        self.collected.append(self.last)
        self.by_name["n"].append(self.last.shape[-1])
        self.extra = nn.Identity()
        torch.rand(1), random.random(), np.random.rand()
        return self.b(self.norm(self.last))


def test_the_users_module_stays_as_it_is():
    net = Busy()
    before = state(net), torch.get_rng_state(), random.getstate(), np.random.get_state()
    segmenter = wrap(net)
    segmenter.logits(IMAGE[:40, :50])
    after = state(net), torch.get_rng_state(), random.getstate(), np.random.get_state()
    assert after[0] == before[0]
    assert [m.training for m in (net, net.a, net.norm)] == [True, True, False]
    assert net.last is None
    assert net.collected == []


def test_wrapping_leaves_the_random_numbers_alone():
    def drawn():
        return torch.rand(3).tolist(), random.random(), np.random.rand()

    def seed():
        torch.manual_seed(7), random.seed(7), np.random.seed(7)

    net = Busy()
    seed()
    expected = drawn()
    seed()
    wrap(net)
    assert drawn() == expected


def test_no_proxy_is_left_in_the_copy_either():
    segmenter = wrap(Busy())
    network = segmenter.network
    network.graph()
    assert network.module.last is None
    assert network.module.collected == []
    assert copy.deepcopy(network.module.calls).item() == 0


def test_hooks_of_a_copy_see_the_copy():
    net = Busy()
    mine = private_copy(net)
    mine(torch.zeros(1, 3, 8, 8))
    assert mine.given is not None
    assert not hasattr(net, "given")
    assert mine.table[0] is mine.a
    assert mine.table[1]["b"] is mine.b
    assert mine.lock is net.lock
    assert torch.equal(mine.result, net.result)
    shared = private_copy(net, share_weights=True)
    assert shared.a.weight is net.a.weight
    assert shared.calls is not net.calls


def test_a_module_that_cannot_be_copied_is_refused_by_name():
    class Single(nn.Module):
        def __deepcopy__(self, memo):
            raise RuntimeError("there is only one")

    with pytest.raises(NetworkError, match="Single cannot be copied: there is only one"):
        wrap(Single())


@pytest.mark.parametrize(
    ("function", "layer"),
    [
        (lambda m, y: nn.Softmax(1)(y) + nn.Sequential(m.c, nn.ReLU())(y), None),
        (lambda m, y: nn.Sequential(m.c, nn.AdaptiveAvgPool2d(1))(y) + y, "AdaptiveAvgPool2d: global average pooling"),
        (lambda m, y: nn.Conv2d(8, 8, 1)(y), "gives other values each time"),
        (lambda m, y: nn.ReLU()(m.child(y)), "child (Understated: other values in a window than in the whole image)"),
    ],
)
def test_layers_that_are_made_in_forward_are_followed(function, layer):
    net = Net(function, c=conv(8, 8), child=Understated(8, 8, 15, padding=7))
    nn.init.ones_(net.child.weight)
    assert_kept_or_refused(net, layer)


def test_what_cannot_be_copied_is_shared():
    net = conv(3, 4)
    with Path(os.devnull).open("w") as log:
        net.log = log
        assert private_copy(net).log is log
        assert difference(wrap(net)) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_of_any_precision_are_computed_in_float32(dtype):
    net = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), conv(8, 4)).to(dtype).eval()
    segmenter = wrap(net)
    assert net[0].weight.dtype == dtype
    assert {p.dtype for p in segmenter.network.parameters()} == {torch.float32}
    assert difference(segmenter) < 1e-5


def test_weights_of_three_dimensions_are_kept_in_their_order():
    net = Net(lambda m, y: m.deep(y[:, :, None])[:, :, 0], deep=nn.Conv3d(8, 8, (1, 3, 3), padding=(0, 1, 1)))
    segmenter = wrap(net.eval())
    assert (
        explain_inexact(segmenter.network) == "deep (Conv3d: no geometry rule for this layer) reads an unknown window."
    )
    assert segmenter.logits(IMAGE).shape == (4, 131, 157)


# --- pad_to ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pad_to", [0, -32, 1.5, True, "32"])
def test_a_pad_to_that_is_no_number_of_pixels_is_refused(pad_to):
    with pytest.raises(NetworkError, match=r"pad_to must be a number of pixels from 1, not "):
        wrap(conv(3, 4), pad_to)


def test_a_network_of_ours_pads_itself():
    with pytest.raises(NetworkError, match=r"pad_to is for modules from elsewhere"):
        wrap(build("fcn8s", backbone="tiny", num_classes=4), 32)


def test_the_module_gets_padded_images_and_the_result_has_the_images_size():
    sizes = []

    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = conv(3, 4)

        def forward(self, x):
            sizes.append(tuple(x.shape[2:]))
            return self.a(x)

    segmenter = wrap(Watching(), pad_to=32)
    sizes.clear()
    x = torch.randn(2, 3, 33, 70)
    logits = segmenter.network(x)
    assert sizes == [(64, 96)]
    assert logits.shape == (2, 4, 33, 70)
    assert torch.equal(logits, segmenter.network.module(F.pad(x, (0, 26, 0, 31)))[..., :33, :70])
    assert segmenter.card.stride == 32
    rows = segmenter.network.upsample(segmenter.network.scores(x), (33, 70), (5, 9))
    assert torch.equal(rows, logits[:, :, 5:9])


def test_torchvisions_dict_is_taken_for_its_out():
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = conv(3, 4)

        def forward(self, x):
            return OrderedDict(out=self.a(x), aux=x.mean())

    assert difference(wrap(Named().eval())) < 1e-5
