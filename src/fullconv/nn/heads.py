"""Heads: features by stride in, scores out.

Layer names of the Caffe release's heads are its own, flattened by part; `fullconv.nn.caffe.convert` maps its files to them.

Source: Long et al., CVPR 2015; Shelhamer et al., TPAMI 2017; shelhamer/fcn.berkeleyvision.org.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from typing import ClassVar, cast

from torch import Tensor, nn

from fullconv.errors import NetworkError
from fullconv.geometry import Geometry, crop_between
from fullconv.nn.upsample import Border, Upsample


@dataclass(frozen=True)
class Features:
    """What a head is built from: channels and geometry of a backbone's features, by stride."""

    channels: Mapping[int, int]
    geometry: Mapping[int, Geometry]
    """Where the cells of each map lie in the image."""


@dataclass(frozen=True)
class HeadOptions:
    """Options of heads; each head reads its own."""

    learned: bool = False
    """Train the upsampling between strides (`SkipHead`)."""
    scales: Mapping[int, float] = field(default_factory=dict)
    """By stride, the factor on the features of an at-once network (`CaffeSkipHead`)."""


NO_OPTIONS = HeadOptions()


class Head(nn.Module):
    """Base of all heads: a module from ``{stride: (N, C, h, w)}`` to scores (N, K, h, w) at the finest stride."""

    border: ClassVar[Border] = "replicate"
    """What lies beyond the score map when it is upsampled to the image."""
    class_layers: ClassVar[tuple[str, ...]]
    """Layers whose weights and biases have a row per class on their first axis; all others do not depend on the classes."""

    @classmethod
    def from_features(
        cls, features: Features, strides: tuple[int, ...], num_classes: int, options: HeadOptions
    ) -> Head:
        """Build a head for the features of some strides.

        Args:
            features: Of the backbone.
            strides: Fine to coarse.
            num_classes: Number of classes K.
            options: Of the variant and of the recipe.

        Raises:
            NetworkError: The features do not suit the head.
        """
        raise NotImplementedError


