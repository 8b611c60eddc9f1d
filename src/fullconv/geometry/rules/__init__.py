"""Which rule describes which operation, by its name in PyTorch; what is not listed here is unknown.

A layer of ``torch.nn`` is described as the function of the same effect, with its attributes as keywords. A module describes
itself by one of two methods: ``as_function() -> (name, keywords)`` names the function it computes, and
``trace_geometry(geometry, *other_geometries) -> Geometry`` maps the geometry of its inputs to that of its output.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fullconv.geometry.rules import mixing, shapes, windows
from fullconv.geometry.rules.windows import WindowSpec, parameters, per_dim
from fullconv.geometry.value import (
    Call,
    SizeDependent,
    TensorInfo,
    is_size_dependent,
    map_aggregate,
    tree_leaves,
    unknown,
)

__all__ = [
    "WindowSpec", "apply", "as_function", "describe_layer", "is_described", "leaks_data", "name_of", "parameters", "per_dim",
]  # fmt: skip

Rule = Callable[[Call], Any]

POINTWISE = """
abs add addcdiv addcmul and bfloat16 ceil celu clamp clamp_max clamp_min clip clone contiguous cos cpu data detach div
divide double elu eq erf exp expm1 float float_power floor floor_divide floordiv ge gelu gt half hardshrink
hardsigmoid hardswish hardtanh identity invert isfinite isinf isnan le leaky_relu lerp log log1p log2 logical_and
logical_not logical_or logsigmoid lt masked_fill maximum minimum mish mul multiply nan_to_num ne neg negative or pos
positive pow reciprocal relu relu6 remainder round rsqrt rsub selu sigmoid sign silu sin softplus softshrink
softsign sqrt square sub subtract tan tanh tanhshrink threshold to true_divide trunc type type_as where xor
zeros_like ones_like full_like empty_like bool short int long
"""
RANDOM = "rand_like randn_like randint_like bernoulli normal uniform random exponential"
MIXING = """
mean sum amax amin max min std var std_mean var_mean norm vector_norm prod median logsumexp any all argmax argmin
softmax log_softmax softmin normalize cumsum cumprod sort linalg_vector_norm
"""
RULES: dict[str, Rule] = {
    **dict.fromkeys(POINTWISE.split(), shapes.pointwise),
    **dict.fromkeys(shapes.TRAINING_ARGUMENT, shapes.dropout),
    **dict.fromkeys(RANDOM.split(), shapes.random),
    **dict.fromkeys(["conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d"], windows.convolution),
    **dict.fromkeys([f"{mode}_pool{n}d" for mode in ("max", "avg", "lp") for n in (1, 2)], windows.pool),
    **dict.fromkeys(["max_pool1d_with_indices", "max_pool2d_with_indices"], windows.pool),
    **dict.fromkeys([f"adaptive_{mode}_pool{n}d" for mode in ("avg", "max") for n in (1, 2)], windows.adaptive_pool),
    **dict.fromkeys(["prelu", "local_response_norm"], mixing.channelwise),
    "batch_norm": mixing.batch_norm,
    "pad": windows.pad,
    **dict.fromkeys(["interpolate", "upsample"], windows.interpolate),
    "pixel_shuffle": windows.pixel_shuffle,
    "pixel_unshuffle": windows.pixel_unshuffle,
    "permute": shapes.permute,
    **dict.fromkeys(["transpose", "swapaxes", "swapdims", "t", "T", "mT"], shapes.swap),
    **dict.fromkeys(["movedim", "moveaxis"], shapes.movedim),
    **dict.fromkeys(["view", "reshape", "flatten", "unflatten", "view_as", "reshape_as"], shapes.reshape),
    "squeeze": shapes.squeeze,
    "unsqueeze": shapes.unsqueeze,
    **dict.fromkeys(["expand", "expand_as", "broadcast_to"], shapes.expand),
    **dict.fromkeys(["repeat", "tile"], shapes.repeat),
    "getitem": shapes.index,
    "narrow": shapes.narrow,
    "select": shapes.select,
    **dict.fromkeys(["chunk", "split", "tensor_split", "unbind"], shapes.divide),
    **dict.fromkeys(["cat", "concat", "concatenate", "stack"], shapes.concatenate),
    **dict.fromkeys(["shape", "size"], shapes.shape),
    **dict.fromkeys(["numel", "stride", "storage_offset", "len"], shapes.count),
    **dict.fromkeys(MIXING.split(), mixing.reduce),
    **dict.fromkeys(["flip", "roll"], mixing.flip_or_roll),
    **dict.fromkeys(["layer_norm", "rms_norm"], mixing.layer_norm),
    "group_norm": mixing.group_norm,
    "instance_norm": mixing.instance_norm,
    "linear": mixing.linear,
    **dict.fromkeys(["matmul", "bmm"], mixing.matmul),
    "einsum": mixing.einsum,
    "scaled_dot_product_attention": mixing.attention,
    "multihead_attention": mixing.multihead_attention,
}

LAYERS: dict[type[nn.Module], tuple[str, str]] = {
    **dict.fromkeys((
        nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish,
        nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Hardshrink, nn.Softshrink, nn.Tanhshrink, nn.Softplus,
        nn.Softsign, nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Threshold,
    ), ("identity", "")),
    **dict.fromkeys((nn.Dropout, nn.Dropout2d), ("dropout", "p training")),
    **dict.fromkeys((nn.AlphaDropout, nn.FeatureAlphaDropout), ("alpha_dropout", "p training")),
    nn.RReLU: ("rrelu", "training"),
    **dict.fromkeys((
        nn.ChannelShuffle, nn.CrossMapLRN2d, nn.LocalResponseNorm, nn.PReLU, nn.Softmax2d,
    ), ("local_response_norm", "")),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm), ("batch_norm", "running_mean training")),
    nn.Conv1d: ("conv1d", "weight bias stride padding dilation groups padding_mode"),
    nn.Conv2d: ("conv2d", "weight bias stride padding dilation groups padding_mode"),
    nn.ConvTranspose2d: ("conv_transpose2d", "weight bias stride padding output_padding groups dilation"),
    nn.MaxPool2d: ("max_pool2d", "kernel_size stride padding dilation ceil_mode"),
    nn.AvgPool2d: ("avg_pool2d", "kernel_size stride padding ceil_mode count_include_pad divisor_override"),
    nn.LPPool2d: ("lp_pool2d", "norm_type kernel_size stride ceil_mode"),
    nn.AdaptiveAvgPool2d: ("adaptive_avg_pool2d", "output_size"),
    nn.AdaptiveMaxPool2d: ("adaptive_max_pool2d", "output_size"),
    **dict.fromkeys(
        (nn.ConstantPad2d, nn.ZeroPad2d, nn.ReplicationPad2d, nn.ReflectionPad2d, nn.CircularPad2d), ("pad", "value")
    ),
    **dict.fromkeys(
        (nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
        ("interpolate", "size scale_factor mode align_corners recompute_scale_factor"),
    ),
    nn.PixelShuffle: ("pixel_shuffle", "upscale_factor"),
    nn.PixelUnshuffle: ("pixel_unshuffle", "downscale_factor"),
    nn.Linear: ("linear", ""),
    nn.LayerNorm: ("layer_norm", "normalized_shape"),
    nn.GroupNorm: ("group_norm", ""),
    nn.InstanceNorm2d: ("instance_norm", "running_mean training"),
    nn.Softmax: ("softmax", "dim"),
    nn.LogSoftmax: ("log_softmax", "dim"),
    nn.Flatten: ("flatten", ""),
    nn.Unflatten: ("flatten", ""),
    nn.MultiheadAttention: ("multihead_attention", ""),
}  # fmt: skip
"""Layers, the function each computes, and the attributes that are that function's keywords."""
PAD_MODES = {nn.ReplicationPad2d: "replicate", nn.ReflectionPad2d: "reflect", nn.CircularPad2d: "circular"}

