"""Layers of ``torch.nn`` that are described as a whole, and modules that describe themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from fullconv.geometry import mixing, shapes, windows
from fullconv.geometry.call import Call, pointwise, unknown
from fullconv.geometry.layout import Value
from fullconv.geometry.rules import apply

ModuleRule = Callable[[Any, Call], Any]


def _convolve(module: Any, call: Call) -> Any:
    options = (module.kernel_size, module.stride, module.padding, module.dilation, module.padding_mode)
    return windows.convolve(call, *options)


def _transpose(module: Any, call: Call) -> Any:
    return windows.transpose(call, module.kernel_size, module.stride, module.padding, module.dilation)


def _max_pool(module: Any, call: Call) -> Any:
    return windows.pool(call, 2, module.kernel_size, module.stride, module.padding, module.dilation)


def _avg_pool(module: Any, call: Call) -> Any:
    return windows.pool(call, 2, module.kernel_size, module.stride, module.padding)


def _lp_pool(module: Any, call: Call) -> Any:
    return windows.pool(call, 2, module.kernel_size, module.stride)


def _as(name: str, *options: str, fixed: dict[str, Any] | None = None) -> ModuleRule:
    """Describe a layer as a function that takes the layer's attributes as keywords."""

    def rule(module: Any, call: Call) -> Any:
        keywords = {option: getattr(module, option) for option in options} | (fixed or {})
        return apply(replace(call, name=name, args=call.args[:1], kwargs=keywords))

    return rule


def _pad(module: Any, call: Call) -> Any:
    mode = {"Constant": "constant", "Zero": "constant", "Replication": "replicate", "Reflection": "reflect"}
    name = type(module).__name__
    kind = next((word for start, word in mode.items() if name.startswith(start)), "circular")
    return windows.pad(replace(call, name="pad", kwargs={"pad": module.padding, "mode": kind}))


def _upsample(module: Any, call: Call) -> Any:
    options = {name: getattr(module, name, None) for name in ("size", "scale_factor", "mode", "align_corners")}
    return windows.interpolate(replace(call, name="interpolate", kwargs=options))


def _flatten(_: Any, call: Call) -> Any:
    return shapes.reshape(replace(call, name="flatten"))


def _norm(_: Any, call: Call) -> Any:
    return mixing.group_norm(replace(call, name="group_norm"))


def _attention(_: Any, call: Call) -> Any:
    value = replace(call.value, geometry=call.merged())
    return call.results(call.flag(value, whole="attention over positions"))


POINTWISE = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Hardshrink, nn.Softshrink, nn.Tanhshrink, nn.Softplus,
    nn.Softsign, nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Threshold, nn.Dropout, nn.Dropout2d, nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)  # fmt: skip
BY_CHANNEL = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.ChannelShuffle, nn.CrossMapLRN2d, nn.LocalResponseNorm, nn.PReLU,
    nn.Softmax2d, nn.SyncBatchNorm,
)  # fmt: skip

MODULES: dict[type[nn.Module], ModuleRule] = {
    **{kind: lambda _, call: pointwise(call) for kind in POINTWISE},
    **{kind: lambda _, call: mixing.channelwise(call) for kind in BY_CHANNEL},
    nn.Conv1d: _convolve,
    nn.Conv2d: _convolve,
    nn.ConvTranspose2d: _transpose,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _avg_pool,
    nn.LPPool2d: _lp_pool,
    nn.AdaptiveAvgPool2d: _as("adaptive_avg_pool2d", "output_size"),
    nn.AdaptiveMaxPool2d: _as("adaptive_max_pool2d", "output_size"),
    nn.ConstantPad2d: _pad,
    nn.ZeroPad2d: _pad,
    nn.ReplicationPad2d: _pad,
    nn.ReflectionPad2d: _pad,
    nn.CircularPad2d: _pad,
    nn.Upsample: _upsample,
    nn.UpsamplingNearest2d: _upsample,
    nn.UpsamplingBilinear2d: _upsample,
    nn.PixelShuffle: _as("pixel_shuffle", "upscale_factor"),
    nn.PixelUnshuffle: _as("pixel_unshuffle", "downscale_factor"),
    nn.Linear: _as("linear"),
    nn.LayerNorm: _as("layer_norm", "normalized_shape"),
    nn.GroupNorm: _norm,
    nn.InstanceNorm2d: _norm,
    nn.Softmax: _as("softmax", "dim"),
    nn.LogSoftmax: _as("log_softmax", "dim"),
    nn.Flatten: _flatten,
    nn.Unflatten: _flatten,
    nn.MultiheadAttention: _attention,
}


def rule_of(module: nn.Module) -> ModuleRule | None:
    """Return the rule of a layer, or None for a module that has to be traced through.

    A subclass with its own ``forward`` (timm's ``Conv2dSame``) is no longer the layer that it derives from.
    """
    if hasattr(module, "trace_geometry"):
        return describe
    kind = type(module)
    for base in kind.__mro__:
        if base in MODULES:
            same = all(getattr(kind, name, None) is getattr(base, name, None) for name in ("forward", "_conv_forward"))
            return MODULES[base] if same else None
    return None


def describe(module: Any, call: Call) -> Any:
    """Ask a module that has ``trace_geometry(geometry, *other_geometries) -> Geometry``."""
    first, *others = [value for value in call.values if value.geometry is not None]
    geometry = module.trace_geometry(first.known(), *(other.known() for other in others))
    return call.results(replace(first, geometry=geometry))


def layer(module: nn.Module, call: Call) -> Any:
    """Describe the result of a layer that is not traced through."""
    values: list[Value] = call.values
    rule = rule_of(module)
    if rule is None or not any(value.geometry is not None for value in values):
        return unknown(call, "nobody described this layer")
    return rule(module, call)
