"""A network row by row: each layer keeps the few rows that its next ones read, so every cell is computed once.

Tiles compute their halo again; here an image runs through the network from top to bottom, some rows at a time. A layer
computes the rows that its input suffices for, and branches that meet wait for one another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, fx, nn

from fullconv.geometry import OTHER, TensorInfo, WindowSpec, X, Y, map_aggregate, operation, per_dim, tree_leaves
from fullconv.nn import Network, Scores
from fullconv.nn.heads import Crop
from fullconv.nn.upsample import Upsample, half_pixel_coords, interp2d
from fullconv.tiling.plan import explain_inexact, upsamples_by_size
from fullconv.tiling.row_ops import (
    NEVER,
    AvgPool,
    BilinearUp,
    Conv,
    CropOp,
    MaxPool,
    Pad,
    Pointwise,
    Resize,
    RowBuffer,
    RowOp,
    SlidingOp,
    Slot,
    TransposedConv,
)

JOINING = {"add", "sub", "mul", "div", "cat", "maximum", "minimum", "where"}
"""Operations of several maps whose row i comes from their rows i."""
VIEWS = {"getitem", "permute", "transpose", "contiguous", "to", "float", "type", "detach", "identity", "dropout"}
RESHAPING = {"view", "reshape", "flatten", "unflatten", "narrow", "select", "chunk", "split", "unbind", "squeeze"}


class UnsupportedOpError(Exception):
    """An operation has no form by rows; the message names it."""


@dataclass
class RowNode:
    """One value of a network that has rows."""

    name: str
    op: RowOp | None
    """What computes it; None for the image."""
    inputs: list[int]
    """Values that it is computed from, by their place in the list of nodes."""
    dim: int
    """The dimension of rows."""
    shape: tuple[int, ...]
    """With the example."""
    shared: bool
    """Whether it lies in its first input's memory: a view, or an operation in place."""


def lower(root: nn.Module, graph: fx.Graph) -> tuple[list[RowNode], Any]:
    """Turn a graph into row operations, the image first; return them, and the result with places among them for tensors."""
    (output,) = (node for node in graph.nodes if node.op == "output")
    required, pending = set(), [output]
    while pending:
        node = pending.pop()
        if node not in required:
            required.add(node)
            pending += node.all_input_nodes
    place: dict[fx.Node, int] = {}
    nodes: list[RowNode] = []
    for node in graph.nodes:
        if node not in required or node is output:
            continue
        info = node.meta["info"]
        if isinstance(info, TensorInfo) and info.geometry is None:
            continue
        is_map = isinstance(info, TensorInfo) and info.dims.count(Y) == info.dims.count(X) == 1
        if not is_map or not set(info.dims) <= {Y, X, OTHER}:
            raise UnsupportedOpError(f"{node.name} is no map of rows and columns")
        inputs = [source for source in node.all_input_nodes if source in place]
        op = None if node.op == "placeholder" else _Lowering(root, node, inputs).lower()
        place[node] = len(nodes)
        nodes.append(RowNode(node.name, op, [place[i] for i in inputs], info.dims.index(Y), info.shape, _shares(node)))
    returned = fx.map_arg(output.args[0], lambda node: place.get(node))
    if None in [place.get(node) for node in output.all_input_nodes]:
        raise UnsupportedOpError("what the network returns does not depend on the image")
    return nodes, returned


