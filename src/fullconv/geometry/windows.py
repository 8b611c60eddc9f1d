"""Rules of operations with a window or a factor: convolutions, pools, padding, resizing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from fullconv.geometry.axis import MODES, Axis
from fullconv.geometry.call import Call, unknown
from fullconv.geometry.layout import BOTH, OTHER, Sized, Value, X, Y, plain, sized


def spread(option: Any, count: int) -> list[int]:
    """Return an option as one number per dimension."""
    option = plain(option)
    if isinstance(option, (tuple, list)):
        return list(option) * count if len(option) == 1 else list(option)
    return [option] * count


def along(value: Value, count: int, change: Callable[[int, Axis], Axis]) -> Value:
    """Change the axes that the last ``count`` dimensions run along; ``change`` gets the dimension's number and axis."""
    for i, role in enumerate(value.dims[-count:]):
        if value.geometry is not None and role in {X, Y}:
            value = value.with_axis(role, change(i, value.axis(role)))
    return value


def slide(call: Call, count: int, kernels: Sequence[int], change: Callable[[int, Axis], Axis]) -> Any:
    """Apply a window over the last ``count`` dimensions; it mixes channels, the dimension before them."""
    value = call.value
    lead, tail = value.dims[:-count], value.dims[-count:]
    if (any(lead) and max(kernels) > 1) or BOTH in [role for role, k in zip(tail, kernels, strict=True) if k > 1]:
        return unknown(call, f"{call.name} over positions in one row")
    if len(value.dims) > count and value.dims[-count - 1]:
        value = call.flag(value, whole="a convolution that mixes all positions")
    return call.results(along(value, count, change))


