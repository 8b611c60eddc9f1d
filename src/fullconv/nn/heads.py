"""Heads: features by stride in, scores out."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from itertools import pairwise

from torch import Tensor, nn

from fullconv.nn.upsampling import Upsample


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


class Heads(nn.ModuleDict):
    """Several heads on the same features; scores are a dict by head name."""

    def forward(self, features: Mapping[int, Tensor]) -> dict[str, Tensor]:
        """Return ``{name: (N, K, h, w)}``."""
        return {name: head(features) for name, head in self.items()}
