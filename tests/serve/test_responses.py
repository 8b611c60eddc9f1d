"""Responses: run lengths, polygons and counts agree with the label map."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fullconv.card import Labels
from fullconv.serve.errors import ApiError
from fullconv.serve.responses import class_table, polygons, run_lengths

LABELS = Labels(classes=("a", "b", "c"))
MAPS = arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 2))


@given(label_map=MAPS)
def test_run_lengths_rebuild_the_label_map(label_map):
    again = np.full(label_map.size, 255, np.uint8)
    for row in run_lengths(label_map, LABELS):
        stops = np.cumsum(row["counts"])
        assert stops[-1] <= label_map.size
        for start, stop in zip(stops[::2], stops[1::2], strict=False):
            assert (again[start:stop] == 255).all()
            again[start:stop] = row["index"]
        assert row["name"] == LABELS.classes[row["index"]]
    assert (again.reshape(label_map.shape, order="F") == label_map).all()


@given(label_map=MAPS)
def test_polygons_rebuild_the_label_map(label_map):
    features = pytest.importorskip("rasterio.features")
    regions = polygons(label_map, LABELS)
    shapes = [({"type": "Polygon", "coordinates": region["rings"]}, region["index"] + 1) for region in regions]
    assert (features.rasterize(shapes, label_map.shape) == label_map + 1).all()


@given(label_map=MAPS)
def test_the_class_table_counts_every_pixel_once(label_map):
    found = class_table(label_map, LABELS)
    assert [row["pixels"] for row in found["classes"]] == [int((label_map == i).sum()) for i in range(3)]
    assert sum(row["share"] for row in found["classes"]) == pytest.approx(1)
    assert (found["size"]["height"], found["size"]["width"]) == label_map.shape


def test_noise_has_too_many_runs():
    with pytest.raises(ApiError, match="more than 4,000,000 runs"):
        run_lengths(np.random.default_rng(0).integers(0, 3, (2500, 2500), dtype=np.uint8), LABELS)
