"""Backbones of the Caffe release: sizes, padding, parameters, as an independent reader of the papers derives them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fullconv
from fullconv.nn import scores_by_head
from fullconv.nn.caffe.backbones import build_caffe_backbone
from fullconv.nn.caffe.convert import to_caffe_state_dict
from fullconv.nn.registry import VARIANTS, CaffeSpec
from networks import RELEASE, narrow

SHAPES = ("voc-fcn32s", "voc-fcn16s", "voc-fcn8s", "voc-fcn-alexnet", "voc-fcn-googlenet")
"""One net of each shape: all others differ from these in classes, heads, channels or factors."""


SWEEP = (*range(1, 71), 224, 225, 250, 375, 500, 513)


def sweep() -> Iterator[tuple[int, int, int]]:
    """Batch, height and width: every number of the sweep as height and as width, small beside large."""
    for place, n in enumerate(SWEEP):
        other = SWEEP[(7 * place + 3) % 70]
        yield 1 + place % 2, n, other
        yield 1, other, n


@pytest.mark.parametrize("variant", SHAPES)
def test_a_net_of_each_shape_keeps_the_size_of_a_image_of_any_size(variant):
    network = narrow(variant, 1 / 64, num_classes=2)
    with torch.inference_mode():
        for batch, height, width in list(sweep())[::4]:
            assert network(torch.randn(batch, 3, height, width)).shape == (batch, 2, height, width)


@pytest.mark.slow
@pytest.mark.parametrize("variant", RELEASE)
def test_every_published_net_keeps_the_size_of_a_image_of_any_size(variant):
    network = narrow(variant, 1 / 64)
    counts = network.classes_by_head
    with torch.inference_mode():
        for batch, height, width in sweep():
            logits = scores_by_head(network(torch.randn(batch, network.in_channels, height, width)))
            assert {head: tuple(value.shape) for head, value in logits.items()} == {
                head: (batch, count, height, width) for head, count in counts.items()
            }


def cells(backbone: nn.Module, n: int, last: str) -> int:
    """Size of a layer's map for a image of n pixels, by the arithmetic of Caffe's layers (pools round up)."""
    for name, layer in backbone.layers.items():
        if isinstance(layer, (nn.Conv2d, nn.MaxPool2d)):
            k, s, p = (v if isinstance(v, int) else v[0] for v in (layer.kernel_size, layer.stride, layer.padding))
            span = n + 2 * p - k
            n = (math.ceil(span / s) if isinstance(layer, nn.MaxPool2d) else span // s) + 1
        if name == last:
            return n
    raise AssertionError(last)


def test_every_crop_is_legal_for_every_image():
    backbone = build_caffe_backbone(CaffeSpec("vgg"), 3, (8, 16, 32), 1 / 64)
    for n in range(1, 5001):
        c = cells(backbone, n, "fc7")
        assert c == math.ceil((n + 198) / 32) - 6
        assert cells(backbone, n, "pool4") >= 5 + (2 * c + 2)  # upscore2
        assert cells(backbone, n, "pool3") >= 9 + (4 * c + 6)  # upscore_pool4
        assert 32 * c + 32 >= 19 + n
        assert 32 * c + 48 >= 27 + n
        assert 32 * c + 56 >= 31 + n
    alexnet = build_caffe_backbone(CaffeSpec("caffenet"), 3, (32,), 1 / 64)
    assert all(31 + 32 * cells(alexnet, n, "fc7") >= 18 + n for n in range(1, 3001))


@pytest.mark.parametrize(("pad", "sees"), [(96, False), (97, True)])
def test_97_is_the_smallest_padding_with_which_fc6_sees_a_single_pixel(pad, sees):
    backbone = build_caffe_backbone(CaffeSpec("vgg"), 3, (32,), 1 / 64)
    backbone.layers["conv1_1"].padding = (pad, pad)
    if sees:
        assert backbone(torch.zeros(1, 3, 1, 1))[32].shape[-2:] == (1, 1)
    else:
        with pytest.raises(RuntimeError, match="greater than actual input size"):
            backbone(torch.zeros(1, 3, 1, 1))


TABLE = {  # n: pool3, pool4, coarse, upscore2, upscore_pool4, then the last map of 32s, 16s and 8s
    1: (25, 13, 1, 4, 10, 64, 80, 88), 33: (29, 15, 2, 6, 14, 96, 112, 120), 224: (53, 27, 8, 18, 38, 288, 304, 312),
    375: (72, 36, 12, 26, 54, 416, 432, 440), 500: (88, 44, 16, 34, 70, 544, 560, 568),
    513: (89, 45, 17, 36, 74, 576, 592, 600),
}  # fmt: skip


@pytest.mark.parametrize("n", list(TABLE))
def test_the_maps_on_the_way_have_the_sizes_of_the_release(n):
    pool3, pool4, coarse, upscore2, upscore4, *last = TABLE[n]
    with torch.inference_mode():
        x = torch.randn(1, 3, n, 1)
        network = narrow("voc-fcn8s", 1 / 64)
        maps = network.backbone(x)
        assert [maps[stride].shape[-2] for stride in (8, 16, 32)] == [pool3, pool4, coarse]
        for variant, cells_, kernel, stride, size in zip(
            ("voc-fcn32s", "voc-fcn16s", "voc-fcn8s"), (coarse, upscore2, upscore4), (64, 32, 16), (32, 16, 8), last,
            strict=True,
        ):  # fmt: skip
            scores = narrow(variant, 1 / 64).scores(x)
            assert scores.shape[-2] == cells_
            assert VARIANTS[variant].caffe.kernel == kernel
            assert F.conv_transpose2d(scores[:, :1], torch.zeros(1, 1, kernel, kernel), stride=stride).shape[-2] == size


COUNTS = {  # learnable, and with the fixed transposed convolutions as Caffe and its ports store them (dense)
    "voc-fcn32s": (134_346_581, 136_152_917), "voc-fcn16s": (134_357_354, 134_815_994),
    "voc-fcn8s": (134_362_751, 134_489_759), "voc-fcn8s-atonce": (134_362_751, 134_489_759),
    "siftflow-fcn32s": (134_408_036, 138_905_444), "siftflow-fcn16s": (134_426_504, 135_568_424),
    "siftflow-fcn8s": (134_435_756, 134_751_980), "nyud-fcn32s-color": (134_424_424, 140_978_024),
    "nyud-fcn32s-hha": (134_424_424, 140_978_024), "nyud-fcn32s-color-d": (134_425_000, 140_978_600),
    "nyud-fcn32s-color-hha": (268_848_848, 275_402_448), "pascalcontext-fcn32s": (134_506_364, 149_251_964),
    "pascalcontext-fcn16s": (134_537_144, 138_281_144), "pascalcontext-fcn8s": (134_552_564, 135_589_364),
    "voc-fcn-alexnet": (56_954_261, 58_704_590),
}  # fmt: skip


GROUPED = {"voc-fcn32s": 134_432_597, "voc-fcn16s": 134_379_194, "voc-fcn8s": 134_368_799}


@pytest.mark.parametrize("variant", list(COUNTS))
def test_parameters_are_as_many_as_in_the_release_with_and_without_its_fixed_ones(variant):
    with torch.device("meta"):
        network = fullconv.build(variant)
    learnable = sum(p.numel() for p in network.parameters() if p.requires_grad)
    tensors = to_caffe_state_dict(network)
    fixed = {key: value for key, value in tensors.items() if key.startswith("upscore")}
    assert (learnable, sum(t.numel() for t in tensors.values())) == COUNTS[variant]
    assert set(RELEASE) - set(COUNTS) == {"voc-fcn-googlenet"}  # never released; the paper says 6M
    if variant in GROUPED:
        assert learnable + sum(t.shape[0] * t.shape[2] * t.shape[3] for t in fixed.values()) == GROUPED[variant]


def test_googlenet_has_six_million_parameters():
    with torch.device("meta"):
        network = fullconv.build("voc-fcn-googlenet")
    assert round(sum(p.numel() for p in network.parameters()) / 1e6) == 6


def test_dropout_is_drawn_in_training_only():
    network, x = narrow("voc-fcn32s"), torch.randn(1, 3, 20, 30)
    assert {type(m) for m in network.modules() if "Dropout" in type(m).__name__} == {nn.Dropout}  # element-wise
    with torch.no_grad():
        assert torch.equal(network(x), network(x))
        network.train()
        assert not torch.equal(network(x), network(x))


@pytest.mark.parametrize(
    ("variant", "field"),
    [("voc-fcn32s", 404), ("voc-fcn8s", 404), ("voc-fcn-alexnet", 355), ("voc-fcn-googlenet", 715)],
)
def test_the_receptive_field_is_the_papers(variant, field):
    network = narrow(variant)
    assert (network.receptive_field, network.stride) == (field, 32)


def test_pools_round_up_and_the_first_convolution_is_padded_by_100():
    for variant in ("voc-fcn8s", "voc-fcn-alexnet", "voc-fcn-googlenet"):
        backbone = narrow(variant).backbone
        convolution = next(m for m in backbone.modules() if isinstance(m, nn.Conv2d))
        assert convolution.padding == (100, 100)
        assert all(m.ceil_mode for m in backbone.modules() if isinstance(m, nn.MaxPool2d))


def test_weights_of_torchvisions_googlenet_and_alexnet_are_refused_with_the_reason():
    with pytest.raises(fullconv.FullconvError, match="3x3 where the paper has 5x5 branches"):
        fullconv.build("voc-fcn-googlenet", weights="imagenet")
    with pytest.raises(
        fullconv.FullconvError, match=r"no groups and no local response normalization.*a \.caffemodel of"
    ):
        fullconv.build("voc-fcn-alexnet", weights="imagenet")
