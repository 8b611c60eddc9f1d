"""A small backbone from scratch, for beginners, tests and the demo."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


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
