"""The bench: which contenders, what is told of each, and the words where something cannot be."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from fullconv import Segmenter, build
from fullconv.cli import main
from fullconv.cli.benchmarking import Subject, bench, choose_contenders, high_water, picture


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    Segmenter.from_network(build("fcn8s", backbone="tiny", num_classes=3, width=0.5), classes=["a", "b", "c"]).save(
        path
    )
    return str(path)


def test_torch_in_both_precisions_side_by_side(model):
    found = bench(Subject(model, device="cpu"), [(33, 40), (64, 64)], "torch", rounds=3, memory=False)
    assert [(r["engine"], r["precision"], r["size"]) for r in found["rows"]] == [
        ("torch", "fp32", [33, 40]), ("torch", "bf16", [33, 40]), ("torch", "fp32", [64, 64]), ("torch", "bf16", [64, 64]),
    ]  # fmt: skip
    for row in found["rows"]:
        assert 0 < row["quartile_1_s"] <= row["median_s"] <= row["quartile_3_s"]
        assert row["pictures_per_s"] == pytest.approx(1 / row["median_s"])
    exact, lower = found["rows"][2:]
    assert exact["labels_equal"] is None
    maps = [
        Subject(model, device="cpu").open("torch", kind).predict(picture((64, 64), 3)).label_map
        for kind in ("fp32", "bf16")
    ]
    assert lower["labels_equal"] == float(np.mean(maps[0] == maps[1]))
    assert found["machine"]["processor"]


def test_several_pictures_and_calls_at_a_time_count_all(model):
    (row,) = bench(Subject(model), [(32, 32)], "torch", "fp32", rounds=2, batch_size=3, workers=2, memory=False)["rows"]
    assert row["pictures_per_s"] == pytest.approx(6 / row["median_s"])


@pytest.mark.slow
def test_peak_memory_is_of_a_process_of_its_own(model):
    if high_water() is None:
        pytest.skip("this system does not tell the peak of a process")
    (row,) = bench(Subject(model), [(256, 256)], "torch", "fp32", rounds=2)["rows"]
    assert 1 < row["peak_mb"] < 2000


def test_all_that_is_installed_is_measured_and_no_engine_of_cpus_on_a_gpu(model, tmp_path):
    every = choose_contenders(Subject(model, device="cpu"), "auto", "auto")
    assert ("torch", "bf16") in every
    assert choose_contenders(Subject(model, device="cpu"), "auto", "bf16") == [c for c in every if c[1] == "bf16"]
    exported = tmp_path / "x.onnx"
    exported.touch()
    assert choose_contenders(Subject(str(exported)), "auto", "auto") == [("auto", "auto")]


def test_the_command_prints_a_table_or_json(capsys):
    words = [
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
    assert main([*words, "--classes", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("fcn16s on tiny: ")
    assert [line.split()[:3] for line in lines[2:]] == [["40x33", "torch", "fp32"], ["40x33", "torch", "bf16"]]
    assert main([*words, "--json", "--precision", "fp32"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["size"] == [40, 33]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fcn8z"], "is no model file and no variant. Did you mean 'fcn8s'"),
        (["fcn8s", "--size", "12"], "--size 12: write height and width"),
        (
            ["fcn8s", "--backbone", "tiny", "--engine", "torch", "--size", "999999x999999"],
            r"999999x999999: pictures of this size take 5000 GB, and",
        ),
        (["fcn8s", "--engine", "openvin"], "there is no engine 'openvin'"),
        (["fcn8s", "--precision", "int8"], "`fullconv export` made"),
        (["fcn8s", "--engine", "onnxruntime", "--precision", "bf16"], "bf16: nothing here computes so.\n"),
        (["fcn8s", "--backbone", "nope"], "fullconv: there is no backbone 'nope'"),
        (["EXPORTED", "--engine", "openvin"], "fullconv: there is no engine 'openvin'"),
        (["EXPORTED", "--precision", "fp9"], "fullconv: there is no precision 'fp9'"),
        (["EXPORTED", "--engine", "openvino"], "EXPORTED"),
    ],
)
def test_what_cannot_be_measured_is_explained(words, said, capsys, tmp_path):
    exported = tmp_path / "x.ONNX"
    exported.write_bytes(b"nothing of the kind")
    words, said = ([text.replace("EXPORTED", str(exported)) for text in each] for each in (words, [said]))
    assert main(["bench", *words]) == 2
    told = capsys.readouterr().err
    assert said[0] in told
    assert len(told.splitlines()) == 1, "once, not by each engine"


@pytest.mark.slow
def test_a_published_net_of_several_heads_is_measured():
    found = bench(Subject("siftflow-fcn8s", device="cpu"), [(33, 40)], "torch", "fp32", rounds=2, memory=False)
    assert found["device"] == "cpu"
    assert [row["pictures_per_s"] > 0 for row in found["rows"]] == [True]
