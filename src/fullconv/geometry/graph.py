"""The geometry of a chain of layers and of any traceable network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, fx, nn

from fullconv.errors import NetworkError, first_line
from fullconv.geometry.axis import IDENTITY, Geometry
from fullconv.geometry.call import Call
from fullconv.geometry.gate import tracing
from fullconv.geometry.layout import OTHER, Value, X, Y, rebuild
from fullconv.geometry.modules import layer
from fullconv.geometry.tracer import NodeGeometry, Tracer

EXAMPLE = (64, 96)
"""Rows and columns of the example on which our networks are traced."""


def chain(layers: Iterable[nn.Module], start: Geometry = IDENTITY) -> Geometry:
    """Return the geometry behind layers that follow one another; nothing is run.

    Args:
        layers: Layers of ``torch.nn``, modules with a ``trace_geometry`` of their own, or ``nn.Sequential`` of these.
            Any other module is unknown here: use ``trace``.
        start: Of the first layer's input.

    >>> chain([nn.Conv2d(3, 64, 7, stride=2, padding=3), nn.MaxPool2d(3, 2, 1)]).receptive_field
    11
    """
    value = Value((), (OTHER, OTHER, Y, X), start)
    for path, module in _flat("", layers):
        kind = type(module).__name__
        value = layer(module, Call(kind, path, kind, (value,)))
    return value.known()


def _flat(prefix: str, layers: Iterable[nn.Module]) -> list[tuple[str, nn.Module]]:
    """List layers with their numbers, through any ``nn.Sequential``."""
    found: list[tuple[str, nn.Module]] = []
    for i, module in enumerate(layers):
        path = f"{prefix}{i}"
        nested = type(module) is nn.Sequential
        found += _flat(f"{path}.", module) if nested else [(path, module)]  # type: ignore[arg-type]
    return found


def trace(module: nn.Module, example: Tensor) -> Any:
    """Return the geometry of a network's outputs.

    A module with a method ``trace_geometry(geometry, *other_geometries) -> Geometry`` is not looked into but asked; it
    gets one geometry for each of its inputs that depend on the picture, and must keep the order of dimensions.

    Args:
        module: Any network that takes one tensor; it runs in evaluation mode.
        example: (N, C, H, W), large enough for at least 2x2 cells in the smallest inner map: (1, 3, 64, 96) for
            stride 32. On the network's device; with both on "meta" nothing is computed.

    Returns:
        What the network returns, with a ``Geometry`` for each tensor (None where it does not depend on the picture).

    Raises:
        NetworkError: The network cannot be traced, or branches with different strides meet.
    """
    output = _output(*_trace(module, example))
    return rebuild(output, lambda leaf: leaf.geometry if isinstance(leaf, Value) else leaf)


def trace_nodes(module: nn.Module, example: Tensor) -> list[NodeGeometry]:
    """Return name, module, operation, shape and geometry of every value on the way, in order; else as ``trace``."""
    return _trace(module, example)[0].rows


def trace_graph(module: nn.Module, example: Tensor) -> tuple[nn.Module, fx.Graph]:
    """Return what a network does with an example as a graph, else as ``trace``.

    Returns:
        The module in which the graph's targets are paths, and the graph. Each node's ``meta`` holds its ``value`` with
        the example and the ``result``, a ``Value`` for each tensor; that of a map its row of the layer table as ``layer``.
    """
    tracer, graph = _trace(module, example)
    for node in graph.nodes:
        if node.op != "output":
            tracer.result(node)
    return tracer.root, graph


def peak_bytes(graph: fx.Graph, item_bytes: int) -> int:
    """Return the most memory that maps take at once while a graph of ``trace_graph`` runs on its example.

    A map lives from the operation that makes it to the last that reads it, or reads what shares its memory, and as long as
    a module runs that was given it: a block of a ResNet holds its input beside both its branches. A max pool also notes
    where each maximum lies, as int64.

    Args:
        graph: The graph.
        item_bytes: Of one value.
    """
    order = [node for node in graph.nodes if isinstance(node.meta.get("value"), Tensor) and node.op != "get_attr"]
    turn_of = {node: turn for turn, node in enumerate(order)}
    turns = list(accumulate((turn_of.get(node, 0) for node in graph.nodes), max))  # also of nodes that make no map
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


def map_bytes(graph: fx.Graph, item_bytes: int) -> Callable[[int, int], float]:
    """Return a function from height and width of a picture to ``peak_bytes`` on it, without running the graph on it.

    Args:
        graph: The graph of ``trace_graph``.
        item_bytes: Of one value.
    """
    around = _margin(graph)
    share = peak_bytes(graph, item_bytes) / ((EXAMPLE[0] + around) * (EXAMPLE[1] + around))
    return lambda height, width: share * (height + around) * (width + around)


def _margin(graph: fx.Graph) -> int:
    """Return by how many pixels a picture grows inside a network before it is made smaller: 198 where the first layer pads 100.

    Read from the map that takes most memory on the example, whose sides differ: a map of ``(picture + margin) / stride``.

    Args:
        graph: The graph of ``trace_graph``.
    """
    maps = [
        node.meta["value"]
        for node in graph.nodes
        if isinstance(node.meta.get("value"), Tensor) and node.op != "get_attr"
    ]
    largest = max((value for value in maps if value.ndim == 4), key=lambda value: int(value.numel()))
    height, width = int(largest.shape[-2]), int(largest.shape[-1])
    if width <= height:
        return 0
    return max(0, round(height * (EXAMPLE[1] - EXAMPLE[0]) / (width - height)) - EXAMPLE[0])


class _Root(nn.Module):
    """Holds the network one level down, so that a network which is a single layer can be traced, too."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.root = module

    def forward(self, picture: Tensor) -> Any:
        return self.root(picture)


def _trace(module: nn.Module, example: Tensor) -> tuple[Tracer, fx.Graph]:
    """Trace; a module that cannot be traced through is made opaque, and the whole is traced again."""
    training = {child: child.training for child in module.modules()}
    opaque: dict[str, str] = {}
    try:
        module.eval()
        with torch.no_grad():
            while True:
                tracer = Tracer(example.clone(), opaque)
                try:
                    with tracing():
                        graph = tracer.trace(_Root(module))
                except NetworkError:
                    raise
                except Exception as error:
                    path, reason = _culprit(module, tracer, error)
                    opaque[path] = reason
                else:
                    return tracer, graph
    finally:
        for child, mode in training.items():
            child.training = mode


def _culprit(module: nn.Module, tracer: Tracer, error: Exception) -> tuple[str, str]:
    """Return the path of the innermost module that could not be traced, and why.

    Raises:
        NetworkError: It is the network itself.
    """
    path = tracer.failed
    reason = first_line(error)
    if path is None or path == "root" or path in tracer.opaque:
        name = (path or "root").partition(".")[2]
        where = f"{type(module).__name__}.{name}" if name else type(module).__name__
        raise NetworkError(f"{where} cannot be traced: {reason}") from error
    return path, reason


def _output(tracer: Tracer, graph: fx.Graph) -> Any:
    """Return the description of what the network returns."""
    (output,) = (node for node in graph.nodes if node.op == "output")
    return rebuild(output.args[0], lambda leaf: tracer.result(leaf) if isinstance(leaf, fx.Node) else leaf)
