"""Compare tiles with the whole image, and find the layer because of which they differ: its described geometry is wrong."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from fullconv.errors import first_line
from fullconv.geometry import Axis, LayerGeometry, shared, tree_leaves
from fullconv.nn import ModuleWrapper, Network, preserved_rng, private_copy
from fullconv.tiling.plan import TileSpan, plan, tiled_scores


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


LayerCall = tuple[str, list[Tensor], list[Tensor]]
"""A layer's path, and copies of the tensors that it was given and gave."""

CROSS = (32, 128, 512)
"""Pixels that an image for the proof has across the direction in which it is cut: the least that the module takes."""


@torch.inference_mode()
def prove_tiles(network: ModuleWrapper) -> str | None:
    """Compare tiles of random images with the whole, in both directions, at an even and an odd size.

    Args:
        network: Of bounded geometry.

    Returns:
        The layer because of which they differ and what it does, ``"decoder.up (Upsample: ...)"``, or None where all agree.
    """
    weight = next(network.parameters(), torch.zeros(()))
    double = weight.dtype == torch.float64
    tolerance = 1e-9 if double else 1e-4
    generator = torch.Generator().manual_seed(0)
    with preserved_rng(weight.device), torch.backends.cudnn.flags(allow_tf32=False):
        other = private_copy(network, share_weights=double or weight.dtype == torch.float32)
        probe = cast(ModuleWrapper, other if double else other.float())
        like = torch.zeros((), dtype=torch.float64 if double else torch.float32, device=weight.device)
        for height, width, tile_size in _proof_sizes(network, _least_side(probe, like)):
            image = torch.randn(1, network.in_channels, height, width, generator=generator).to(like)
            try:
                with shared():
                    whole = cast(Tensor, probe.scores(image))
                    tiled = tiled_scores(
                        lambda window: cast(Tensor, probe.scores(window.permute(0, 3, 1, 2))),
                        image.permute(0, 2, 3, 1),
                        *plan(cast(Network, network), height, width, tile_size),
                    )
            except Exception as error:
                if height % 2 and width % 2:  # no wrong answer: odd sizes are refused
                    continue
                return f"{type(network.module).__name__} (cannot compute {height}x{width} pixels: {first_line(error)})"
            if tiled.shape != whole.shape or _apart(tiled, whole) > tolerance:
                return _name_layer(probe, image, tile_size, tolerance)
    return None


