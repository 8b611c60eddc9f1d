"""The benchmarks' page: its tables are those of the results that are kept."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "plots.py"


@pytest.fixture
def plots():
    spec = importlib.util.spec_from_file_location("plots", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_shows_the_results_that_are_kept(plots):
    now, wanted = plots.page()
    assert now == wanted, "run benchmarks/plots.py"
    for name, _, _ in plots.found():
        assert (plots.PLOTS / f"{name}.svg").is_file(), f"{name}: run benchmarks/plots.py"


def test_contenders_are_found_wherever_they_lie(plots):
    row = {"median_s": 1.0, "quartile_1_s": 0.9, "quartile_3_s": 1.2}
    result = {
        "a": {"seconds": {"x": row, "y": {**row, "median_s": 0.5}}},
        "alone": {"z": row},
        "list": [{"u": row, "v": row}],
    }
    assert [(title, list(rows)) for title, rows in plots.groups(result)] == [("a", ["x", "y"]), ("list 0", ["u", "v"])]


def test_a_loss_is_told_as_one(plots, tmp_path, monkeypatch):
    rows = {
        "theirs": {"median_s": 0.2, "quartile_1_s": 0.1, "quartile_3_s": 0.3},
        "ours": {"median_s": 0.4, "quartile_1_s": 0.4, "quartile_3_s": 0.5, "labels_equal": 0.99},
    }
    (tmp_path / "new.json").write_text(json.dumps({"seconds": rows, "floor_s": {"fp32": 0.1}}))
    monkeypatch.setattr(plots, "RESULTS", tmp_path)
    assert "| ours | 400 ms | 400 to 500 | 0.50 | 99.00 % |" in plots.text()
    assert "fp32 100 ms" in plots.text()
    monkeypatch.setattr(plots, "PLOTS", tmp_path / "plots")
    plots.draw()
    first = (tmp_path / "plots" / "new.svg").read_bytes()
    plots.draw()
    assert (tmp_path / "plots" / "new.svg").read_bytes() == first
