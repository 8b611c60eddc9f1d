from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `pages`


@pytest.fixture
def path(tmp_path):
    return tmp_path / "report.html"
