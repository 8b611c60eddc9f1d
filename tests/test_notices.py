"""Notices: one per kind, with count and first file."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from fullconv.data import open_dataset
from fullconv.evaluation import evaluate
from fullconv.notices import Notice, NoticeCollector
from fullconv.predict import PredictJob, predict_files
from fullconv.rasters import predict_raster
from fullconv.segmenter import Segmenter
from model_files import small_segmenter


def test_collector_keeps_the_first_notice_of_a_code_and_counts_the_others() -> None:
    collector = NoticeCollector()
    assert collector.add(Notice("value-range", "a.tif: 16 bits", "a.tif"))
    assert not collector.add(Notice("value-range", "b.tif: 16 bits", "b.tif", count=2))
    assert collector.extend([Notice("memory", "too small")] * 2) == [Notice("memory", "too small")]
    expected = (Notice("value-range", "a.tif: 16 bits", "a.tif", count=3), Notice("memory", "too small", count=2))
    assert tuple(collector) == expected
    assert tuple(pickle.loads(pickle.dumps(collector))) == expected


@pytest.fixture
def bright(tmp_path):
    """Two 16-bit images with values that a model of 8 bits was not trained on."""
    for name in ("a", "b"):
        Image.fromarray(np.full((40, 50), 60000, np.uint16)).save(tmp_path / f"{name}.png")
    return tmp_path


def segmenter() -> Segmenter:
    return small_segmenter(["class0", "class1"], variant="fcn32s")


def test_predictions_and_the_summary_of_a_run_carry_notices_which_are_logged_once(bright, caplog):
    model = segmenter()
    for prediction in model.predict_many([bright / "a.png", bright / "b.png"]):
        assert [notice.code for notice in prediction.notices] == ["value-range"]
        assert prediction.notices[0].message.startswith(prediction.notices[0].file)
    assert len(caplog.messages) == 1
    caplog.clear()
    summary = predict_files(segmenter(), PredictJob([str(bright)], bright / "out"))
    (notice,) = summary.notices
    assert (notice.code, notice.count) == ("value-range", 2)
    assert notice.file.endswith("a.png")
    assert len(caplog.messages) == 1
    lines = [json.loads(line) for line in (bright / "out" / "predictions.jsonl").read_text("utf-8").splitlines()]
    assert [[warning["code"] for warning in line["warnings"]] for line in lines] == [["value-range"]] * 2
    assert lines[1]["warnings"][0]["message"].startswith(lines[1]["input"])


def test_reports_and_rasters_carry_notices(bright):
    rasterio = pytest.importorskip("rasterio")
    (bright / "images").mkdir()
    (bright / "masks").mkdir()
    for index in range(6):
        (bright / "images" / f"{index}.png").write_bytes((bright / "a.png").read_bytes())
        Image.fromarray(np.eye(40, 50, index, dtype=np.uint8)).save(bright / "masks" / f"{index}.png")
    dataset = open_dataset(bright, format="pairs")
    report = evaluate(segmenter(), dataset, "all")
    assert [(notice.code, notice.count) for notice in report.notices] == [("value-range", 6)]
    (warning,) = (row for row in report.to_dict()["warnings"] if row["code"] == "value-range")
    assert warning["count"] == 6
    assert warning["message"].startswith(warning["file"])
    profile = {"driver": "GTiff", "height": 40, "width": 50, "count": 1, "dtype": "uint16"}
    with rasterio.open(bright / "a.tif", "w", transform=rasterio.Affine(1, 0, 9, 0, -1, 9), **profile) as file:
        file.write(np.full((1, 40, 50), 60000, np.uint16))
    result = predict_raster(segmenter(), bright / "a.tif", bright / "labels.tif")
    assert [(notice.code, notice.file) for notice in result.notices] == [("value-range", str(bright / "a.tif"))]
