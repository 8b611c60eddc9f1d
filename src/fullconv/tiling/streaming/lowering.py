"""A traced network as steps that work on a few rows at a time, or the operation that keeps it from that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fullconv.geometry.layout import OTHER, Value, X, Y
from fullconv.geometry.rules import name_of
from fullconv.geometry.windows import spread
from fullconv.nn import Conv2dSameStatic
from fullconv.nn.heads import Crop
from fullconv.nn.upsample import Upsample
from fullconv.tiling.streaming.row_ops import (
    AvgPool,
    BilinearUp,
    CropOp,
    Pad,
    Pointwise,
    Resize,
    RowOp,
    SlidingOp,
    Transposed,
)

JOINING = {"add", "sub", "mul", "div", "cat", "maximum", "minimum", "where"}
"""Operations of several maps whose row i comes from their rows i."""
VIEWS = {"getitem", "permute", "transpose", "contiguous", "to", "float", "type", "detach", "identity", "dropout"}
RESHAPING = {"view", "reshape", "flatten", "unflatten", "narrow", "select", "chunk", "split", "unbind", "squeeze"}


class UnsupportedOpError(Exception):
    """An operation has no form by rows; the message names it."""


@dataclass
class Node:
    """One value of a network that has rows."""

    name: str
    step: RowOp | None
    """What computes it; None for the picture."""
    inputs: list[int]
    """Values that it is computed from, by their place in the list of nodes."""
    dim: int
    """The dimension of rows."""
    shape: tuple[int, ...]
    """With the example."""
    shared: bool
    """Whether it lies in its first input's memory: a view, or an operation in place."""


def lower(root: nn.Module, graph: fx.Graph) -> tuple[list[Node], Any]:
    """Turn a graph into steps.

    Args:
        root: The module in which the graph's targets are paths.
        graph: Of `fullconv.geometry.trace_graph`.

    Returns:
        Nodes in order, the picture first; and what the network returns, with places in that list for tensors.

    Raises:
        UnsupportedOpError: An operation has no form by rows.
    """
    (output,) = (node for node in graph.nodes if node.op == "output")
    needed = _needed(output)
    place: dict[fx.Node, int] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        if node not in needed or node is output or not _is_map(node):
            continue
        inputs = [given for given in node.all_input_nodes if given in place]
        step = None if node.op == "placeholder" else _Lowering(root, node, inputs).step()
        value: Value = node.meta["result"]
        place[node] = len(nodes)
        rows = value.dims.index(Y)
        nodes.append(Node(node.name, step, [place[i] for i in inputs], rows, value.shape, _shares(node)))
    returned = fx.map_arg(output.args[0], lambda node: place.get(node))
    if None in [place.get(node) for node in output.all_input_nodes]:
        raise UnsupportedOpError("what the network returns does not depend on the picture")
    return nodes, returned


def _needed(output: fx.Node) -> set[fx.Node]:
    """Return the nodes that the output depends on."""
    found, left = set(), [output]
    while left:
        node = left.pop()
        if node not in found:
            found.add(node)
            left += node.all_input_nodes
    return found


def _is_map(node: fx.Node) -> bool:
    """Say whether a node is a map of rows and columns, or else a value that does not depend on the picture.

    Raises:
        UnsupportedOpError: It is neither.
    """
    result = node.meta["result"]
    if isinstance(result, Value):
        if result.geometry is None:
            return False
        if result.dims.count(Y) == result.dims.count(X) == 1 and set(result.dims) <= {Y, X, OTHER}:
            return True
    raise UnsupportedOpError(f"{node.name} is no map of rows and columns")


def _shares(node: fx.Node) -> bool:
    """Say whether a node's value lies in the memory of its first input's."""
    given = node.args[0] if node.args else None
    if not isinstance(given, fx.Node) or not isinstance(given.meta["value"], Tensor):
        return False
    mine, theirs = node.meta["value"].untyped_storage(), given.meta["value"].untyped_storage()
    return bool(mine.data_ptr() == theirs.data_ptr())


