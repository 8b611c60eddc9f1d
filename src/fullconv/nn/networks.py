"""Fully convolutional networks: backbone, head, and upsampling by geometry. Variants are rows of a table."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fullconv.errors import NetworkError, RecipeError, WeightsError, nearest
from fullconv.geometry import EXAMPLE, Axis, Geometry, halo, peak_bytes, trace, trace_graph
from fullconv.modelfile import CARD_KEY, read_header, read_tensors
from fullconv.nn.backbones import build_backbone, feature_channels
from fullconv.nn.heads import FCNHead, Heads, SkipHead
from fullconv.nn.published import LateFusion, PublishedHead, TwoTrunks, load_classifier, make_trunk, trace_trunk
from fullconv.nn.upsampling import Border, interpolation_matrix, sample_axis, upsample_axis
from fullconv.nn.variants import VARIANTS, Release, Variant
from fullconv.nn.weights import load_matching
from fullconv.recipe import HeadSettings, parse_recipe

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
        row = VARIANTS[variant]
        self.border: Border = "zero" if row.head == "release" else "replicate"
        self.variant, self.row, self.settings = variant, row, dict(settings)
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
        self.minimum_size = row.minimum
        self.started_anew: list[str] = []
        self._peak_bytes: dict[int, float] = {}

    def forward(self, x: Tensor) -> Scores:
        """Map (N, C, H, W) to logits (N, K, H, W), or a dict of them by head: `upsample` of `scores`."""
        return self.upsample(self.scores(x), (x.shape[-2], x.shape[-1]))

    def scores(self, x: Tensor) -> Scores:
        """Map (N, C, H, W) float, any H, W >= 1, to scores (N, K, h, w) at `score_stride`, or a dict by head."""
        return cast(Scores, self.head(self.backbone(self.pad(x))))

    def pad(self, x: Tensor) -> Tensor:
        """Pad right and bottom with 0, the mean of normalised pictures, to the sizes that the variant works on."""
        height, width = self.padded_size(x.shape[-2], x.shape[-1])
        if (height, width) == tuple(x.shape[-2:]):
            return x  # F.pad would copy it
        return F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]))

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size on which a picture of a size is computed."""
        m, least = self.row.multiple, self.row.minimum
        return max(least, -(-height // m) * m), max(least, -(-width // m) * m)

    def graph(self) -> tuple[nn.Module, fx.Graph]:
        """Return the graph from a padded picture to its scores, as `fullconv.geometry.trace_graph` does."""
        weight = next(self.parameters())
        example = torch.zeros(1, self.in_channels, *EXAMPLE, dtype=weight.dtype, device=weight.device)
        return trace_graph(_ScoreHalf(self.backbone, self.head), example)

    def peak_bytes(self, item_bytes: int) -> float:
        """Return the most memory that the maps of a picture take at once, in bytes a pixel, for values of a size."""
        if item_bytes not in self._peak_bytes:
            self._peak_bytes[item_bytes] = peak_bytes(self.graph()[1], item_bytes) / prod(EXAMPLE)
        return self._peak_bytes[item_bytes]

    def upsample(
        self,
        scores: Scores,
        size: tuple[int, int],
        rows: tuple[int, int] | None = None,
        working: tuple[int, int] | None = None,
    ) -> Scores:
        """Grow scores to logits of the picture's size.

        Args:
            scores: (N, K, h, w), or a dict of them by head.
            size: (H, W) of the result.
            rows: (a, b): only these rows of the result; the same bits as those of the whole.
            working: Size of the picture that the scores were computed on, where that is not ``size``.

        Returns:
            (N, K, H, W) or (N, K, b - a, W), or a dict of them.
        """
        if isinstance(scores, dict):
            return {name: cast(Tensor, self.upsample(s, size, rows, working)) for name, s in scores.items()}
        a, b = rows if rows is not None else (0, size[0])
        if self.row.rule == "fixed" and working in (None, size):
            return self._upsample_fixed(scores, size, a, b)
        return self._upsample_sampled(scores, size, a, b, working or size)

    def interpolation(self, scores: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
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
            if self.row.rule == "fixed":
                grown = upsample_axis(unit, -2, self.score_stride, axis.offset, 0, full, self.border)
            else:
                grown = sample_axis(unit, -2, self._positions(axis, 0, full, cells, full, full, unit), self.border)
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
        wide = upsample_axis(scores[..., low : high + 1, :], -1, factor, x, 0, size[1], self.border)
        return upsample_axis(wide, -2, factor, y + low * factor, a, b, self.border)

    def _upsample_sampled(
        self, scores: Tensor, size: tuple[int, int], a: int, b: int, working: tuple[int, int]
    ) -> Tensor:
        axes = ((self.geometry.y, -2, a, b), (self.geometry.x, -1, 0, size[1]))
        for (axis, dim, start, stop), full, work in zip(axes, size, working, strict=True):
            positions = self._positions(axis, start, stop, scores.shape[dim], full, work, scores)
            scores = sample_axis(scores, dim, positions, self.border)
        return scores

    def _positions(self, axis: Axis, start: int, stop: int, cells: int, full: int, work: int, like: Tensor) -> Tensor:
        """Return where output pixels lie among an axis's cells, (stop - start,) float64."""
        pixel = torch.arange(start, stop, dtype=torch.float64, device=like.device)
        if self.row.rule == "size":
            return ((pixel + 0.5) * cells / full - 0.5).clamp(min=0)
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


def _trace(network: Network, row: Variant) -> tuple[Geometry, Geometry]:
    """Return the geometry of the score map and of the coarsest score."""
    example = torch.zeros(1, network.in_channels, *EXAMPLE)
    training = network.training
    network.eval()
    try:
        geometry = trace(_ScoreHalf(network.backbone, network.head), example)
        features = trace(network.backbone, example)
    finally:
        network.train(training)
    if isinstance(geometry, dict):
        geometry = next(iter(geometry.values()))
    coarsest = geometry if row.head == "fcn" else _single(features[max(row.strides)])
    if geometry.stride != min(row.strides):
        raise NetworkError(f"{network.variant} was to score at stride {min(row.strides)}, not {geometry.stride}.")
    return geometry, coarsest


def _phases(backbone: nn.Module, strides: Sequence[int], in_channels: int) -> dict[int, Fraction]:
    """Return where the first cell of each stride lies among the cells of the next finer one."""
    features: dict[int, Geometry] = trace(backbone, torch.zeros(1, in_channels, 64, 96))
    phases = {}
    for coarse, fine in pairwise(sorted(strides, reverse=True)):
        high, low = features[coarse], features[fine]
        for axis in (high.y, high.x):
            if axis.scale != coarse:
                raise NetworkError(
                    f"the backbone's stride-{coarse} features have a step of {float(axis.scale):g} pixels."
                )
        phases[coarse] = _shift(high.y, low.y)
        if _shift(high.x, low.x) != phases[coarse]:
            raise NetworkError("the backbone treats rows and columns differently, which no variant here serves.")
    return phases


def _shift(coarse: Axis, fine: Axis) -> Fraction:
    return (coarse.offset - fine.offset) / fine.scale


def build(
    variant: str,
    *,
    backbone: str | None = None,
    num_classes: int | Mapping[str, int] | None = None,
    in_channels: int | None = None,
    weights: str | Path | None = None,
    norm: str = "batch",
    width: float = 1.0,
    head: HeadSettings | Mapping[str, Any] | None = None,
    phase: float | None = None,
) -> Network:
    """Build a network.

    Args:
        variant: A name of interface 9, for example "fcn8s".
        backbone: "tiny", a timm model, "alexnet" or "googlenet"; resnet18 by default; published nets have their own.
        num_classes: Number of classes K, or K by head name; published nets know theirs.
        in_channels: Channels of the pictures; 3, or what the published net takes.
        weights: None or "none", "imagenet", or a file: of the classifier, or a model of ours (also with other
            classes; `started_anew` then lists the tensors that did not come from it).
        norm: "batch" or "none", for the backbone tiny.
        width: Multiplier of the backbone's channels, for tests and small machines.
        head: Settings of the head.
        phase: Pixel on which the first score is put, for weights that were trained with another one than geometry
            gives: 3.5 for torchvision's in "fcn-os8".

    Returns:
        A module in eval mode.

    Raises:
        NetworkError: Variant or backbone are unknown, do not go together, or cannot serve.
        WeightsError: The weights cannot be had.
    """
    row = _row(variant)
    if row.backbone is not None and backbone not in (None, row.backbone):
        raise NetworkError(f"{variant} is made of {row.backbone}; leave backbone = {backbone} away.")
    name = row.backbone or backbone or "resnet18"
    classes = num_classes if num_classes is not None else row.num_classes
    if in_channels is None:
        in_channels = row.in_channels
    if classes is None:
        raise NetworkError(f"{variant} needs num_classes, the number of classes.")
    counts = list(classes.values()) if isinstance(classes, Mapping) else [classes]
    if any(not 1 <= count <= 255 for count in counts) or in_channels < 1:
        raise NetworkError(f"num_classes is 1 to 255 and in_channels at least 1, not {classes} and {in_channels}.")
    settings = _head_settings(head)
    _refuse_idle(row, variant, name, settings)
    if phase is not None and (row.rule == "size" or row.release is not None):
        raise NetworkError(f"phase = {phase:g} does nothing in {variant}, whose scores lie where its authors put them.")
    origin = None if weights is None or str(weights) == "none" else weights
    if origin is not None and str(origin) != "imagenet" and not Path(origin).is_file():
        raise WeightsError(f'{origin}: there is no such weights file. Give a file, "imagenet" or "none".')
    own = _own_model(origin)
    if row.release is not None:
        name, features, made = _published(
            row, row.release, backbone, classes, in_channels, width, None if own else origin
        )
    else:
        features = build_backbone(
            name, row.strides, in_channels, None if own else origin, fc=settings.fc, dropout=settings.dropout, norm=norm,
            width=width, output_stride=row.output_stride,
        )  # fmt: skip
        features.eval()
        made = _heads(row, features, classes, in_channels, settings)
    kept = {"in_channels": in_channels, "num_classes": classes if isinstance(classes, int) else dict(classes),
            "backbone": name, "norm": norm, "width": width, "head": settings.model_dump(), "phase": phase}  # fmt: skip
    network = Network(variant, features, made, kept)
    if own:
        network.started_anew = load_matching(network, read_tensors(cast(Path, origin)))
    return network.eval()


def _refuse_idle(row: Variant, variant: str, backbone: str, settings: HeadSettings) -> None:
    """Raise for settings of the head that would do nothing with this network.

    Raises:
        NetworkError: One of them differs from its default; the message says where it acts.
    """
    has_fc = row.head == "skip" and (backbone.startswith("vgg") or backbone == "alexnet")
    plain = HeadSettings()
    for key, where, acts in (
        ("fc", "skip variants on VGG and AlexNet encoders", has_fc),
        ("dropout", "skip variants on VGG and AlexNet encoders", has_fc),
        ("upsampling", "fcn16s, fcn8s and fcn4s", row.head == "skip" and len(row.strides) > 1),
    ):
        value = getattr(settings, key)
        if value != getattr(plain, key) and not acts:
            raise NetworkError(
                f"head.{key} = {value} does nothing in {variant} on {backbone}; it is for {where}. Leave it away."
            )


def _published(
    row: Variant,
    release: Release,
    backbone: str | None,
    classes: int | Mapping[str, int],
    in_channels: int,
    width: float,
    weights: str | Path | None,
) -> tuple[str, nn.Module, nn.Module]:
    """Make trunk and head of a net of the release; return them with the trunk's name."""
    if backbone not in (None, release.trunk):
        raise NetworkError(f"a published net has its own backbone; leave backbone = {backbone} away.")
    if in_channels != row.in_channels and release.late:
        raise NetworkError(f"late fusion takes {row.in_channels} channels, three a trunk, not {in_channels}.")
    trunk = make_trunk(release.trunk, 3 if release.late else in_channels, row.strides, width)
    if weights is not None:
        load_classifier(trunk, release.trunk, str(weights))
    features: nn.Module = TwoTrunks(trunk, copy.deepcopy(trunk)) if release.late else trunk
    geometry = trace_trunk(trunk, 3 if release.late else in_channels)
    coarsest = geometry[max(row.strides)]

    def one(count: int) -> nn.Module:
        if release.late:
            return LateFusion(trunk.channels[32], count)
        return PublishedHead(geometry, trunk.channels, count, release.scales)

    assert coarsest.stride == max(row.strides)
    made = (
        Heads({name: one(count) for name, count in classes.items()}) if isinstance(classes, Mapping) else one(classes)
    )
    return release.trunk, features, made


def _single(geometry: Any) -> Geometry:
    """Return the geometry of one map, or of the first of a pair that share it."""
    return cast(Geometry, geometry[0] if isinstance(geometry, (list, tuple)) else geometry)


def _head_settings(head: HeadSettings | Mapping[str, Any] | None) -> HeadSettings:
    """Check the settings of the head as a recipe does."""
    if isinstance(head, HeadSettings):
        return head
    try:
        return parse_recipe({"head": head or {}}, "head").head
    except RecipeError as error:
        raise NetworkError(str(error).removeprefix("head: ")) from None


def _row(variant: str) -> Variant:
    if variant not in VARIANTS:
        raise NetworkError(
            f"there is no variant '{variant}'.{nearest(variant, VARIANTS)} `fullconv models` lists them."
        )
    return VARIANTS[variant]


def _own_model(weights: str | Path | None) -> bool:
    """Say whether a weights file is a model of ours."""
    if weights is None or str(weights) == "imagenet" or Path(weights).suffix != ".safetensors":
        return False
    if not Path(weights).is_file():
        return False
    return CARD_KEY in read_header(weights)[1]


def _heads(
    row: Variant, features: nn.Module, classes: int | Mapping[str, int], in_channels: int, settings: HeadSettings
) -> nn.Module:
    """Make the head, or one a name."""
    channels = feature_channels(features)
    phases = _phases(features, row.strides, in_channels) if row.head == "skip" else {}

    def one(count: int) -> nn.Module:
        if row.head == "fcn":
            return FCNHead(channels[row.strides[0]], count, row.strides[0])
        return SkipHead({s: channels[s] for s in row.strides}, count, phases, settings.upsampling == "learned")

    if isinstance(classes, Mapping):
        return Heads({name: one(count) for name, count in classes.items()})
    return one(classes)


def map_scores(scores: Scores, change: Callable[[Tensor], Tensor]) -> Scores:
    """Apply a function to scores of one head or several."""
    if isinstance(scores, dict):
        return {name: change(value) for name, value in scores.items()}
    return change(scores)
