"""The classifiers of the Caffe release as backbones: VGG-16, CaffeNet, GoogLeNet, with pad 100 and ceil pooling.

Source: shelhamer/fcn.berkeleyvision.org; Long et al., CVPR 2015; Szegedy et al., CVPR 2015.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from fullconv.errors import NetworkError
from fullconv.nn.backbones import TapSequential, he_init
from fullconv.nn.caffe.caffemodel import read_blobs
from fullconv.nn.pretrained import load_state_dict, read_weights, resolve_weights
from fullconv.nn.registry import CaffeSpec
from fullconv.nn.surgery import adapt_input_conv, append_mean_channels

PAD = 100
"""Of the first convolution: with it fc6 sees at least its 7x7 cells of pool5 for every image (97 would be enough)."""

_INCEPTIONS = {
    "3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64), "4b": (160, 112, 224, 24, 64, 64), "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64), "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128), "5b": (384, 192, 384, 48, 128, 128),
}  # fmt: skip
"""1x1; 3x3 reduce, 3x3; 5x5 reduce, 5x5; pool projection. Source: Szegedy et al., CVPR 2015, table 1."""


_VGG_CONVS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
"""Numbers of VGG-16's convolutions in torchvision's and timm's `features`."""
_INCEPTION_PARTS = {
    "1x1": "one.0", "3x3_reduce": "three.0.0", "3x3": "three.1.0", "5x5_reduce": "five.0.0", "5x5": "five.1.0",
    "pool_proj": "pool.1.0",
}  # fmt: skip
"""Caffe's names of GoogLeNet's layers -> ours."""


def build_caffe_backbone(
    caffe: CaffeSpec, in_channels: int, strides: Sequence[int], width: float, weights: str | Path | None = None
) -> nn.Module:
    """Build a backbone of the release, its convolutions drawn by He et al. (2015) unless there are weights."""
    if caffe.late_fusion and in_channels != 6:
        raise NetworkError(f"late fusion takes 6 channels, three per backbone, not {in_channels}.")
    builders = {"vgg": _vgg, "caffenet": _caffenet, "googlenet": _googlenet}
    backbone = builders[caffe.backbone](3 if caffe.late_fusion else in_channels, strides, width)
    he_init(backbone)
    if weights is not None:
        load_classifier(backbone, caffe.backbone, str(weights))
    return LateFusionBackbone(backbone, copy.deepcopy(backbone)) if caffe.late_fusion else backbone


class LateFusionBackbone(nn.Module):
    """Two whole backbones, on the first and on the second three channels; features are pairs by stride."""

    def __init__(self, color: TapSequential, hha: TapSequential) -> None:
        super().__init__()
        self.color, self.hha = color, hha
        self.channels = color.channels

    def forward(self, x: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
        """Map (N, 6, H, W) to ``{stride: (of color, of HHA)}``."""
        color, hha = self.color(x[:, :3]), self.hha(x[:, 3:])
        return {stride: (color[stride], hha[stride]) for stride in color}


def _named(layers: Mapping[str, nn.Module], taps: Mapping[str, int], channels: Mapping[int, int]) -> TapSequential:
    """Return layers that have the release's names, and run in their order."""
    paths = {f"layers.{name}": stride for name, stride in taps.items()}
    return TapSequential({"layers": nn.ModuleDict(layers)}, [f"layers.{name}" for name in layers], paths, channels)


def _vgg(in_channels: int, strides: Sequence[int], width: float) -> TapSequential:
    """Build VGG-16 as the release has it: conv1_1 padded by 100, fc6 7x7 without padding, element-wise dropout."""
    layers: dict[str, nn.Module] = {}
    before, channels = in_channels, {}
    for block, (count, full) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), start=1):
        wide = _scale_width(full, width)
        for index in range(1, count + 1):
            padding = PAD if (block, index) == (1, 1) else 1
            layers[f"conv{block}_{index}"] = nn.Conv2d(before, wide, 3, padding=padding)
            layers[f"relu{block}_{index}"] = nn.ReLU(inplace=True)
            before = wide
        layers[f"pool{block}"] = nn.MaxPool2d(2, 2, ceil_mode=True)
        channels[2**block] = wide
    channels[32] = _add_fc(layers, before, 7, _scale_width(4096, width))
    taps = {"pool3": 8, "pool4": 16, "drop7": 32}
    return _named(layers, {k: v for k, v in taps.items() if v in strides}, {s: channels[s] for s in strides})


