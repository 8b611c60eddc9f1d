"""Backbones: classifiers without their classifier, as features by stride.

Every backbone is a module with ``channels``, a dict ``{stride: C}``, and a ``forward`` from (N, C, H, W) to
``{stride: (N, C, H/stride, W/stride)}``. Most are timm's, checked by running them; VGG, AlexNet, GoogLeNet and the small
one from scratch are a `TapSequential`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fullconv.errors import NetworkError, WeightsError, first_line, nearest
from fullconv.geometry import EXAMPLE_SIZE
from fullconv.nn import timm_models
from fullconv.nn.pretrained import is_cached, load_state_dict, read_weights, resolve_weights
from fullconv.nn.surgery import adapt_in_channels

TESTED = {
    "tiny": 0.4,
    "mobilenetv3_large_100": 3.0,
    "efficientnet_b0": 4.0,
    "tf_efficientnet_lite0": 3.0,
    "tf_efficientnet_lite1": 3.7,
    "tf_efficientnet_lite2": 4.4,
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
"""Backbones that the tests build and train, with their millions of parameters."""

_BUILTIN = ("tiny", "alexnet", "googlenet")
_VGG = re.compile(r"vgg(11|13|16|19)(_bn)?(\.\w+)?")


def check_backbone(name: str) -> None:
    """Check that there is a backbone of a name."""
    if name in _BUILTIN or _VGG.fullmatch(name):
        return
    plain = name.split(".")[0]
    if not timm_models.is_model(plain):
        import timm

        known = nearest(plain, [*timm.list_models(), *_BUILTIN])
        raise NetworkError(f"there is no backbone '{name}'.{known} `fullconv models` lists them.")


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
    """Build a backbone by name."""
    if norm != "batch" and name != "tiny":
        raise NetworkError(f"norm = '{norm}' is for the backbone tiny; {name} has its own normalization. Omit it.")
    if weights is not None and width != 1:
        raise NetworkError(
            f"width = {width:g} changes the shapes of {name}, so its weights do not fit: add weights none."
        )
    if weights is not None and name == "tiny":
        what = "ImageNet" if str(weights) == "imagenet" else "published"
        raise NetworkError(f"the backbone tiny has no {what} weights: use --weights none, or a fullconv model.")
    check_backbone(name)
    vgg = _VGG.fullmatch(name) is not None
    if name not in _BUILTIN and not vgg:
        if str(weights) == "imagenet" and not is_cached(name):  # before downloading what could not be used
            _build_timm(name, strides, in_channels, None, width, output_stride)
        file = None if weights is None else resolve_weights(name, weights)
        return _build_timm(name, strides, in_channels, file, width, output_stride)
    file = None if weights is None else resolve_weights(name, weights)
    if output_stride != 32:
        raise NetworkError(f"{name} cannot be dilated to stride {output_stride}: use a ResNet, for example resnet50.")
    if name == "tiny":
        return tiny(strides, in_channels, norm, width)
    if width != 1 and not vgg:
        raise NetworkError(f"width is not available for {name}; use resnet18, vgg16 or tiny.")
    if vgg:
        backbone, names = _vgg(name, strides, fc, dropout, width)
    elif name == "alexnet":
        backbone, names = _alexnet(strides, fc, dropout)
    else:
        backbone, names = _googlenet(strides)
    if file is not None:
        load_state_dict(backbone.get_submodule("body") if name == "googlenet" else backbone, file, names, name)
    adapt_in_channels(backbone, in_channels)
    return backbone


class TapSequential(nn.Module):
    """Layers in order, some of whose outputs are features."""

    def __init__(
        self, parts: Mapping[str, nn.Module], order: Sequence[str], taps: Mapping[str, int], channels: Mapping[int, int]
    ) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.order, self.taps, self.channels = tuple(order), dict(taps), dict(channels)

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        """Map (N, C, H, W) to features ``{stride: (N, C, h, w)}``."""
        features = {}
        for path in self.order:
            x = self.get_submodule(path)(x)
            if path in self.taps:
                features[self.taps[path]] = x
        return features


def tiny(strides: Sequence[int], in_channels: int = 3, norm: str = "batch", width: float = 1.0) -> TapSequential:
    """Build pairs of 3x3 convolutions with ReLU, the first of a pair with stride 2: five halvings, 0.4 M parameters."""
    widths = [max(4, round(c * width)) for c in (16, 32, 64, 96, 128)]
    stages, before = nn.ModuleList(), in_channels
    for channels in widths[: max(strides).bit_length() - 1]:
        layers: list[nn.Module] = []
        for stride in (2, 1):
            conv = nn.Conv2d(before, channels, 3, stride, padding=1, bias=norm == "none")
            he_init(conv)
            layers += [conv, *([nn.BatchNorm2d(channels)] if norm == "batch" else []), nn.ReLU(inplace=True)]
            before = channels
        stages.append(nn.Sequential(*layers))
    place = {stride: stride.bit_length() - 2 for stride in sorted(strides)}
    return TapSequential(
        {"stages": stages},
        [f"stages.{index}" for index in range(len(stages))],
        {f"stages.{index}": stride for stride, index in place.items()},
        {stride: widths[index] for stride, index in place.items()},
    )


def _vgg(
    name: str, strides: Sequence[int], fc: bool, dropout: float, width: float
) -> tuple[TapSequential, dict[str, str]]:
    """Build VGG, and the names of its layers in timm's and torchvision's files."""
    from torchvision.models.vgg import cfgs, make_layers

    letter = {"11": "A", "13": "B", "16": "D", "19": "E"}[name[3:5]]
    plan = [layer if isinstance(layer, str) else max(1, round(layer * width)) for layer in cfgs[letter]]
    features = make_layers(plan, batch_norm="_bn" in name)
    pool5, wide = max(1, round(512 * width)), max(1, round(4096 * width))
    layers = _fc(nn.Conv2d(pool5, wide, 7, padding=3), nn.Conv2d(wide, wide, 1), dropout)
    he_init(features)
    he_init(layers)
    names = {"pre_logits.fc1": "fc.0", "pre_logits.fc2": "fc.3", "classifier.0": "fc.0", "classifier.3": "fc.3"}
    return _pools(features, layers if fc else None, strides, first=2), names


def _alexnet(strides: Sequence[int], fc: bool, dropout: float) -> tuple[TapSequential, dict[str, str]]:
    """Build AlexNet, and the names of its layers in torchvision's files."""
    import torchvision

    features = torchvision.models.alexnet(weights=None).features
    # A 6x6 kernel padded by 3 gives one cell more than pool5 has, and at least one for every image.
    layers = _fc(nn.Conv2d(256, 4096, 6, padding=3), nn.Conv2d(4096, 4096, 1), dropout)
    he_init(layers)
    return _pools(features, layers if fc else None, strides, first=8), {"classifier.1": "fc.0", "classifier.4": "fc.3"}


