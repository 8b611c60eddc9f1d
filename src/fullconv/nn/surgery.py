"""Net surgery: the same numbers in another shape.

``convolutionalize`` and ``convolutionalize_classifier`` make a classifier fully convolutional. ``transplant`` copies
weights by name into a network of more skips, classes or channels; ``expand_score`` and ``append_mean_channels`` are its
rules for tensors that gain rows or channels.

Source: Long et al., CVPR 2015, section 3.1; the Caffe release's surgery.py and the NYUD nets' solve.py.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from math import isqrt

import torch
from torch import Tensor, nn

from fullconv.errors import NetworkError


def convolutionalize(linear: nn.Linear, kernel: tuple[int, int], padding: int = 0) -> nn.Conv2d:
    """Turn a fully connected layer that sees maps of a size (h, w) into the convolution that computes the same everywhere.

    Fully connected weights (O, I * h * w) and convolution weights (O, I, h, w) hold the same numbers in the same
    order, because a classifier flattens its map channel by channel.
    """
    height, width = kernel
    channels, rest = divmod(linear.in_features, height * width)
    if rest:
        raise ValueError(f"a layer of {linear.in_features} inputs cannot see maps of {height}x{width} cells.")
    conv = nn.Conv2d(channels, linear.out_features, kernel, padding=padding, bias=linear.bias is not None)
    with torch.no_grad():
        conv.weight.copy_(linear.weight.reshape(conv.weight.shape))
        if linear.bias is not None and conv.bias is not None:
            conv.bias.copy_(linear.bias)
    return conv


def convolutionalize_classifier(classifier: nn.Module) -> nn.Sequential:
    """Make a classifier like VGG or AlexNet fully convolutional: it scores its classes at every position of an image.

    The layers keep their weights (copied; the classifier is not changed) and their order. Average pooling before the
    first fully connected layer, which has no effect at the size that the classifier was trained on, is removed.

    Args:
        classifier: torchvision's VGG or AlexNet (``features``, ``avgpool``, ``classifier``), timm's VGG (``features``,
            ``pre_logits``, ``head``), or any module of ``features`` and fully connected layers in this order. With
            weights of Caffe's, the images are BGR.

    Returns:
        (N, C, H, W) to (N, classes, h, w), in eval mode; 1 x 1 for images of the size that it was trained on.

    >>> import torchvision
    >>> net = convolutionalize_classifier(torchvision.models.alexnet(num_classes=7))
    >>> net(torch.zeros(1, 3, 288, 320)).shape
    torch.Size([1, 7, 3, 4])
    """
    features = getattr(classifier, "features", None)
    if not isinstance(features, nn.Module):
        raise NetworkError(f"{type(classifier).__name__} has no features, so it is not a classifier like VGG.")
    convolutions = [layer for layer in features.modules() if isinstance(layer, nn.Conv2d)]
    if not convolutions:
        raise NetworkError("the features hold no convolution.")
    layers, channels = [features], convolutions[-1].out_channels
    for layer in _after_features(classifier):
        if isinstance(layer, nn.Linear):
            cells, rest = divmod(layer.in_features, channels)
            side = isqrt(cells)
            if rest or side * side != cells:
                raise NetworkError(
                    f"a layer of {layer.in_features} inputs cannot see {channels} square maps; only classifiers that"
                    " flatten square maps can be made convolutional."
                )
            layers.append(convolutionalize(layer, (side, side)))
            channels = layer.out_features
        elif isinstance(layer, nn.Conv2d):
            layers.append(layer)
            channels = layer.out_channels
        elif isinstance(layer, (nn.Dropout, nn.ReLU)):
            layers.append(layer)
        elif not isinstance(layer, (nn.AdaptiveAvgPool2d, nn.Flatten, nn.Identity)):
            raise NetworkError(
                f"{type(classifier).__name__} has a {type(layer).__name__} between its features and its classes;"
                " only fully connected layers, ReLU and dropout can be made convolutional."
            )
    return copy.deepcopy(nn.Sequential(*layers)).eval()


def _after_features(classifier: nn.Module) -> Iterator[nn.Module]:
    """Yield the single layers between a classifier's features and its classes, in order."""
    for name, part in classifier.named_children():
        if name == "features":
            continue
        if type(part).__name__ == "ClassifierHead":  # timm's: pool to one cell, dropout, classes
            yield from (part.get_submodule("drop"), part.get_submodule("fc"))
        else:
            yield from (layer for layer in part.modules() if not list(layer.children()))


