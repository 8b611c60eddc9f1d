"""Which rule describes which operation, by its name in PyTorch. What is not listed here is unknown."""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import Tensor

from fullconv.geometry import mixing, shapes, windows
from fullconv.geometry.call import Call, Rule, pointwise, unknown
from fullconv.geometry.layout import Sized, Value, leaves

POINTWISE = """
abs add addcdiv addcmul and bfloat16 ceil celu clamp clamp_max clamp_min clip clone contiguous cos cpu data detach div
divide double elu eq erf exp expm1 float float_power floor floor_divide floordiv ge gelu gt half hardshrink
hardsigmoid hardswish hardtanh identity invert isfinite isinf isnan le leaky_relu lerp log log1p log2 logical_and
logical_not logical_or logsigmoid lt masked_fill maximum minimum mish mul multiply nan_to_num ne neg negative or pos
positive pow reciprocal relu relu6 remainder round rrelu rsqrt rsub selu sigmoid sign silu sin softplus softshrink
softsign sqrt square sub subtract tan tanh tanhshrink threshold to true_divide trunc type type_as where xor dropout
dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout feature_dropout stochastic_depth drop_path
zeros_like ones_like full_like empty_like rand_like randn_like
"""
MIXING = """
mean sum amax amin max min std var std_mean var_mean norm vector_norm prod median logsumexp any all argmax argmin
softmax log_softmax softmin normalize cumsum cumprod sort linalg_vector_norm
"""
RULES: dict[str, Rule] = {
    **dict.fromkeys(POINTWISE.split(), pointwise),
    **dict.fromkeys(["conv1d", "conv2d"], windows.conv),
    **dict.fromkeys(["conv_transpose1d", "conv_transpose2d"], windows.conv_transpose),
    **dict.fromkeys(
        ["max_pool1d", "max_pool2d", "max_pool1d_with_indices", "max_pool2d_with_indices"], windows.max_pool
    ),
    **dict.fromkeys(["avg_pool1d", "avg_pool2d"], windows.avg_pool),
    **dict.fromkeys(["lp_pool1d", "lp_pool2d"], windows.lp_pool),
    **dict.fromkeys([f"adaptive_{kind}_pool{n}d" for kind in ("avg", "max") for n in (1, 2)], windows.adaptive_pool),
    **dict.fromkeys(["batch_norm", "prelu", "local_response_norm"], mixing.channelwise),
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
    **dict.fromkeys(["group_norm", "instance_norm"], mixing.group_norm),
    "linear": mixing.linear,
    **dict.fromkeys(["matmul", "bmm"], mixing.matmul),
    "einsum": mixing.einsum,
    "scaled_dot_product_attention": mixing.attention,
}

ALIASES = {
    "truediv": "div",
    "concat": "cat",
    "dim": "ndim",
    "iadd": "add",
    "isub": "sub",
    "imul": "mul",
    "itruediv": "div",
}
HOMES = ("torch", "_operator", "operator", "math", "timm", "torchvision")
IGNORED = {
    "ndim",
    "dim",
    "ndimension",
    "is_floating_point",
    "dtype",
    "device",
    "is_contiguous",
    "is_cuda",
    "get_device",
}


COUNTS = {"shape", "size", "numel", "stride", "storage_offset", "len", "getitem"}


def name_of(target: Any) -> str:
    """Return the name of a function or method without underscores: ``add_`` and ``iadd`` are ``add``.

    A function of neither PyTorch, Python, timm nor torchvision keeps its module, so that no rule is found for it.
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


def reveals(call: Call, found: Any) -> bool:
    """Whether an operation handed the picture's contents to Python as numbers: ``x.mean().item()``."""
    if call.name in IGNORED or call.name in COUNTS or all(value.geometry is None for value in call.values):
        return False
    harmless = (Value, Sized, Tensor, str, torch.dtype, torch.device, type(None))
    return any(not isinstance(leaf, harmless) for leaf in leaves(found))


def apply(call: Call) -> Any:
    """Describe the result of a call; an operation without a rule is named and unbounded."""
    if call.name in IGNORED or (not call.values and call.name != "getitem"):
        return call.out
    rule = RULES.get(call.name)
    return unknown(call) if rule is None else rule(call)