TAKES_SIZES = """
conv1d conv2d conv_transpose1d conv_transpose2d pad interpolate upsample view reshape flatten unflatten expand
broadcast_to repeat tile getitem narrow shape size
"""
"""Functions whose rule knows what numbers computed from the image's size mean there."""

ALIASES = {"truediv": "div", "itruediv": "div", "concat": "cat", "dim": "ndim"}
ALIASES |= {f"i{name}": name for name in ("add", "sub", "mul")}
HOMES = ("torch", "_operator", "operator", "math", "timm", "torchvision")
"""Packages whose functions are found by their bare name."""
CONSTANTS = [
    "ndim",
    "dim",
    "ndimension",
    "is_floating_point",
    "dtype",
    "device",
    "is_contiguous",
    "is_cuda",
    "get_device",
]
"""What does not depend on the image, whatever it is asked of."""
COUNTS = ["shape", "size", "numel", "stride", "storage_offset", "len", "getitem"]


def name_of(target: Any) -> str:
    """Return the name of a function or method without underscores: ``add_`` and ``iadd`` are ``add``.

    A function from outside PyTorch, Python, timm and torchvision keeps its module, so no rule is found for it.
    """
    if isinstance(target, str):
        name = target
    else:
        name = getattr(target, "__name__", type(target).__name__)
        home = getattr(target, "__module__", None) or "torch"
        if not home.startswith(HOMES) and not isinstance(target, types.BuiltinFunctionType):
            return f"{home}.{name}"
    name = name.strip("_")
    return ALIASES.get(name, name)