def _fc(fc6: nn.Conv2d, fc7: nn.Conv2d, dropout: float) -> nn.Sequential:
    """Return fc6 and fc7 as convolutions, each with ReLU and element-wise dropout (as the release has them)."""
    return nn.Sequential(
        fc6, nn.ReLU(inplace=True), nn.Dropout(dropout), fc7, nn.ReLU(inplace=True), nn.Dropout(dropout)
    )


def _pools(features: nn.Sequential, fc: nn.Sequential | None, strides: Sequence[int], first: int) -> TapSequential:
    """Return VGG or AlexNet with its pools as features; fc6 and fc7 follow the last one as convolutions.

    timm's "features" at strides 8 and 16 are the convolutions before the next pool (conv4_3, conv5_3): another network.

    Source: Long et al., CVPR 2015, section 4.1; the Caffe release scores pool3 (256) and pool4 (512).
    """
    taps, channels, stride, width = {}, {}, first, 0
    for index, layer in enumerate(features):
        if isinstance(layer, nn.Conv2d):
            width = layer.out_channels
        elif isinstance(layer, nn.MaxPool2d):
            if stride in strides:
                taps[f"features.{index}"], channels[stride] = stride, width
            stride *= 2
    order, parts = [f"features.{index}" for index in range(len(features))], {"features": features}
    if fc is not None:
        parts["fc"], coarsest = fc, max(strides)
        taps = {path: stride for path, stride in taps.items() if stride != coarsest} | {"fc": coarsest}
        channels[coarsest] = [layer.out_channels for layer in fc if isinstance(layer, nn.Conv2d)][-1]
        order.append("fc")
    return TapSequential(parts, order, taps, channels)


