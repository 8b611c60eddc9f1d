"""Upsampling of score maps in numpy, by the position of their cells in the whole image; no torch is needed.

The same positions and weights as `fullconv.nn.upsample`: exported files are predicted with it where torch is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from fractions import Fraction
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from fullconv.geometry.axis import Axis, Geometry

Floats = NDArray[np.float32]
Border = Literal["replicate", "zero"]

ARGMAX_PIXELS = 2**16
"""Pixels whose argmax is computed together: their maxima, indices and logits of a class stay in a core's cache."""


@dataclass(frozen=True)
class ScoreLayout:
    """Where the scores of a network lie in the image and how they are upsampled: a network without its layers.

    It has the attributes of `fullconv.nn.Network` that plans of tiles, memory estimates and upsampling read.
    """

    geometry: Geometry
    """Of the score map."""
    upsample_mode: Literal["stride", "size", "none"]
    """By a fixed factor and phase; by the image's size (half-pixel); or the scores are the logits themselves."""
    border: Border
    """Values beyond the first and last cell."""
    stride: int
    """Grid in pixels on which tiles start and end."""
    halo: tuple[int, int, int, int] | None
    """Pixels (left, top, right, bottom) that a tile needs around it; None where exact tiling is impossible."""
    size_divisor: int
    min_size: int
    """Images are padded right and bottom to a multiple of the divisor, and to at least this size."""
    in_channels: int
    activation_bytes_per_pixel: float
    """Peak of the activations in float32, roughly."""

    @classmethod
    def of(cls, network: Any) -> ScoreLayout:
        """Return the layout of a `Network`, a wrapped module, or a layout itself."""
        if isinstance(network, cls):
            return network
        spec = getattr(network, "spec", None)  # wrapped modules have no row in the variants' table
        return cls(
            geometry=network.geometry,
            upsample_mode="none" if spec is None else spec.upsample_mode,
            border=getattr(network, "border", "replicate"),
            stride=network.stride,
            halo=network.halo,
            size_divisor=network.pad_to if spec is None else spec.size_divisor,
            min_size=network.min_size,
            in_channels=network.in_channels,
            activation_bytes_per_pixel=network.activation_bytes(1024, 1024, 4) / 1024**2,
        )

    @property
    def score_stride(self) -> int:
        """Pixels from one score to the next."""
        return self.geometry.stride

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size at which an image of a size is computed."""
        m, least = self.size_divisor, self.min_size
        return max(least, -(-height // m) * m), max(least, -(-width // m) * m)

    def activation_bytes(self, height: int, width: int, item_bytes: int) -> float:
        """Estimate the peak memory of the activations of a padded image."""
        return self.activation_bytes_per_pixel * height * width * item_bytes / 4

    def upsample(
        self,
        scores: Floats,
        size: tuple[int, int],
        rows: tuple[int, int] | None = None,
        working: tuple[int, int] | None = None,
        first: int = 0,
        total: int | None = None,
    ) -> Floats:
        """Upsample scores to rows of the logits.

        Args:
            scores: (..., n, w) float32: rows ``first`` to ``first + n`` of the score map, all that the result reads.
            size: (H, W) of the image.
            rows: (a, b) of the image; None is all.
            working: Size at which the scores were computed, where it is not ``size``.
            first: Row of the score map at which ``scores`` begin.
            total: Rows of the whole score map; None where ``scores`` are the whole.

        Returns:
            (..., b - a, W) float32; the same bits for a row whatever other rows are computed.
        """
        a, b = rows or (0, size[0])
        if self.upsample_mode == "none" and working in (None, size):
            return scores[..., a - first : b - first, :]
        work = working or size
        total = scores.shape[-2] if total is None else total
        down = self._positions(self.geometry.y, a, b, total, size[0], work[0]) - first
        across = self._positions(self.geometry.x, 0, size[1], scores.shape[-1], size[1], work[1])
        top = np.floor(down)
        wide = interpolate(take_cells(scores, -2, top, self.border), -1, across, self.border)
        return _lerp(wide, -2, down, top)

    def _positions(self, axis: Axis, start: int, stop: int, cells: int, full: int, work: int) -> NDArray[np.float64]:
        """Return the positions of output pixels among an axis's cells, (stop - start,)."""
        pixel = np.arange(start, stop, dtype=np.float64)
        if self.upsample_mode in ("size", "none"):
            return ((pixel + 0.5) * cells / full - 0.5).clip(min=0)
        if work != full:
            pixel = (pixel + 0.5) * work / full - 0.5  # in pixels of the working image
        return (pixel - float(axis.offset)) / float(axis.jump)

    @property
    def spec(self) -> ScoreLayout | None:
        """What plans read of a variant's row: this layout itself; None where the scores are the logits."""
        return None if self.upsample_mode == "none" else self

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for the metadata of an exported file; fractions as text."""
        y, x, *inexact = astuple(self.geometry)
        return {
            **{key: getattr(self, key) for key in _PLAIN},
            "halo": None if self.halo is None else list(self.halo),
            "axes": [[str(value) for value in axis] for axis in (y, x)],
            "inexact": [list(names) for names in inexact[:3]],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ScoreLayout:
        """Read what `to_dict` wrote; anything else raises KeyError, TypeError or ValueError."""
        y, x = (Axis(*(Fraction(text) for text in axis)) for axis in data["axes"])
        inexact = [tuple(str(name) for name in names) for names in data["inexact"]]
        halo = None if data["halo"] is None else tuple(int(side) for side in data["halo"])
        if data["upsample_mode"] not in ("stride", "size", "none") or data["border"] not in ("replicate", "zero"):
            raise ValueError("unknown upsampling")
        if min(y.jump, x.jump) <= 0 or min(int(data[key]) for key in ("stride", "size_divisor", "in_channels")) < 1:
            raise ValueError("a stride below 1")
        whole, unknown, size_dependent = inexact
        return cls(
            Geometry(y, x, whole, unknown, size_dependent), halo=cast(Any, halo), **{key: data[key] for key in _PLAIN}
        )


_PLAIN = ("upsample_mode", "border", "stride", "size_divisor", "min_size", "in_channels", "activation_bytes_per_pixel")


def take_cells(x: Floats, dim: int, left: NDArray[np.float64], border: Border) -> Floats:
    """Return the cells of an axis from the first of ``left`` to the one after the last; some may lie outside."""
    n, low, high = x.shape[dim], int(left.min()), int(left.max()) + 1
    index = np.arange(low, high + 1)
    cells = x.take(index.clip(0, n - 1), axis=dim)
    if border == "zero":
        inside = ((index >= 0) & (index < n)).astype(np.float32)
        cells *= inside.reshape(-1, *([1] * (-1 - dim)))
    return cells


def interpolate(x: Floats, dim: int, positions: NDArray[np.float64], border: Border = "replicate") -> Floats:
    """Interpolate the n cells of an axis, counted from the end, linearly at positions (m,): ``x`` with m cells there."""
    left = np.floor(positions)
    return _lerp(take_cells(x, dim, left, border), dim, positions, left)


def _lerp(cells: Floats, dim: int, positions: NDArray[np.float64], left: NDArray[np.float64]) -> Floats:
    """Interpolate between cells of `take_cells`, from the nearer one as ``torch.lerp`` does."""
    weight = (positions - left).astype(np.float32)
    index = (left - left.min()).astype(np.intp)
    shape = (-1, *([1] * (-1 - dim)))
    steps = np.diff(cells, axis=dim)
    result: Floats = steps.take(index, axis=dim)
    result *= np.where(weight < 0.5, weight, weight - np.float32(1)).reshape(shape)
    result += cells.take(index + (weight >= 0.5), axis=dim)
    return result


def softmax(logits: Any) -> Any:
    """Return probabilities over the first axis of logits (K, ...), an array or a tensor of torch."""
    if not isinstance(logits, np.ndarray):
        return logits.softmax(0)
    result = np.exp(logits - logits.max(0))
    result /= result.sum(0)
    return result


def mean_logits(views: Sequence[Any]) -> Any:
    """Return the logarithms of the mean probabilities of several logits (K, ...), arrays or tensors."""
    total = softmax(views[0])
    for logits in views[1:]:
        total = total + softmax(logits)
    mean = total / len(views)
    tiny = float(np.finfo(np.float32).tiny)  # a class without a chance in any view keeps a finite logarithm
    return np.log(mean.clip(min=tiny)) if isinstance(mean, np.ndarray) else mean.clamp_(min=tiny).log()


def hflip(logits: Any, order: Sequence[int] = ()) -> Any:
    """Return the mirror image of logits (K, rows, W), an array or a tensor.

    Args:
        logits: Of the mirrored image.
        order: Class of the mirror image of each class, see `Labels.mirror_order`; empty where they stay.
    """
    flipped = logits[..., ::-1] if isinstance(logits, np.ndarray) else logits.flip(-1)
    return flipped[list(order)] if order else flipped


def argmax(logits: Any) -> NDArray[np.uint8]:
    """Return the class of the largest of logits (K, rows, W) as (rows, W) uint8; of equal ones the first.

    Args:
        logits: float32 array, or a tensor on any device.
    """
    if not isinstance(logits, np.ndarray):
        if logits.device.type != "cpu" or logits.element_size() != 4:
            return cast("NDArray[np.uint8]", logits.max(0).indices.byte().cpu().numpy())
        logits = logits.numpy()
    labels = np.zeros(logits.shape[1:], np.uint8)
    rows = max(1, ARGMAX_PIXELS // logits.shape[2])
    for start in range(0, logits.shape[1], rows):
        values, part = logits[:, start : start + rows], labels[start : start + rows]
        best = values[0].copy()
        for index in range(1, len(values)):
            larger = (values[index] > best).view(np.uint8)
            larger *= np.uint8(index)
            np.maximum(part, larger, out=part)  # a class that wins later has the larger index
            np.maximum(best, values[index], out=best)
    return labels


def to_numpy(values: Any) -> Floats:
    """Return an array, or the values of a tensor on any device, as a float32 array."""
    return values if isinstance(values, np.ndarray) else cast(Floats, values.float().cpu().numpy())