def _shares(node: fx.Node) -> bool:
    """Whether a node's value lies in the memory of its first input's."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or not isinstance(source.meta["value"], Tensor):
        return False
    mine, theirs = node.meta["value"].untyped_storage(), source.meta["value"].untyped_storage()
    return bool(mine.data_ptr() == theirs.data_ptr())


class _Lowering:
    """Turns one node of a graph into a row operation."""

    def __init__(self, root: nn.Module, node: fx.Node, inputs: Sequence[fx.Node]) -> None:
        self.node, self.inputs = node, inputs
        self.layer = root.get_submodule(str(node.target)) if node.op == "call_module" else None
        self.name, self.options = operation(root, node)
        self.info: TensorInfo = node.meta["info"]

    def lower(self) -> RowOp:
        """Return the row operation."""
        for source in self.node.all_input_nodes:
            if not isinstance(source.meta["value"], Tensor):
                raise self.error("takes a number computed from the image")
        self._check_in_place()
        make = LAYERS.get(type(self.layer)) or (FUNCTIONS.get(self.name) if self.options else None)
        if make is None:
            return self._pointwise()
        infos = [source.meta["info"] for source in self.inputs]
        if any(info.dims[-2:] != (Y, X) or len(info.dims) != 4 for info in infos):
            raise self.error("takes other than (N, C, H, W)")
        return make(self)

    def error(self, why: str) -> UnsupportedOpError:
        """Return an error that names the operation."""
        name = self.name if self.layer is None else type(self.layer).__name__
        return UnsupportedOpError(f"{self.node.name} ({name}) {why}")

    def _check_in_place(self) -> None:
        """Raise for an operation in place on what others read, too."""
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

    def _pointwise(self) -> Pointwise:
        """Return an operation that computes each row from the same row of its inputs."""
        node, layer = self.node, self.layer
        if not self.inputs:
            raise self.error("takes no map")
        infos: list[TensorInfo] = [source.meta["info"] for source in self.inputs]
        rows = self.info.shape[self.info.dims.index(Y)]
        if any(info.shape[info.dims.index(Y)] != rows for info in infos):
            raise self.error("changes the number of rows")
        if len(infos) > 1 and (layer is not None or self.name not in JOINING):
            raise self.error("joins maps without a rule")
        if len(infos) == 1 and infos[0].known().y != self.info.known().y:
            raise self.error("reads other rows than its own")
        if layer is None and (self.name in RESHAPING or (self.name == "getitem" and not self._keeps_rows())):
            raise self.error("takes maps apart")
        slots = {source: Slot(place) for place, source in enumerate(self.inputs)}
        arguments: Any = (node.args, node.kwargs)
        args, kwargs = fx.map_arg(arguments, lambda source: slots.get(source) or source.meta["value"])  # type: ignore[arg-type,return-value]
        if layer is not None:
            return Pointwise(layer.forward, args, kwargs)
        if node.op == "call_method":
            return Pointwise(getattr(Tensor, str(node.target)), args, kwargs)
        return Pointwise(node.target, args, kwargs)  # type: ignore[arg-type]

    def _keeps_rows(self) -> bool:
        """Whether an index takes all rows."""
        index = self.node.args[1]
        before = self.inputs[0].meta["info"].dims.index(Y)
        if not isinstance(index, tuple) or Ellipsis in index or None in index:
            return False
        return bool(len(index) <= before or index[before] == slice(None))


def _sliding(op: type[SlidingOp]) -> Callable[[_Lowering], RowOp]:
    def make(node: _Lowering) -> RowOp:
        spec = WindowSpec.of(node.name, node.options)
        if spec.padding_mode != "zeros":
            raise node.error(f"pads by {spec.padding_mode}")
        return op(spec, node.options)

    return make


def _resize(node: _Lowering) -> RowOp:
    options = node.options
    scale, mode = options.get("scale_factor"), options.get("mode") or "nearest"
    factors = [float(f) for f in per_dim(scale, 2)] if scale is not None else [0.5]
    whole = all(f == int(f) for f in factors)
    if options.get("size") is not None or options.get("align_corners") or options.get("antialias") or not whole:
        raise node.error("does not resize by a whole factor")
    if mode not in ("nearest", "bilinear"):
        raise node.error(f"resizes by {mode} interpolation")
    return Resize((int(factors[0]), int(factors[1])), mode)


def _pad(node: _Lowering) -> RowOp:
    amounts, mode = list(node.options["pad"]), node.options.get("mode", "constant")
    if mode != "constant" or len(amounts) > 4:
        raise node.error(f"pads by {mode}")
    left, right, above, below = [*amounts, 0, 0][:4]
    return Pad((left, right), (above, below), float(node.options.get("value") or 0))


LAYERS: dict[Any, Callable[[_Lowering], RowOp]] = {
    Upsample: lambda node: BilinearUp(node.layer),  # type: ignore[arg-type]
    Crop: lambda node: CropOp(node.layer.offset),  # type: ignore[union-attr, arg-type]
}
FUNCTIONS: dict[str, Callable[[_Lowering], RowOp]] = {
    "conv2d": _sliding(Conv),
    "conv_transpose2d": _sliding(TransposedConv),
    "max_pool2d": _sliding(MaxPool),
    "avg_pool2d": _sliding(AvgPool),
    "interpolate": _resize,
    "pad": _pad,
}


def upsample_rows(
    network: Network, scores: Tensor, first: int, total: int, size: tuple[int, int], rows: tuple[int, int]
) -> Tensor:
    """Upsample rows ``first`` to ``first + n`` of ``total`` rows of scores to rows (a, b) of the logits.

    The scores (N, K, n, w) are all that these rows read; the logits (N, K, b - a, W) have the same bits as those of the
    whole image of ``size`` (H, W).
    """
    a, b = rows
    if not upsamples_by_size(network):
        shift = first * network.score_stride
        return cast(Tensor, network.upsample(scores, size, (a - shift, b - shift), check=False))
    down = half_pixel_coords(a, b, total, size[0], scores.device)
    across = half_pixel_coords(0, size[1], scores.shape[-1], size[1], scores.device)
    return interp2d(scores, down - first, across, network.border)


class RowGraph:
    """A network as operations that work on a few rows at a time."""

    def __init__(self, network: Network) -> None:
        if network.halo is None:
            raise UnsupportedOpError(explain_inexact(network))
        self.network = network
        self.nodes, self.returned = lower(*network.graph())
        self.readers: list[list[tuple[int, int]]] = [[] for _ in self.nodes]
        for place, node in enumerate(self.nodes):
            for order, source in enumerate(node.inputs):
                self.readers[source].append((place, order))
        self.results = {leaf for leaf in tree_leaves(self.returned) if isinstance(leaf, int)}

    def buffers(self, height: int) -> list[RowBuffer]:
        """Return an empty buffer for each node's map, for a padded image of some rows."""
        maps: list[RowBuffer] = []
        for node in self.nodes:
            total = height if node.op is None else node.op.total([maps[i].total for i in node.inputs])
            maps.append(RowBuffer(node.dim, total))
        return maps

    def next_rows(self, maps: Sequence[RowBuffer], place: int) -> tuple[int, int]:
        """Return the first row of a map that is not computed, and the one behind the last that can be now."""
        op, rows = self.nodes[place].op, maps[place]
        assert op is not None
        return rows.stop, op.available([maps[source] for source in self.nodes[place].inputs], rows.total)

    def release(self, maps: Sequence[RowBuffer], place: int) -> None:
        """Drop the rows of a map's inputs that no operation reads again, once all its readers have had their turn."""
        for source in self.nodes[place].inputs:
            if self.readers[source][-1][0] == place:
                required = NEVER
                for reader, order in self.readers[source]:
                    rows, op = maps[reader], self.nodes[reader].op
                    if rows.stop < rows.total and op is not None:
                        required = min(required, op.reads(rows.stop, order)[0])
                maps[source].drop(required)