def _googlenet(strides: Sequence[int]) -> tuple[TapSequential, dict[str, str]]:
    """Build torchvision's GoogLeNet (3x3 where the paper has 5x5 branches) without its average pool and classifiers."""
    import torchvision

    body = torchvision.models.googlenet(weights=None, aux_logits=False, init_weights=False, transform_input=False)
    he_init(body)
    del body.fc, body.avgpool, body.dropout
    known = {4: ("conv3", 192), 8: ("inception3b", 480), 16: ("inception4e", 832), 32: ("inception5b", 1024)}
    taps = {f"body.{known[stride][0]}": stride for stride in sorted(strides)}
    channels = {stride: known[stride][1] for stride in sorted(strides)}
    return TapSequential({"body": body}, [f"body.{name}" for name, _ in body.named_children()], taps, channels), {}


def he_init(module: nn.Module) -> None:
    """Draw convolutions that keep the variance of what passes through (He et al., 2015); biases start at 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class TimmBackbone(nn.Module):
    """A timm encoder in its ``features_only`` form."""

    def __init__(self, body: nn.Module, strides: Sequence[int]) -> None:
        super().__init__()
        self.body = body
        info: Any = body.feature_info
        position = {int(reduction): index for index, reduction in enumerate(info.reduction())}
        self.positions = {stride: position[stride] for stride in sorted(strides)}
        self.channels = {stride: int(info.channels()[index]) for stride, index in self.positions.items()}

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        """Map (N, C, H, W) to features by stride."""
        maps = self.body(x)
        return {stride: maps[index] for stride, index in self.positions.items()}


class Conv2dSameStatic(nn.Conv2d):
    """TensorFlow's "SAME" convolution with the padding it has on every map whose size its stride divides.

    Our networks pad images to a multiple of 32, so that all their maps are such; on any other size TensorFlow's padding
    would change with the size, and tiles would not agree with the whole.
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

    def as_function(self) -> tuple[str, dict[str, Any]]:
        """Describe the layer as ``F.conv2d`` with padding on each side, for `fullconv.geometry`."""
        options = {"weight": self.weight, "bias": self.bias, "stride": self.stride, "padding": self.pads()}
        return "conv2d", options | {"dilation": self.dilation, "groups": self.groups}


_TIMM_ERRORS = (
    RuntimeError, TypeError, ValueError, AssertionError, AttributeError, KeyError, IndexError, NotImplementedError
)  # fmt: skip
"""What timm's families raise if they do not support what is requested."""


def _build_timm(
    name: str, strides: Sequence[int], in_channels: int, file: Path | None, width: float, output_stride: int
) -> TimmBackbone:
    """Build a timm encoder."""
    settings: dict[str, Any] = {"in_chans": in_channels}
    family = name.split(".")[0]
    if width != 1 and re.fullmatch(r"resnet\d+", family):
        settings["channels"] = tuple(max(8, round(c * width)) for c in (64, 128, 256, 512))
    elif width != 1 and re.fullmatch(r"convnext_(atto|femto|pico|nano|tiny|small)", family):
        settings["dims"] = tuple(max(8, round(c * width)) for c in (96, 192, 384, 768))
    elif width != 1:
        raise NetworkError(f"width is not available for {name}; use a resnet, a vgg, a convnext or tiny.")
    if output_stride != 32:
        settings["output_stride"] = output_stride
    start = torch.get_rng_state()
    try:
        body, indices = _create_for_strides(name, strides, settings)
    except NetworkError:
        raise
    except _TIMM_ERRORS as error:
        raise NetworkError(f"{name} cannot serve as a backbone ({_reason(error)}). {_suggest(name)}") from error
    if file is not None:
        initial, tensors = body.state_dict(), read_weights(file)
        source = {"state_dict": dict(tensors), "file": None, "hf_hub_id": None, "url": ""}
        torch.set_rng_state(start)  # to draw the same again: timm does not report what a file lacks
        try:
            body = _create(name, out_indices=indices, pretrained=True, pretrained_cfg_overlay=source, **settings)
            for key, value in body.state_dict().items():  # one with its initial values must have them in the file
                if value.is_floating_point() and torch.equal(value, initial[key]):
                    same_size = (tensor for tensor in tensors.values() if tensor.numel() == value.numel())
                    if not any(torch.equal(tensor.flatten().to(value), value.flatten()) for tensor in same_size):
                        raise ValueError(f"'{key}' is missing")
        except _TIMM_ERRORS as error:
            raise WeightsError(f"{file}: not the weights of {name} ({_reason(error)}).") from error
        for module in body.modules():  # timm keeps the whole file in the model otherwise
            if isinstance(config := getattr(module, "pretrained_cfg", None), dict):
                config.pop("state_dict", None)
    for path in make_same_padding_static(body):
        raise NetworkError(
            f"{name} pads its pool {path} by the image's size, so tiles could not agree with the whole image."
            f" {_suggest(name)}"
        )
    if name not in TESTED:
        _check_features(name, body, strides, in_channels)
    return TimmBackbone(body, strides)


