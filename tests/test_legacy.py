"""Files of 0.1.0 load and resume: a stopped run, a stopped raster, a model (tests/legacy/README.md)."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fullconv
from fullconv.modelfile import read_card, read_header
from fullconv.rasters import predict_raster
from fullconv.training import train

NEW = {"baseline", "warnings"}
"""Keys of scores that 0.1.0 did not have."""
LEGACY = Path(__file__).parent / "legacy"
RASTER_MTIME_NS = 10**18
"""The journal knows its raster by name, size and time of change."""


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def resumed(tmp_path_factory) -> Path:
    """The stopped run of 0.1.0, resumed in a copy."""
    folder = tmp_path_factory.mktemp("legacy")
    for name in ("data", "run"):
        shutil.copytree(LEGACY / name, folder / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FULLCONV_CACHE", str(folder / "cache"))
        train(folder / "data", folder / "run", resume=True)
    return folder / "run"


def test_a_stopped_run_resumes_where_it_was_killed(resumed):
    before = (LEGACY / "run" / "metrics.jsonl").read_bytes()
    after = (resumed / "metrics.jsonl").read_bytes()
    assert after.startswith(before), "epochs that 0.1.0 finished stay as they were written"
    expected, found = records(LEGACY / "expected_metrics.jsonl"), records(resumed / "metrics.jsonl")
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        assert one["val"].keys() - NEW == other["val"].keys() - NEW
        # Another processor rounds otherwise; on the one that made the files the numbers are equal to the last digit.
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=0.02)
        assert one["lr"] == other["lr"]


def test_a_resumed_run_has_the_tensors_of_0_1_0(resumed):
    tensors = [read_header(path)[0] for path in (resumed / "model.safetensors", LEGACY / "model.safetensors")]
    assert tensors[0].keys() == tensors[1].keys()
    assert any("grow" in name or "upsample" in name for name in tensors[0]), "the learned upsampling is among them"


def test_a_model_of_0_1_0_predicts_both_heads():
    model = fullconv.load(LEGACY / "model.safetensors", precision="fp32", engine="torch", device="cpu")
    image = LEGACY / "data" / "val" / "images" / "p4.png"
    maps = model.predict(image).label_maps
    assert list(maps) == ["semantic", "geometric"]
    for head, label_map in maps.items():
        mask = np.asarray(Image.open(LEGACY / "data" / "val" / f"masks_{head}" / "p4.png"))
        assert label_map.shape == mask.shape
    card = read_card(LEGACY / "model.safetensors")
    assert card.fullconv == "0.1.0"
    assert card.weights_sha256 == json.loads(read_header(LEGACY / "model.safetensors")[1]["fullconv"])["weights_sha256"]


def test_a_stopped_raster_resumes_to_the_label_map_of_an_uninterrupted_job(tmp_path):
    pytest.importorskip("rasterio")
    for file in (LEGACY / "raster").iterdir():
        shutil.copy(file, tmp_path / file.name)
    source = tmp_path / "source.tif"
    os.utime(source, ns=(RASTER_MTIME_NS, RASTER_MTIME_NS))
    model = fullconv.load(tmp_path / "model.safetensors", precision="fp32", engine="torch", device="cpu")
    rows: list[int] = []
    job = {"tile": 32, "progress": lambda done, total: rows.append(done)}
    predict_raster(model, source, tmp_path / "labels.tif", resume=True, **job)
    assert rows[0] > 88, "the three bands of 0.1.0 are not computed again"
    predict_raster(model, source, tmp_path / "whole.tif", **job)
    assert (tmp_path / "labels.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()
    import rasterio

    with rasterio.open(tmp_path / "labels.tif") as file:
        labels = file.read(1)
    expected = np.asarray(Image.open(tmp_path / "expected.png"))
    assert (labels == expected).mean() > 0.999  # another processor may break a tie otherwise
