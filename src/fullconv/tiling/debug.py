"""Find the layer because of which a tile differs from the whole image: one whose described geometry is wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from fullconv.geometry import Axis, LayerGeometry
from fullconv.nn import Network
from fullconv.tiling.plan import TileSpan, plan


@dataclass(frozen=True)
class Divergence:
    """The first layer whose values in a tile are not the whole image's."""

    layer: str
    """Path and type of the layer: ``"backbone.layer1.0.conv1 (Conv2d)"``."""
    size: float
    """Largest difference, as a share of the layer's largest value."""
    tile: tuple[int, int]
    """Top and left of the tile's window, in pixels."""
    cell: tuple[int, int]
    """Row and column of that difference in the layer's map of the whole image."""

    def __str__(self) -> str:
        return (
            f"{self.layer} differs first: by {self.size:.1e} of its largest value at cell {self.cell}, in the tile whose"
            f" window begins at pixel {self.tile}. By its geometry this cell reads nothing outside the window."
        )


@torch.inference_mode()
def find_divergence(network: Network, image: Tensor, tile_size: int, tolerance: float = 1e-5) -> Divergence | None:
    """Find the first layer that gives other values in a tile than in the whole image.

    For modules whose tiles are not exact: the description of the layer is wrong, in its `trace_geometry` or in the rule for
    its operation. All maps of the image are held in memory.

    Args:
        network: Of bounded geometry; wrap other modules as `ModuleWrapper(module, in_channels, num_classes)`.
        image: (1, C, H, W) as the network takes it, of its dtype; large enough for several tiles.
        tile_size: Side of a tile without its halo, in pixels.
        tolerance: Largest difference that counts as rounding, as a share of the layer's largest value.

    Returns:
        The layer, or None where all agree.
    """
    height, width = image.shape[-2:]
    rows, columns = plan(network, height, width, tile_size)
    root, graph = network.graph()
    recorder = _Recorder(root, graph)
    pad = getattr(network, "pad", nn.Identity())
    whole = recorder.record(pad(image))
    for row in rows:
        for column in columns:
            part = recorder.record(pad(image[..., row.start : row.stop, column.start : column.stop]))
            ends = row.stop >= height, column.stop >= width
            for layer, values in part.items():
                found = _compare(layer, whole[layer], values, (row, column), ends, tolerance)
                if found is not None:
                    return found
    return None


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps the maps (N, C, h, w) of all layers."""

    def __init__(self, root: nn.Module, graph: fx.Graph) -> None:
        super().__init__(fx.GraphModule(root, graph))
        self.layers: dict[str, LayerGeometry] = {n.name: n.meta["layer"] for n in graph.nodes if "layer" in n.meta}
        self.maps: dict[LayerGeometry, Tensor] = {}

    def record(self, image: Tensor) -> dict[LayerGeometry, Tensor]:
        """Return the maps by layer, in order."""
        self.maps = {}
        self.run(image)
        return self.maps

    def run_node(self, n: fx.Node) -> Any:
        """Keep a copy of a map, as a later operation may change it in place."""
        value = super().run_node(n)
        if n.name in self.layers and isinstance(value, Tensor) and value.ndim == 4:
            self.maps[self.layers[n.name]] = value.clone()
        return value


def _compare(
    layer: LayerGeometry,
    whole: Tensor,
    part: Tensor,
    spans: tuple[TileSpan, TileSpan],
    ends: tuple[bool, bool],
    tolerance: float,
) -> Divergence | None:
    """Compare the cells of a tile that read nothing outside its window."""
    starts = []
    for dim, axis, span, end in zip((-2, -1), (layer.geometry.y, layer.geometry.x), spans, ends, strict=True):
        shift = span.start / axis.jump
        if shift.denominator != 1:
            return None  # an inner grid that tiles do not begin on: nothing to line up
        low, high = _inside(axis, span, end, part.shape[dim])
        high = min(high, whole.shape[dim] - int(shift))
        if low >= high:
            return None
        starts.append(low + int(shift))
        part = part.narrow(dim, low, high - low)
        whole = whole.narrow(dim, low + int(shift), high - low)
    apart = (part - whole).abs().nan_to_num(math.inf)
    largest = float(whole.abs().max())
    size = float(apart.max()) / largest if largest else float(apart.max())
    if size <= tolerance:
        return None
    y, x = divmod(int(apart.amax((0, 1)).argmax()), apart.shape[-1])
    name = f"{layer.path} ({layer.op})" if layer.path else layer.op
    return Divergence(name, size, (spans[0].start, spans[1].start), (y + starts[0], x + starts[1]))


def _inside(axis: Axis, span: TileSpan, end: bool, cells: int) -> tuple[int, int]:
    """Return the cells of a window, from and to, that read nothing outside it but what lies outside the image."""
    low = 0 if span.start == 0 else max(0, math.ceil(-axis.rf_start / axis.jump))
    high = cells if end else min(cells, math.floor((span.stop - 1 - span.start - axis.rf_end) / axis.jump) + 1)
    return low, high