def _create(name: str, **settings: Any) -> nn.Module:
    """Create an encoder; timm's prints and warnings, for example of the classifier's weights, stay out of our output."""
    logger = logging.getLogger("timm")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return timm_models.create(name, features_only=True, **settings)
    finally:
        logger.setLevel(level)


def _create_for_strides(
    name: str, strides: Sequence[int], settings: Mapping[str, Any]
) -> tuple[nn.Module, tuple[int, ...]]:
    """Create an encoder that returns the maps of some strides and the last one, and return their indices.

    Any other map would be kept for nothing: dilated ResNets took a third more memory. Without the last map, timm would
    leave out its layers, which model files hold.
    """
    start = torch.get_rng_state()
    first = 3 if name.startswith("convnext") else 2  # most families have a map for each stride from 2 on
    guess = (4,) if "output_stride" in settings else tuple(sorted(stride.bit_length() - first for stride in strides))
    with contextlib.suppress(*_TIMM_ERRORS):
        body = _create(name, out_indices=guess, **settings)
        if [int(stride) for stride in body.feature_info.reduction()] == sorted(strides):  # type: ignore[operator, union-attr]
            return body, guess
    torch.set_rng_state(start)
    info: Any = _create(name, **settings).feature_info
    reductions = [int(stride) for stride in info.reduction()]
    for stride in strides:
        if stride not in reductions:
            raise NetworkError(
                f"{name} has no features at stride {stride} (it has {', '.join(map(str, sorted(set(reductions))))})."
                f" {_suggest(name)}"
            )
    index_of = dict(zip(reductions, info.out_indices, strict=True))
    indices = tuple(sorted({*(index_of[stride] for stride in strides), info.out_indices[-1]}))
    torch.set_rng_state(start)
    return _create(name, out_indices=indices, **settings), indices


def make_same_padding_static(module: nn.Module) -> list[str]:
    """Turn timm's size-dependent convolutions into static ones, in place; return the names of what remains."""
    from timm.layers import Conv2dSame  # type: ignore[attr-defined]

    remaining = []
    for name, child in module.named_modules():
        if isinstance(child, Conv2dSame):
            child.__class__ = Conv2dSameStatic  # type: ignore[assignment]  # the same layer but for its padding
        elif type(child).__name__ in ("AvgPool2dSame", "MaxPool2dSame"):
            remaining.append(name)
    return remaining


def _check_features(name: str, body: nn.Module, strides: Sequence[int], in_channels: int) -> None:
    """Raise NetworkError unless the maps have the strides, layout and sizes that they claim."""
    info: Any = body.feature_info
    height, width = EXAMPLE_SIZE
    try:
        with torch.no_grad():
            maps = body.eval()(torch.zeros(1, in_channels, height, width))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise NetworkError(f"{name} does not take images of any size ({_reason(error)}). {_suggest(name)}") from error
    for x, stride, channels in zip(maps, info.reduction(), info.channels(), strict=True):
        expected = (1, channels, height // stride, width // stride)
        if stride in strides and tuple(x.shape) != expected:
            raise NetworkError(
                f"{name} gives {tuple(x.shape)} at stride {stride} for a {height}x{width} image, not {expected}."
                f" {_suggest(name)}"
            )


def _reason(error: Exception) -> str:
    return first_line(error)[:160]


def _suggest(name: str) -> str:
    """Name the tested backbone whose number of parameters is nearest."""
    with torch.device("meta"), contextlib.redirect_stdout(io.StringIO()):
        try:
            size = sum(p.numel() for p in timm_models.create(name, num_classes=0).parameters()) / 1e6
        except Exception:  # any family may refuse the meta device; then a middling size serves as well
            size = 25.0
    close = min((known for known in TESTED if known not in _BUILTIN), key=lambda known: abs(TESTED[known] - size))
    return f"Use {close}, the nearest in size that can."
