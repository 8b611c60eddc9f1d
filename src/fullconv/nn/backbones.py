"""Backbones: classifiers without their classifier, as features by stride.

Every backbone is a module with ``channels``, a dict ``{stride: C}``, and a ``forward`` from (N, C, H, W) to
``{stride: (N, C, H/stride, W/stride)}``, finest first. timm has most of them; torchvision has AlexNet and GoogLeNet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from fullconv.errors import NetworkError
from fullconv.nn import zoo
from fullconv.nn.pyramid import TESTED as TESTED
from fullconv.nn.pyramid import build_pyramid, check_name
from fullconv.nn.surgery import adapt_in_channels
from fullconv.nn.tiny import Tiny
from fullconv.nn.weights import backbone_file, is_cached, load_renamed

_VGG = re.compile(r"vgg(11|13|16|19)(_bn)?(\.\w+)?")


class PoolBackbone(nn.Module):
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
            build_pyramid(name, strides, in_channels, None, width, output_stride)
    file = None if weights is None else backbone_file(name, weights)
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
    return build_pyramid(name, strides, in_channels, file, width, output_stride)


def require_name(name: str) -> None:
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
) -> PoolBackbone:
    zoo.defer()
    from torchvision.models.vgg import cfgs, make_layers

    letter = {"11": "A", "13": "B", "16": "D", "19": "E"}[name[3:5]]
    plan = [layer if isinstance(layer, str) else max(1, round(layer * width)) for layer in cfgs[letter]]
    features = make_layers(plan, batch_norm="_bn" in name)
    pool5, wide = max(1, round(512 * width)), max(1, round(4096 * width))
    layers = _fc(nn.Conv2d(pool5, wide, 7, padding=3), nn.Conv2d(wide, wide, 1), dropout)
    for module in (features, layers):
        _initialize(module)
    backbone = PoolBackbone(features, layers if fc else None, strides, first=2)
    if file is not None:
        names = {"pre_logits.fc1": "fc.0", "pre_logits.fc2": "fc.3", "classifier.0": "fc.0", "classifier.3": "fc.3"}
        load_renamed(backbone, file, names, name)
    adapt_in_channels(backbone, in_channels)
    return backbone


def _alexnet(strides: Sequence[int], in_channels: int, file: Path | None, fc: bool, dropout: float) -> PoolBackbone:
    import torchvision

    features = torchvision.models.alexnet(weights=None).features
    # A 6x6 kernel padded by 3 gives one cell more than pool5 has, and at least one for every picture.
    layers = _fc(nn.Conv2d(256, 4096, 6, padding=3), nn.Conv2d(4096, 4096, 1), dropout)
    _initialize(layers)
    backbone = PoolBackbone(features, layers if fc else None, strides, first=8)
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
