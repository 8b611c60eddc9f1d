"""Every published net of the family: what it is, its layers with their geometry, and an answer for a synthetic image.

One class makes them all, from the rows of a table (`fullconv.nn.registry`); so this example is a table, too. For each net
it prints where it comes from, the maps that count (stride, receptive field, where the first cell lies), the crops that
follow from them, and what comes out for an image of 97x130.

The images are made, and the weights are random, so the labels mean nothing: what is shown is the way from an image to
a label map, with the preprocessing of the release (BGR, minus the mean, no division). By default nets have a sixteenth of
their channels, which changes no geometry; `--full` builds them in full (half a gigabyte and some seconds each). Real
weights come by `fullconv import FILE --as NAME -o MODEL`, where the release's own files or its ports are taken.

Run it: python examples/published_nets.py [NAME ...] [--full]
"""

from __future__ import annotations

import argparse
from collections import OrderedDict

import numpy as np
import torch
from torch import nn

import fullconv
from fullconv.geometry import trace_network
from fullconv.hub import foreign_card
from fullconv.nn import VARIANTS, Network
from fullconv.nn.heads import final_crop

BANDS = {3: "red, green, blue", 4: "red, green, blue, depth", 6: "red, green, blue, and depth as HHA"}
"""What the channels of an image are, by their number."""
KEPT = ("pool3", "pool4", "pool5", "fc6", "fc7", "inception_5b", "layer2", "layer4")
"""Layers that are shown, besides the scores."""


def published() -> list[str]:
    """Return the names of all published nets: the release's, and torchvision's."""
    return [name for name, row in VARIANTS.items() if row.caffe is not None or row.upsample_mode == "size"]


def synthetic_image(channels: int, height: int = 97, width: int = 130) -> np.ndarray:
    """Return a disc on a slope of grey, (H, W, C) uint8; bands beyond the third are depth."""
    y, x = np.mgrid[:height, :width]
    disc = np.hypot(y - 50, x - 60) < 30
    colors = np.where(disc[..., None], (200, 80, 40), (x + y)[..., None] * 120 // (height + width) + 60)
    depth = np.where(disc, 90, 90 + y)[..., None]
    return np.concatenate([colors, *[depth] * (channels - 3)], axis=-1).astype(np.uint8)


def build(name: str, full: bool) -> Network:
    """Build a net with score layers that are not 0 (theirs start at 0, so every label would be the first)."""
    torch.manual_seed(0)
    network = fullconv.build(name, width=1.0 if full else 1 / 16)
    for layer in network.head.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)
    return network


def layer_table(network: Network) -> list[tuple[str, str, float, int | None, float]]:
    """Return name, shape, stride, receptive field and first cell of the layers that count."""
    half = nn.Sequential(OrderedDict(backbone=network.backbone, head=network.head))
    found = []
    for node in trace_network(half, torch.zeros(1, network.in_channels, 97, 130)).layers:
        name = (node.path or node.name).replace("layers.", "").replace("body.", "")
        if name.endswith(KEPT) or (name.startswith("head.") and "score" in name) or name == "head.4":
            axis, shape = node.geometry.y, "x".join(map(str, node.shape[1:]))
            found.append(
                (
                    name.removeprefix("backbone."),
                    shape,
                    float(axis.jump),
                    node.geometry.receptive_field,
                    float(axis.offset),
                )
            )
    return found


def crops(network: Network) -> str:
    """Return the crops of a net of the release in words: of the skips, coarse to fine, then of the last map."""
    release = network.spec.caffe
    if release is None:
        return "none: scores grow to the size of the image, by half pixels"
    heads = list(network.head.values()) if isinstance(network.head, nn.ModuleDict) else [network.head]
    inner = [crop.offset for crop in getattr(heads[0], "crop", nn.ModuleDict()).values()]
    return ", ".join(map(str, [*inner, final_crop(network.geometry, network.score_stride, release.kernel)]))


def show(name: str, full: bool = False) -> dict[str, object]:
    """Build a net, print what it is, and label an image."""
    network = build(name, full)
    print(f"\n{name}: {VARIANTS[name].description}")
    print(f"  images of {BANDS[network.in_channels]}; crops {crops(network)}")
    table = layer_table(network)
    for layer, shape, stride, field, offset in table:
        print(f"  {layer:24} {shape:>14}  stride {stride:<3g} sees {field:<4} first cell at {offset:g}")
    segmenter = fullconv.Segmenter(network, foreign_card(network, name, "random"), device="cpu", precision="fp32")
    image = synthetic_image(network.in_channels)
    prediction = segmenter.predict(image)
    maps = prediction.label_maps if isinstance(network.num_classes, dict) else {"": prediction.label_map}
    for head, labels in maps.items():
        count = network.num_classes[head] if isinstance(network.num_classes, dict) else network.num_classes
        print(f"  {head or 'labels'}: {count} classes, {image.shape} -> {labels.shape}")
    return {
        "field": network.receptive_field,
        "crops": crops(network),
        "layers": table,
        "shapes": {head: labels.shape for head, labels in maps.items()},
    }


def main(names: list[str] | None = None, full: bool = False) -> dict[str, dict[str, object]]:
    """Show some nets, or all."""
    return {name: show(name, full) for name in names or published()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="of published nets; all by default")
    parser.add_argument("--full", action="store_true", help="all channels, as published")
    main(**vars(parser.parse_args()))
