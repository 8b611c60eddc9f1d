"""Net surgery: the same numbers in another shape."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def convolutionalize(linear: nn.Linear, kernel: tuple[int, int], padding: int = 0) -> nn.Conv2d:
    """Turn a fully connected layer into the convolution that computes the same at every place.

    Fully connected weights (O, I * h * w) and convolution weights (O, I, h, w) hold the same numbers in the same
    order, because a classifier flattens its map channel by channel.

    Args:
        linear: Weights (O, I * h * w).
        kernel: (h, w) of the map that the layer was made for.
        padding: Of the convolution.

    Raises:
        ValueError: The layer's inputs are not a multiple of h * w.

    Source: Long et al., CVPR 2015, section 3.1; the Caffe release's surgery.
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


def spread_stem(weight: Tensor, in_channels: int) -> Tensor:
    """Adapt a stem's weights (O, 3, h, w) to another number of channels, keeping the size of its response.

    One channel gets the sum of the three, so that grey pictures give what their RGB copies gave; more than three
    get the three in turn, scaled by 3 / C.
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
            layer.weight = nn.Parameter(spread_stem(layer.weight.detach(), in_channels).contiguous())
            layer.in_channels = in_channels
        return
    raise ValueError(f"{type(module).__name__} has no convolution.")
