"""HeadDict: features by stride in, scores out.

The networks of the Caffe release: pad 100, ceil pooling, crops, and transposed convolutions that fade at the border.

Layer names are the release's, flattened by part; `fullconv.nn.caffe.convert` maps its files to them.

Source: shelhamer/fcn.berkeleyvision.org; Long et al., CVPR 2015; Shelhamer et al., TPAMI 2017.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

from torch import Tensor, nn

from fullconv.errors import NetworkError
from fullconv.geometry import Geometry, crop_between
from fullconv.nn.upsample import Upsample


class SkipHead(nn.Module):
    """Score features at several strides and sum the scores from coarse to fine.

    Args:
        channels: Feature channels by stride; ``{8: 256, 16: 512, 32: 4096}`` makes FCN-8s.
        num_classes: Number of classes K.
        phases: By stride, where coarse cell 0 lies among the cells of the next finer stride.
        learned: Train the upsampling between strides.

    Source: Long et al., CVPR 2015, section 4.2 and figure 3.
    """

    def __init__(
        self, channels: Mapping[int, int], num_classes: int, phases: Mapping[int, Fraction], learned: bool = False
    ) -> None:
        super().__init__()
        self.strides = sorted(channels, reverse=True)  # coarse to fine
        self.score = nn.ModuleDict({str(s): nn.Conv2d(channels[s], num_classes, 1) for s in self.strides})
        self.grow = nn.ModuleDict(
            {str(fine): Upsample(num_classes, coarse // fine, phases[coarse], learned)
             for coarse, fine in pairwise(self.strides)}
        )  # fmt: skip

    def forward(self, features: Mapping[int, Tensor]) -> Tensor:
        """Fuse ``{stride: (N, C, h, w)}`` into scores (N, K, h, w) at the finest stride."""
        coarsest, *finer = self.strides
        scores: Tensor = self.score[str(coarsest)](features[coarsest])
        for stride in finer:
            skip = self.score[str(stride)](features[stride])
            # A fixed factor and phase keep every tile on the grid of the whole picture; "resize to the size of" would not.
            scores = self.grow[str(stride)](scores, skip) + skip
        return scores


class FCNHead(nn.Sequential):
    """torchvision's head of its dilated FCNs: 3x3 convolution to a quarter of the channels, then 1x1 scores.

    Args:
        channels: Channels of the features.
        num_classes: Number of classes K.
        stride: Stride of the features that it scores.

    Source: torchvision/models/segmentation/fcn.py.
    """

    def __init__(self, channels: int, num_classes: int, stride: int) -> None:
        between = max(1, channels // 4)
        super().__init__(
            nn.Conv2d(channels, between, 3, padding=1, bias=False),
            nn.BatchNorm2d(between),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Conv2d(between, num_classes, 1),
        )
        self.stride = stride

    def forward(self, features: Mapping[int, Tensor]) -> Tensor:
        """Score ``{stride: (N, C, h, w)}`` as (N, K, h, w)."""
        x = features[self.stride]
        for layer in self:
            x = layer(x)
        return x


class HeadDict(nn.ModuleDict):
    """Several heads on the same features; scores are a dict by head name."""

    def forward(self, features: Mapping[int, Tensor]) -> dict[str, Tensor]:
        """Return ``{name: (N, K, h, w)}``."""
        return {name: head(features) for name, head in self.items()}


class LateFusion(nn.Module):
    """Scores of two trunks, averaged before they are upsampled (the paper says summed; the release halves each)."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.score_color, self.score_hha = _score(channels, num_classes), _score(channels, num_classes)

    def forward(self, features: Mapping[int, tuple[Tensor, Tensor]]) -> Tensor:
        """Score ``{32: (colour, HHA)}`` as (N, K, h, w)."""
        color, hha = features[32]
        scores: Tensor = 0.5 * self.score_color(color) + 0.5 * self.score_hha(hha)
        return scores


class CaffeSkipHead(nn.Module):
    """The release's skips: each coarse map grows by a transposed convolution, the skip's scores are cropped to it.

    Args:
        features: Geometry of the features by stride, from which the crops follow.
        channels: Their channels.
        num_classes: Number of classes K.
        scales: By stride, the fixed factor that an at-once net applies to the features before scoring them.
    """

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
        self.score = nn.ModuleDict({str(s): _score(channels[s], num_classes) for s in self.strides})
        self.grow = nn.ModuleDict()
        self.crop = nn.ModuleDict()
        axis = features[self.strides[0]].y
        for coarse, fine in pairwise(self.strides):
            factor = coarse // fine
            kernel = 2 * factor  # of the transposed convolution
            self.grow[str(fine)] = Upsample(num_classes, factor, Fraction(kernel - 1, 2), border="zero")
            axis = axis.upsample(factor, Fraction(kernel - 1, 2))
            self.crop[str(fine)] = Crop(crop_between(axis, features[fine].y))

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


class Crop(nn.Module):
    """Cut a map to the size that a coarser one grows to, 2n + 2, from a fixed offset on."""

    def __init__(self, offset: int) -> None:
        super().__init__()
        self.offset = offset

    def trace_geometry(self, geometry: Geometry, coarse: Geometry) -> Geometry:
        """Return the geometry of what is left."""
        return replace(geometry, y=geometry.y.crop(self.offset), x=geometry.x.crop(self.offset))

    def forward(self, x: Tensor, coarse: Tensor) -> Tensor:
        """Cut (N, K, H, W) to (N, K, 2h + 2, 2w + 2)."""
        height, width = 2 * coarse.shape[-2] + 2, 2 * coarse.shape[-1] + 2
        return x[..., self.offset : self.offset + height, self.offset : self.offset + width]


def final_crop(scores: Geometry, factor: int, kernel: int) -> int:
    """Return the crop of the last transposed convolution's output: 19 for FCN-32s, 27 for 16s, 31 for 8s.

    Raises:
        NetworkError: It is no whole number: this kernel does not go with this trunk.
    """
    shift = Fraction(kernel - 1, 2) - scores.y.offset
    if shift.denominator != 1:
        raise NetworkError(
            f"a transposed convolution of {kernel} at stride {factor} would be off by {float(shift):g} pixels."
        )
    return int(shift)


def _score(channels: int, num_classes: int) -> nn.Conv2d:
    """Return a 1x1 score layer that starts at exactly 0, as the release's does for want of a filler."""
    layer = nn.Conv2d(channels, num_classes, 1)
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