def _caffenet(in_channels: int, strides: Sequence[int], width: float) -> TapSequential:
    """Build CaffeNet, the release's AlexNet: groups, local response normalization, ReLU before pooling.

    torchvision's AlexNet is another network (64-192-384-256-256, no normalization, no groups).
    """
    a, b, c = (2 * _scale_width(n // 2, width) for n in (96, 256, 384))
    layers: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(in_channels, a, 11, 4, padding=PAD), "relu1": nn.ReLU(inplace=True),
        "pool1": nn.MaxPool2d(3, 2, ceil_mode=True), "norm1": nn.LocalResponseNorm(5, 1e-4, 0.75),
        "conv2": nn.Conv2d(a, b, 5, padding=2, groups=2), "relu2": nn.ReLU(inplace=True),
        "pool2": nn.MaxPool2d(3, 2, ceil_mode=True), "norm2": nn.LocalResponseNorm(5, 1e-4, 0.75),
        "conv3": nn.Conv2d(b, c, 3, padding=1), "relu3": nn.ReLU(inplace=True),
        "conv4": nn.Conv2d(c, c, 3, padding=1, groups=2), "relu4": nn.ReLU(inplace=True),
        "conv5": nn.Conv2d(c, b, 3, padding=1, groups=2), "relu5": nn.ReLU(inplace=True),
        "pool5": nn.MaxPool2d(3, 2, ceil_mode=True),
    }  # fmt: skip
    wide = _add_fc(layers, b, 6, _scale_width(4096, width))
    return _named(layers, {"drop7": 32}, {32: wide})


def _add_fc(layers: dict[str, nn.Module], before: int, kernel: int, wide: int) -> int:
    """Append fc6 and fc7 with their ReLUs and dropouts; return their channels."""
    layers["fc6"] = nn.Conv2d(before, wide, kernel)
    layers["relu6"], layers["drop6"] = nn.ReLU(inplace=True), nn.Dropout(0.5)
    layers["fc7"] = nn.Conv2d(wide, wide, 1)
    layers["relu7"], layers["drop7"] = nn.ReLU(inplace=True), nn.Dropout(0.5)
    return wide


def _googlenet(in_channels: int, strides: Sequence[int], width: float) -> TapSequential:
    """Build GoogLeNet up to its last Inception module: the average pool and the three classifiers are dropped."""
    wide = [_scale_width(n, width) for n in (64, 64, 192)]
    layers: dict[str, nn.Module] = {
        "conv1": _conv_relu(in_channels, wide[0], 7, 2, PAD), "pool1": nn.MaxPool2d(3, 2, ceil_mode=True),
        "norm1": nn.LocalResponseNorm(5, 1e-4, 0.75), "conv2_reduce": _conv_relu(wide[0], wide[1], 1),
        "conv2": _conv_relu(wide[1], wide[2], 3), "norm2": nn.LocalResponseNorm(5, 1e-4, 0.75),
        "pool2": nn.MaxPool2d(3, 2, ceil_mode=True),
    }  # fmt: skip
    before = wide[2]
    for name, plan in _INCEPTIONS.items():
        module = Inception(before, [_scale_width(n, width) for n in plan])
        layers[f"inception_{name}"] = module
        before = module.out_channels
        if name in ("3b", "4e"):
            layers[f"pool{name[0]}"] = nn.MaxPool2d(3, 2, ceil_mode=True)
    layers["drop"] = nn.Dropout(0.4)
    return _named(layers, {"drop": 32}, {32: before})


class Inception(nn.Module):
    """GoogLeNet's module, with the 5x5 branch of the paper."""

    def __init__(self, before: int, plan: Sequence[int]) -> None:
        super().__init__()
        one, reduce3, three, reduce5, five, pool = plan
        self.one = _conv_relu(before, one, 1)
        self.three = nn.Sequential(_conv_relu(before, reduce3, 1), _conv_relu(reduce3, three, 3))
        self.five = nn.Sequential(_conv_relu(before, reduce5, 1), _conv_relu(reduce5, five, 5))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, padding=1, ceil_mode=True), _conv_relu(before, pool, 1))
        self.out_channels = one + three + five + pool

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, h, w) to (N, C', h, w)."""
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], dim=1)


def _conv_relu(before: int, channels: int, kernel: int, stride: int = 1, padding: int | None = None) -> nn.Sequential:
    pad = kernel // 2 if padding is None else padding
    return nn.Sequential(nn.Conv2d(before, channels, kernel, stride, pad), nn.ReLU(inplace=True))


def _scale_width(channels: int, width: float) -> int:
    return max(1, round(channels * width))


def load_classifier(backbone: TapSequential, name: str, weights: str) -> None:
    """Copy an ImageNet classifier into a backbone: fully connected layers become convolutions by a plain view.

    A stem of three channels gets further ones from their mean, as in the release's network of color and depth.
    """
    is_caffe = weights.endswith(".caffemodel")
    if name != "vgg" and not is_caffe:
        reason = (
            "torchvision's GoogLeNet has 3x3 where the paper has 5x5 branches" if name == "googlenet"
            else "torchvision's AlexNet has other widths, no groups and no local response normalization"
        )  # fmt: skip
        raise NetworkError(
            f"{reason}, so its weights do not fit this network. Use weights none, or a .caffemodel of the Caffe zoo."
        )
    file = resolve_weights("vgg16", weights)
    stored = read_blobs(file) if is_caffe else read_weights(file)
    names = {path.removeprefix("layers."): path for path in backbone.order}
    if name == "vgg":
        convs = [path for path in backbone.order if path.startswith("layers.conv")]
        names |= {f"features.{index}": conv for index, conv in zip(_VGG_CONVS, convs, strict=True)}
        names |= dict.fromkeys(("pre_logits.fc1", "classifier.0"), "layers.fc6")
        names |= dict.fromkeys(("pre_logits.fc2", "classifier.3"), "layers.fc7")
    if name == "googlenet":
        names |= {theirs: f"layers.{ours}.0" for theirs, ours in
                  (("conv1/7x7_s2", "conv1"), ("conv2/3x3_reduce", "conv2_reduce"), ("conv2/3x3", "conv2"))}  # fmt: skip
        names |= {f"inception_{key}/{part}": f"layers.inception_{key}.{ours}"
                  for key in _INCEPTIONS for part, ours in _INCEPTION_PARTS.items()}  # fmt: skip
    stem, channels = next(
        (path, layer.in_channels) for path, layer in backbone.named_modules() if isinstance(layer, nn.Conv2d)
    )
    for key, value in stored.items():  # the first convolution, by whatever name
        if f"{names.get(key.removesuffix('.weight'))}.weight" == f"{stem}.weight" and value.ndim == 4:
            adapt = adapt_input_conv if channels < value.shape[1] else append_mean_channels
            stored[key] = adapt(value, channels)
    load_state_dict(backbone, file, names, {"vgg": "VGG-16", "caffenet": "CaffeNet"}.get(name, "GoogLeNet"), stored)