def leaks_data(call: Call, found: Any) -> bool:
    """Whether an operation gave the image's contents to Python as numbers: ``x.mean().item()``."""
    if call.name in CONSTANTS or call.name in COUNTS or all(info.geometry is None for info in call.inputs):
        return False
    harmless = (TensorInfo, SizeDependent, Tensor, str, torch.dtype, torch.device, type(None))
    return any(not isinstance(leaf, harmless) for leaf in tree_leaves(found))


def apply(call: Call) -> Any:
    """Describe the result of a call."""
    by_size = is_size_dependent([list(call.args), call.kwargs])
    if call.name in CONSTANTS or (not call.inputs and call.name != "getitem"):
        if not by_size:
            return call.out
        made = map_aggregate(call.out, lambda leaf: TensorInfo.constant(leaf) if isinstance(leaf, Tensor) else leaf)
        return _sized(call, made)
    rule = RULES.get(call.name)
    found = unknown(call) if rule is None else rule(call)
    if not by_size or call.name in TAKES_SIZES.split():
        return found
    return _sized(call, found)


def _sized(call: Call, found: Any) -> Any:
    """Name a call in all tensors of its result as one that computes with the image's size."""
    return map_aggregate(found, lambda leaf: call.sized(leaf) if isinstance(leaf, TensorInfo) else leaf)


def _layer(module: nn.Module) -> type[nn.Module] | None:
    """Return the layer of `LAYERS` that a module is; a subclass with its own ``forward`` (timm's) no longer is one."""
    cls = type(module)
    base = next((base for base in cls.__mro__ if base in LAYERS), None)
    if base is None or any(getattr(cls, m, None) is not getattr(base, m, None) for m in ("forward", "_conv_forward")):
        return None
    return base


def is_described(module: nn.Module) -> bool:
    """Whether a module is described as a whole, not traced through."""
    return hasattr(module, "trace_geometry") or hasattr(module, "as_function") or _layer(module) is not None


def as_function(module: Any) -> tuple[str, dict[str, Any]] | None:
    """Return the function that a layer computes, and its keywords; None for a module that has to be traced through."""
    if hasattr(module, "as_function"):
        name, keywords = module.as_function()
        return name, keywords
    if (base := _layer(module)) is None:
        return None
    name, attributes = LAYERS[base]
    keywords = {key: getattr(module, key) for key in attributes.split() if hasattr(module, key)}
    if name == "instance_norm":
        keywords["use_input_stats"] = keywords.pop("training") or not module.track_running_stats
    if name == "pad":
        keywords |= {"pad": module.padding, "mode": PAD_MODES.get(base, "constant")}
    return name, keywords


def describe_layer(module: Any, call: Call) -> Any:
    """Describe the result of a module that is not traced through."""
    live = [info for info in call.inputs if info.geometry is not None]
    if hasattr(module, "trace_geometry") and live:
        geometry = module.trace_geometry(*(info.known() for info in live))
        return call.results(replace(live[0], geometry=geometry))
    function = as_function(module)
    if function is None or not live:
        return unknown(call, "no geometry rule for this layer")
    name, keywords = function
    args = call.args[:1] if keywords else call.args
    if isinstance(module, nn.ConvTranspose2d) and len(call.args) > 1:
        keywords["output_size"] = call.args[1]
    if call.out is None and "training" in keywords:  # `chain` describes layers as they predict
        keywords["training"] = False
    return apply(replace(call, name=name, args=args, kwargs={**call.kwargs, **keywords}))
