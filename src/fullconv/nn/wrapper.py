"""Networks that are not built here, with the two halves of `Network`."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from math import lcm
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, fx, nn

from fullconv.errors import FullconvError, NetworkError
from fullconv.geometry import EXAMPLE_SIZE, IDENTITY, Geometry, NetworkTrace, halo, trace_graph, trace_network
from fullconv.nn.network import Scores
from fullconv.nn.upsample import check_rows, half_pixel_coords, interp2d


class ModuleWrapper(nn.Module):
    """Any module from (N, C, H, W) to logits (N, K, H, W): its logits are its scores, at stride 1."""

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Scores:
            """Call `forward`."""

    def __init__(self, module: nn.Module, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.module = module.eval()
        self.variant, self.spec, self.settings = "custom", None, dict[str, Any]()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.trace: NetworkTrace | None = None  # of a module that cannot be traced
        with suppress(FullconvError):
            self.trace = trace_network(self.module, self._example())
        if (
            self.trace is not None
            and isinstance(found := self.trace.output, Geometry)
            and found.y.jump == found.x.jump == 1
        ):
            axes = (axis for row in self.trace.layers for axis in (row.geometry.y, row.geometry.x))
            self.geometry, self.stride = found, lcm(*(axis.jump.numerator for axis in axes))  # a grid for all layers
        else:
            opaque = f"{type(self.module).__name__} (cannot be traced)"
            self.geometry, self.stride = replace(IDENTITY, unknown_ops=(opaque,)), 1
        self.score_stride, self.min_size = 1, 1
        self.receptive_field = self.geometry.receptive_field
        self.halo = halo(self.geometry.y, self.geometry.x, align=self.stride) if self.geometry.bounded else None

    def forward(self, x: Tensor) -> Scores:
        """Map (N, C, H, W) to logits (N, K, H, W)."""
        return self.scores(x)

    def scores(self, x: Tensor) -> Scores:
        """Map (N, C, H, W) to logits (N, K, H, W)."""
        logits = self.module(x)
        expected = (x.shape[0], self.num_classes, *x.shape[-2:])
        if not isinstance(logits, Tensor) or tuple(logits.shape) != expected:
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise NetworkError(
                f"{type(self.module).__name__} returns {got} for {tuple(x.shape)}; expected logits {expected}."
            )
        return logits

    def _example(self) -> Tensor:
        weight = next(self.module.parameters(), torch.zeros(()))
        return torch.zeros(1, self.in_channels, *EXAMPLE_SIZE, dtype=weight.dtype, device=weight.device)

    def graph(self) -> tuple[nn.Module, fx.Graph]:
        """Return the graph from an image to its logits, as `fullconv.geometry.trace_graph` does."""
        return trace_graph(self.module, self._example())

    def activation_bytes(self, height: int, width: int, item_bytes: int) -> float:
        """Return the most memory in bytes that the maps of an image take at once, for values of 2, 4 or 8 bytes."""
        if self.trace is None:
            return 3.0 * self.in_channels * item_bytes * height * width
        return self.trace.activation_bytes(height, width, item_bytes)

    def upsample(
        self,
        scores: Scores,
        size: tuple[int, int],
        rows: tuple[int, int] | None = None,
        working: tuple[int, int] | None = None,
        *,
        check: bool = True,
    ) -> Scores:
        """Return rows of the logits, resized (half-pixel) if they were computed at another size."""
        if check:
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
