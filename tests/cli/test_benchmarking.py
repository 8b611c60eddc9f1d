"""`fullconv bench`."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fullconv.cli import main
from fullconv.cli.benchmarking import Benchmark, bench, candidates, random_image
from fullconv.system import peak_rss
from model_files import small_segmenter


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    small_segmenter(width=0.5).save(path)
    return str(path)


def test_torch_in_both_precisions_side_by_side(model):
    found = bench(Benchmark(model, device="cpu", rounds=3, memory=False), [(33, 40), (64, 64)], "torch", "auto")
    assert [(r["engine"], r["precision"], r["size"]) for r in found["rows"]] == [
        ("torch", "fp32", [33, 40]), ("torch", "bf16", [33, 40]), ("torch", "fp32", [64, 64]), ("torch", "bf16", [64, 64]),
    ]  # fmt: skip
    for row in found["rows"]:
        assert 0 < row["quartile_1_s"] <= row["median_s"] <= row["quartile_3_s"]
        assert row["pictures_per_s"] == pytest.approx(1 / row["median_s"])
    exact, lower = found["rows"][2:]
    assert exact["labels_equal"] is None
    maps = [
        Benchmark(model, device="cpu").open("torch", kind).predict(random_image((64, 64), 3)).label_map
        for kind in ("fp32", "bf16")
    ]
    assert lower["labels_equal"] == float(np.mean(maps[0] == maps[1]))
    assert found["machine"]["processor"]


def test_batches_and_concurrent_calls_count_all_images(model):
    (row,) = bench(Benchmark(model, rounds=2, batch_size=3, workers=2, memory=False), [(32, 32)], "torch", "fp32")[
        "rows"
    ]
    assert row["pictures_per_s"] == pytest.approx(6 / row["median_s"])


@pytest.mark.slow
def test_peak_memory_is_measured_in_a_process_of_its_own(model):
    if peak_rss() is None:
        pytest.skip("the system reports no peak memory")
    (row,) = bench(Benchmark(model, rounds=2), [(256, 256)], "torch", "fp32")["rows"]
    assert 1 < row["peak_mb"] < 2000


def test_installed_engines_and_precisions_are_candidates(model, tmp_path):
    every = candidates(Benchmark(model, device="cpu"), "auto", "auto")
    assert ("torch", "bf16") in every
    assert candidates(Benchmark(model, device="cpu"), "auto", "bf16") == [c for c in every if c[1] == "bf16"]
    exported = tmp_path / "x.onnx"
    exported.touch()
    assert candidates(Benchmark(str(exported)), "auto", "auto") == [("auto", "auto")]


def test_the_command_prints_a_table_or_json(capsys):
    arguments = [
        "bench",
        "fcn16s",
        "--backbone",
        "tiny",
        "--size",
        "40x33",
        "--rounds",
        "2",
        "--engine",
        "torch",
        "--no-memory",
    ]
    assert main([*arguments, "--classes", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("fcn16s on tiny: ")
    assert [line.split()[:3] for line in lines[2:]] == [["40x33", "torch", "fp32"], ["40x33", "torch", "bf16"]]
    assert main([*arguments, "--json", "--precision", "fp32"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["size"] == [40, 33]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fcn8z"], "is neither a model file nor a variant. Did you mean 'fcn8s'"),
        (["fcn8s", "--size", "12"], "--size 12: write HEIGHTxWIDTH"),
        (
            ["fcn8s", "--backbone", "tiny", "--engine", "torch", "--size", "999999x999999"],
            r"999999x999999: images of this size take 5000 GB, and",
        ),
        (["fcn8s", "--engine", "openvin"], "unknown engine 'openvin'"),
        (["fcn8s", "--precision", "int8"], "written by `fullconv export`"),
        (["fcn8s", "--engine", "onnxruntime", "--precision", "bf16"], "bf16: no such combination is available.\n"),
        (["fcn8s", "--backbone", "nope"], "fullconv: there is no backbone 'nope'"),
        (["EXPORTED", "--engine", "openvin"], "fullconv: unknown engine 'openvin'"),
        (["EXPORTED", "--precision", "fp9"], "fullconv: unknown precision 'fp9'"),
        (["EXPORTED", "--engine", "openvino"], "EXPORTED"),
    ],
)
def test_impossible_requests_are_reported(arguments, message, capsys, tmp_path):
    exported = tmp_path / "x.ONNX"
    exported.write_bytes(b"nothing of the kind")
    arguments = [text.replace("EXPORTED", str(exported)) for text in arguments]
    assert main(["bench", *arguments]) == 2
    err = capsys.readouterr().err
    assert message.replace("EXPORTED", str(exported)) in err
    assert len(err.splitlines()) == 1, "once, not once per engine"


@pytest.mark.slow
def test_a_published_network_of_several_heads_is_measured():
    found = bench(Benchmark("siftflow-fcn8s", device="cpu", rounds=2, memory=False), [(33, 40)], "torch", "fp32")
    assert found["device"] == "cpu"
    assert [row["pictures_per_s"] > 0 for row in found["rows"]] == [True]
