"""Networks that the tests build, small where their family has a width, and their parts made to show what is asked."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from fullconv.nn import VARIANTS, Network, build

WIDTHS = {
    "resnet18": 1 / 16, "resnet34": 1 / 16, "resnet50": 1 / 16, "resnet101": 1 / 16, "vgg16": 1 / 16,
    "vgg16_bn": 1 / 16, "convnext_tiny": 1 / 16, "mobilenetv3_large_100": 1.0, "efficientnet_b0": 1.0, "tiny": 0.5,
    "googlenet": 1.0,
}  # fmt: skip
"""Widths at which a backbone is quick; AlexNet has none and its fc6 is large, so it is left to the slow tests."""
SKIPS = ("fcn32s", "fcn16s", "fcn8s", "fcn4s")
DILATED = ("fcn-os8", "fcn-os16")
DILATABLE = ("resnet18", "resnet34", "resnet50", "resnet101", "mobilenetv3_large_100", "efficientnet_b0")
PUBLISHED = ("torchvision-fcn_resnet50", "torchvision-fcn_resnet101")


RELEASE = [name for name, spec in VARIANTS.items() if spec.caffe is not None]


def narrow(variant: str, width: float = 1 / 16, seed: int = 0, **settings: Any) -> Network:
    """Build a narrow network of the Caffe release, whose score layers are not 0: that would hide every difference."""
    torch.manual_seed(seed)
    built = build(variant, width=width, **settings)
    for module in built.head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.1)
            nn.init.normal_(module.bias, std=0.1)
    return built


def randomized(variant: str, width: float = 1 / 16, seed: int = 0, **settings: Any) -> Network:
    """Build a narrow network whose every parameter is random."""
    torch.manual_seed(seed)
    built = build(variant, width=width, **settings)
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            parameter.normal_(std=0.1 if name.endswith("bias") else 0.05)
    return built


DEEP = ("resnet34", "resnet101")
"""Backbones of the blocks of resnet18 and resnet50, only more of them."""


def served() -> list[tuple[str, str]]:
    """Every variant with every backbone that it goes with, the published nets with their own; deep ones once."""
    pairs = [(variant, name) for variant in SKIPS for name in WIDTHS if name not in DEEP or variant == "fcn8s"]
    pairs += [(variant, backbone) for variant in DILATED for backbone in DILATABLE]
    pairs += [(variant, str(VARIANTS[variant].backbone)) for variant in PUBLISHED]
    return pairs


@cache
def network(variant: str, backbone: str, num_classes: int = 3, **settings: Any) -> Network:
    """A narrow network with lively statistics; shared, so never to be changed."""
    torch.manual_seed(0)
    with torch.inference_mode(False):  # whoever asks first: its weights may be asked for gradients later
        built = build(variant, backbone=backbone, num_classes=num_classes, width=WIDTHS[backbone], **settings)
        return enliven(built)


def enliven(module: Any) -> Any:
    """Give norms statistics of their own and layer scales the size of 1, so that nothing is hidden; eval mode."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.running_mean.copy_(torch.randn(layer.running_mean.shape, generator=draw) / 4)
                layer.running_var.copy_(torch.rand(layer.running_var.shape, generator=draw) + 0.5)
        for name, weight in module.named_parameters():
            if weight.ndim == 1 and name.endswith("gamma"):
                weight.fill_(1.0)
    return module.eval()


def random_images(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


_REMOVED = (
    nn.modules.batchnorm._BatchNorm,  # timm's BatchNormAct2d, too
    nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.Sigmoid, nn.Hardsigmoid, nn.Dropout,
)  # fmt: skip
_REMOVED_NAMES = ("LayerNorm", "LocalResponseNorm", "SqueezeExcite", "GlobalResponseNorm", "GELU", "DropPath")


def linearize(built: nn.Module) -> nn.Module:
    """Make a network a weighted mean of pixels, in place, with nothing but its geometry left.

    Norms and activations become the identity, gates 1, max pools mean pools, kernels uniform and positive, biases 0.
    """
    for name, layer in list(built.named_modules()):
        parent, _, child = name.rpartition(".")
        if isinstance(layer, nn.MaxPool2d):
            k, s, p, ceil = layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode
            setattr(built.get_submodule(parent), child, nn.AvgPool2d(k, s, p, ceil, count_include_pad=False))
        elif isinstance(layer, _REMOVED) or type(layer).__name__.startswith(_REMOVED_NAMES):
            setattr(built.get_submodule(parent), child, nn.Identity())
    with torch.no_grad():
        for name, weight in built.named_parameters():
            if ".grow." in name:  # learned upsampling starts bilinear
                continue
            if weight.ndim >= 2:
                weight.fill_(1 / math.prod(weight.shape[1:]))
            else:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
    return built.double().eval()
