"""Bands give the labels of the whole picture, whatever the network's rule and the plan of tiles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from orthophotos import CLASSES, labels_of, made, narrow
from torch import nn

from fullconv.rasters import predict_raster
from fullconv.segmenter import Segmenter
from fullconv.tiling import first_required, rows_available, upsample_rows

NETS = {
    "fixed, tiny": ("fcn8s", 0.25, "tiny"),
    "fixed, resnet18": ("fcn16s", 1 / 16, "resnet18"),
    "fixed, phase 15.5": ("fcn32s", 1 / 32, "vgg16"),
    "by size": ("torchvision-fcn_resnet50", 1 / 16, None),
    "pad 100, border zero": ("voc-fcn8s", 1 / 32, None),
}
_kept: dict[str, Segmenter] = {}


def segmenter(name: str) -> Segmenter:
    if name not in _kept:
        _kept[name] = narrow(*NETS[name])
    return _kept[name]


@pytest.mark.parametrize(("name", "size", "tile"), [
    ("fixed, tiny", (331, 205), 64), ("fixed, tiny", (70, 333), 32), ("fixed, tiny", (1, 1), 32),
    ("fixed, resnet18", (203, 301), 96), ("fixed, phase 15.5", (190, 167), 64),
    ("by size", (151, 143), 48), ("by size", (97, 60), 8), ("pad 100, border zero", (150, 171), 96),
])  # fmt: skip
def test_the_label_map_is_that_of_the_whole_picture(name, size, tile, write, tmp_path):
    model = segmenter(name)
    picture = made(*size)
    result = predict_raster(model, write(picture), tmp_path / "labels.tif", tile=tile)
    whole = model.predict(np.moveaxis(picture, 0, -1), tile="none").label_map
    found = labels_of(tmp_path / "labels.tif")
    assert found.shape == size
    assert (found == whole).all()
    assert result.counts.tolist() == np.bincount(whole.reshape(-1), minlength=3).tolist()
    assert result.void == 0


@pytest.mark.parametrize("name", NETS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(height=st.integers(1, 160), cut=st.integers(1, 200), rows=st.integers(1, 40))
def test_rows_grown_from_some_scores_have_the_bits_of_all(name, height, cut, rows):
    """The law behind it, on random scores: what is ready can be grown, from what is needed."""
    network = segmenter(name).network
    width = 37
    with torch.inference_mode():
        total = network.scores(torch.zeros(1, 3, height, width)).shape[-2]
        scores = torch.randn(1, 3, total, 12 if name != "by size" else 5, generator=torch.Generator().manual_seed(cut))
        if name.startswith("pad"):
            scores = torch.randn(1, 3, total, 40, generator=torch.Generator().manual_seed(cut))
        whole = network.upsample(scores, (height, width))
        known = min(cut, total)
        ready = height if known == total else rows_available(network, known, height, total)
        for a in range(0, ready, rows):
            b = min(ready, a + rows)
            first = min(known - 1, first_required(network, a, height, total))
            part = upsample_rows(network, scores[:, :, first:known], first, total, (height, width), (a, b))
            assert torch.equal(part, whole[:, :, a:b])


def test_one_row_of_scores_less_than_needed_is_noticed():
    """The law must fail where the rows that are kept begin too late."""
    network = segmenter("fixed, tiny").network
    scores = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole = network.upsample(scores, (64, 64))
        first = first_required(network, 30, 64, 8) + 1
        part = upsample_rows(network, scores[:, :, first:], first, 8, (64, 64), (30, 40))
    assert not torch.equal(part, whole[:, :, 30:40])


def test_a_network_from_outside_is_labelled_as_the_whole(write, tmp_path):
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))
    model = Segmenter.from_network(body, CLASSES, device="cpu")
    picture = made(130, 101)
    predict_raster(model, write(picture), tmp_path / "labels.tif", tile=32)
    whole = model.predict(np.moveaxis(picture, 0, -1), tile="none").label_map
    assert (labels_of(tmp_path / "labels.tif") == whole).all()