class SkipHead(Head):
    """Score features at several strides and sum the scores from coarse to fine.

    Args:
        channels: Feature channels by stride; ``{8: 256, 16: 512, 32: 4096}`` makes FCN-8s on VGG-16.
        num_classes: Number of classes K.
        phases: By stride, where coarse cell 0 lies among the cells of the next finer stride.
        learned: Train the upsampling between strides.

    Source: Long et al., CVPR 2015, section 4.2 and figure 3.
    """

    class_layers = ("score", "grow")

    def __init__(
        self, channels: Mapping[int, int], num_classes: int, phases: Mapping[int, Fraction], learned: bool = False
    ) -> None:
        super().__init__()
        self.strides = sorted(channels, reverse=True)  # coarse to fine
        self.score = nn.ModuleDict({str(s): nn.Conv2d(channels[s], num_classes, 1) for s in self.strides})
        self.grow = nn.ModuleDict(  # model files hold learned weights under this name
            {str(fine): Upsample(num_classes, coarse // fine, phases[coarse], learned)
             for coarse, fine in pairwise(self.strides)}
        )  # fmt: skip

    @classmethod
    def from_features(
        cls, features: Features, strides: tuple[int, ...], num_classes: int, options: HeadOptions
    ) -> SkipHead:
        """Build the head whose upsampling follows the geometry of the features."""
        phases = {}
        for coarse, fine in pairwise(sorted(strides, reverse=True)):
            high, low = features.geometry[coarse], features.geometry[fine]
            for axis in (high.y, high.x):
                if axis.jump != coarse:
                    raise NetworkError(
                        f"the backbone's stride-{coarse} features have a step of {float(axis.jump):g} pixels."
                    )
            phases[coarse] = (high.y.offset - low.y.offset) / low.y.jump
            if (high.x.offset - low.x.offset) / low.x.jump != phases[coarse]:
                raise NetworkError("the backbone treats rows and columns differently, which no variant supports.")
        return cls({s: features.channels[s] for s in strides}, num_classes, phases, options.learned)

    def forward(self, features: Mapping[int, Tensor]) -> Tensor:
        """Fuse ``{stride: (N, C, h, w)}`` into scores (N, K, h, w) at the finest stride."""
        coarsest, *finer = self.strides
        scores: Tensor = self.score[str(coarsest)](features[coarsest])
        for stride in finer:
            skip = self.score[str(stride)](features[stride])
            # A fixed factor and phase keep every tile on the grid of the whole image; "resize to the size of" would not.
            scores = self.grow[str(stride)](scores, skip) + skip
        return scores


class FCNHead(nn.Sequential, Head):
    """torchvision's head of its dilated FCNs: 3x3 convolution to a quarter of the channels, then 1x1 scores.

    Args:
        channels: Channels of the features.
        num_classes: Number of classes K.
        stride: Stride of the features that it scores.

    Source: torchvision/models/segmentation/fcn.py.
    """

    class_layers = ("4",)

    def __init__(self, channels: int, num_classes: int, stride: int) -> None:
        hidden = max(1, channels // 4)
        super().__init__(
            nn.Conv2d(channels, hidden, 3, padding=1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Conv2d(hidden, num_classes, 1),
        )
        self.stride = stride

    @classmethod
    def from_features(
        cls, features: Features, strides: tuple[int, ...], num_classes: int, options: HeadOptions
    ) -> FCNHead:
        """Build the head of the only stride."""
        (stride,) = strides
        return cls(features.channels[stride], num_classes, stride)

    def forward(self, features: Mapping[int, Tensor]) -> Tensor:
        """Score ``{stride: (N, C, h, w)}`` as (N, K, h, w)."""
        return cast(Tensor, super().forward(features[self.stride]))  # type: ignore[no-untyped-call]


class HeadDict(nn.ModuleDict):
    """Several heads on the same features; scores are a dict by head name."""

    def forward(self, features: Mapping[int, Tensor]) -> dict[str, Tensor]:
        """Return ``{name: (N, K, h, w)}``."""
        return {name: head(features) for name, head in self.items()}


class CaffeSkipHead(Head):
    """The release's skips: transposed convolutions upsample, and the skip's scores are cropped to their size.

    Args:
        features: Geometry of the features by stride, from which the crops follow.
        channels: Their channels.
        num_classes: Number of classes K.
        scales: By stride, the fixed factor that an at-once network applies to the features before scoring them.
    """

    border = "zero"
    class_layers = ("score",)

    def __init__(
        self,
        features: Mapping[int, Geometry],
        channels: Mapping[int, int],
        num_classes: int,
        scales: Mapping[int, float],
    ) -> None:
        super().__init__()
        self.strides = sorted(channels, reverse=True)  # coarse to fine
        self.scales = dict(scales)
        self.score = nn.ModuleDict({str(s): _zero_score(channels[s], num_classes) for s in self.strides})
        self.grow = nn.ModuleDict()
        self.crop = nn.ModuleDict()
        axis = features[self.strides[0]].y
        for coarse, fine in pairwise(self.strides):
            factor = coarse // fine
            phase = Fraction(2 * factor - 1, 2)  # of a transposed convolution of 2 * factor cells
            self.grow[str(fine)] = Upsample(num_classes, factor, phase, border="zero")
            axis = axis.upsample(factor, phase)
            self.crop[str(fine)] = Crop(crop_between(axis, features[fine].y))

    @classmethod
    def from_features(
        cls, features: Features, strides: tuple[int, ...], num_classes: int, options: HeadOptions
    ) -> CaffeSkipHead:
        """Build the head whose crops follow the geometry of the features."""
        channels = {stride: features.channels[stride] for stride in strides}
        return cls(features.geometry, channels, num_classes, options.scales)

    def forward(self, features: Mapping[int, Tensor]) -> Tensor:
        """Fuse ``{stride: (N, C, h, w)}`` into scores (N, K, h, w) at the finest stride."""
        coarsest, *finer = self.strides
        scores: Tensor = self.score[str(coarsest)](features[coarsest])
        for stride in finer:
            feature = features[stride]
            if stride in self.scales:
                feature = feature * self.scales[stride]
            skip = self.crop[str(stride)](self.score[str(stride)](feature), scores)
            scores = self.grow[str(stride)](scores, skip) + skip
        return scores


class LateFusionHead(Head):
    """Scores of two backbones, averaged before they are upsampled (the paper says summed; the release halves each)."""

    border = "zero"
    class_layers = ("score_color", "score_hha")

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.score_color, self.score_hha = _zero_score(channels, num_classes), _zero_score(channels, num_classes)

    @classmethod
    def from_features(
        cls, features: Features, strides: tuple[int, ...], num_classes: int, options: HeadOptions
    ) -> LateFusionHead:
        """Build the head of the only stride."""
        return cls(features.channels[max(strides)], num_classes)

    def forward(self, features: Mapping[int, tuple[Tensor, Tensor]]) -> Tensor:
        """Score ``{32: (color, HHA)}`` as (N, K, h, w)."""
        color, hha = features[32]
        scores: Tensor = 0.5 * self.score_color(color) + 0.5 * self.score_hha(hha)
        return scores


class Crop(nn.Module):
    """Crop a map from a fixed offset on to the size that a coarser one is upsampled to, 2n + 2."""

    def __init__(self, offset: int) -> None:
        super().__init__()
        self.offset = offset

    def trace_geometry(self, geometry: Geometry, coarse: Geometry) -> Geometry:
        """Return the geometry of the crop."""
        return replace(geometry, y=geometry.y.crop(self.offset), x=geometry.x.crop(self.offset))

    def forward(self, x: Tensor, coarse: Tensor) -> Tensor:
        """Crop (N, K, H, W) to (N, K, 2h + 2, 2w + 2)."""
        height, width = 2 * coarse.shape[-2] + 2, 2 * coarse.shape[-1] + 2
        return x[..., self.offset : self.offset + height, self.offset : self.offset + width]


def final_crop(scores: Geometry, factor: int, kernel: int) -> int:
    """Return the crop of the last transposed convolution's output: 19 for FCN-32s, 27 for 16s, 31 for 8s.

    Raises:
        NetworkError: It is not an integer: the kernel does not suit the backbone.
    """
    shift = Fraction(kernel - 1, 2) - scores.y.offset
    if shift.denominator != 1:
        raise NetworkError(
            f"a transposed convolution of {kernel} at stride {factor} would be off by {float(shift):g} pixels."
        )
    return int(shift)


def _zero_score(channels: int, num_classes: int) -> nn.Conv2d:
    """Return a 1x1 score layer that starts at exactly 0, as in the release, which defines no weight filler."""
    layer = nn.Conv2d(channels, num_classes, 1)
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
