"""`fullconv predict`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fullconv
from fullconv.cli.benchmarking import Benchmark
from fullconv.cli.options import parse_bytes
from fullconv.cli.predict import parse_tile
from fullconv.errors import FullconvError
from model_files import small_segmenter
from synthetic.shapes import names


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
@pytest.mark.parametrize(("number", "code", "name"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")])
def test_a_stopped_prediction_reports_how_to_continue(run, model, tmp_path, number, code, name):
    out = tmp_path / "out"
    for i in range(600):
        target = tmp_path / f"in/{i:04d}.png"
        target.parent.mkdir(exist_ok=True)
        Image.new("RGB", (64, 64), (i % 256, 0, 0)).save(target)

    def stop_soon() -> None:
        deadline = time.monotonic() + 60
        while not list(out.glob("00*.png")) and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(os.getpid(), number)

    before = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=stop_soon).start()
    done = run("predict", model, tmp_path / "in", "-o", out, "--device", "cpu", "--workers", 1)
    assert done.code == code
    assert f"fullconv: stopped by {name}." in done.err
    assert "press Ctrl-C again to stop at once" in done.err
    assert "Rerun the same command with --skip-existing" in done.err
    done = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert 0 < len(done) == len(list(out.glob("*.png"))) < 600
    assert not list(out.glob(".*"))
    assert signal.getsignal(signal.SIGTERM) is before


def test_predict_counts_images_and_exits_with_3_if_some_failed(run, data, model, tmp_path):
    shutil.copytree(data / "val", tmp_path / "in")
    (tmp_path / "in/bad.png").write_bytes(b"")
    done = run("predict", model, tmp_path / "in", "-o", tmp_path / "out", "--device", "cpu")
    assert done.code == 3
    assert done.out == ""
    assert f"fullconv: {tmp_path / 'in/bad.png'}: is empty (0 bytes)" in done.err
    records = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert [record["status"] for record in records if record["reason"]] == ["failed"]
    assert f"2 images predicted, 1 failed; results are in {tmp_path / 'out'}." in done.err
    done = run("predict", model, tmp_path / "in", "-o", tmp_path / "out", "--skip-existing")
    assert "0 images predicted, 2 skipped, 1 failed" in done.err
    done = run("predict", model, tmp_path / "in/bad.png", "-o", tmp_path / "out")
    assert done.code == 2


def test_predict_takes_all_its_options(run, data, model, tmp_path):
    source, out = sorted((data / "val").iterdir())[0], tmp_path / "out"
    expected = fullconv.load(model, device="cpu").predict(source)
    options = ("--format", "grey", "--overlay", "--probabilities", "--tile", 32, "--memory", "1GB", "--precision", "fp32",
               "--engine", "torch", "--workers", 2, "--batch-size", 2, "--shard", "1/1")  # fmt: skip
    assert run("predict", model, source, "-o", out, *options).code == 0
    with Image.open(out / f"{source.stem}.png") as image:
        assert image.mode == "L"
        np.testing.assert_array_equal(np.asarray(image), expected.label_map)
    assert (out / f"{source.stem}.overlay.png").is_file()
    assert (out / f"{source.stem}.npz").is_file()
    assert (out / "summary.1-of-1.csv").is_file()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--device", "cuda:9"], "device cuda:9 is not there|CUDA"),
        (["--device", "tpu"], "device"),
        (["--precision", "int4"], "there is no precision 'int4' here: use auto, fp32, bf16 or int8"),
        (["--engine", "caffe"], "there is no engine 'caffe' here: use torch"),
        (["--head", "depth"], "this model has one head without a name, no head 'depth'"),
    ],
)
def test_unavailable_options_are_reported(run, data, model, tmp_path, options, words):
    done = run("predict", model, data / "val", "-o", tmp_path / "out", *options)
    assert done.code == 2
    assert any(part in done.err for part in words.split("|"))


def test_sizes_and_tiles_are_parsed():
    assert [parse_bytes(text) for text in ("2GB", "1.5 GiB", "500mb", "7", "3k")] == [
        2 * 10**9, 3 * 2**29, 5 * 10**8, 7, 3000,
    ]  # fmt: skip
    assert [parse_tile(text) for text in ("auto", "none", "96")] == ["auto", "none", 96]
    for wrong in ("", "GB", "-1GB", "2XB", "0"):
        with pytest.raises(FullconvError, match=r"--memory .*: write a size"):
            parse_bytes(wrong)


@pytest.fixture(scope="module")
def short_side_model(tmp_path_factory) -> Path:
    """A model that resizes each image to a shorter side of 24 pixels, as torchvision's published ones do to 520."""
    path = tmp_path_factory.mktemp("model") / "short.safetensors"
    segmenter = small_segmenter(names(4), seed=5)
    segmenter.card = segmenter.card.model_copy(update={"short_side": 24})
    segmenter.save(path)
    return path


def test_a_model_that_resizes_to_a_shorter_side_prints_it_and_scale_1_does_not(
    run, data, model, short_side_model, tmp_path
):
    sentence = "Images are resized to a shorter side of 24 pixels"
    for path, options, printed in (
        (short_side_model, (), True),
        (short_side_model, ("--scale", 1), False),
        (model, (), False),
    ):
        out = tmp_path / f"{path.stem}{len(options)}"
        done = run("predict", path, data / "val", "-o", out, *options)
        scored = run("evaluate", path, data, "--json", *options)
        assert (done.code, scored.code) == (0, 0)
        assert [sentence in done.err, sentence in scored.err] == [printed] * 2
    name = next(iter((data / "val").iterdir())).stem
    files = [(tmp_path / folder / f"{name}.png").read_bytes() for folder in ("short0", "short2", "model0")]
    assert files[1] == files[2]
    assert files[0] != files[1]


def test_info_and_bench_of_a_model_that_resizes_to_a_shorter_side(run, short_side_model):
    assert "resized to a shorter side of 24 pixels, so a crop gets other labels" in " ".join(
        run("info", short_side_model).out.split()
    )
    assert json.loads(run("info", short_side_model, "--json").out)["short_side"] == 24
    job = Benchmark(str(short_side_model))
    assert job.open("torch", "fp32").working_size(100, 200) == (100, 200)


def test_an_exported_file_takes_images_as_they_are(run, short_side_model, tmp_path):
    pytest.importorskip("onnxruntime")
    done = run("export", short_side_model, "--format", "onnx", "-o", tmp_path / "a.onnx")
    assert done.code == 0
    assert "cannot resize images to a shorter side of 24 pixels" in done.err
    assert json.loads(run("info", tmp_path / "a.onnx", "--json").out)["short_side"] is None