def _least_side(network: ModuleWrapper, like: Tensor) -> int:
    """Return the first of `CROSS`, in steps of the stride, that a network takes as both sides."""
    sides = [-(-side // network.stride) * network.stride for side in CROSS]
    for side in sides:
        try:
            with shared():
                network.scores(like.expand(1, network.in_channels, side, side))
        except Exception:  # one that crops or mirrors more
            continue
        return side
    return sides[0]


def _proof_sizes(network: ModuleWrapper, across: int) -> Iterator[tuple[int, int, int]]:
    """Yield height, width and tile size of images that are cut into two tiles, each of which ends within the image."""
    align, (left, top, right, bottom) = network.stride, network.halo or (0, 0, 0, 0)
    for before, after, tall in ((top, bottom, True), (left, right, False)):
        tile_size = max(before, after) + align
        for odd in (0, 1):
            long, short = tile_size + after + align + odd, across + odd
            yield (long, short, tile_size) if tall else (short, long, tile_size)


def _apart(one: Tensor, other: Tensor) -> float:
    """Return the largest difference as a share of the largest value; what is not finite in both alike does not count."""
    one, other = one.double(), other.double()
    same = (one == other) | (one.isnan() & other.isnan())
    apart = (one - other).abs().nan_to_num(math.inf).masked_fill(same, 0).max()
    largest = other.abs().nan_to_num(0, 0, 0).max()
    return float(apart / largest) if largest else float(apart)


def _name_layer(network: ModuleWrapper, image: Tensor, tile_size: int, tolerance: float) -> str:
    """Name the layer because of which tiles differ: it is random, or described wrongly, or not traced as it computes."""
    root, nodes = network.graph()
    graph = _Recorder(root, nodes)
    paths = {str(node.target).removeprefix("root.") for node in nodes.nodes if node.op == "call_module"}
    first, second = (_layer_calls(network, image, paths) for _ in range(2))
    if (name := _first_apart(network, first, second, tolerance)) is not None:
        return f"{name}: gives other values each time)"
    try:
        found = find_divergence(cast(Network, network), image, tile_size, tolerance)
        graph.record(network.pad(image))
    except Exception:  # the graph has other layers than the module has at this size
        found = None
    if found is not None:
        return f"{found.layer.removesuffix(')')}: other values in a window than in the whole image)"
    name = _first_apart(network, first, graph.calls, tolerance) or _located(network, "")
    return f"{name}: other values in a window than in the whole image, and other ones than were traced)"


def _layer_calls(network: ModuleWrapper, image: Tensor, paths: Container[str]) -> list[LayerCall]:
    """Run a network and return the calls of its layers, and as the last that of the network."""
    module, calls = network.probe(), list[LayerCall]()
    for path, layer in module.named_modules():
        if path not in paths:
            continue

        def read(_: nn.Module, args: Any, kwargs: Any, out: Any, path: str = path) -> None:
            calls.append((path, _copies([args, kwargs]), _copies(out)))

        layer.register_forward_hook(read, with_kwargs=True, prepend=True)
    with shared():
        out = module(network.pad(image))
    return [*calls, ("", [], _copies(out))]


def _first_apart(
    network: ModuleWrapper, one: Sequence[LayerCall], other: Sequence[LayerCall], tolerance: float
) -> str | None:
    """Name the first layer whose values differ; where it was given other ones, the module that holds it."""
    for (path, given, gave), (other_path, also_given, also_gave) in zip(one, other, strict=False):
        if path != other_path or _differ(given, also_given, tolerance):
            return _located(network, path.rpartition(".")[0])
        if _differ(gave, also_gave, tolerance):
            return _located(network, path)
    return None


def _differ(one: Sequence[Tensor], other: Sequence[Tensor], tolerance: float) -> bool:
    pairs = zip(one, other, strict=False)
    return len(one) != len(other) or any(a.shape != b.shape or _apart(a, b) > tolerance for a, b in pairs)


def _located(network: ModuleWrapper, path: str) -> str:
    """Return path and class of a module, without the last bracket."""
    name = type(network.module.get_submodule(path)).__name__
    return f"{path} ({name}" if path else f"{name} (forward"


def _copies(values: Any) -> list[Tensor]:
    """Return copies of the tensors among values, of floats."""
    leaves = tree_leaves(values)
    return [leaf.clone() for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


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
        self.calls: list[LayerCall] = []

    def record(self, image: Tensor) -> dict[LayerGeometry, Tensor]:
        """Return the maps by layer, in order."""
        self.maps, self.calls = {}, []
        self.run(image)
        return self.maps

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Compute a layer without its hooks, which the graph holds as operations of their own."""
        given = _copies([args, kwargs])
        value = self.fetch_attr(target).forward(*args, **kwargs)
        if str(target).startswith("root."):  # others were made in ``forward``
            self.calls.append((str(target).removeprefix("root."), given, _copies(value)))
        return value

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
    if (size := _apart(part, whole)) <= tolerance:
        return None
    apart = (part.double() - whole.double()).abs().nan_to_num(math.inf)
    y, x = divmod(int(apart.amax((0, 1)).argmax()), apart.shape[-1])
    name = f"{layer.path} ({layer.op})" if layer.path else layer.op
    return Divergence(name, size, (spans[0].start, spans[1].start), (y + starts[0], x + starts[1]))


def _inside(axis: Axis, span: TileSpan, end: bool, cells: int) -> tuple[int, int]:
    """Return the cells of a window, from and to, that read nothing outside it but what lies outside the image."""
    low = 0 if span.start == 0 else max(0, math.ceil(-axis.rf_start / axis.jump))
    high = cells if end else min(cells, math.floor((span.stop - 1 - span.start - axis.rf_end) / axis.jump) + 1)
    return low, high
