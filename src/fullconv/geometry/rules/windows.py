"""Operations with a window or a factor: convolutions, pools, padding, resizing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from fullconv.geometry.axis import MODES, Axis
from fullconv.geometry.length import Length, ratio
from fullconv.geometry.value import (
    BOTH,
    OTHER,
    Call,
    SizeDependent,
    TensorInfo,
    X,
    Y,
    as_const,
    as_length,
    formula,
    is_size_dependent,
    unknown,
)

Pair = tuple[int, int]

PARAMETERS = {
    "conv": ("input", "weight", "bias", "stride", "padding", "dilation", "groups", "padding_mode"),
    "conv_transpose": ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation"),
    "max_pool": ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    "avg_pool": (
        "input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override",
    ),
    "lp_pool": ("input", "norm_type", "kernel_size", "stride", "ceil_mode"),
    "interpolate": (
        "input", "size", "scale_factor", "mode", "align_corners", "recompute_scale_factor", "antialias",
    ),
    "pad": ("input", "pad", "mode", "value"),
}  # fmt: skip
"""Parameters of functions of ``torch.nn.functional`` in order; a layer gives its attributes of the same names."""


def parameters(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments behind the input of a function of `PARAMETERS` by name; ``conv2d`` is ``conv``."""
    names = PARAMETERS[name.removesuffix("_with_indices").removesuffix("1d").removesuffix("2d")]
    options = dict(zip(names, args, strict=False)) | dict(kwargs)
    options.pop("input", None)
    return options


