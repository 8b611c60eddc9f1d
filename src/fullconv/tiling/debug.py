"""Which layer makes a tile differ from the whole picture: for a geometry that is wrong somewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from fullconv.geometry import Axis, NodeGeometry
from fullconv.nn import Network
from fullconv.tiling.plan import TileSpan, plan


@dataclass(frozen=True)
class Divergence:
    """The first layer whose values in a tile are not the whole picture's."""

    layer: str
    """Path and kind of the layer: ``"backbone.layer1.0.conv1 (Conv2d)"``."""
    size: float
    """Largest difference, as a share of the layer's largest value."""
    tile: tuple[int, int]
    """Top and left of the tile's window, in pixels."""
    cell: tuple[int, int]
    """Row and column of that difference in the layer's map of the whole picture."""

    def __str__(self) -> str:
        return (
            f"{self.layer} differs first: by {self.size:.1e} of its largest value at cell {self.cell}, in the tile whose"
            f" window begins at pixel {self.tile}. Its geometry promises that this cell reads nothing outside the window."
        )


@torch.inference_mode()
def find_divergence(network: Network, picture: Tensor, core: int, tolerance: float = 1e-5) -> Divergence | None:
    """Find the first layer that gives other values in a tile than in the whole picture.

    For a module of yours whose tiles are not exact: the layer that is named has a `trace_geometry`, or is an operation,
    whose description here is wrong. All maps of the picture are held in memory.

    Args:
        network: Of bounded geometry; wrap a module of yours as `ModuleWrapper(module, in_channels, num_classes)`.
        picture: (1, C, H, W) as the network takes it, of its dtype; large enough for several tiles.
        core: Side of a tile's core in pixels.
        tolerance: Largest difference that counts as rounding, as a share of the layer's largest value.

    Returns:
        The layer, or None where all agree.

    Raises:
        NetworkError: Tiles of this network cannot be exact at all.
    """
    height, width = picture.shape[-2:]
    rows, columns = plan(network, height, width, core)
    runner = _Runner(*network.graph())
    whole = runner.values(_padded(network, picture))
    for row in rows:
        for column in columns:
            window = picture[..., row.start : row.stop, column.start : column.stop]
            part = runner.values(_padded(network, window))
            ends = row.stop >= height, column.stop >= width
            for layer, values in part.items():
                found = _compare(layer, whole[layer], values, (row, column), ends, tolerance)
                if found is not None:
                    return found
    return None


def _padded(network: Network, picture: Tensor) -> Tensor:
    return network.pad(picture) if hasattr(network, "pad") else picture


class _Runner:
    """Runs a graph and keeps what every layer gave."""

    def __init__(self, root: nn.Module, graph: fx.Graph) -> None:
        self.module = fx.GraphModule(root, graph)
        self.layers: dict[str, NodeGeometry] = {
            node.name: node.meta["layer"] for node in graph.nodes if "layer" in node.meta
        }

    def values(self, picture: Tensor) -> Mapping[NodeGeometry, Tensor]:
        """Return the maps (N, C, h, w) of all layers, in order."""
        kept: dict[NodeGeometry, Tensor] = {}
        layers = self.layers

        class Keeping(fx.Interpreter):
            def run_node(self, node: fx.Node) -> Any:
                value = super().run_node(node)
                if node.name in layers and isinstance(value, Tensor) and value.ndim == 4:
                    kept[layers[node.name]] = value.clone()  # a later one may change it in place
                return value

        Keeping(self.module).run(picture)
        return kept


def _compare(
    layer: NodeGeometry,
    whole: Tensor,
    part: Tensor,
    spans: tuple[TileSpan, TileSpan],
    ends: tuple[bool, bool],
    tolerance: float,
) -> Divergence | None:
    """Compare the cells of a tile that read nothing outside its window."""
    places = []
    for dim, axis, span, end in zip((-2, -1), (layer.geometry.y, layer.geometry.x), spans, ends, strict=True):
        shift = span.start / axis.scale
        if shift.denominator != 1:
            return None  # an inner grid that tiles do not begin on: nothing to line up
        low, high = _inside(axis, span, end, part.shape[dim])
        high = min(high, whole.shape[dim] - int(shift))
        if low >= high:
            return None
        places.append((low, int(shift)))
        part = part.narrow(dim, low, high - low)
        whole = whole.narrow(dim, low + int(shift), high - low)
    apart = (part - whole).abs().nan_to_num(math.inf)
    largest = float(whole.abs().max())
    size = float(apart.max()) / largest if largest else float(apart.max())
    if size <= tolerance:
        return None
    at = int(apart.amax((0, 1)).argmax())
    y, x = divmod(at, apart.shape[-1])
    cell = y + sum(places[0]), x + sum(places[1])
    name = f"{layer.path} ({layer.op})" if layer.path else layer.op
    return Divergence(name, size, (spans[0].start, spans[1].start), cell)


def _inside(axis: Axis, span: TileSpan, end: bool, cells: int) -> tuple[int, int]:
    """Return the cells of a window, from and to, that read nothing outside it but what lies outside the picture."""
    low = 0 if span.start == 0 else max(0, math.ceil(-axis.lo / axis.scale))
    high = cells if end else min(cells, math.floor((span.stop - 1 - span.start - axis.hi) / axis.scale) + 1)
    return low, high
