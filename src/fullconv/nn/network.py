"""Fully convolutional networks: backbone, head, and upsampling by geometry. Variants are rows of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from math import ceil
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fullconv.errors import InputError, NetworkError
from fullconv.geometry import EXAMPLE_SIZE, Axis, Geometry, halo, trace_graph, trace_network, traced_geometry
from fullconv.nn.heads import Features
from fullconv.nn.registry import get_variant
from fullconv.nn.upsample import check_rows, half_pixel_coords, interp1d, interp2d, upsample1d

Scores = Tensor | dict[str, Tensor]
"""Of one head (N, K, h, w), or of several by name."""


class Network(nn.Module):
    """A fully convolutional network in two halves: `scores`, and `upsample` to the image's size.

    ``stride`` and ``receptive_field`` are those of the coarsest features, as papers count them; ``score_stride`` is that of
    the scores, whose first cell lies on pixel ``geometry.y.offset``, the phase of the last upsampling. ``halo`` (left, top,
    right, bottom) is the border that makes a tile exact, None if a layer sees the whole image.

    Args:
        variant: Name in `VARIANTS`.
        backbone: Features by stride.
        make_head: Features to the head, a module from features to scores; called once, while the network is traced.
        settings: Keywords of `build` that made it.
    """

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Scores:
            """Call `forward`."""

    def __init__(
        self, variant: str, backbone: nn.Module, make_head: Callable[[Features], nn.Module], settings: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.variant, self.spec, self.settings = variant, get_variant(variant), dict(settings)
        self.border = self.spec.head.border
        self.in_channels: int = settings["in_channels"]
        self.num_classes: int | dict[str, int] = settings["num_classes"]
        self.backbone = backbone
        traced = _TracedOnce(backbone, make_head)
        self.trace = trace_network(traced, torch.zeros(1, self.in_channels, *EXAMPLE_SIZE))
        self.head = traced.head
        scores, features = self.trace.output
        geometry: Geometry = next(iter(scores.values())) if isinstance(scores, dict) else scores
        if geometry.stride != min(self.spec.strides):
            raise NetworkError(f"{variant} must score at stride {min(self.spec.strides)}, not {geometry.stride}.")
        # Cells are counted on the coarsest features: 1x1 scores see no more. A single map's head may see more.
        coarsest = geometry if len(self.spec.strides) == 1 else features[max(self.spec.strides)]
        if (phase := settings.get("phase")) is not None:
            offset = Fraction(phase)
            geometry = replace(geometry, y=replace(geometry.y, offset=offset), x=replace(geometry.x, offset=offset))
        self.geometry, self.score_stride = geometry, geometry.stride
        self.stride: int = coarsest.stride
        self.receptive_field: int | None = coarsest.receptive_field
        self.halo: tuple[int, int, int, int] | None = (
            halo(geometry.y, geometry.x, align=self.stride) if geometry.bounded else None
        )
        self.min_size = self.spec.min_size
        self.missing_keys: list[str] = []
        """Names of the tensors that were not in the model file given as ``weights``."""

    @property
    def classes_by_head(self) -> dict[str, int]:
        """Number of classes by head; the key of a single head is ""."""
        return self.num_classes if isinstance(self.num_classes, dict) else {"": self.num_classes}

    def forward(self, x: Tensor) -> Scores:
        """Map (N, C, H, W) to logits (N, K, H, W), or a dict of them by head: `upsample` of `scores`."""
        return self.upsample(self.scores(x), (x.shape[-2], x.shape[-1]))

    def scores(self, x: Tensor) -> Scores:
        """Map (N, C, H, W) float, any H, W >= 1, to scores (N, K, h, w) at `score_stride`, or a dict by head.

        Raises:
            InputError: ``x`` is not such a tensor.
        """
        if not isinstance(x, Tensor) or x.dim() != 4 or x.shape[1] != self.in_channels or not x.is_floating_point():
            given = f"{tuple(x.shape)} {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
            raise InputError(f"a network takes a float tensor (N, {self.in_channels}, H, W), not {given}.")
        return cast(Scores, self.head(self.backbone(self.pad(x))))

    def upsample(
        self,
        scores: Scores,
        size: tuple[int, int],
        rows: tuple[int, int] | None = None,
        working: tuple[int, int] | None = None,
        *,
        check: bool = True,
    ) -> Scores:
        """Upsample scores to logits at the image's size.

        By a fixed factor and phase, or by the image's size (torchvision's networks, or a rescaled image). With gradients
        the fixed case is two matrix products, whose sums may round differently; without, any rows have the bits of the
        whole.

        Args:
            scores: (N, K, h, w), or a dict of them by head.
            size: (H, W) of the result.
            rows: (a, b): only these rows of the result.
            working: Size of the image that the scores were computed on, if it is not ``size``.
            check: Refuse rows outside the result. Scores that were cut out of a taller map have rows below 0.

        Returns:
            (N, K, H, W) or (N, K, b - a, W), or a dict of them.

        Raises:
            InputError: The rows are outside the result.
        """
        if check:
            check_rows(rows, size)
        if isinstance(scores, dict):
            return {k: cast(Tensor, self.upsample(s, size, rows, working, check=False)) for k, s in scores.items()}
        a, b = rows if rows is not None else (0, size[0])
        height, width = scores.shape[-2:]
        if self.spec.upsample_mode == "size" or working not in (None, size):
            down = self._positions(self.geometry.y, (a, b), height, size[0], (working or size)[0], scores.device)
            across = self._positions(self.geometry.x, (0, size[1]), width, size[1], (working or size)[1], scores.device)
            return interp2d(scores, down, across, self.border)
        if torch.is_grad_enabled() and scores.requires_grad:
            # The same sums as two matrix products: their gradients are products too, not scattered additions.
            matrix_y, matrix_x = (matrix.to(scores) for matrix in self.interpolation_matrices(scores, size))
            return matrix_y[a:b] @ (scores @ matrix_x.T)
        # Only the coarse rows that these rows lie between, columns first: the full-size map is written once.
        factor, y, x = self.score_stride, self.geometry.y.offset, self.geometry.x.offset
        low = min(max((a - ceil(y)) // factor, 0), height - 1)
        high = min(max((b - 1 - ceil(y)) // factor + 1, 0), height - 1)
        wide = upsample1d(scores[..., low : high + 1, :], -1, factor, x, 0, size[1], self.border)
        return upsample1d(wide, -2, factor, y + low * factor, a, b, self.border)

    def interpolation_matrices(self, scores: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return `upsample` as two matrices, float64: logits of an image are ``rows @ scores @ columns.T``.

        Args:
            scores: (N, K, h, w).
            size: (H, W) of the logits.

        Returns:
            rows (H, h) and columns (W, w).
        """
        matrices = []
        for axis, cells, full in zip((self.geometry.y, self.geometry.x), scores.shape[-2:], size, strict=True):
            unit = torch.eye(cells, dtype=torch.float64)
            if self.spec.upsample_mode == "stride":
                matrix = upsample1d(unit, -2, self.score_stride, axis.offset, 0, full, self.border)
            else:
                positions = self._positions(axis, (0, full), cells, full, full, unit.device)
                matrix = interp1d(unit, -2, positions, self.border)
            matrices.append(matrix.to(scores.device))
        return matrices[0], matrices[1]

    def _positions(
        self, axis: Axis, pixels: tuple[int, int], cells: int, full: int, working: int, device: torch.device
    ) -> Tensor:
        """Return where pixels a to b of ``full`` lie among an axis's cells, (b - a,) float64."""
        if self.spec.upsample_mode == "size":
            return half_pixel_coords(*pixels, cells, full, device)
        pixel = torch.arange(*pixels, dtype=torch.float64, device=device)
        at = (pixel + 0.5) * working / full - 0.5  # in pixels of the working image
        return (at - float(axis.offset)) / float(axis.jump)

    def pad(self, x: Tensor) -> Tensor:
        """Pad right and bottom with 0, the mean of normalized images, to the sizes that the variant works on."""
        height, width = self.padded_size(x.shape[-2], x.shape[-1])
        if (height, width) == tuple(x.shape[-2:]):
            return x  # F.pad would copy it
        return F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]))

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size on which an image of a size is computed."""
        divisor, least = self.spec.size_divisor, self.spec.min_size
        return max(least, -(-height // divisor) * divisor), max(least, -(-width // divisor) * divisor)

    def graph(self) -> tuple[nn.Module, fx.Graph]:
        """Return the graph from a padded image to its scores, as `fullconv.geometry.trace_graph` does."""
        weight = next(self.parameters())
        example = torch.zeros(1, self.in_channels, *EXAMPLE_SIZE, dtype=weight.dtype, device=weight.device)
        return trace_graph(_CoarseNet(self.backbone, self.head), example)

    def activation_bytes(self, height: int, width: int, item_bytes: int) -> float:
        """Return the peak bytes of the activations of a padded image, for values of 2, 4 or 8 bytes."""
        return self.trace.activation_bytes(height, width, item_bytes)

    def extra_repr(self) -> str:
        """Show variant and geometry."""
        return f"variant={self.variant}, stride={self.stride}, receptive_field={self.receptive_field}"


class _CoarseNet(nn.Module):
    """From a padded image to its scores."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, x: Tensor) -> Any:
        return self.head(self.backbone(x))


class _TracedOnce(nn.Module):
    """From a padded image to its scores and features, for one trace, which also gives the head what it is built from."""

    def __init__(self, backbone: nn.Module, make_head: Callable[[Features], nn.Module]) -> None:
        super().__init__()
        self.backbone, self.make_head = backbone, make_head

    def forward(self, x: Tensor) -> Any:
        features = self.backbone(x)
        if not hasattr(self, "head"):
            channels = cast(Mapping[int, int], self.backbone.channels)
            self.head = self.make_head(Features(channels, traced_geometry(features))).eval()
        return self.head(features), features


def scores_by_head(scores: Scores) -> dict[str, Tensor]:
    """Return scores as a dict by head; the key of a single head is ""."""
    return scores if isinstance(scores, dict) else {"": scores}