def convolve(
    call: Call,
    kernel: Sequence[int],
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    padding_mode: str = "zeros",
) -> Any:
    """Convolve with a window of ``kernel`` taps per dimension."""
    count = len(kernel)
    strides, dilations = spread(stride, count), spread(dilation, count)
    if sized(padding) or sized(stride) or sized(dilation):
        call = _first(call, call.flag(call.value, size_dependent="depends on the picture's size"))
    reach = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
    if isinstance(padding, str):
        before = [r // 2 if padding == "same" else 0 for r in reach]  # PyTorch puts the odd cell behind
        after = [r - b if padding == "same" else 0 for r, b in zip(reach, before, strict=True)]
    else:
        before = after = spread(padding, count)
    if padding_mode == "circular":
        call = _first(call, call.flag(call.value, whole="circular padding"))

    def change(i: int, axis: Axis) -> Axis:
        changed = axis.conv(kernel[i], strides[i], before[i], dilations[i])
        if padding_mode != "reflect":
            return changed
        # Mirrored cells lie inside the window, unless there are more of them than half the window holds.
        lo, hi = (axis.scale * max(0, 2 * cells - reach[i]) for cells in (after[i], before[i]))
        return replace(changed, lo=changed.lo - lo, hi=changed.hi + hi)

    return slide(call, count, kernel, change)


def _first(call: Call, value: Value) -> Call:
    """Return the call with its first argument replaced."""
    return replace(call, args=(value, *call.args[1:]))


def conv(call: Call) -> Any:
    """``F.conv1d`` and ``F.conv2d``: (input, weight, bias, stride, padding, dilation, groups)."""
    weight = call.arg(1, "weight")
    options = (call.arg(3, "stride", 1), call.arg(4, "padding", 0), call.arg(5, "dilation", 1))
    if weight.geometry is not None:
        call = _first(call, replace(call.value, geometry=call.merged()))
    return convolve(call, weight.shape[2:], *options)


def transpose(call: Call, kernel: Sequence[int], stride: Any = 1, padding: Any = 0, dilation: Any = 1) -> Any:
    """Convolve with a transposed window."""
    count = len(kernel)
    s, p, d = spread(stride, count), spread(padding, count), spread(dilation, count)
    return slide(call, count, kernel, lambda i, axis: axis.transposed(kernel[i], s[i], p[i], d[i]))


def conv_transpose(call: Call) -> Any:
    """``F.conv_transpose2d``: (input, weight, bias, stride, padding, output_padding, groups, dilation)."""
    options = (call.arg(3, "stride", 1), call.arg(4, "padding", 0), call.arg(7, "dilation", 1))
    return transpose(call, call.arg(1, "weight").shape[2:], *options)


def pool(call: Call, count: int, kernel: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1) -> Any:
    """Pool; a window of the picture's size sees all of it."""
    if sized(kernel):
        return collapse(call, count, "global pooling")
    k, p, d = spread(kernel, count), spread(padding, count), spread(dilation, count)
    s = spread(stride, count) if plain(stride) not in (None, []) else k
    value = call.value
    if any(value.dims[:-count]) or BOTH in value.dims:
        return unknown(call, f"{call.name} over positions in one row")
    return call.results(along(value, count, lambda i, axis: axis.pool(k[i], s[i], p[i], d[i])))


def max_pool(call: Call) -> Any:
    """``F.max_pool2d``: (input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)."""
    options = (call.arg(2, "stride"), call.arg(3, "padding", 0), call.arg(4, "dilation", 1))
    return pool(call, int(call.name[8]), call.arg(1, "kernel_size"), *options)


def avg_pool(call: Call) -> Any:
    """``F.avg_pool2d``: (input, kernel_size, stride, padding, ...)."""
    return pool(call, int(call.name[8]), call.arg(1, "kernel_size"), call.arg(2, "stride"), call.arg(3, "padding", 0))


def lp_pool(call: Call) -> Any:
    """``F.lp_pool2d``: (input, norm_type, kernel_size, stride, ceil_mode)."""
    return pool(call, int(call.name[7]), call.arg(2, "kernel_size"), call.arg(3, "stride"))


def collapse(call: Call, count: int, what: str) -> Any:
    """Pool the whole picture into a few cells, which have no place of their own any more."""
    value = call.value
    if not any(value.dims[-count:]):
        return call.results(value)
    dims = (*value.dims[:-count], *[OTHER] * count)
    return call.results(call.flag(replace(value, dims=dims), whole=what), dims)


def adaptive_pool(call: Call) -> Any:
    """``F.adaptive_avg_pool2d`` and ``F.adaptive_max_pool2d``."""
    kind = "average" if "avg" in call.name else "maximum"
    size = call.number(1, "output_size")
    what = f"global {kind} pooling" if set(spread(size, 2)) == {1} else f"adaptive {kind} pooling to {size}"
    return collapse(call, int(call.name[-2]), what)


def pad(call: Call) -> Any:
    """``F.pad``: (input, pad, mode, value); pairs (before, after) from the last dimension on."""
    amounts, mode = list(call.arg(1, "pad")), call.arg(2, "mode", "constant")
    value = call.value
    if value.geometry is None:
        return call.results(value)
    for pair, role in zip(range(0, len(amounts), 2), reversed(value.dims), strict=False):
        before, after = plain(amounts[pair]), plain(amounts[pair + 1])
        if role == BOTH and (before or after):
            return unknown(call, "padding of positions in one row")
        if role not in {X, Y}:
            continue
        if isinstance(amounts[pair], Sized):
            value = call.flag(value, size_dependent="depends on the picture's size")
        if mode == "circular" and (before or after):
            value = call.flag(value, whole="circular padding")
        axis = value.axis(role)
        value = value.with_axis(role, axis.mirror(before, after) if mode == "reflect" else axis.pad(before))
    return call.results(value)


def interpolate(call: Call) -> Any:
    """``F.interpolate``: (input, size, scale_factor, mode, align_corners, recompute_scale_factor, antialias)."""
    value, size = call.value, call.number(1, "size")
    scale = call.arg(2, "scale_factor")
    mode, antialias = call.arg(3, "mode", "nearest"), call.arg(6, "antialias", False)
    if not (Y in value.dims and X in value.dims) or value.dims[-2:] != (Y, X):
        return call.results(value) if not value.spatial else unknown(call, "resizing of positions in one row")
    if size is not None:
        if call.out is None:
            return unknown(call, "resizing to a given size")
        given = [Fraction(int(n), int(old)) for n, old in zip(call.out.shape[-2:], value.shape[-2:], strict=True)]
        value = call.flag(value, size_dependent="resizing to a size; the factor depends on the picture's size")
    else:
        given = [Fraction(f).limit_denominator(64) for f in spread(scale, 2)]
    if sized(scale) or call.arg(4, "align_corners"):
        value = call.flag(value, size_dependent="the factor depends on the picture's size")
    if mode not in MODES or (antialias and min(given) < 1):
        return unknown(_first(call, value), f"{mode} interpolation{' with antialias' if antialias else ''}")
    if scale is not None and any(float(f) != float(g) for f, g in zip(given, spread(scale, 2), strict=True)):
        return unknown(_first(call, value), f"resizing by {plain(scale)}")
    return call.results(along(value, 2, lambda i, axis: axis.resize(given[i], mode)))


def pixel_shuffle(call: Call) -> Any:
    """``F.pixel_shuffle``: a cell becomes factor x factor cells."""
    factor = Fraction(call.number(1, "upscale_factor"))
    return call.results(along(call.value, 2, lambda _, axis: axis.resize(factor, "nearest")))


def pixel_unshuffle(call: Call) -> Any:
    """``F.pixel_unshuffle``: factor x factor cells become one."""
    factor = call.number(1, "downscale_factor")
    return call.results(along(call.value, 2, lambda _, axis: axis.conv(factor, factor)))
