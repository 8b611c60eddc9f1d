"""Networks that are built to be build_with_weights from a file: their weights are zero instead of drawn at random.

From settings to a network: what goes together is built, what does not is refused by name.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fullconv.card import Card
from fullconv.errors import NetworkError, RecipeError, WeightsError
from fullconv.geometry import Axis, Geometry, trace
from fullconv.modelfile import CARD_KEY, read_header, read_model
from fullconv.nn.backbones import TESTED, build_backbone, check_backbone, feature_channels
from fullconv.nn.caffe.backbones import LateFusionBackbone, build_caffe_backbone, load_classifier, trace_trunk
from fullconv.nn.heads import CaffeSkipHead, FCNHead, HeadDict, LateFusion, SkipHead
from fullconv.nn.network import Network
from fullconv.nn.pretrained import load_matching
from fullconv.nn.registry import CaffeSpec, Variant, get_variant
from fullconv.recipe import HeadSettings, parse_recipe

FEW_BANDS = 16
"""Bands up to which a tested encoder of full width is known to be no larger than VGG-16."""

DRAWN = {
    "normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_", "xavier_normal_", "xavier_uniform_",
    "orthogonal_", "exponential_", "bernoulli_",
}  # fmt: skip
"""Operations that fill a tensor with random numbers."""


@contextmanager
def empty_init() -> Iterator[None]:
    """Fill tensors with zeros, in such a block, where they would be drawn."""
    with _Zeros():
        yield


class _Zeros(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in DRAWN:
            tensor = args[0] if args else kwargs.get("tensor")
            if isinstance(tensor, Tensor):
                with torch.no_grad():
                    return tensor.zero_()
        return func(*args, **kwargs)


def _build(card: Card) -> Network:
    return build(
        card.variant, backbone=card.backbone, num_classes=card.num_classes, in_channels=card.in_channels, **card.network
    )


def build_meta(card: Card) -> Network:
    """Build the network of a card without its weights: they are on the meta device, and take no memory.

    Networks that are known to be no larger than VGG-16 take their memory for a moment: where PyTorch builds on that device, it
    goes by way of its compiler, which takes more than a second to import.
    """
    if _is_known(card):
        with empty_init():
            network = _build(card)
        network.activation_bytes(1, 1, 4)  # on that device it takes a second
        return network.to("meta")
    return _without_memory(card)


def _without_memory(card: Card) -> Network:
    with torch.device("meta"):
        return _build(card)


def _is_known(card: Card) -> bool:
    row = get_variant(card.variant)
    known = card.backbone in TESTED or row.backbone is not None or row.caffe is not None
    return known and card.in_channels <= FEW_BANDS and card.network.get("width", 1) <= 1


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
        network = _without_memory(card)
    except RuntimeError:  # of a backbone that computes numbers while it is built
        network = _build(card)
    else:
        tensors = _with_counts(network, tensors)
        network.load_state_dict({name: value.to("meta") for name, value in tensors.items()})
        network = _build(card) if _holds_more(network) else network.to_empty(device="cpu")
    network.load_state_dict(tensors)
    return network


def _with_counts(network: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add what batch norms of old files lack: PyTorch lets them do without the count of their steps."""
    names = (name for name in network.state_dict() if name.endswith("num_batches_tracked"))
    return {name: torch.tensor(0) for name in names} | tensors


def _holds_more(network: nn.Module) -> bool:
    """Say whether a network holds tensors that are no weights: building it computes them, and no file has them."""
    for module in network.modules():
        if module._non_persistent_buffers_set or any(isinstance(value, Tensor) for value in vars(module).values()):
            return True
    return False