def adapt_input_conv(weight: Tensor, in_channels: int) -> Tensor:
    """Adapt a stem's weights (O, 3, h, w) to another number of channels, keeping the size of its response.

    One channel gets the sum of the three, so that gray images give what their RGB copies gave; more than three get
    the three in turn, scaled by 3 / C.
    """
    count = weight.shape[1]
    if in_channels == count:
        return weight
    if in_channels == 1:
        return weight.sum(dim=1, keepdim=True)
    index = torch.arange(in_channels) % count
    return weight[:, index] * (count / in_channels)


def adapt_in_channels(module: nn.Module, in_channels: int) -> None:
    """Give the first convolution of a module another number of input channels, in place, adapting its weights."""
    for layer in module.modules():
        if not isinstance(layer, nn.Conv2d):
            continue
        if layer.in_channels != in_channels:
            layer.weight = nn.Parameter(adapt_input_conv(layer.weight.detach(), in_channels).contiguous())
            layer.in_channels = in_channels
        return
    raise ValueError(f"{type(module).__name__} has no convolution.")


def append_mean_channels(weight: Tensor, in_channels: int) -> Tensor:
    """Give a stem's weights (O, 3, h, w) further input channels: the first three stay, each further one is their mean.

    So the release initialized its network of color and depth: depth has an effect from the first step on.
    """
    further = in_channels - weight.shape[1]
    if further < 0:
        raise ValueError(f"weights of {weight.shape[1]} channels cannot be appended to become {in_channels}.")
    mean = weight.mean(dim=1, keepdim=True)
    return torch.cat([weight, mean.expand(-1, further, -1, -1)], dim=1)


def expand_score(tensor: Tensor, num_classes: int) -> Tensor:
    """Give a score layer's weights (K, ...) or biases (K,) more classes: the first K rows stay, the others are 0."""
    if num_classes < len(tensor):
        raise ValueError(f"a score layer of {len(tensor)} classes cannot be expanded to {num_classes}.")
    expanded = tensor.new_zeros(num_classes, *tensor.shape[1:])
    expanded[: len(tensor)] = tensor
    return expanded


def transplant(source: nn.Module | Mapping[str, Tensor], target: nn.Module) -> list[str]:
    """Copy a network's weights into another by name, in place; return the target's names that nothing was copied into.

    A tensor is copied if names and shapes agree, or if its shape can be adapted: fully connected weights become a
    convolution's by a plain view, a score layer of fewer classes fills the first rows (the others become 0), a stem of
    three channels gets further ones from their mean. All others stay as they are.
    """
    theirs = source.state_dict() if isinstance(source, nn.Module) else source
    own = target.state_dict()
    adapted = {}
    for name, value in own.items():
        found = _adapt(theirs[name], value.shape) if name in theirs else None
        if found is not None:
            adapted[name] = found.to(value.dtype)
    target.load_state_dict(adapted, strict=False)
    return [name for name in own if name not in adapted]


def _adapt(value: Tensor, shape: torch.Size) -> Tensor | None:
    """Return a tensor in another shape if a rule leads there, else None."""
    if value.shape == shape:
        return value
    if value.ndim == 0 or len(shape) == 0:
        return None
    if value.shape[0] == shape[0] and value.numel() == shape.numel():
        return value.reshape(shape)
    if value.shape[1:] == shape[1:] and value.shape[0] < shape[0]:
        return expand_score(value, shape[0])
    channels = value.ndim == len(shape) == 4 and value.shape[1] == 3 < shape[1]
    if channels and value.shape[0] == shape[0] and value.shape[2:] == shape[2:]:
        return append_mean_channels(value, shape[1])
    return None


def load_late_fusion(color: Mapping[str, Tensor], hha: Mapping[str, Tensor], target: nn.Module) -> list[str]:
    """Copy two networks of one backbone each into one of two (`nyud-fcn32s-color-hha`), in place; return as `transplant`."""
    both = {}
    for modality, tensors in (("color", color), ("hha", hha)):
        for name, value in tensors.items():
            new = name.replace("backbone.layers.", f"backbone.{modality}.layers.")
            both[new.replace("head.score.32.", f"head.score_{modality}.")] = value
    return transplant(both, target)
