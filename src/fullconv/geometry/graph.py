"""The geometry of a chain of layers, and what one trace gives of any network: geometry, memory, multiplications."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, fx, nn

from fullconv.errors import NetworkError, first_line
from fullconv.geometry.axis import IDENTITY, Geometry
from fullconv.geometry.rules import as_function, describe_layer, name_of
from fullconv.geometry.rules.windows import PARAMETERS, parameters
from fullconv.geometry.tracer import ConcreteProxy, LayerGeometry, Tracer, exclusive
from fullconv.geometry.value import OTHER, Call, TensorInfo, X, Y, map_aggregate

EXAMPLE_SIZE = (64, 96)
"""Rows and columns of the example on which networks are traced; they differ, so that a margin shows."""


def chain(layers: Iterable[nn.Module], start: Geometry = IDENTITY) -> Geometry:
    """Return the geometry behind layers that follow one another; nothing is run.

    A module that is no layer of ``torch.nn``, no ``nn.Sequential`` of these, and does not describe itself is unknown here:
    use ``trace``.

    >>> chain([nn.Conv2d(3, 64, 7, stride=2, padding=3), nn.MaxPool2d(3, 2, 1)]).receptive_field
    11
    """
    info = TensorInfo((), (OTHER, OTHER, Y, X), start)
    pending = [(str(i), module) for i, module in enumerate(layers)]
    while pending:
        path, module = pending.pop(0)
        if type(module) is nn.Sequential:
            pending[:0] = [(f"{path}.{i}", child) for i, child in enumerate(module)]
        else:
            name = type(module).__name__
            info = describe_layer(module, Call(name, path, name, (info,)))
    return info.known()


@dataclass(frozen=True)
class NetworkTrace:
    """What one trace of a network gives; small, without the graph and its values."""

    output: Any
    """What the network returns, with a ``Geometry`` for each tensor (None where it does not depend on the image)."""
    layers: tuple[LayerGeometry, ...]
    """A row for every value on the way, in order."""
    peak_bytes: Mapping[int, int]
    """By bytes a value: the most memory that maps take at once on the example."""
    margin: int
    """Pixels by which an image grows inside the network before it is made smaller: 198 where the first layer pads 100."""
    macs_per_pixel: float
    """Multiplications of the convolutions for a pixel of the example."""
    example_size: tuple[int, int]
    trimmed: tuple[Fraction, Fraction, Fraction, Fraction]
    """Pixels that operations cut off, above, below, left and right: a window must hold so many more."""
    period: int
    """Pixels: windows that begin and end on its multiples have the inner sizes that fit the whole image's."""

    def activation_bytes(self, height: int, width: int, item_bytes: int) -> float:
        """Return the most memory in bytes that the maps of an image take at once, for values of 2, 4 or 8 bytes."""
        high, wide = (side + self.margin for side in self.example_size)
        return self.peak_bytes[item_bytes] / (high * wide) * (height + self.margin) * (width + self.margin)


def trace_network(module: nn.Module, example: Tensor, multiple: int = 1) -> NetworkTrace:
    """Trace a network of one tensor once, in evaluation mode, and return all that the trace gives.

    A module with a method ``trace_geometry(geometry, *other_geometries) -> Geometry`` is not traced through but asked; it
    gets one geometry for each of its inputs that depend on the image, and must keep the order of dimensions.

    The example (N, C, H, W) is large enough for at least 2x2 cells in the smallest inner map: (1, 3, 64, 96) for stride 32.
    It is on the network's device; with both on "meta" nothing is computed. Images have sides that are multiples of
    ``multiple``, as the example has.
    """
    tracer, graph = _trace(module, example, multiple)
    height, width = int(example.shape[-2]), int(example.shape[-1])
    macs = 0
    for node in graph.nodes:
        name, options = operation(tracer.root, node)
        if name == "conv2d" and options:
            macs += options["weight"].numel() * node.meta["value"].shape[-2:].numel()
    return NetworkTrace(
        _output(tracer, graph),
        tuple(tracer.layers),
        {item_bytes: peak_activation_bytes(graph, item_bytes) for item_bytes in (2, 4, 8)},
        _margin(graph, height, width),
        macs / (height * width),
        (height, width),
        (tracer.trimmed[0], tracer.trimmed[1], tracer.trimmed[2], tracer.trimmed[3]),
        tracer.sizes.period,
    )


def trace(module: nn.Module, example: Tensor) -> Any:
    """Return only the ``output`` of `trace_network`."""
    return _output(*_trace(module, example))


def _output(tracer: Tracer, graph: fx.Graph) -> Any:
    (output,) = (node for node in graph.nodes if node.op == "output")
    return _geometries(map_aggregate(output.args[0], tracer.info))


