"""Fixtures of the tests of rasters."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
pytest.importorskip("rasterio")

from orthophotos import cached, write_raster

from fullconv.segmenter import Segmenter


@pytest.fixture
def write(tmp_path) -> Callable[..., Path]:
    """Write an array (bands, H, W) as a raster with a place on Earth; returns its path."""

    def writer(array: np.ndarray, name: str = "ortho.tif", **more: Any) -> Path:
        return write_raster(tmp_path / name, array, **more)

    return writer


@pytest.fixture(scope="session")
def tiny() -> Segmenter:
    return cached("tiny")