def build(
    variant: str,
    *,
    backbone: str | None = None,
    num_classes: int | Mapping[str, int] | None = None,
    in_channels: int | None = None,
    weights: str | Path | None = None,
    norm: str = "batch",
    width: float = 1.0,
    head: HeadSettings | Mapping[str, Any] | None = None,
    phase: float | None = None,
) -> Network:
    """Build a network.

    Args:
        variant: A name of interface 9, for example "fcn8s".
        backbone: "tiny", a timm model, "alexnet" or "googlenet"; resnet18 by default; published nets have their own.
        num_classes: Number of classes K, or K by head name; published nets know theirs.
        in_channels: Channels of the pictures; 3, or what the published net takes.
        weights: None or "none", "imagenet", or a file: of the classifier, or a model of ours (also with other
            classes; `missing_keys` then lists the tensors that did not come from it).
        norm: "batch" or "none", for the backbone tiny.
        width: Multiplier of the backbone's channels, for tests and small machines.
        head: Settings of the head.
        phase: Pixel on which the first score is put, for weights that were trained with another one than geometry
            gives: 3.5 for torchvision's in "fcn-os8".

    Returns:
        A module in eval mode.

    Raises:
        NetworkError: Variant or backbone are unknown, do not go together, or cannot serve.
        WeightsError: The weights cannot be had.
    """
    row = get_variant(variant)
    if row.backbone is not None and backbone not in (None, row.backbone):
        raise NetworkError(f"{variant} is made of {row.backbone}; leave backbone = {backbone} away.")
    if backbone is not None and not isinstance(backbone, str):
        raise NetworkError(f"backbone is a name, not {backbone!r}. `fullconv models` lists them.")
    name = row.backbone or backbone or "resnet18"
    classes, channels = _counts(variant, row, num_classes, in_channels)
    settings = _head_settings(head)
    _refuse_idle(row, variant, name, settings, phase)
    origin, own = _origin(weights)
    start = None if own else origin
    if row.caffe is not None:
        name, features, made = _published(row, row.caffe, backbone, classes, channels, width, start)
    else:
        features = build_backbone(
            name, row.strides, channels, start, fc=settings.fc, dropout=settings.dropout, norm=norm, width=width,
            output_stride=row.output_stride,
        )  # fmt: skip
        features.eval()
        made = _heads(row, features, classes, channels, settings)
    kept = {"in_channels": channels, "num_classes": classes if isinstance(classes, int) else dict(classes),
            "backbone": name, "norm": norm, "width": width, "head": settings.model_dump(), "phase": phase}  # fmt: skip
    network = Network(variant, features, made, kept)
    if own:
        network.missing_keys = load_matching(network, read_model(cast(Path, origin))[1])
    return network.eval()


def check_build_args(variant: str, backbone: str, weights: str) -> None:
    """Raise for what `build` would not find: a slip is told before hours of looking at data.

    Args:
        variant: As `build` takes it.
        backbone: As `build` takes it; published nets have their own, whatever stands here.
        weights: As `build` takes it.

    Raises:
        NetworkError: There is no such variant or backbone.
        WeightsError: There is no such file.
    """
    row = get_variant(variant)
    if row.caffe is None and row.backbone is None:
        check_backbone(backbone)
    _origin(weights)


def _counts(
    variant: str, row: Variant, num_classes: int | Mapping[str, int] | None, in_channels: int | None
) -> tuple[int | Mapping[str, int], int]:
    """Return the numbers of classes and of channels, those of the variant where none are given.

    Raises:
        NetworkError: The number of classes is not known, or one is out of range.
    """
    classes = row.num_classes if num_classes is None else num_classes
    channels = row.in_channels if in_channels is None else in_channels
    if classes is None:
        raise NetworkError(f"{variant} needs num_classes, the number of classes.")
    counts = list(classes.values()) if isinstance(classes, Mapping) else [classes]
    if any(type(count) is not int for count in (*counts, channels)):
        raise NetworkError(f"num_classes and in_channels are whole numbers, not {classes!r} and {channels!r}.")
    if any(not 1 <= count <= 255 for count in counts) or channels < 1:
        raise NetworkError(f"num_classes is 1 to 255 and in_channels at least 1, not {classes} and {channels}.")
    return classes, channels


def _origin(weights: str | Path | None) -> tuple[str | Path | None, bool]:
    """Return where starting weights come from, None for nowhere, and whether that is a model of ours.

    Raises:
        WeightsError: There is no such file.
    """
    if weights is not None and not isinstance(weights, (str, os.PathLike)):
        raise WeightsError(f'weights are a file, "imagenet" or "none", not {weights!r}.')
    if weights is None or str(weights) == "none":
        return None, False
    if str(weights) != "imagenet" and not Path(weights).is_file():
        raise WeightsError(f'{weights}: there is no such weights file. Give a file, "imagenet" or "none".')
    return weights, Path(weights).suffix == ".safetensors" and CARD_KEY in read_header(weights)[1]