def traced_geometry(values: Any) -> Any:
    """Return what a network has computed so far with a `Geometry` for each tensor; for its ``forward``, while it is traced."""
    return _geometries(
        map_aggregate(values, lambda leaf: leaf.tracer.info(leaf.node) if isinstance(leaf, ConcreteProxy) else leaf)
    )


def _geometries(infos: Any) -> Any:
    return map_aggregate(infos, lambda leaf: leaf.geometry if isinstance(leaf, TensorInfo) else leaf)


def trace_graph(module: nn.Module, example: Tensor, multiple: int = 1) -> tuple[nn.Module, fx.Graph]:
    """Return what a network does with an example as a graph, and the module in which its targets are paths; see `Tracer`."""
    tracer, graph = _trace(module, example, multiple)
    for node in graph.nodes:
        if node.op != "output":
            tracer.info(node)
    return tracer.root, graph


def operation(root: nn.Module, node: fx.Node) -> tuple[str, dict[str, Any]]:
    """Return the function that a node of `trace_graph` computes, and its arguments by name where `PARAMETERS` lists it."""
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        return as_function(module) or (type(module).__name__, {})
    name = name_of(node.target)
    if node.op != "call_function" or name.removesuffix("1d").removesuffix("2d") not in PARAMETERS:
        return name, {}
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda source: source.meta["value"])
    return name, parameters(name, args, kwargs)


def peak_activation_bytes(graph: fx.Graph, item_bytes: int) -> int:
    """Return the most memory that maps take at once while a graph runs on its example.

    A map lives from the operation that computes it to the last that reads it, or reads what shares its memory, and as long
    as a module runs that was given it: a block of a ResNet holds its input beside both its branches. A max pool also
    stores where each maximum lies, as int64.
    """
    order = [node for node in graph.nodes if isinstance(node.meta.get("value"), Tensor) and node.op != "get_attr"]
    turn_of = {node: turn for turn, node in enumerate(order)}
    turns = list(accumulate((turn_of.get(node, 0) for node in graph.nodes), max))  # also of nodes that compute no map
    until = dict(zip(graph.nodes, turns, strict=True))
    last: dict[int, int] = {}
    for turn, node in enumerate(order):
        for value in (node, *node.all_input_nodes):
            if isinstance(tensor := value.meta.get("value"), Tensor):
                last[tensor.untyped_storage()._cdata] = turn  # on the meta device all have one address
    for node in order:
        place = node.meta["value"].untyped_storage()._cdata
        last[place] = max(last[place], until.get(node.meta.get("held_until"), 0))
    held: dict[int, int] = {}
    peak = 0
    for turn, node in enumerate(order):
        value = node.meta["value"]
        storage = value.untyped_storage()
        if value.ndim == 4:
            held[storage._cdata] = storage.nbytes() // value.element_size() * item_bytes
        pools = "max_pool2d" in str(node.target) or getattr(node.meta.get("layer"), "op", "") == "MaxPool2d"
        peak = max(peak, sum(held.values()) + (8 * value.numel() if pools else 0))
        held = {key: size for key, size in held.items() if last[key] > turn}
    return peak


def _margin(graph: fx.Graph, example_height: int, example_width: int) -> int:
    """Return `NetworkTrace.margin`, from the largest map, whose sides differ: ``(image + margin) / stride``."""
    values = [node.meta.get("value") for node in graph.nodes if node.op != "get_attr"]
    maps = [value for value in values if isinstance(value, Tensor) and value.ndim == 4]
    height, width = max(maps, key=lambda value: int(value.numel())).shape[-2:] if maps else (0, 0)
    if width <= height:
        return 0
    return int(max(0, round(height * (example_width - example_height) / (width - height)) - example_height))


class _Root(nn.Module):
    """Holds the network one level down, so that a network which is a single layer can be traced, too."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.root = module

    def forward(self, image: Tensor) -> Any:
        return self.root(image)


def _trace(module: nn.Module, example: Tensor, multiple: int = 1) -> tuple[Tracer, fx.Graph]:
    """Trace; a module that cannot be traced through becomes opaque, and the whole is traced again."""
    training = {child: child.training for child in module.modules()}
    opaque: dict[str, str] = {}
    try:
        module.eval()
        with torch.no_grad():
            while True:
                tracer = Tracer(example.clone(), opaque, multiple)
                try:
                    with exclusive():
                        return tracer, tracer.trace(_Root(module))
                except NetworkError:
                    raise
                except Exception as error:
                    path, reason = tracer.failed, first_line(error)
                    if path is None or path == "root" or path in opaque:
                        name = (path or "root").partition(".")[2]
                        where = f"{type(module).__name__}.{name}" if name else type(module).__name__
                        raise NetworkError(f"{where} cannot be traced: {reason}") from error
                    opaque[path] = reason
    finally:
        for child, mode in training.items():
            child.training = mode