@dataclass(frozen=True)
class WindowSpec:
    """The window that a convolution or pool slides, per dimension: what geometry, streaming and counting read."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[Pair, ...]
    """(before, after)."""
    dilation: tuple[int, ...]
    ceil: bool = False
    transposed: bool = False
    output_padding: tuple[int, ...] = (0, 0)
    padding_mode: str = "zeros"

    @classmethod
    def of(cls, name: str, options: Mapping[str, Any]) -> WindowSpec:
        """Read the window of a function such as ``"conv2d"`` from its `parameters`; padding may be pairs (before, after)."""
        weight = options.get("weight")
        kernel = options["kernel_size"] if weight is None else tuple(weight.shape[2:])
        count = len(kernel) if weight is not None else int(name.removesuffix("_with_indices")[-2])
        kernel, stride = per_dim(kernel, count), as_const(options.get("stride"))
        dilation, padding = per_dim(options.get("dilation", 1), count), as_const(options.get("padding", 0))
        if isinstance(padding, str):
            total = [(k - 1) * d if padding == "same" else 0 for k, d in zip(kernel, dilation, strict=True)]
            pads = [(t // 2, t - t // 2) for t in total]  # PyTorch puts the odd cell behind
        else:
            pads = [(p, p) if isinstance(p, int) else (p[0], p[1]) for p in per_dim(padding, count)]
        return cls(
            tuple(kernel),
            tuple((1,) * count if weight is not None else kernel)
            if stride in (None, [])
            else tuple(per_dim(stride, count)),
            tuple(pads),
            tuple(dilation),
            bool(options.get("ceil_mode", False)),
            "transpose" in name,
            tuple(per_dim(options.get("output_padding", 0), count)),
            options.get("padding_mode", "zeros"),
        )

    def reach(self, dim: int) -> int:
        """Return the cells between the first and the last that a window reads."""
        return (self.kernel[dim] - 1) * self.dilation[dim]

    def reads(self, dim: int, cell: int) -> Pair:
        """Return first and last input cell that an output cell reads; some may lie beyond the borders."""
        stride, before = self.stride[dim], self.padding[dim][0]
        if self.transposed:
            return -(-(cell + before - self.reach(dim)) // stride), (cell + before) // stride
        return cell * stride - before, cell * stride - before + self.reach(dim)

    def output_size(self, dim: int, size: int) -> int:
        """Return the number of output cells for a number of input cells."""
        (before, after), stride, reach = self.padding[dim], self.stride[dim], self.reach(dim)
        if self.transposed:
            return (size - 1) * stride - before - after + reach + self.output_padding[dim] + 1
        free = size + before + after - reach - 1
        if not self.ceil:
            return free // stride + 1
        count = -(-free // stride) + 1
        if stride + after <= reach + 1:
            return count
        return count - 1 if (count - 1) * stride >= size + before else count  # no window begins in the padding

    def apply(self, dim: int, axis: Axis) -> Axis:
        """Return the axis of the output."""
        kernel, stride, dilation = self.kernel[dim], self.stride[dim], self.dilation[dim]
        before, after = self.padding[dim]
        if self.transposed:
            return axis.transposed(kernel, stride, before, dilation)
        moved = axis.conv(kernel, stride, before, dilation)
        if self.padding_mode != "reflect":
            return moved
        # Mirrored cells lie inside the window, unless there are more of them than half the window holds.
        more_before, more_after = (axis.jump * max(0, 2 * cells - self.reach(dim)) for cells in (after, before))
        return replace(moved, rf_start=moved.rf_start - more_before, rf_end=moved.rf_end + more_after)


def per_dim(option: Any, count: int) -> list[Any]:
    """Return an option as one entry per dimension."""
    option = as_const(option)
    if isinstance(option, (tuple, list)):
        return list(option) * count if len(option) == 1 else list(option)
    return [option] * count


def map_axes(
    info: TensorInfo, count: int, change: Callable[[int, Axis], Axis], resize: Callable[[int, Any], Any]
) -> TensorInfo:
    """Change the axes and lengths of the last ``count`` dimensions.

    ``change`` gets the dimension's number and its axis, ``resize`` the number of cells, as a formula.
    """
    for i, role in enumerate(info.dims[-count:]):
        if info.geometry is not None and role in {X, Y}:
            length = formula(resize, i, info.length(role))
            axis = change(i, info.axis(role))
            info = info.with_axis(role, axis, length if isinstance(length, Length) else None)
    return info


def convolution(call: Call) -> Any:
    """``F.conv*d`` and ``F.conv_transpose*d``."""
    options = parameters(call.name, call.args, call.kwargs)
    spec, info = WindowSpec.of(call.name, options), call.input
    if getattr(options["weight"], "geometry", None) is not None:
        info = replace(info, geometry=call.merged())
    if is_size_dependent([options.get(name) for name in ("stride", "padding", "dilation")]):
        info = call.flag(info, size_dependent="depends on the image's size")
    if spec.padding_mode == "circular":
        info = call.flag(info, global_op="circular padding")
    call, count = call.with_input(info), len(spec.kernel)
    sliding = [role for role, kernel in zip(info.dims[-count:], spec.kernel, strict=True) if kernel > 1]
    if (sliding and any(info.dims[:-count])) or BOTH in sliding:
        return unknown(call, f"{call.name} over positions in one row")
    if len(info.dims) > count and info.dims[-count - 1]:
        info = call.flag(info, global_op="a convolution that mixes all positions")
    if (wanted := options.get("output_size")) is not None:
        info = map_axes(info, count, spec.apply, lambda i, _: as_length(per_size(wanted, count)[i]))
    else:
        info = map_axes(info, count, spec.apply, spec.output_size)
    for i, role in enumerate(info.dims[-count:]):
        if info.geometry is not None and role in {X, Y}:  # the last cells of a transposed window may read nothing
            missing = spec.stride[i] + spec.padding[i][0] - spec.reach(i) - spec.output_padding[i] - 1
            info = info.trim(role, 0, missing if spec.transposed else 0)
    return call.results(info)


def per_size(sizes: Any, count: int) -> list[Any]:
    """Return a size as one entry per dimension."""
    return list(sizes)[-count:] if isinstance(sizes, (tuple, list)) else [sizes] * count


def pool(call: Call) -> Any:
    """``F.max_pool*d``, ``F.avg_pool*d``, ``F.lp_pool*d``; a window of the image's size sees all of it."""
    options, count = parameters(call.name, call.args, call.kwargs), int(call.name.removesuffix("_with_indices")[-2])
    if is_size_dependent(options["kernel_size"]):
        return global_pool(call, count, "global pooling")
    info = call.input
    if any(info.dims[:-count]) or BOTH in info.dims:
        return unknown(call, f"{call.name} over positions in one row")
    spec = WindowSpec.of(call.name, options)
    found = call.results(map_axes(info, count, spec.apply, spec.output_size))
    if not isinstance(found, tuple):
        return found
    return found[0], call.flag(found[1], unknown_op="places in the whole map as numbers")


def global_pool(call: Call, count: int, what: str) -> Any:
    """Pool the whole image into a few cells, which no longer have a position."""
    info = call.input
    if not any(info.dims[-count:]):
        return call.results(info)
    dims = (*info.dims[:-count], *[OTHER] * count)
    return call.results(call.flag(replace(info, dims=dims), global_op=what), dims)


def adaptive_pool(call: Call) -> Any:
    """``F.adaptive_avg_pool*d`` and ``F.adaptive_max_pool*d``."""
    mode = "average" if "avg" in call.name else "maximum"
    size = call.const(1, "output_size")
    what = f"global {mode} pooling" if set(per_dim(size, 2)) == {1} else f"adaptive {mode} pooling to {size}"
    return global_pool(call, int(call.name[-2]), what)


