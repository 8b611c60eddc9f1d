from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "training"), str(TESTS / "chaos")]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FULLCONV_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("FULLCONV_OFFLINE", "1")


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """Twelve made pictures of 40 x 48, three of them in val."""
    from made import make_shapes

    return make_shapes(tmp_path_factory.mktemp("chaos") / "data", pictures=12, size=(40, 48))
