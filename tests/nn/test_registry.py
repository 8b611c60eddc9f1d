"""The table of variants: a row with a head of its own fits training, rows and tiles."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fullconv.errors import NetworkError
from fullconv.losses import PixelLoss, ratio
from fullconv.nn import VARIANTS, Variant, build, get_variant
from fullconv.nn.heads import Head
from fullconv.nn.upsample import Upsample
from networks import random_images


class ConcatHead(Head):
    """Concatenate the features of two strides and score them at the finer one."""

    def __init__(self, channels, phase, num_classes):
        super().__init__()
        (self.fine, fine_channels), (self.coarse, coarse_channels) = sorted(channels.items())
        self.upsample = Upsample(coarse_channels, self.coarse // self.fine, phase)
        self.score = nn.Conv2d(fine_channels + coarse_channels, num_classes, 1)

    @classmethod
    def from_features(cls, features, strides, num_classes, options):
        fine, coarse = (features.geometry[stride].y for stride in strides)
        phase = (coarse.offset - fine.offset) / strides[0]
        return cls({stride: features.channels[stride] for stride in strides}, phase, num_classes)

    def forward(self, features):
        fine = features[self.fine]
        return self.score(torch.cat([fine, self.upsample(features[self.coarse], fine)], dim=1))


@pytest.fixture
def network(monkeypatch):
    row = Variant((2, 4), "two strides, concatenated", head=ConcatHead, size_divisor=4, min_size=8)
    monkeypatch.setitem(VARIANTS, "concat", row)
    torch.manual_seed(0)
    return build("concat", backbone="tiny", num_classes=3, width=0.25)


def test_a_row_with_another_head_gives_logits_rows_and_a_loss(network):
    x = random_images(2, 3, 37, 50)
    with torch.inference_mode():
        logits = network(x)
        assert logits.shape == (2, 3, 37, 50)
        rows = network.upsample(network.scores(x), (37, 50), rows=(11, 20))
    assert torch.equal(rows, logits[:, :, 11:20])
    assert network.score_stride == 2
    scores = network.scores(x)
    target = torch.randint(0, 3, (2, 37, 50), dtype=torch.uint8)
    ratio(*PixelLoss().sums(scores, target, network.interpolation_matrices(scores, (37, 50)))).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.head.parameters())


def test_a_tile_with_its_halo_gives_the_scores_of_the_whole(network):
    left, top, right, bottom = network.halo
    network = network.double()
    x = random_images(1, 3, 96, 96, dtype=torch.float64)
    y, side = 48, 8
    with torch.inference_mode():
        whole = network.scores(x)[..., y // 2 : (y + side) // 2, y // 2 : (y + side) // 2]
        tile = network.scores(x[..., y - top : y + side + bottom, y - left : y + side + right])
    inner = tile[..., top // 2 : (top + side) // 2, left // 2 : (left + side) // 2]
    torch.testing.assert_close(inner, whole, rtol=0, atol=1e-12)


def test_an_unknown_variant_is_an_error_with_the_nearest():
    with pytest.raises(NetworkError, match=r"there is no variant 'fcn8'\. Did you mean 'fcn8s'\? `fullconv models`"):
        get_variant("fcn8")
