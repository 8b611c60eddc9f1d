"""TensorFlow's "SAME" padding, made static.

A small backbone from scratch, for beginners, tests and the demo.

timm's encoders as backbones: built, checked by running them, or refused in one sentence.

Backbones: classifiers without their classifier, as features by stride.

Every backbone is a module with ``channels``, a dict ``{stride: C}``, and a ``forward`` from (N, C, H, W) to
``{stride: (N, C, H/stride, W/stride)}``, finest first. timm has most of them; torchvision has AlexNet and GoogLeNet.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from fullconv.errors import NetworkError, WeightsError, first_line, nearest
from fullconv.nn import timm_models
from fullconv.nn.pretrained import is_cached, load_renamed, read_weights, resolve_weights
from fullconv.nn.surgery import adapt_in_channels


class Conv2dSameStatic(nn.Conv2d):
    """TensorFlow's "SAME" convolution with the padding it has on every map whose size its stride divides.

    Our networks pad pictures to a multiple of 32, so that all their maps are such; on any other size TensorFlow's
    padding would change with the size, and tiles would not agree with the whole.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pad by the static rule and convolve."""
        (top, bottom), (left, right) = self.pads()
        return nn.functional.conv2d(
            nn.functional.pad(x, (left, right, top, bottom)),
            self.weight, self.bias, self.stride, 0, self.dilation, self.groups,
        )  # fmt: skip

    def pads(self) -> list[tuple[int, int]]:
        """Return (before, after) for rows and columns."""
        sizes = zip(self.kernel_size, self.stride, self.dilation, strict=True)
        total = [max((kernel - 1) * dilation + 1 - stride, 0) for kernel, stride, dilation in sizes]
        return [(t // 2, t - t // 2) for t in total]

    def trace_geometry(self, geometry: Any) -> Any:
        """Return the geometry of the output."""
        axes = {}
        for axis, name in enumerate(("y", "x")):
            kernel, stride, dilation = self.kernel_size[axis], self.stride[axis], self.dilation[axis]
            axes[name] = getattr(geometry, name).conv(kernel, stride, self.pads()[axis], dilation)
        return replace(geometry, **axes)


def make_same_padding_static(module: nn.Module) -> list[str]:
    """Turn timm's size-dependent convolutions into static ones, in place; return the names of what is left.

    Pools with size-dependent padding have no static form here and are returned by name.
    """
    from timm.layers.conv2d_same import Conv2dSame

    left = []
    for name, child in module.named_modules():
        if isinstance(child, Conv2dSame):
            child.__class__ = Conv2dSameStatic  # type: ignore[assignment]  # the same layer but for its padding
        elif type(child).__name__ in ("AvgPool2dSame", "MaxPool2dSame"):
            left.append(name)
    return left


class Tiny(nn.Module):
    """Pairs of 3x3 convolutions with ReLU, the first of a pair with stride 2: five halvings, 0.4 M parameters.

    Args:
        strides: The strides to hand on, among 2, 4, 8, 16 and 32.
        in_channels: Channels of the picture.
        norm: "batch" puts a batch norm after every convolution; "none" leaves it away, so that every picture of a
            batch is computed by itself.
        width: Multiplier of the channels 16, 32, 64, 96, 128.
    """

    def __init__(self, strides: Sequence[int], in_channels: int = 3, norm: str = "batch", width: float = 1.0) -> None:
        super().__init__()
        self.strides = tuple(sorted(strides))
        widths = [max(4, round(c * width)) for c in (16, 32, 64, 96, 128)]
        stages, before = [], in_channels
        for channels in widths[: max(self.strides).bit_length() - 1]:
            stages.append(nn.Sequential(*_block(before, channels, 2, norm), *_block(channels, channels, 1, norm)))
            before = channels
        self.stages = nn.ModuleList(stages)
        self.channels = {stride: widths[stride.bit_length() - 2] for stride in self.strides}

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        """Map (N, C, H, W) to ``{stride: (N, C, H/stride, W/stride)}``."""
        maps = {}
        stride = 1
        for stage in self.stages:
            x = stage(x)
            stride *= 2
            if stride in self.strides:
                maps[stride] = x
        return maps


def _block(before: int, channels: int, stride: int, norm: str) -> list[nn.Module]:
    conv = nn.Conv2d(before, channels, 3, stride, padding=1, bias=norm == "none")
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return [conv, *([nn.BatchNorm2d(channels)] if norm == "batch" else []), nn.ReLU(inplace=True)]


TESTED = {
    "tiny": 0.4,
    "mobilenetv3_large_100": 3.0,
    "efficientnet_b0": 4.0,
    "googlenet": 5.6,
    "resnet18": 11.2,
    "resnet34": 21.3,
    "resnet50": 23.5,
    "convnext_tiny": 27.8,
    "resnet101": 42.5,
    "alexnet": 57.0,
    "vgg16": 134.3,
    "vgg16_bn": 134.3,
}
"""Backbones that the tests build and train, by millions of parameters."""


class TimmBackbone(nn.Module):
    """A timm encoder in its ``features_only`` form.

    Args:
        body: timm's feature extractor; returns a list of maps.
        strides: The strides to hand on.
    """

    def __init__(self, body: nn.Module, strides: Sequence[int]) -> None:
        super().__init__()
        self.body = body
        info: Any = body.feature_info
        position = {int(reduction): index for index, reduction in enumerate(info.reduction())}
        wanted = {stride: position[stride] for stride in sorted(strides)}
        self.channels = {stride: int(info.channels()[index]) for stride, index in wanted.items()}
        self.positions = _let_go_of_others(body, wanted)

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        """Map (N, C, H, W) to features by stride."""
        maps = self.body(x)
        return {stride: maps[index] for stride, index in self.positions.items()}


def _let_go_of_others(body: nn.Module, wanted: dict[int, int]) -> dict[int, int]:
    """Have timm's extractor hold no map but those that are handed on, and return where these lie in its list then.

    It collects one of each stage, the largest first; dilated ResNets took a third more memory for maps that nobody read.

    Args:
        body: The extractor; one that collects in another way than timm's own classes do is left alone.
        wanted: Place in the list by stride.
    """
    for name in ("return_layers", "_stage_out_idx"):  # names of layers, or numbers of stages, in the order of the list
        collected = getattr(body, name, None)
        hooked = getattr(body, "feature_hooks", None) is not None
        if isinstance(collected, dict) and len(collected) > max(wanted.values()) and not hooked:
            kept = [key for place, key in enumerate(collected) if place in wanted.values()]
            setattr(body, name, {key: collected[key] for key in kept})
            order = sorted(wanted.values())
            return {stride: order.index(place) for stride, place in wanted.items()}
    return wanted


def _width_settings(name: str, width: float) -> dict[str, Any]:
    """Return the keywords that make a timm model narrower, where its family has them."""
    if width == 1:
        return {}
    family = name.split(".")[0]
    if re.fullmatch(r"resnet\d+", family):
        return {"channels": tuple(max(8, round(c * width)) for c in (64, 128, 256, 512))}
    if re.fullmatch(r"convnext_(atto|femto|pico|nano|tiny|small)", family):
        return {"dims": tuple(max(8, round(c * width)) for c in (96, 192, 384, 768))}
    raise NetworkError(f"width is not offered for {name}; use a resnet, a vgg, a convnext or tiny.")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep timm's prints out of our output."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


_REFUSALS = (RuntimeError, TypeError, ValueError, AssertionError, AttributeError, KeyError, NotImplementedError)
"""What timm's families raise where they cannot be what is asked."""