def pad(call: Call) -> Any:
    """``F.pad``: pairs (before, after) from the last dimension on."""
    options = parameters("pad", call.args, call.kwargs)
    amounts, mode = list(options["pad"]), options.get("mode", "constant")
    info = call.input
    if info.geometry is None:
        return call.results(info)
    for pair, role in zip(range(0, len(amounts), 2), reversed(info.dims), strict=False):
        before, after = as_const(amounts[pair]), as_const(amounts[pair + 1])
        if role == BOTH and (before or after):
            return unknown(call, "padding of positions in one row")
        if role not in {X, Y}:
            continue
        behind = after if isinstance(amounts[pair + 1], int) else getattr(amounts[pair + 1], "length", None)
        if isinstance(behind, Length):  # it may repeat with the image's size, unless other cells are its mirror
            behind = behind.rest if behind.slope == 0 and mode == "constant" else None
        if isinstance(amounts[pair], SizeDependent) or behind is None:
            info = call.flag(info, size_dependent="depends on the image's size")
        if mode == "circular" and (before or after):
            info = call.flag(info, global_op="circular padding")
        axis, length = (
            info.axis(role),
            formula(lambda *counts: sum(counts), info.length(role), *amounts[pair : pair + 2]),
        )
        info = info.trim(role, -before, -(behind or 0))
        info = info.with_axis(role, axis.mirror(before, after) if mode == "reflect" else axis.pad(before), length)
    return call.sized(call.results(info)) if is_size_dependent(options.get("value")) else call.results(info)


def interpolate(call: Call) -> Any:
    """``F.interpolate``."""
    options, info = parameters("interpolate", call.args, call.kwargs), call.input
    size, scale = options.get("size"), options.get("scale_factor")
    mode, antialias = options.get("mode", "nearest"), options.get("antialias", False)
    if not (Y in info.dims and X in info.dims) or info.dims[-2:] != (Y, X):
        return call.results(info) if not info.spatial else unknown(call, "resizing of positions in one row")
    if info.geometry is None:
        return call.results(call.sized(info) if is_size_dependent((size, scale)) else info)
    lengths = [info.length(Y), info.length(X)]
    if size is not None or (scale is not None and options.get("recompute_scale_factor")):
        if call.out is None:
            return unknown(call, "resizing to a given size")
        sizes = _scaled(lengths, scale) if size is None else [formula(as_length, n) for n in per_size(size, 2)]
        found = [_factor(new, old) for new, old in zip(sizes, lengths, strict=True)]
        rounded = [Fraction(int(n), int(old)) for n, old in zip(call.out.shape[-2:], info.shape[-2:], strict=True)]
        factors = [a if a is not None else b for a, b in zip(found, rounded, strict=True)]
        lengths = [new if isinstance(new, Length) else None for new in sizes]
        if None in found:
            info = call.flag(info, size_dependent="resizing to a size; the factor depends on the image's size")
    else:
        factors = [Fraction(f).limit_denominator(64) for f in per_dim(scale, 2)]
        lengths = _scaled(lengths, scale)
        if any(float(f) != float(g) for f, g in zip(factors, per_dim(scale, 2), strict=True)):
            return unknown(call.with_input(info), f"resizing by {as_const(scale)}")
    if is_size_dependent(scale) or options.get("align_corners"):
        info = call.flag(info, size_dependent="the factor depends on the image's size")
    if mode not in MODES or (antialias and min(factors) < 1):
        return unknown(call.with_input(info), f"{mode} interpolation{' with antialias' if antialias else ''}")
    return call.results(map_axes(info, 2, lambda i, axis: axis.resize(factors[i], mode), lambda i, _: lengths[i]))


def _scaled(lengths: Sequence[Length | None], scale: Any) -> list[Length | None]:
    """Return the numbers of cells that a scale factor gives."""
    factors = per_dim(scale, 2)
    return [formula(lambda cells, f=f: cells * f // 1, n) for n, f in zip(lengths, factors, strict=True)]


def _factor(new: Any, old: Length | None) -> Fraction | None:
    """Return the factor between two numbers of cells where it is the same for all images."""
    if not isinstance(new, Length) or old is None:
        return None
    return ratio(new, old)


def pixel_shuffle(call: Call) -> Any:
    """``F.pixel_shuffle``: a cell becomes factor x factor cells."""
    factor = call.const(1, "upscale_factor")
    return call.results(
        map_axes(
            call.input, 2, lambda _, axis: axis.resize(Fraction(factor), "nearest"), lambda _, cells: cells * factor
        )
    )


def pixel_unshuffle(call: Call) -> Any:
    """``F.pixel_unshuffle``: factor x factor cells become one."""
    factor = call.const(1, "downscale_factor")
    return call.results(
        map_axes(call.input, 2, lambda _, axis: axis.conv(factor, factor), lambda _, cells: cells // factor)
    )
