"""Networks that are not built here, with the two halves of `Network`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from math import lcm
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fullconv.errors import FullconvError, NetworkError
from fullconv.geometry import EXAMPLE_SIZE, IDENTITY, Geometry, NetworkTrace, halo, trace_graph, trace_network
from fullconv.nn.copies import preserved_rng, private_copy
from fullconv.nn.network import Scores
from fullconv.nn.upsample import check_rows, half_pixel_coords, interp2d

Traced = TypeVar("Traced")
ZERO = Fraction(0)


class ModuleWrapper(nn.Module):
    """Any module from (N, C, H, W) to logits (N, K, H, W): its logits are its scores, at stride 1.

    It computes with a copy; the module given is not changed.

    Args:
        module: Any module; a dict with "out" is taken for that tensor.
        in_channels: C.
        num_classes: K.
        pad_to: The module gets images padded right and bottom to multiples of so many pixels.
    """

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Scores:
            """Call `forward`."""

    def __init__(self, module: nn.Module, in_channels: int, num_classes: int, pad_to: int = 1) -> None:
        super().__init__()
        self.module = private_copy(module)
        self.variant, self.spec, self.settings = "custom", None, dict[str, Any]()
        self.in_channels, self.num_classes, self.pad_to = in_channels, num_classes, pad_to
        self.trace: NetworkTrace | None = None  # of a module that cannot be traced
        self.stride, self.geometry = pad_to, IDENTITY
        name = type(module).__name__
        try:
            self.trace = self._traced(trace_network)
            self._read_geometry(self.trace)
        except FullconvError as error:
            self.refuse(f"{name} ({error})")
        self.score_stride, self.min_size = 1, 1
        self.receptive_field = self.geometry.receptive_field
        self.halo: tuple[int, int, int, int] | None = None
        if self.trace is not None and self.geometry.bounded:
            self.geometry = _widened(self.geometry, self.trace.trimmed)
            self.halo = halo(self.geometry.y, self.geometry.x, align=self.stride)

    def _read_geometry(self, trace: NetworkTrace) -> None:
        """Take geometry and stride from a trace."""
        found = _logits(trace.output)
        if not isinstance(found, Geometry):
            raise NetworkError("it returns no single tensor that depends on the image")
        if not found.y.jump == found.x.jump == 1:
            if found.bounded:
                raise NetworkError(
                    f"its output has a stride of {found.y.jump} pixels down and {found.x.jump} across, not 1"
                )
            found = IDENTITY.flagged(found.global_ops, found.unknown_ops, found.size_dependent)
        self.geometry = found
        axes = (axis for row in trace.layers for axis in (row.geometry.y, row.geometry.x))
        steps = [axis.jump.numerator for axis in axes]  # a grid for all layers
        self.stride = lcm(*steps, trace.period if found.bounded else self.pad_to)

    def refuse(self, layer: str) -> None:
        """Have no exact tiles any more, because of a layer: ``"decoder.up (Upsample: what it does)"``."""
        self.geometry = self.geometry.flagged(unknown_ops=[layer])
        self.halo = self.receptive_field = None

    def forward(self, x: Tensor) -> Scores:
        """Map (N, C, H, W) to logits (N, K, H, W)."""
        return self.scores(x)

    def scores(self, x: Tensor) -> Scores:
        """Map (N, C, H, W) to logits (N, K, H, W)."""
        height, width = x.shape[-2:]
        padded = self.pad(x)
        logits = self.logits(padded)
        expected = (x.shape[0], self.num_classes, *padded.shape[-2:])
        if not isinstance(logits, Tensor) or tuple(logits.shape) != expected:
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise NetworkError(
                f"{type(self.module).__name__} returns {got} for {tuple(padded.shape)}; expected logits {expected}."
            )
        return logits[..., :height, :width]

    def logits(self, x: Tensor) -> Any:
        """Return what the module gives for an image of a size that it takes."""
        return _logits(self.module(x))

    def pad(self, x: Tensor) -> Tensor:
        """Pad right and bottom with 0, the mean of normalized images, to multiples of ``pad_to``."""
        height, width = self.padded_size(x.shape[-2], x.shape[-1])
        if (height, width) == tuple(x.shape[-2:]):
            return x  # F.pad would copy it
        return F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]))

    def probe(self) -> nn.Module:
        """Return a copy of the module that shares its weights, to run in its place."""
        return private_copy(self.module, share_weights=True)

    def _traced(self, trace: Callable[[nn.Module, Tensor, int], Traced]) -> Traced:
        """Trace a copy, as ``forward`` and hooks may assign what they see."""
        weight = next(self.module.parameters(), torch.zeros(()))
        height, width = self.padded_size(*EXAMPLE_SIZE)
        width += self.pad_to if width == height else 0
        example = torch.zeros(1, self.in_channels, height, width, dtype=weight.dtype, device=weight.device)
        with preserved_rng(weight.device):
            return trace(self.probe(), example, self.pad_to)

    def graph(self) -> tuple[nn.Module, fx.Graph]:
        """Return the graph from a padded image to its logits, as `fullconv.geometry.trace_graph` does."""
        return self._traced(trace_graph)

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
        height, width = working or size
        logits = cast(Tensor, scores)[..., :height, :width]
        a, b = rows if rows is not None else (0, size[0])
        if working in (None, size):
            return logits[..., a:b, :]
        down = half_pixel_coords(a, b, logits.shape[-2], size[0], logits.device)
        across = half_pixel_coords(0, size[1], logits.shape[-1], size[1], logits.device)
        return interp2d(logits, down, across)

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size on which an image of a size is computed: the next multiples of ``pad_to``."""
        return -(-height // self.pad_to) * self.pad_to, -(-width // self.pad_to) * self.pad_to


def _logits(returned: Any) -> Any:
    """Return what a module gives, or ``"out"`` of a dict, as torchvision's networks give it."""
    return returned["out"] if isinstance(returned, Mapping) and "out" in returned else returned


def _widened(geometry: Geometry, trimmed: tuple[Fraction, Fraction, Fraction, Fraction]) -> Geometry:
    """Return a geometry whose windows hold the cells, too, that operations cut off."""
    above, below, left, right = trimmed
    (y, x) = geometry.y, geometry.x
    return replace(
        geometry,
        y=replace(y, rf_start=min(y.rf_start, ZERO) - above, rf_end=max(y.rf_end, ZERO) + below),
        x=replace(x, rf_start=min(x.rf_start, ZERO) - left, rf_end=max(x.rf_end, ZERO) + right),
    )