def _refuse_idle(row: Variant, variant: str, backbone: str, settings: HeadSettings, phase: float | None) -> None:
    """Raise for settings that would do nothing with this network.

    Raises:
        NetworkError: One of them differs from its default; the message says where it acts.
    """
    has_fc = row.head == "skip" and (backbone.startswith("vgg") or backbone == "alexnet")
    plain = HeadSettings()
    for key, where, acts in (
        ("fc", "skip variants on VGG and AlexNet encoders", has_fc),
        ("dropout", "skip variants on VGG and AlexNet encoders", has_fc),
        ("upsampling", "fcn16s, fcn8s and fcn4s", row.head == "skip" and len(row.strides) > 1),
    ):
        value = getattr(settings, key)
        if value != getattr(plain, key) and not acts:
            raise NetworkError(
                f"head.{key} = {value} does nothing in {variant} on {backbone}; it is for {where}. Leave it away."
            )
    if phase is not None and (row.upsample_mode == "size" or row.caffe is not None):
        raise NetworkError(f"phase = {phase:g} does nothing in {variant}, whose scores lie where its authors put them.")


def _published(
    row: Variant,
    release: CaffeSpec,
    backbone: str | None,
    classes: int | Mapping[str, int],
    in_channels: int,
    width: float,
    weights: str | Path | None,
) -> tuple[str, nn.Module, nn.Module]:
    """Make trunk and head of a net of the release; return them with the trunk's name."""
    if backbone not in (None, release.backbone):
        raise NetworkError(f"a published net has its own backbone; leave backbone = {backbone} away.")
    if in_channels != row.in_channels and release.late_fusion:
        raise NetworkError(f"late fusion takes {row.in_channels} channels, three a trunk, not {in_channels}.")
    trunk = build_caffe_backbone(release.backbone, 3 if release.late_fusion else in_channels, row.strides, width)
    if weights is not None:
        load_classifier(trunk, release.backbone, str(weights))
    features: nn.Module = LateFusionBackbone(trunk, copy.deepcopy(trunk)) if release.late_fusion else trunk
    geometry = trace_trunk(trunk, 3 if release.late_fusion else in_channels)
    coarsest = geometry[max(row.strides)]

    def one(count: int) -> nn.Module:
        if release.late_fusion:
            return LateFusion(trunk.channels[32], count)
        return CaffeSkipHead(geometry, trunk.channels, count, release.scales)

    assert coarsest.stride == max(row.strides)
    made = (
        HeadDict({name: one(count) for name, count in classes.items()})
        if isinstance(classes, Mapping)
        else one(classes)
    )
    return release.backbone, features, made


def _heads(
    row: Variant, features: nn.Module, classes: int | Mapping[str, int], in_channels: int, settings: HeadSettings
) -> nn.Module:
    """Make the head, or one a name."""
    channels = feature_channels(features)
    phases = _phases(features, row.strides, in_channels) if row.head == "skip" else {}

    def one(count: int) -> nn.Module:
        if row.head == "fcn":
            return FCNHead(channels[row.strides[0]], count, row.strides[0])
        return SkipHead({s: channels[s] for s in row.strides}, count, phases, settings.upsampling == "learned")

    if isinstance(classes, Mapping):
        return HeadDict({name: one(count) for name, count in classes.items()})
    return one(classes)


def _phases(backbone: nn.Module, strides: Sequence[int], in_channels: int) -> dict[int, Fraction]:
    """Return where the first cell of each stride lies among the cells of the next finer one."""
    features: dict[int, Geometry] = trace(backbone, torch.zeros(1, in_channels, 64, 96))
    phases = {}
    for coarse, fine in pairwise(sorted(strides, reverse=True)):
        high, low = features[coarse], features[fine]
        for axis in (high.y, high.x):
            if axis.scale != coarse:
                raise NetworkError(
                    f"the backbone's stride-{coarse} features have a step of {float(axis.scale):g} pixels."
                )
        phases[coarse] = _shift(high.y, low.y)
        if _shift(high.x, low.x) != phases[coarse]:
            raise NetworkError("the backbone treats rows and columns differently, which no variant here serves.")
    return phases


def _shift(coarse: Axis, fine: Axis) -> Fraction:
    return (coarse.offset - fine.offset) / fine.scale


def _head_settings(head: HeadSettings | Mapping[str, Any] | None) -> HeadSettings:
    """Check the settings of the head as a recipe does."""
    if isinstance(head, HeadSettings):
        return head
    try:
        return parse_recipe({"head": head or {}}, "head").head
    except RecipeError as error:
        raise NetworkError(str(error).removeprefix("head: ")) from None
