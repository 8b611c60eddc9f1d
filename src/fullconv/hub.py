"""Published models: their files, and cards with the preprocessing that their weights expect."""

from __future__ import annotations

from pathlib import Path

from fullconv._version import __version__
from fullconv.card import IMAGENET_MEAN, IMAGENET_STD, Card, Labels
from fullconv.dataset_constants import LABELS, channel_means
from fullconv.errors import ModelFileError, WeightsError, nearest
from fullconv.nn import ALIASES, VARIANTS, Network, PretrainedCfg, convertible, download, load_foreign
from fullconv.storage import cache_folder

PUBLISHED = {
    "torchvision:fcn_resnet50": "https://download.pytorch.org/models/fcn_resnet50_coco-1167a1af.pth",
    "torchvision:fcn_resnet101": "https://download.pytorch.org/models/fcn_resnet101_coco-7ecb50ca.pth",
}
"""URL of each published model by name."""

SHORT_SIDE = 520
"""Shorter side of an image in torchvision's transforms for these weights.

Source: torchvision/transforms/_presets.py, SemanticSegmentation(resize_size=520).
"""
_LICENSES = {"torchvision": "bsd-3-clause", "release": "unrestricted use (the release's README)"}


def import_file(path: str | Path, name: str) -> tuple[Network, Card]:
    """Read a foreign checkpoint as a `Network` with its card."""
    path = Path(path)
    variant = ALIASES.get(name, name)
    if variant not in convertible():
        raise WeightsError(
            f"there is no --as '{name}'.{nearest(name, convertible())} `fullconv import --help` lists the names."
        )
    if not path.is_file():
        raise WeightsError(f"{path}: no such file.")
    network = load_foreign(path, variant)
    return network, foreign_card(network, variant, path.name)


def foreign_card(network: Network, variant: str, origin: str) -> Card:
    """Return the card of a published net: its preprocessing, and its classes where their number is the published one."""
    release = VARIANTS[variant].caffe is not None
    labels = LABELS[variant.split("-")[0] if release else "voc"]
    found = {}
    for head, count in network.classes_by_head.items():
        known = labels.get(head)
        numbered = Labels(classes=tuple(f"class{index}" for index in range(count)))
        found[head] = known if known is not None and len(known.classes) == count else numbered
    first = next(iter(found.values()))
    if release:
        mean, channels = channel_means(variant), network.in_channels
        # 0..255 with the mean subtracted and no division: range 0..1 leaves the numbers as they are.
        statistics = {"mean": mean, "std": (1.0,) * channels, "range": (0.0, 1.0)}
        order = "rgb" if variant == "nyud-fcn32s-hha" else "bgr"
    else:
        statistics, order = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "range": (0.0, 255.0)}, "rgb"
    is_published = origin in {url.rsplit("/", 1)[1] for url in PUBLISHED.values()}
    settings = {key: network.settings[key] for key in ("norm", "width", "head", "phase")
                if network.settings[key] is not None}  # fmt: skip
    return Card(
        variant=variant, backbone=None if release else network.settings["backbone"], network=settings,
        in_channels=network.in_channels, classes=first.classes, palette=first.palette,
        heads=found if len(found) > 1 else None, channel_order=order, stride=network.stride,
        receptive_field=network.receptive_field, weights_origin=origin,
        short_side=SHORT_SIDE if is_published else None,
        weights_license=_LICENSES["release" if release else "torchvision"], fullconv=__version__, **statistics,
    )  # fmt: skip


def published_model(name: str) -> tuple[Network, Card]:
    """Return a model by its published name, downloading its file unless it is cached."""
    if name not in PUBLISHED:
        raise ModelFileError(
            f"there is no published model '{name}'.{nearest(name, PUBLISHED)} Known: {', '.join(PUBLISHED)}."
        )
    url = PUBLISHED[name]
    target = cache_folder() / "weights" / url.rsplit("/", 1)[1]
    if not target.is_file():
        download(PretrainedCfg(url, target.name, _LICENSES["torchvision"]), target, instead="")
    network, card = import_file(target, name.split(":", 1)[1])
    return network, card.model_copy(update={"weights_origin": url})
