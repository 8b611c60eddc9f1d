"""Models of the prediction tests."""

from __future__ import annotations

import pytest

from fullconv.segmenter import Segmenter
from model_files import small_segmenter, two_headed_segmenter


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return small_segmenter(seed=3, palette=((0, 0, 0), (200, 0, 0), (0, 200, 0)))


@pytest.fixture(scope="module")
def two_heads() -> Segmenter:
    return two_headed_segmenter()
