"""Networks that are not built here, with the two halves of `Network`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import lcm
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, fx, nn

from fullconv.errors import FullconvError, NetworkError
from fullconv.geometry import EXAMPLE, IDENTITY, Geometry, halo, map_bytes, trace, trace_graph
from fullconv.nn.network import Scores
from fullconv.nn.upsample import check_rows, half_pixel_coords, interp2d


class ModuleWrapper(nn.Module):
    """Any module from (N, C, H, W) to logits (N, K, H, W): its logits are its scores, at stride 1.

    Args:
        module: The module; put into eval mode.
        in_channels: C.
        num_classes: K.
    """

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Scores:
            """Call `forward`."""

    def __init__(self, module: nn.Module, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.module = module.eval()
        self.variant, self.spec, self.settings = "custom", None, dict[str, Any]()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.geometry, self.stride = _trace(self.module, in_channels)
        self.score_stride, self.min_size = 1, 1
        self.receptive_field = self.geometry.receptive_field
        self.halo = halo(self.geometry.y, self.geometry.x, align=self.stride) if self.geometry.bounded else None
        self._activation_bytes: dict[int, Callable[[int, int], float]] = {}

    def forward(self, x: Tensor) -> Scores:
        """Map (N, C, H, W) to logits (N, K, H, W)."""
        return self.scores(x)

    def scores(self, x: Tensor) -> Scores:
        """Map (N, C, H, W) to logits (N, K, H, W).

        Raises:
            NetworkError: The module returns something else.
        """
        logits = self.module(x)
        expected = (x.shape[0], self.num_classes, *x.shape[-2:])
        if not isinstance(logits, Tensor) or tuple(logits.shape) != expected:
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise NetworkError(
                f"{type(self.module).__name__} returns {got} for {tuple(x.shape)}; expected logits {expected}."
            )
        return logits

    def upsample(
        self,
        scores: Scores,
        size: tuple[int, int],
        rows: tuple[int, int] | None = None,
        working: tuple[int, int] | None = None,
        *,
        clamp: bool = True,
    ) -> Scores:
        """Return rows of the logits, resized (half-pixel) if they were computed at another size.

        Raises:
            InputError: The rows are outside the result.
        """
        if clamp:
            check_rows(rows, size)
        logits = cast(Tensor, scores)
        a, b = rows if rows is not None else (0, size[0])
        if working in (None, size):
            return logits[..., a:b, :]
        down = half_pixel_coords(a, b, logits.shape[-2], size[0], logits.device)
        across = half_pixel_coords(0, size[1], logits.shape[-1], size[1], logits.device)
        return interp2d(logits, down, across)

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size on which an image of a size is computed: its own."""
        return height, width

    def graph(self) -> tuple[nn.Module, fx.Graph]:
        """Return the graph from an image to its logits, as `fullconv.geometry.trace_graph` does."""
        return trace_graph(self.module, _example(self.module, self.in_channels))

    def activation_bytes(self, height: int, width: int, item_bytes: int) -> float:
        """Return the peak bytes of the activations of an image, for values of a size."""
        if item_bytes not in self._activation_bytes:
            try:
                self._activation_bytes[item_bytes] = map_bytes(self.graph()[1], item_bytes)
            except FullconvError:  # the module cannot be traced
                return 3.0 * self.in_channels * item_bytes * height * width
        return self._activation_bytes[item_bytes](height, width)


def _example(module: nn.Module, in_channels: int) -> Tensor:
    weight = next(module.parameters(), torch.zeros(()))
    return torch.zeros(1, in_channels, *EXAMPLE, dtype=weight.dtype, device=weight.device)


def _trace(module: nn.Module, in_channels: int) -> tuple[Geometry, int]:
    """Return the geometry of a module's logits, and the grid on which all its layers agree."""
    example = _example(module, in_channels)
    unknown = replace(IDENTITY, unknown=(f"{type(module).__name__} (cannot be traced)",))
    try:
        geometry = trace(module, example)
        graph = trace_graph(module, example)[1]
    except FullconvError:
        return unknown, 1
    if not isinstance(geometry, Geometry) or geometry.y.scale != 1 or geometry.x.scale != 1:
        return unknown, 1
    found = [node.meta["layer"].geometry for node in graph.nodes if "layer" in node.meta]
    scales = [axis.scale for each in found if isinstance(each, Geometry) for axis in (each.y, each.x)]
    return geometry, lcm(*(scale.numerator for scale in scales))
