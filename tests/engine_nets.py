"""Narrow networks with cards, translated once for all tests of engines and exports."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import nn

from fullconv.card import Card
from fullconv.engines.autotune import EngineFactory
from fullconv.nn import VARIANTS, Network, build
from networks import WIDTHS, enliven

NETS = {
    "skip": ("fcn8s", "tiny", {}),
    "release": ("voc-fcn8s", None, {"width": 1 / 16}),
    "size": ("torchvision-fcn_resnet50", None, {"width": 1 / 16}),
    "dilated": ("fcn-os8", "resnet18", {"width": 1 / 16}),
    "two heads": ("siftflow-fcn16s", None, {"width": 1 / 16}),
    "four channels": ("nyud-fcn32s-color-d", None, {"width": 1 / 16}),
    "late fusion": ("nyud-fcn32s-color-hha", None, {"width": 1 / 16}),
    "local response norm": ("voc-fcn-alexnet", None, {"width": 1 / 16}),
    "inception": ("voc-fcn-googlenet", None, {"width": 1 / 16}),
    "layer norm": ("fcn4s", "convnext_tiny", {"width": 1 / 16}),
    "gates": ("fcn8s", "mobilenetv3_large_100", {}),
    "learned": ("fcn16s", "tiny", {"head": {"upsampling": "learned"}}),
}
"""One of each kind of graph: rule of padding and upsampling, heads, channels, layers."""
QUICK = ("skip", "release")


@cache
def net(kind: str) -> tuple[Network, Card]:
    """A narrow network whose scores differ from place to place, and its card; shared, so never to be changed."""
    variant, backbone, settings = NETS[kind]
    torch.manual_seed(0)
    published = VARIANTS[variant].num_classes is not None
    if backbone == "tiny":
        settings = {"width": WIDTHS["tiny"], **settings}
    network = enliven(build(variant, backbone=backbone, num_classes=None if published else 5, **settings))
    for layer in network.head.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.2)
    return network, card_for(network)


def card_for(network: Network, **more: object) -> Card:
    """A card for a network, with statistics of its own for each channel."""
    counts = network.num_classes if isinstance(network.num_classes, dict) else {"": network.num_classes}
    named = {head: [f"{head}{index}" for index in range(count)] for head, count in counts.items()}
    heads = {head: {"classes": classes} for head, classes in named.items()} if len(named) > 1 else None
    channels = network.in_channels
    full = {
        "variant": network.variant, "backbone": network.settings["backbone"], "in_channels": channels,
        "network": {key: network.settings[key] for key in ("norm", "width", "head")}, "classes": next(iter(named.values())),
        "heads": heads, "mean": [0.3 + 0.05 * index for index in range(channels)],
        "std": [0.2 + 0.02 * index for index in range(channels)], "channel_order": "bgr" if channels == 3 else "rgb",
    }  # fmt: skip
    return Card(**{**full, **more})


@cache
def maker(kind: str) -> EngineFactory:
    """The engines of a network, each created once."""
    return EngineFactory(*net(kind), torch.device("cpu"))


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    """Random images (N, H, W, C) uint8."""
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def flat(scores: dict[str, np.ndarray]) -> np.ndarray:
    """Scores of all heads in one array."""
    return np.concatenate(list(scores.values()), 1)