class _Lowering:
    """Turns one node of a graph into a step."""

    def __init__(self, root: nn.Module, node: fx.Node, inputs: Sequence[fx.Node]) -> None:
        self.node, self.inputs = node, inputs
        self.layer = root.get_submodule(str(node.target)) if node.op == "call_module" else None
        self.name = type(self.layer).__name__ if self.layer is not None else name_of(node.target)
        self.value: Value = node.meta["result"]

    def step(self) -> RowOp:
        """Return the step.

        Raises:
            UnsupportedOpError: There is none.
        """
        for given in self.node.all_input_nodes:
            if not isinstance(given.meta["value"], Tensor):
                raise self.error("takes a number of the picture's")
        self._check_in_place()
        make = LAYERS.get(type(self.layer)) if self.layer is not None else FUNCTIONS.get(self.name)
        if make is None:
            return self._local()
        if any(
            given.meta["result"].dims[-2:] != (Y, X) or len(given.meta["result"].dims) != 4 for given in self.inputs
        ):
            raise self.error("takes other than (N, C, H, W)")
        return make(self)

    def arg(self, place: int, name: str, default: Any = None) -> Any:
        """Return an argument, a weight as a tensor."""
        args = self.node.args
        found = args[place] if len(args) > place else self.node.kwargs.get(name, default)
        return found.meta["value"] if isinstance(found, fx.Node) else found

    def error(self, why: str) -> UnsupportedOpError:
        """Return an error that names the operation."""
        return UnsupportedOpError(f"{self.node.name} ({self.name}) {why}")

    def _check_in_place(self) -> None:
        """Raise for a change in place of what others read, too."""
        if not _shares(self.node):
            return
        if isinstance(self.layer, (nn.Identity, nn.modules.dropout._DropoutNd)):
            return
        if self.layer is None and self.name in VIEWS and not self.node.kwargs.get("inplace"):
            return
        base = self.node.args[0]
        while isinstance(base, fx.Node):
            if len(base.users) > 1:
                raise self.error(f"changes {base.name} in place, which others read")
            base = base.args[0] if _shares(base) else None

    def _local(self) -> Pointwise:
        """Return an operation that computes each row from the same row of its inputs."""
        if not self.inputs:
            raise self.error("takes no map")
        values: list[Value] = [given.meta["result"] for given in self.inputs]
        rows = self.value.shape[self.value.dims.index(Y)]
        if any(value.shape[value.dims.index(Y)] != rows for value in values):
            raise self.error("changes the number of rows")
        if len(values) > 1 and (self.layer is not None or self.name not in JOINING):
            raise self.error("joins maps in a way that nobody described")
        if len(values) == 1 and values[0].known().y != self.value.known().y:
            raise self.error("reads other rows than its own")
        if self.layer is None and (self.name in RESHAPING or (self.name == "getitem" and not self._keeps_rows())):
            raise self.error("takes maps apart")
        return Pointwise(self._call())

    def _keeps_rows(self) -> bool:
        """Say whether an index takes all rows."""
        index = self.node.args[1]
        before = self.inputs[0].meta["result"].dims.index(Y)
        if not isinstance(index, tuple) or Ellipsis in index or None in index:
            return False
        return bool(len(index) <= before or index[before] == slice(None))

    def _call(self) -> Callable[[Sequence[Tensor]], Tensor]:
        node, layer, order = self.node, self.layer, {given: i for i, given in enumerate(self.inputs)}

        def call(maps: Sequence[Tensor]) -> Tensor:
            args, kwargs = fx.map_arg(
                (node.args, node.kwargs), lambda given: maps[order[given]] if given in order else given.meta["value"]
            )
            if layer is not None:
                return layer.forward(*args, **kwargs)  # type: ignore[no-any-return]
            if node.op == "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)  # type: ignore[no-any-return]
            return node.target(*args, **kwargs)  # type: ignore[operator, no-any-return]

        return call


def _two(option: Any) -> tuple[int, int]:
    first, second = spread(option, 2)
    return first, second


def _convolution(read: _Lowering) -> RowOp:
    layer: Any = read.layer
    if layer is None:
        weight, bias = read.arg(1, "weight"), read.arg(2, "bias")
        stride, padding = _two(read.arg(3, "stride", 1)), read.arg(4, "padding", 0)
        dilation, groups = _two(read.arg(5, "dilation", 1)), read.arg(6, "groups", 1)
    else:
        if layer.padding_mode != "zeros":
            raise read.error(f"pads by {layer.padding_mode}")
        weight, bias, padding = layer.weight, layer.bias, layer.padding
        stride, dilation, groups = layer.stride, layer.dilation, layer.groups
    kernel = tuple(weight.shape[-2:])
    if isinstance(layer, Conv2dSameStatic):
        pads = tuple(layer.pads())
    elif isinstance(padding, str):
        total = [(k - 1) * d if padding == "same" else 0 for k, d in zip(kernel, dilation, strict=True)]
        pads = tuple((t // 2, t - t // 2) for t in total)
    else:
        pads = tuple((p, p) for p in _two(padding))

    def slide(x: Tensor, pad: tuple[int, int]) -> Tensor:
        return F.conv2d(x, weight, bias, stride, pad, dilation, groups)

    return SlidingOp(kernel, stride, pads, dilation, slide)  # type: ignore[arg-type]


def _pool_options(read: _Lowering, last: str) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], Any]:
    """Return kernel, stride, padding, and the option behind them."""
    layer: Any = read.layer
    if layer is not None:
        kernel, stride, padding = layer.kernel_size, layer.stride, layer.padding
        return _two(kernel), _two(stride if stride is not None else kernel), _two(padding), getattr(layer, last)
    kernel, stride = read.arg(1, "kernel_size"), read.arg(2, "stride")
    more = read.arg(4, last, {"dilation": 1, "ceil_mode": False}[last])
    return _two(kernel), _two(stride if stride not in (None, []) else kernel), _two(read.arg(3, "padding", 0)), more