def check_name(name: str) -> None:
    """Raise NetworkError, naming the nearest, unless timm has a model of a name.

    Raises:
        NetworkError: There is no such model.
    """
    plain = name.split(".")[0]
    if not timm_models.is_model(plain):
        known = [*timm_models.all_models(), "tiny", "alexnet", "googlenet"]
        raise NetworkError(f"there is no backbone '{name}'.{nearest(plain, known)} `fullconv models` lists them.")


def _create(name: str, in_channels: int, file: Path | None, settings: dict[str, Any]) -> nn.Module:
    """Let timm make an encoder, with the weights of a file where there is one."""
    common = {"features_only": True, "in_chans": in_channels, **settings}
    if file is None:
        with _quiet():
            return timm_models.create(name, pretrained=False, **common)
    source = {"state_dict": read_weights(file), "file": None, "hf_hub_id": None, "url": ""}
    with _quiet(), _missing_keys() as missing:
        body = timm_models.create(name, pretrained=True, pretrained_cfg_overlay=source, **common)
    for module in body.modules():  # timm keeps the whole file in the model otherwise
        if isinstance(config := getattr(module, "pretrained_cfg", None), dict):
            config.pop("state_dict", None)
    for key in missing:
        if _holds(body, key):
            raise ValueError(f"'{key}' is missing")
    return body


def _holds(body: nn.Module, key: str) -> bool:
    """Say whether a tensor of the classifier is one of the encoder's, whose names timm may have flattened or wrapped."""
    flat = "_" + key.replace(".", "_")
    return any(f"_{own.replace('.', '_')}".endswith(flat) for own in body.state_dict())


