"""From settings, or from a card and its weights, to a network; incompatible settings raise an error that names them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fullconv.card import Card
from fullconv.errors import NetworkError, RecipeError, WeightsError
from fullconv.modelfile import is_model_file, read_model
from fullconv.nn.backbones import TESTED, build_backbone, check_backbone
from fullconv.nn.caffe.backbones import build_caffe_backbone
from fullconv.nn.heads import Features, HeadDict, SkipHead
from fullconv.nn.network import Network
from fullconv.nn.pretrained import ClassRows, load_by_class, load_partial
from fullconv.nn.registry import Variant, get_variant
from fullconv.recipe import HeadSettings, parse_recipe

LOG = logging.getLogger("fullconv")


def build(
    variant: str,
    *,
    backbone: str | None = None,
    num_classes: int | Mapping[str, int] | None = None,
    classes: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    in_channels: int | None = None,
    weights: str | Path | None = None,
    norm: str = "batch",
    width: float = 1.0,
    head: HeadSettings | Mapping[str, Any] | None = None,
    phase: float | None = None,
) -> Network:
    """Build a network.

    Args:
        variant: A name of `VARIANTS`, for example "fcn8s".
        backbone: "tiny", a timm model, "alexnet" or "googlenet"; resnet18 by default; published networks have their own.
        num_classes: Number of classes K, or K by head name; published networks know theirs.
        classes: Their names, or names by head, in place of num_classes. With weights of a fullconv model, each class gets
            the scores of the class of its name.
        in_channels: Channels of the images; 3, or what the published network takes.
        weights: None or "none", "imagenet", or a file: of the classifier, or a fullconv model (also with other classes;
            `Network.missing_keys` then lists the tensors that did not come from it). Without ``classes``, scores of as many
            classes are taken in the model's order, which is logged.
        norm: "batch" or "none", for the backbone tiny.
        width: Multiplier of the backbone's channels, for tests and small machines.
        head: Settings of the head.
        phase: Pixel on which the first score lies, for weights that were trained with another one than geometry
            gives: 3.5 for torchvision's in "fcn-os8".

    Returns:
        A module in eval mode.

    Raises:
        NetworkError: Variant or backbone are unknown, do not go together, or are unsuitable.
        WeightsError: The weights are not available.
    """
    spec = get_variant(variant)
    if spec.own_backbone is not None and backbone not in (None, spec.own_backbone):
        raise NetworkError(f"{variant} has its own backbone, {spec.own_backbone}: omit backbone = {backbone}.")
    if backbone is not None and not isinstance(backbone, str):
        raise NetworkError(f"backbone is a name, not {backbone!r}. `fullconv models` lists them.")
    name = spec.own_backbone or backbone or "resnet18"
    names = _names_by_head(classes)
    if names is not None:
        if num_classes is not None:
            raise NetworkError("give classes or num_classes, not both.")
        num_classes = (
            {head: len(own) for head, own in names.items()} if isinstance(classes, Mapping) else len(names[""])
        )
    counts, channels = _resolve_counts(variant, spec, num_classes, in_channels)
    settings = _head_settings(head)
    _check_unused(spec, variant, name, settings, phase)
    source, is_model = _resolve_source(weights)
    init = None if is_model else source
    if spec.caffe is not None:
        body = build_caffe_backbone(spec.caffe, channels, spec.strides, width, init)
    else:
        body = build_backbone(
            name, spec.strides, channels, init, fc=settings.fc, dropout=settings.dropout, norm=norm, width=width,
            output_stride=spec.output_stride,
        )  # fmt: skip
    options = replace(spec.head_options, learned=settings.upsampling == "learned")

    def make_head(features: Features) -> nn.Module:
        make = spec.head.from_features
        if isinstance(counts, int):
            return make(features, spec.strides, counts, options)
        return HeadDict({key: make(features, spec.strides, count, options) for key, count in counts.items()})

    keywords = {"in_channels": channels, "num_classes": counts if isinstance(counts, int) else dict(counts),
                "backbone": name, "norm": norm, "width": width, "head": settings.model_dump(), "phase": phase}  # fmt: skip
    network = Network(variant, body.eval(), make_head, keywords)
    if is_model and source is not None:
        if names is not None:
            for row in load_model_weights(network, source, names):
                LOG.info("Classes of %s, by name: %s.", source, row)
        else:
            _load_in_order(network, source)
    return network.eval()


def _names_by_head(classes: Sequence[str] | Mapping[str, Sequence[str]] | None) -> dict[str, Sequence[str]] | None:
    """Return names by head; the key of a single head is ""."""
    if classes is None:
        return None
    names = dict(classes) if isinstance(classes, Mapping) else {"": classes}
    for own in names.values():
        if isinstance(own, str) or not all(isinstance(name, str) for name in own) or len(set(own)) < len(own):
            raise NetworkError(f"classes are a list of different names, not {own!r}.")
    return names


def _load_in_order(network: Network, weights: str | Path) -> None:
    """Load what fits of a fullconv model, scores of as many classes in its order, and log that order."""
    card, tensors = read_model(weights)
    network.missing_keys = load_partial(network, tensors)
    stored = [card.classes] if card.heads is None else [own.classes for own in card.heads.values()]
    if any(name.startswith("head.") and name in tensors for name in network.state_dict().keys() - network.missing_keys):
        order = "; ".join(", ".join(names) for names in stored)
        LOG.warning(
            "Scores of %s are those of its classes, in their order: %s. Give classes to match names.", weights, order
        )


def load_model_weights(network: Network, weights: str | Path, classes: Mapping[str, Sequence[str]]) -> list[ClassRows]:
    """Load what fits of a fullconv model, the scores of each class from the class of the same name.

    Args:
        network: Its `missing_keys` list the tensors that keep their values.
        weights: The model file.
        classes: Names of the network's classes by head; the key of a single head is "".

    Returns:
        Where the scores of each head's classes came from.

    Raises:
        ModelFileError: The file is damaged.
    """
    card, tensors = read_model(weights)
    stored = {"": card.classes} if card.heads is None else {head: own.classes for head, own in card.heads.items()}
    network.missing_keys, rows = load_by_class(network, tensors, stored, classes)
    return rows


def check_build_args(variant: str, backbone: str, weights: str) -> None:
    """Raise for what `build` would not find: a misspelled name is reported before hours of reading data.

    Args:
        variant: As for `build`.
        backbone: As for `build`; ignored for published networks, which have their own.
        weights: As for `build`.

    Raises:
        NetworkError: There is no such variant or backbone.
        WeightsError: There is no such file.
    """
    if get_variant(variant).own_backbone is None:
        check_backbone(backbone)
    _resolve_source(weights)


def _resolve_counts(
    variant: str, spec: Variant, num_classes: int | Mapping[str, int] | None, in_channels: int | None
) -> tuple[int | Mapping[str, int], int]:
    """Return the numbers of classes and of channels, by default those of the variant.

    Raises:
        NetworkError: The number of classes is missing, or a number is out of range.
    """
    classes = spec.num_classes if num_classes is None else num_classes
    channels = spec.in_channels if in_channels is None else in_channels
    if classes is None:
        raise NetworkError(f"{variant} needs num_classes, the number of classes.")
    counts = list(classes.values()) if isinstance(classes, Mapping) else [classes]
    if any(type(count) is not int for count in (*counts, channels)):
        raise NetworkError(f"num_classes and in_channels are whole numbers, not {classes!r} and {channels!r}.")
    if any(not 1 <= count <= 255 for count in counts) or channels < 1:
        raise NetworkError(f"num_classes is 1 to 255 and in_channels at least 1, not {classes} and {channels}.")
    return classes, channels


def _head_settings(head: HeadSettings | Mapping[str, Any] | None) -> HeadSettings:
    """Validate the settings of the head as a recipe does."""
    if isinstance(head, HeadSettings):
        return head
    try:
        return parse_recipe({"head": head or {}}, "head").head
    except RecipeError as error:
        raise NetworkError(str(error).removeprefix("head: ")) from None


def _check_unused(spec: Variant, variant: str, backbone: str, settings: HeadSettings, phase: float | None) -> None:
    """Raise for settings that would have no effect on this network.

    Raises:
        NetworkError: One of them differs from its default; the message says where it has an effect.
    """
    skips = spec.head is SkipHead
    has_fc = skips and (backbone.startswith("vgg") or backbone == "alexnet")
    defaults = HeadSettings()
    for key, where, acts in (
        ("fc", "skip variants on VGG and AlexNet", has_fc),
        ("dropout", "skip variants on VGG and AlexNet", has_fc),
        ("upsampling", "fcn16s, fcn8s and fcn4s", skips and len(spec.strides) > 1),
    ):
        value = getattr(settings, key)
        if value != getattr(defaults, key) and not acts:
            raise NetworkError(
                f"head.{key} = {value} has no effect in {variant} on {backbone}; it is for {where}. Omit it."
            )
    if phase is not None and (spec.upsample_mode == "size" or spec.caffe is not None):
        raise NetworkError(
            f"phase = {phase:g} has no effect in {variant}, whose scores lie where its authors put them. Omit it."
        )


def _resolve_source(weights: str | Path | None) -> tuple[str | Path | None, bool]:
    """Return the source of the initial weights, None for random ones, and whether it is a fullconv model.

    Raises:
        WeightsError: There is no such file.
    """
    if weights is not None and not isinstance(weights, (str, os.PathLike)):
        raise WeightsError(f'weights are a file, "imagenet" or "none", not {weights!r}.')
    if weights is None or str(weights) == "none":
        return None, False
    if str(weights) != "imagenet" and not Path(weights).is_file():
        raise WeightsError(f'{weights}: there is no such weights file. Give a file, "imagenet" or "none".')
    return weights, is_model_file(weights)


# From a card: networks whose weights come from a file are not initialized at random.

MAX_KNOWN_CHANNELS = 16
"""Channels of an image up to which a tested backbone of full width is known to be no larger than VGG-16."""

RANDOM_INITS = {
    "normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_", "xavier_normal_", "xavier_uniform_",
    "orthogonal_", "exponential_", "bernoulli_",
}  # fmt: skip
"""Operations that fill a tensor with random numbers."""


@contextmanager
def empty_init() -> Iterator[None]:
    """Fill tensors with zeros, inside such a block, instead of random numbers."""
    with _ZeroInit():
        yield


class _ZeroInit(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in RANDOM_INITS:
            tensor = args[0] if args else kwargs.get("tensor")
            if isinstance(tensor, Tensor):
                with torch.no_grad():
                    return tensor.zero_()
        return func(*args, **kwargs)


def build_meta(card: Card) -> Network:
    """Build the network of a card on the meta device: without weights, which take no memory.

    Networks that are known to be no larger than VGG-16 take their memory for a moment: to build on that device, PyTorch
    imports its compiler, which takes more than a second.
    """
    if not _is_known(card):
        with torch.device("meta"):
            return _build(card)
    with empty_init():
        network = _build(card)
    return network.to("meta")


def build_with_weights(card: Card, tensors: dict[str, Tensor]) -> Network:
    """Build the network of a card with its weights; none are drawn at random.

    Networks that are known to be no larger than VGG-16 take their memory at once. Of all others, names and shapes are
    compared first, without memory, whatever a card says; that starts slower (see `build_meta`).

    Raises:
        RuntimeError: Names or shapes of the weights are not the network's.
    """
    if _is_known(card):
        with empty_init():
            network = _build(card)
        network.load_state_dict(tensors)
        return network
    try:
        with torch.device("meta"):
            network = _build(card)
    except RuntimeError:  # of a backbone that computes numbers while it is built
        network = _build(card)
    else:
        own = network.state_dict()
        # PyTorch accepts files of old batch norms without the count of their steps.
        tensors = {name: torch.tensor(0) for name in own if name.endswith("num_batches_tracked")} | tensors
        network.load_state_dict({name: value.to("meta") for name, value in tensors.items()})
        network = _build(card) if has_unsaved_tensors(network) else network.to_empty(device="cpu")
    network.load_state_dict(tensors)
    return network


def has_unsaved_tensors(network: nn.Module) -> bool:
    """Return whether a network holds tensors that are no weights: building it computes them, and no file has them."""
    attributes = (value for module in network.modules() for value in vars(module).values())
    buffers = {name for name, _ in network.named_buffers()}
    return bool(buffers - network.state_dict().keys()) or any(isinstance(value, Tensor) for value in attributes)


def _build(card: Card) -> Network:
    return build(
        card.variant, backbone=card.backbone, num_classes=card.num_classes, in_channels=card.in_channels, **card.network
    )


def _is_known(card: Card) -> bool:
    known = card.backbone in TESTED or get_variant(card.variant).own_backbone is not None
    return known and card.in_channels <= MAX_KNOWN_CHANNELS and card.network.get("width", 1) <= 1
