"""Fixtures of the tests of rasters."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
pytest.importorskip("rasterio")

from orthophotos import narrow, write_raster  # noqa: E402

from fullconv.segmenter import Segmenter  # noqa: E402


@pytest.fixture(autouse=True, scope="package")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def write(tmp_path) -> Callable[..., Path]:
    """Write an array (bands, H, W) as a raster with a place on Earth; returns its path."""

    def writer(array: np.ndarray, name: str = "ortho.tif", **more: Any) -> Path:
        return write_raster(tmp_path / name, array, **more)

    return writer


@pytest.fixture(scope="session")
def tiny() -> Segmenter:
    return narrow("fcn8s", 0.25, "tiny")
