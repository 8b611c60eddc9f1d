"""Slow: 200 random modules and what people bring, segmentation_models_pytorch's and torchvision's networks."""

from __future__ import annotations

import random
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from fullconv import Segmenter
from fullconv.tiling import explain_inexact

pytestmark = pytest.mark.slow
CLASSES = ["a", "b", "c"]
MODULES = 200
CHANNELS = 6


def conv(i: int, o: int, kernel: int = 3, **options) -> nn.Conv2d:
    return nn.Conv2d(i, o, kernel, padding=options.pop("padding", kernel // 2), **options)


class RandomModule(nn.Module):
    """A random program of layers on a stack of maps: downs, ups, skips, crops, norms, hooks, and sizes as numbers."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.rng = random.Random(seed)
        self.first, self.last = conv(3, CHANNELS), conv(CHANNELS, len(CLASSES), 1)
        self.layers = nn.ModuleList()
        self.steps: list[tuple[str, tuple]] = []
        depth = 0
        for _ in range(self.rng.randint(2, 8)):
            depth += self.add_step(depth)
        while depth:
            depth += self.add_up()

    def add_layer(self, layer: nn.Module) -> int:
        if self.rng.random() < 0.1:
            hook = self.rng.choice(
                [lambda m, args, out: out * 0.5, lambda m, args, out: out - out.mean((2, 3), keepdim=True)]
            )
            layer.register_forward_hook(hook)
        if self.rng.random() < 0.05:
            layer.register_forward_pre_hook(lambda m, args: (F.relu(args[0]),))
        self.layers.append(layer)
        return len(self.layers) - 1

    def add_step(self, depth: int) -> int:
        rng = self.rng
        kind = rng.choices(
            ["conv", "norm", "down", "up", "shift", "crop", "size", "residual"],
            [5, 3, 4 if depth < 3 else 0, depth, 1, 1, 0.5, 2],
        )[0]
        if kind == "conv":
            options = [
                {"kernel": 3},
                {"kernel": 1},
                {"kernel": 5, "groups": CHANNELS},
                {"kernel": 3, "dilation": 2, "padding": 2},
            ]
            options += [{"kernel": 3, "padding_mode": "reflect"}]
            self.steps.append(("layer", (self.add_layer(conv(CHANNELS, CHANNELS, **rng.choice(options))),)))
        elif kind == "norm":
            norms = [nn.BatchNorm2d(CHANNELS)] * 6
            norms += [
                nn.GroupNorm(2, CHANNELS),
                nn.BatchNorm2d(CHANNELS, track_running_stats=False),
                nn.InstanceNorm2d(CHANNELS),
            ]
            self.steps.append(("layer", (self.add_layer(rng.choice(norms)),)))
        elif kind == "down":
            downs = [nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2), conv(CHANNELS, CHANNELS, 3, stride=2)]
            downs += [nn.MaxPool2d(2, ceil_mode=True), conv(CHANNELS, CHANNELS, 2, stride=2, padding=0)]
            self.steps.append(("down", (self.add_layer(rng.choice(downs)),)))
            return 1
        elif kind == "up":
            return self.add_up()
        elif kind == "shift":
            n = rng.randint(1, 5)
            self.steps.append(("pad", ((n, -n, 0, 0) if rng.random() < 0.5 else (0, 0, -n, n),)))
        elif kind == "crop":
            self.steps.append(("crop", (rng.randint(1, 4),)))
        elif kind == "size":
            self.steps.append(("size", (rng.choice(["times", "half"]),)))
        else:
            self.steps.append(("residual", (self.add_layer(conv(CHANNELS, CHANNELS)),)))
        return 0

    def add_up(self) -> int:
        kind = self.rng.choice(["to the skip", "by two", "transposed", "concatenated", "recomputed"])
        index = self.add_layer(
            conv(2 * CHANNELS, CHANNELS) if kind == "concatenated" else nn.ConvTranspose2d(CHANNELS, CHANNELS, 4, 2, 1)
        )
        self.steps.append(("up", (kind, index, self.rng.choice(["nearest", "bilinear"]))))
        return -1

    def forward(self, x):
        x = self.first(x)
        skips = []
        for step, values in self.steps:
            if step == "layer":
                x = F.relu(self.layers[values[0]](x))
            elif step == "down":
                skips.append(x)
                x = self.layers[values[0]](x)
            elif step == "pad":
                x = F.pad(x, values[0])
            elif step == "crop":
                n = values[0]
                x = F.pad(x[..., n:-n, n:-n], (n, n, n, n))
            elif step == "size":
                x = x * (x.shape[-1] / 64) if values[0] == "times" else x - x[..., : x.shape[-2] // 2, :].mean()
            elif step == "residual":
                x = x + self.layers[values[0]](x)
            else:
                x = self.up(x, skips.pop(), *values)
        return self.last(x)

    def up(self, x, skip, kind, index, mode):
        if kind == "transposed":
            x = self.layers[index](x)
        elif kind in ("by two", "recomputed"):
            x = F.interpolate(
                x, scale_factor=2.0, mode=mode, recompute_scale_factor=True if kind == "recomputed" else None
            )
        else:
            x = F.interpolate(x, size=skip.shape[-2:], mode=mode)
        if kind == "concatenated":
            return self.layers[index](torch.cat([x, skip], 1))
        return x + skip


def test_what_random_modules_are_promised_is_kept():
    promised, different, failed = 0, [], 0
    generator = np.random.default_rng(0)
    for seed in range(MODULES):
        torch.manual_seed(seed)
        net = RandomModule(seed).eval()
        pad_to = [1, 8, 16, 32][seed % 4]
        segmenter = Segmenter.from_network(net, CLASSES, pad_to=pad_to, device="cpu", precision="fp32")
        if segmenter.network.halo is None:
            assert explain_inexact(segmenter.network)
            continue
        promised += 1
        for _ in range(3):
            image = generator.integers(0, 256, (*generator.integers(97, 190, 2), 3), dtype=np.uint8)
            try:
                whole = segmenter.logits(image, tile="none")
            except RuntimeError:  # the module itself takes no image of this size
                failed += 1
                continue
            apart = np.abs(segmenter.logits(image, tile=32) - whole).max() / np.abs(whole).max()
            if apart > 1e-5:
                different.append((seed, pad_to, image.shape, float(apart)))
    print(
        f"{promised} of {MODULES} random modules are promised exact tiles; {failed} images are of a size they cannot take"
    )
    assert different == []
    assert promised > MODULES // 5


def assert_exact(net: nn.Module, pad_to: int, count: int) -> None:
    """Compare tiles with the whole at odd sizes, of which one side is cut into three tiles whose windows end within it."""
    torch.manual_seed(0)
    segmenter = Segmenter.from_network(net.eval(), CLASSES, pad_to=pad_to, device="cpu", precision="fp32")
    assert segmenter.network.halo is not None, explain_inexact(segmenter.network)
    tile = max(32, *segmenter.network.halo)
    generator = np.random.default_rng(1)
    for turn in range(count):
        size = [2 * tile + 2 * int(generator.integers(8, 100)), 2 * int(generator.integers(16, 40))]
        height, width = (n // 2 * 2 + 1 for n in (size if turn % 2 else size[::-1]))
        image = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        whole, tiled = segmenter.logits(image, tile="none"), segmenter.logits(image, tile=tile)
        assert np.abs(whole - tiled).max() <= 1e-5 * np.abs(whole).max(), (height, width)


@pytest.mark.parametrize("encoder", ["resnet18", "resnet34", "mobilenet_v2", "vgg11_bn", "densenet121"])
def test_smps_unet_is_exact_at_odd_sizes(encoder):
    smp = pytest.importorskip("segmentation_models_pytorch")
    assert_exact(smp.Unet(encoder, encoder_weights=None, classes=3), 32, 20)


@pytest.mark.parametrize(("name", "layer"), [("FPN", "GroupNorm"), ("DeepLabV3Plus", "AdaptiveAvgPool2d")])
def test_smps_networks_that_see_the_whole_image_are_refused_naming_the_layer(name, layer):
    smp = pytest.importorskip("segmentation_models_pytorch")
    net = getattr(smp, name)("resnet18", encoder_weights=None, classes=3).eval()
    segmenter = Segmenter.from_network(net, CLASSES, pad_to=32, device="cpu", precision="fp32")
    assert layer in explain_inexact(segmenter.network)
    assert segmenter.network.halo is None


def test_torchvisions_fcn_is_exact_at_odd_sizes():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = torchvision.models.segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=3)
    assert_exact(net, 8, 20)


def test_a_plain_unet_is_exact_at_odd_sizes():
    class Block(nn.Sequential):
        def __init__(self, i: int, o: int) -> None:
            super().__init__(conv(i, o), nn.BatchNorm2d(o), nn.ReLU(), conv(o, o), nn.BatchNorm2d(o), nn.ReLU())

    class Unet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.ModuleList([Block(3, 8), Block(8, 16), Block(16, 32)])
            self.up = nn.ModuleList([Block(48, 16), Block(24, 8)])
            self.out = conv(8, 3, 1)

        def forward(self, x):
            skips = []
            for block in self.down:
                skips.append(block(x if not skips else F.max_pool2d(skips[-1], 2)))
            x = skips.pop()
            for block in self.up:
                skip = skips.pop()
                x = block(torch.cat([F.interpolate(x, size=skip.shape[2:], mode="bilinear"), skip], 1))
            return self.out(x)

    assert_exact(Unet(), 4, 20)