class RowExecutor:
    """Runs one image through a network, from top to bottom."""

    def __init__(self, graph: RowGraph, height: int, width: int, start: int = 0) -> None:
        padded = graph.network.padded_size(height, width)
        self.graph, self.height, self.width = graph, height - start, width
        self.padded = padded[0] - start, padded[1]
        self.maps = graph.buffers(self.padded[0])
        self.known = 0

    @property
    def total(self) -> int:
        """Rows of the image's scores."""
        return self.maps[min(self.graph.results)].total

    def push(self, rows: Tensor) -> Scores | None:
        """Take the next rows (1, C, h, W) of the image; return the rows of scores (1, K, n, w) that they complete."""
        self.known += rows.shape[-2]
        assert self.known <= self.height
        below = self.padded[0] - self.height if self.known == self.height else 0
        beside = self.padded[1] - self.width
        image = self.maps[0]
        image.stop = self.known + below
        image.append(F.pad(rows, (0, beside, 0, below)) if below or beside else rows)
        del rows
        results: dict[int, Tensor] = {}
        for place in range(1, len(self.maps)):
            node, (first, last) = self.graph.nodes[place], self.graph.next_rows(self.maps, place)
            assert node.op is not None
            new = node.op.compute(first, last, [self.maps[source] for source in node.inputs]) if last > first else None
            self.maps[place].stop = last
            self.graph.release(self.maps, place)
            if new is None:
                continue
            if place in self.graph.results:
                results[place] = new
            if self.graph.readers[place]:
                self.maps[place].append(new)
            del new
        return cast(Scores, map_aggregate(self.graph.returned, results.__getitem__)) if results else None
