"""Models of the prediction tests."""

from __future__ import annotations

import pytest
import torch

from fullconv.card import Card, Labels
from fullconv.nn import build
from fullconv.segmenter import Segmenter, build_settings


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.manual_seed(3)
    network = build("fcn8s", backbone="tiny", num_classes=3, width=0.25)
    return Segmenter.from_network(network, ["a", "b", "c"], palette=((0, 0, 0), (200, 0, 0), (0, 200, 0)), device="cpu")


@pytest.fixture(scope="module")
def two_heads() -> Segmenter:
    torch.manual_seed(3)
    network = build("fcn8s", backbone="tiny", num_classes={"sort": 3, "state": 2}, width=0.25)
    heads = {"sort": Labels(classes=("a", "b", "c")), "state": Labels(classes=("dry", "wet"))}
    card = Card(
        variant="fcn8s", backbone="tiny", network=build_settings(network), classes=heads["sort"].classes, heads=heads
    )
    return Segmenter(network, card, "cpu")
