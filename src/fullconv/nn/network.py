"""Fully convolutional networks: backbone, head, and upsampling by geometry. Variants are rows of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fullconv.errors import InputError, NetworkError
from fullconv.geometry import EXAMPLE, Axis, Geometry, halo, map_bytes, trace, trace_graph
from fullconv.nn.registry import Variant, get_variant
from fullconv.nn.upsample import (
    Border,
    check_rows,
    half_pixel_coords,
    interp1d,
    interp2d,
    interpolation_matrix,
    upsample1d,
)

Scores = Tensor | dict[str, Tensor]


class Network(nn.Module):
    """A fully convolutional network in two halves: `scores`, and `upsample` to the picture's size.

    Args:
        variant: Name in `VARIANTS`.
        backbone: Features by stride.
        head: Features to scores.
        settings: Keywords of `build` that made it.
    """

    def __init__(self, variant: str, backbone: nn.Module, head: nn.Module, settings: Mapping[str, Any]) -> None:
        super().__init__()
        row = get_variant(variant)
        self.border: Border = "zero" if row.head == "caffe" else "replicate"
        self.variant, self.spec, self.settings = variant, row, dict(settings)
        self.in_channels: int = settings["in_channels"]
        self.num_classes: int | dict[str, int] = settings["num_classes"]
        self.backbone, self.head = backbone, head
        self.geometry, coarsest = _trace(self, row)
        if (phase := settings.get("phase")) is not None:
            self.geometry = replace(
                self.geometry,
                y=replace(self.geometry.y, offset=Fraction(phase)),
                x=replace(self.geometry.x, offset=Fraction(phase)),
            )
        self.score_stride = self.geometry.stride
        self.stride = coarsest.stride
        self.receptive_field = coarsest.receptive_field
        self.halo: tuple[int, int, int, int] | None = (
            halo(self.geometry.y, self.geometry.x, align=self.stride) if self.geometry.bounded else None
        )
        self.min_size = row.min_size
        self.missing_keys: list[str] = []
        self._activation_bytes: dict[int, Callable[[int, int], float]] = {}

    def forward(self, x: Tensor) -> Scores:
        """Map (N, C, H, W) to logits (N, K, H, W), or a dict of them by head: `upsample` of `scores`."""
        return self.upsample(self.scores(x), (x.shape[-2], x.shape[-1]))

    def scores(self, x: Tensor) -> Scores:
        """Map (N, C, H, W) float, any H, W >= 1, to scores (N, K, h, w) at `score_stride`, or a dict by head.

        Raises:
            InputError: It is no such tensor.
        """
        if not isinstance(x, Tensor) or x.dim() != 4 or x.shape[1] != self.in_channels or not x.is_floating_point():
            given = f"{tuple(x.shape)} {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
            raise InputError(f"a network takes a float tensor (N, {self.in_channels}, H, W), not {given}.")
        return cast(Scores, self.head(self.backbone(self.pad(x))))

    def pad(self, x: Tensor) -> Tensor:
        """Pad right and bottom with 0, the mean of normalised pictures, to the sizes that the variant works on."""
        height, width = self.padded_size(x.shape[-2], x.shape[-1])
        if (height, width) == tuple(x.shape[-2:]):
            return x  # F.pad would copy it
        return F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]))

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size on which a picture of a size is computed."""
        m, least = self.spec.size_divisor, self.spec.min_size
        return max(least, -(-height // m) * m), max(least, -(-width // m) * m)

    def graph(self) -> tuple[nn.Module, fx.Graph]:
        """Return the graph from a padded picture to its scores, as `fullconv.geometry.trace_graph` does."""
        weight = next(self.parameters())
        example = torch.zeros(1, self.in_channels, *EXAMPLE, dtype=weight.dtype, device=weight.device)
        return trace_graph(_ScoreHalf(self.backbone, self.head), example)

    def activation_bytes(self, height: int, width: int, item_bytes: int) -> float:
        """Return the most memory in bytes that the maps of a padded picture take at once, for values of a size."""
        if item_bytes not in self._activation_bytes:
            graph = self.graph()[1]
            self._activation_bytes.update({of: map_bytes(graph, of) for of in (2, 4, item_bytes)})
        return self._activation_bytes[item_bytes](height, width)

    def upsample(
        self,
        scores: Scores,
        size: tuple[int, int],
        rows: tuple[int, int] | None = None,
        working: tuple[int, int] | None = None,
        *,
        clamp: bool = True,
    ) -> Scores:
        """Upsample scores to logits at the image's size.

        Args:
            scores: (N, K, h, w), or a dict of them by head.
            size: (H, W) of the result.
            rows: (a, b): only these rows of the result; the same bits as those of the whole.
            working: Size of the image that the scores were computed on, if it is not ``size``.
            clamp: Refuse rows outside the result. Scores that were cut out of a taller map have rows above 0.

        Returns:
            (N, K, H, W) or (N, K, b - a, W), or a dict of them.

        Raises:
            InputError: The rows are outside the result.
        """
        if clamp:
            check_rows(rows, size)
        if isinstance(scores, dict):
            return {k: cast(Tensor, self.upsample(s, size, rows, working, clamp=False)) for k, s in scores.items()}
        a, b = rows if rows is not None else (0, size[0])
        if self.spec.upsample_mode == "stride" and working in (None, size):
            return self._upsample_fixed(scores, size, a, b)
        return self._upsample_sampled(scores, size, a, b, working or size)

    def interpolation_matrices(self, scores: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return `upsample` as two matrices, float64: logits of a picture are ``rows @ scores @ columns.T``.

        Args:
            scores: (N, K, h, w).
            size: (H, W) of the logits.

        Returns:
            rows (H, h) and columns (W, w).
        """
        sides = []
        for axis, cells, full in zip((self.geometry.y, self.geometry.x), scores.shape[-2:], size, strict=True):
            unit = torch.eye(cells, dtype=torch.float64)
            if self.spec.upsample_mode == "stride":
                grown = upsample1d(unit, -2, self.score_stride, axis.offset, 0, full, self.border)
            else:
                grown = interp1d(unit, -2, self._positions(axis, 0, full, cells, full, full, unit), self.border)
            sides.append(grown.to(scores.device))
        return sides[0], sides[1]

    def _upsample_fixed(self, scores: Tensor, size: tuple[int, int], a: int, b: int) -> Tensor:
        factor, y, x = self.score_stride, self.geometry.y.offset, self.geometry.x.offset
        if torch.is_grad_enabled() and scores.requires_grad:
            rows = interpolation_matrix(size[0], scores.shape[-2], factor, y, self.border, scores)[a:b]
            columns = interpolation_matrix(size[1], scores.shape[-1], factor, x, self.border, scores)
            return rows @ (scores @ columns.T)
        # Only the coarse rows that these rows lie between, wide first: the full-size map is written once.
        low = min(max((a - _ceil(y)) // factor, 0), scores.shape[-2] - 1)
        high = min(max((b - 1 - _ceil(y)) // factor + 1, 0), scores.shape[-2] - 1)
        wide = upsample1d(scores[..., low : high + 1, :], -1, factor, x, 0, size[1], self.border)
        return upsample1d(wide, -2, factor, y + low * factor, a, b, self.border)

    def _upsample_sampled(
        self, scores: Tensor, size: tuple[int, int], a: int, b: int, working: tuple[int, int]
    ) -> Tensor:
        rows = self._positions(self.geometry.y, a, b, scores.shape[-2], size[0], working[0], scores)
        columns = self._positions(self.geometry.x, 0, size[1], scores.shape[-1], size[1], working[1], scores)
        return interp2d(scores, rows, columns, self.border)

    def _positions(self, axis: Axis, start: int, stop: int, cells: int, full: int, work: int, like: Tensor) -> Tensor:
        """Return where output pixels lie among an axis's cells, (stop - start,) float64."""
        if self.spec.upsample_mode == "size":
            return half_pixel_coords(start, stop, cells, full, like.device)
        pixel = torch.arange(start, stop, dtype=torch.float64, device=like.device)
        at = (pixel + 0.5) * work / full - 0.5  # in pixels of the working picture
        return (at - float(axis.offset)) / float(axis.scale)

    def extra_repr(self) -> str:
        """Show variant and geometry."""
        return f"variant={self.variant}, stride={self.stride}, receptive_field={self.receptive_field}"


def _ceil(value: Fraction) -> int:
    return -(-value.numerator // value.denominator)


class _ScoreHalf(nn.Module):
    """The scores of a padded picture, for tracing."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, x: Tensor) -> Scores:
        return cast(Scores, self.head(self.backbone(x)))


class _WithFeatures(_ScoreHalf):
    """The scores, and the features that they are made of."""

    def forward(self, x: Tensor) -> Any:
        features = self.backbone(x)
        return self.head(features), features


def _trace(network: Network, row: Variant) -> tuple[Geometry, Geometry]:
    """Return the geometry of the score map and of the coarsest score."""
    example = torch.zeros(1, network.in_channels, *EXAMPLE)
    training = network.training
    network.eval()
    try:
        geometry, features = trace(_WithFeatures(network.backbone, network.head), example)
    finally:
        network.train(training)
    if isinstance(geometry, dict):
        geometry = next(iter(geometry.values()))
    coarsest = geometry if row.head == "fcn" else _single(features[max(row.strides)])
    if geometry.stride != min(row.strides):
        raise NetworkError(f"{network.variant} was to score at stride {min(row.strides)}, not {geometry.stride}.")
    return geometry, coarsest


def _single(geometry: Any) -> Geometry:
    """Return the geometry of one map, or of the first of a pair that share it."""
    return cast(Geometry, geometry[0] if isinstance(geometry, (list, tuple)) else geometry)


def tree_map(scores: Scores, change: Callable[[Tensor], Tensor]) -> Scores:
    """Apply a function to scores of one head or several."""
    if isinstance(scores, dict):
        return {name: change(value) for name, value in scores.items()}
    return change(scores)
