"""Bands give the labels of the whole image, whatever the network's rule and the plan of tiles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from orthophotos import NETS, cached, labels_of, orthophoto, whole_labels

from fullconv.rasters import predict_raster
from fullconv.tiling import first_required, rows_available, upsample_rows


@pytest.mark.parametrize(("name", "size", "tile"), [
    ("tiny", (331, 205), 64), ("tiny", (70, 333), 32), ("tiny", (1, 1), 32),
    ("resnet18", (203, 301), 96), ("phase 15.5", (190, 167), 64),
    ("by size", (151, 143), 48), ("by size", (97, 60), 8), ("pad 100, border zero", (150, 171), 96),
])  # fmt: skip
def test_the_label_map_is_that_of_the_whole_picture(name, size, tile, write, tmp_path):
    model = cached(name)
    image = orthophoto(*size)
    result = predict_raster(model, write(image), tmp_path / "labels.tif", tile=tile)
    whole = whole_labels(model, image)
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
    network = cached(name).network
    width = 37
    with torch.inference_mode():
        total = network.scores(torch.zeros(1, 3, height, width)).shape[-2]
        columns = {"by size": 5, "pad 100, border zero": 40}.get(name, 12)
        scores = torch.randn(1, 3, total, columns, generator=torch.Generator().manual_seed(cut))
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
    network = cached("tiny").network
    scores = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole = network.upsample(scores, (64, 64))
        first = first_required(network, 30, 64, 8) + 1
        part = upsample_rows(network, scores[:, :, first:], first, 8, (64, 64), (30, 40))
    assert not torch.equal(part, whole[:, :, 30:40])
