"""TensorFlow's "SAME" padding, made static."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from fullconv.nn import zoo


class StaticSameConv2d(nn.Conv2d):
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
    zoo.defer()
    from timm.layers.conv2d_same import Conv2dSame

    left = []
    for name, child in module.named_modules():
        if isinstance(child, Conv2dSame):
            child.__class__ = StaticSameConv2d  # type: ignore[assignment]  # the same layer but for its padding
        elif type(child).__name__ in ("AvgPool2dSame", "MaxPool2dSame"):
            left.append(name)
    return left