@contextlib.contextmanager
def _missing_keys() -> Iterator[list[str]]:
    """Collect the tensors that timm did not find in a file: it only logs them, and leaves them at random."""
    found: list[str] = []

    class Ears(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if match := re.match(r"Missing keys \((.+?)\)", record.getMessage()):
                found.extend(match.group(1).split(", "))

    logger, ears = logging.getLogger("timm.models._builder"), Ears()
    level, spread = logger.level, logger.propagate
    logger.addHandler(ears)
    logger.setLevel(logging.INFO)  # older timm says it at that level
    logger.propagate = False
    try:
        yield found
    finally:
        logger.removeHandler(ears)
        logger.setLevel(level)
        logger.propagate = spread


def _create_or_refuse(name: str, in_channels: int, settings: dict[str, Any]) -> None:
    try:
        _create(name, in_channels, None, settings)
    except _REFUSALS as error:
        raise NetworkError(
            f"{name} cannot serve as a backbone ({first_line(error)[:160]}). {_nearest_that_can(name)}"
        ) from error


def build_timm(
    name: str, strides: Sequence[int], in_channels: int, file: Path | None, width: float, output_stride: int
) -> TimmBackbone:
    """Build a timm encoder.

    Raises:
        NetworkError: There is no such model, or it cannot serve; the message names the nearest that can.
        WeightsError: The file holds other weights.
    """
    check_name(name)
    settings: dict[str, Any] = _width_settings(name, width)
    if output_stride != 32:
        settings["output_stride"] = output_stride
    try:
        body = _create(name, in_channels, file, settings)
    except _REFUSALS as error:
        if file is not None:
            _create_or_refuse(name, in_channels, settings)  # a family that cannot serve says so itself
            raise WeightsError(f"{file}: not the weights of {name} ({first_line(error)[:160]}).") from error
        raise NetworkError(
            f"{name} cannot serve as a backbone ({first_line(error)[:160]}). {_nearest_that_can(name)}"
        ) from error
    left = make_same_padding_static(body)
    if left:
        raise NetworkError(
            f"{name} pads its pool {left[0]} by the picture's size, so tiles could not agree with the whole picture."
            f" {_nearest_that_can(name)}"
        )
    _check_strides(name, body, strides, output_stride)
    return TimmBackbone(body, strides)


def _check_strides(name: str, body: nn.Module, strides: Sequence[int], output_stride: int) -> None:
    """Raise NetworkError unless the maps have the strides, layout and sizes that they say they have."""
    info: Any = body.feature_info
    reductions = [int(r) for r in info.reduction()]
    absent = [stride for stride in strides if stride not in reductions]
    if absent:
        raise NetworkError(
            f"{name} has no features at stride {absent[0]} (it has {', '.join(map(str, sorted(set(reductions))))})."
            f" {_nearest_that_can(name)}"
        )
    in_channels = next(p for p in body.parameters() if p.ndim == 4).shape[1]
    try:
        with torch.no_grad():
            maps = body.eval()(torch.zeros(1, in_channels * _groups(body), 64, 96))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise NetworkError(
            f"{name} does not take pictures of any size ({first_line(error)[:160]}). {_nearest_that_can(name)}"
        ) from error
    for x, stride, channels in zip(maps, reductions, info.channels(), strict=True):
        if stride in strides and tuple(x.shape) != (1, channels, 64 // stride, 96 // stride):
            raise NetworkError(
                f"{name} gives {tuple(x.shape)} at stride {stride} for a 64x96 picture, not"
                f" {(1, channels, 64 // stride, 96 // stride)}. {_nearest_that_can(name)}"
            )


def _groups(body: nn.Module) -> int:
    first = next(m for m in body.modules() if isinstance(m, nn.Conv2d))
    return int(first.groups)


def _nearest_that_can(name: str) -> str:
    """Name the tested backbone whose number of parameters is nearest."""
    with torch.device("meta"), _quiet():
        try:
            size = sum(p.numel() for p in timm_models.create(name, pretrained=False, num_classes=0).parameters()) / 1e6
        except Exception:  # any family may refuse the meta device; then a middling size serves as well
            size = 25.0
    close = min(
        (known for known in TESTED if known not in ("tiny", "alexnet", "googlenet")),
        key=lambda k: abs(TESTED[k] - size),
    )
    return f"Use {close}, the nearest in size that can."


_VGG = re.compile(r"vgg(11|13|16|19)(_bn)?(\.\w+)?")


class VggBackbone(nn.Module):
    """VGG or AlexNet: the skips are the pools, and fc6 and fc7 follow the last one as convolutions.

    Args:
        features: The classifier's convolutional part.
        fc: fc6 and fc7 as convolutions, or None to hand on the last pool itself.
        strides: The strides to hand on, the coarsest included.
        first: Stride of the first pool's output.
        channels: Output channels of each pool.

    Source: Long et al., CVPR 2015, section 4.1; the Caffe release scores pool3 (256) and pool4 (512). timm's "features"
    at strides 8 and 16 are the convolutions before the next pool (conv4_3, conv5_3): another network.
    """

    def __init__(self, features: nn.Sequential, fc: nn.Sequential | None, strides: Sequence[int], first: int) -> None:
        super().__init__()
        self.features = features
        self.fc = fc
        pools = [index for index, layer in enumerate(features) if isinstance(layer, nn.MaxPool2d)]
        by_stride = {first * 2**order: index for order, index in enumerate(pools)}
        coarsest = max(strides)
        self.taps = {by_stride[stride]: stride for stride in sorted(strides) if stride in by_stride}
        self.channels = {}
        for index, stride in self.taps.items():
            width = [layer.out_channels for layer in features[:index] if isinstance(layer, nn.Conv2d)][-1]
            self.channels[stride] = width
        if fc is not None:
            self.channels[coarsest] = [layer.out_channels for layer in fc if isinstance(layer, nn.Conv2d)][-1]
        self.coarsest = coarsest

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        """Map (N, C, H, W) to pools by stride, the coarsest after fc7 where there is one."""
        maps = {}
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                maps[self.taps[index]] = x
        if self.fc is not None:
            maps[self.coarsest] = self.fc(x)
        return maps


class GoogLeNetBackbone(nn.Module):
    """torchvision's GoogLeNet without its average pool and classifiers.

    Source: Szegedy et al., CVPR 2015, as torchvision has it (3x3 where the paper has 5x5 branches).
    """

    channels_of: ClassVar[dict[int, int]] = {4: 192, 8: 480, 16: 832, 32: 1024}

    def __init__(self, body: nn.Module, strides: Sequence[int]) -> None:
        super().__init__()
        del body.fc, body.avgpool, body.dropout
        self.body = body
        self.channels = {stride: self.channels_of[stride] for stride in sorted(strides)}

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        """Map (N, 3, H, W) to features by stride."""
        b: Any = self.body
        maps = {4: b.conv3(b.conv2(b.maxpool1(b.conv1(x))))}
        maps[8] = b.inception3b(b.inception3a(b.maxpool2(maps[4])))
        x = b.inception4c(b.inception4b(b.inception4a(b.maxpool3(maps[8]))))
        maps[16] = b.inception4e(b.inception4d(x))
        maps[32] = b.inception5b(b.inception5a(b.maxpool4(maps[16])))
        return {stride: maps[stride] for stride in self.channels}


def build_backbone(
    name: str,
    strides: Sequence[int],
    in_channels: int = 3,
    weights: str | Path | None = None,
    *,
    fc: bool = True,
    dropout: float = 0.5,
    norm: str = "batch",
    width: float = 1.0,
    output_stride: int = 32,
) -> nn.Module:
    """Build the backbone of a name.

    Args:
        name: "tiny", a timm model, "alexnet" or "googlenet".
        strides: Strides of the features wanted.
        in_channels: Channels of the picture; pretrained stems are adapted.
        weights: None, "imagenet" (fetched where it is not cached), or a file of the classifier's weights.
        fc: On VGG and AlexNet, whether fc6 and fc7 follow.
        dropout: After fc6 and fc7.
        norm: Normalisation of `tiny`.
        width: Multiplier of channels, for tests and small machines.
        output_stride: 8 or 16 dilates the last stages instead of striding.

    Raises:
        NetworkError: There is no such backbone, or it cannot serve.
        WeightsError: Its weights cannot be had.
    """
    if norm != "batch" and name != "tiny":
        raise NetworkError(
            f"norm = '{norm}' is for the backbone tiny; {name} has its own normalisation. Leave it away."
        )
    if weights is not None and width != 1:
        raise NetworkError(
            f"width = {width:g} changes the shapes of {name}, so its weights do not fit: add weights none."
        )
    if weights is not None and name == "tiny":
        what = "ImageNet" if str(weights) == "imagenet" else "published"
        raise NetworkError(f"the backbone tiny has no {what} weights: use --weights none, or a model of ours.")
    ours = _is_ours(name)
    if not ours:
        check_name(name)
        if str(weights) == "imagenet" and not is_cached(name):  # before fetching what could not be used
            build_timm(name, strides, in_channels, None, width, output_stride)
    file = None if weights is None else resolve_weights(name, weights)
    if name == "tiny":
        _no_dilation(name, output_stride)
        return Tiny(strides, in_channels, norm=norm, width=width)
    if _VGG.fullmatch(name):
        _no_dilation(name, output_stride)
        return _vgg(name, strides, in_channels, file, fc, dropout, width)
    if name in ("alexnet", "googlenet"):
        _no_dilation(name, output_stride)
        if width != 1:
            raise NetworkError(f"width is not offered for {name}; use resnet18, vgg16 or tiny.")
        return (_alexnet if name == "alexnet" else _googlenet)(strides, in_channels, file, fc, dropout)
    return build_timm(name, strides, in_channels, file, width, output_stride)


def check_backbone(name: str) -> None:
    """Raise NetworkError, naming the nearest, unless there is a backbone of a name.

    Raises:
        NetworkError: There is none.
    """
    if not _is_ours(name):
        check_name(name)


def _is_ours(name: str) -> bool:
    """Say whether a backbone is made here, and not by timm."""
    return name in ("tiny", "alexnet", "googlenet") or _VGG.fullmatch(name) is not None


def _no_dilation(name: str, output_stride: int) -> None:
    if output_stride != 32:
        raise NetworkError(f"{name} cannot be dilated to stride {output_stride}: use a ResNet, for example resnet50.")


def _vgg(
    name: str, strides: Sequence[int], in_channels: int, file: Path | None, fc: bool, dropout: float, width: float
) -> VggBackbone:
    from torchvision.models.vgg import cfgs, make_layers

    letter = {"11": "A", "13": "B", "16": "D", "19": "E"}[name[3:5]]
    plan = [layer if isinstance(layer, str) else max(1, round(layer * width)) for layer in cfgs[letter]]
    features = make_layers(plan, batch_norm="_bn" in name)
    pool5, wide = max(1, round(512 * width)), max(1, round(4096 * width))
    layers = _fc(nn.Conv2d(pool5, wide, 7, padding=3), nn.Conv2d(wide, wide, 1), dropout)
    for module in (features, layers):
        _initialize(module)
    backbone = VggBackbone(features, layers if fc else None, strides, first=2)
    if file is not None:
        names = {"pre_logits.fc1": "fc.0", "pre_logits.fc2": "fc.3", "classifier.0": "fc.0", "classifier.3": "fc.3"}
        load_renamed(backbone, file, names, name)
    adapt_in_channels(backbone, in_channels)
    return backbone


def _alexnet(strides: Sequence[int], in_channels: int, file: Path | None, fc: bool, dropout: float) -> VggBackbone:
    import torchvision

    features = torchvision.models.alexnet(weights=None).features
    # A 6x6 kernel padded by 3 gives one cell more than pool5 has, and at least one for every picture.
    layers = _fc(nn.Conv2d(256, 4096, 6, padding=3), nn.Conv2d(4096, 4096, 1), dropout)
    _initialize(layers)
    backbone = VggBackbone(features, layers if fc else None, strides, first=8)
    if file is not None:
        load_renamed(backbone, file, {"classifier.1": "fc.0", "classifier.4": "fc.3"}, "alexnet")
    adapt_in_channels(backbone, in_channels)
    return backbone


def _fc(fc6: nn.Conv2d, fc7: nn.Conv2d, dropout: float) -> nn.Sequential:
    """Return fc6 and fc7 as convolutions, each with ReLU and element-wise dropout (as the release has them)."""
    return nn.Sequential(
        fc6, nn.ReLU(inplace=True), nn.Dropout(dropout), fc7, nn.ReLU(inplace=True), nn.Dropout(dropout)
    )


def _initialize(module: nn.Module) -> None:
    """Draw weights that keep the variance of what passes through (He et al., 2015); biases start at 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _googlenet(
    strides: Sequence[int], in_channels: int, file: Path | None, fc: bool, dropout: float
) -> GoogLeNetBackbone:
    import torchvision

    body = torchvision.models.googlenet(weights=None, aux_logits=False, init_weights=False, transform_input=False)
    _initialize(body)
    backbone = GoogLeNetBackbone(body, strides)
    if file is not None:
        load_renamed(backbone.body, file, {}, "googlenet")
    adapt_in_channels(backbone, in_channels)
    return backbone


def feature_channels(backbone: nn.Module) -> Mapping[int, int]:
    """Return ``{stride: C}`` of a backbone."""
    return cast(Mapping[int, int], backbone.channels)
