"""The manifest of a batch job: each row once over all attempts, and one job per folder."""

from __future__ import annotations

import pytest

from fullconv.errors import RunError

parquet = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("fsspec")

from fullconv.scale.manifest import Manifest  # noqa: E402
from fullconv.scale.storage import ResultFolder  # noqa: E402


def row(name, status="done"):
    return {"input": name, "output": name, "status": status, "reason": None, "pixels": [1], "seconds": 0.1}


def test_a_manifest_has_each_row_once_over_attempts(tmp_path):
    folder = ResultFolder(str(tmp_path / "out"))
    first = Manifest(folder, {"weights_sha256": "1"}, resume=False)
    assert first.add(row("a"))
    assert first.add(row("b", "failed"))
    assert not first.add(row("a"))
    first.flush()
    first.add(row("lost with the driver"))
    second = Manifest(folder, {"weights_sha256": "1"}, resume=True)
    assert second.done == {"a", "b"}
    assert [path for path, _ in second.failures] == ["b"]
    assert second.add(row("c"))
    second.flush()
    table = parquet.read_table(tmp_path / "out" / "manifest")
    assert sorted(table.column("input").to_pylist()) == ["a", "b", "c"]


def test_a_manifest_of_another_job_is_refused(tmp_path):
    folder = ResultFolder(str(tmp_path / "out"))
    Manifest(folder, {"weights_sha256": "1"}, resume=False)
    with pytest.raises(RunError, match="--resume"):
        Manifest(folder, {"weights_sha256": "1"}, resume=False)
    with pytest.raises(RunError, match="started with weights_sha256 = 1, not 2"):
        Manifest(folder, {"weights_sha256": "2"}, resume=True)