def _max_pool(read: _Lowering) -> RowOp:
    kernel, stride, padding, dilation = _pool_options(read, "dilation")
    ceil = bool(getattr(read.layer, "ceil_mode", False) if read.layer is not None else read.arg(5, "ceil_mode", False))
    dilation = _two(dilation)

    def slide(x: Tensor, pad: tuple[int, int]) -> Tensor:
        return F.max_pool2d(x, kernel, stride, pad, dilation, ceil)

    pads = tuple((p, p) for p in padding)
    # PyTorch also computes where each maximum lies, as int64
    return SlidingOp(kernel, stride, pads, dilation, slide, -torch.inf, ceil, scratch=8)  # type: ignore[arg-type]


def _mean_pool(read: _Lowering) -> RowOp:
    kernel, stride, padding, ceil = _pool_options(read, "ceil_mode")
    layer: Any = read.layer
    count = layer.count_include_pad if layer is not None else read.arg(5, "count_include_pad", True)
    divisor = layer.divisor_override if layer is not None else read.arg(6, "divisor_override")

    def slide(x: Tensor, pad: tuple[int, int]) -> Tensor:
        return F.avg_pool2d(x, kernel, stride, pad, ceil, count, divisor)

    pads = tuple((p, p) for p in padding)
    return AvgPool(kernel, stride, pads, (1, 1), slide, 0.0, bool(ceil), 0, count, divisor)  # type: ignore[arg-type]


def _transposed(read: _Lowering) -> RowOp:
    layer: Any = read.layer
    if layer is None:
        weight, bias = read.arg(1, "weight"), read.arg(2, "bias")
        stride, padding, more = (_two(read.arg(3 + i, name, default)) for i, (name, default) in
                                 enumerate((("stride", 1), ("padding", 0), ("output_padding", 0))))  # fmt: skip
        groups, dilation = read.arg(6, "groups", 1), _two(read.arg(7, "dilation", 1))
    else:
        weight, bias, stride, padding = layer.weight, layer.bias, layer.stride, layer.padding
        more, groups, dilation = layer.output_padding, layer.groups, layer.dilation

    def slide(x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, weight, bias, stride, (0, padding[1]), more, groups, dilation)

    return Transposed(weight.shape[-2], stride[0], padding[0], dilation[0], more[0], slide)


def _resize(read: _Lowering) -> RowOp:
    layer: Any = read.layer
    names = ("size", "scale_factor", "mode", "align_corners")
    if layer is not None:
        size, scale, mode, corners = (getattr(layer, name, None) for name in names)
        antialias = False
    else:
        size, scale, mode, corners = (read.arg(i, name) for i, name in enumerate(names, start=1))
        antialias = read.arg(6, "antialias", False)
    factors = [float(f) for f in spread(scale, 2)] if scale is not None else [0.5]
    if size is not None or corners or antialias or any(f != int(f) for f in factors):
        raise read.error("does not resize by a whole factor")
    mode = mode or "nearest"
    if mode not in ("nearest", "bilinear"):
        raise read.error(f"resizes by {mode} interpolation")
    return Resize((int(factors[0]), int(factors[1])), mode)


def _pad(read: _Lowering) -> RowOp:
    layer: Any = read.layer
    amounts = list(layer.padding if layer is not None else read.arg(1, "pad"))
    mode, value = (
        ("constant", layer.value) if layer is not None else (read.arg(2, "mode", "constant"), read.arg(3, "value"))
    )
    if mode != "constant" or len(amounts) > 4:
        raise read.error(f"pads by {mode}")
    left, right, above, below = [*amounts, 0, 0][:4]
    return Pad((left, right), (above, below), float(value or 0))


Make = Callable[[_Lowering], RowOp]
LAYERS: dict[Any, Make] = {
    nn.Conv2d: _convolution,
    Conv2dSameStatic: _convolution,
    nn.ConvTranspose2d: _transposed,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _mean_pool,
    nn.Upsample: _resize,
    nn.UpsamplingNearest2d: _resize,
    nn.UpsamplingBilinear2d: _resize,
    nn.ZeroPad2d: _pad,
    nn.ConstantPad2d: _pad,
    Upsample: lambda read: BilinearUp(read.layer),  # type: ignore[arg-type]
    Crop: lambda read: CropOp(read.layer.offset),  # type: ignore[union-attr, arg-type]
}
FUNCTIONS: dict[str, Make] = {
    "conv2d": _convolution,
    "conv_transpose2d": _transposed,
    "max_pool2d": _max_pool,
    "avg_pool2d": _mean_pool,
    "interpolate": _resize,
    "pad": _pad,
}
