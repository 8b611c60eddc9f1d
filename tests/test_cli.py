"""The command line: words, results, exit codes."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from fullconv.cli.learn import collect, exit_code
from fullconv.cli.use import parse_bytes, parse_tile
from PIL import Image

import fullconv
from fullconv.cli import COMMANDS, main, model_table
from fullconv.cli.console import Progress
from fullconv.cli.startup import use_utf8
from fullconv.errors import FullconvError, RecipeError
from fullconv.labels import read_label_map
from fullconv.nn import build
from fullconv.segmenter import Segmenter
from synthetic.shapes import make_shapes

CLASSES = ["ground", "disc", "box", "triangle"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FULLCONV_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", images=8, size=(32, 40), test=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    network = build("fcn8s", backbone="tiny", num_classes=4, width=0.25)
    Segmenter.from_network(network, CLASSES, device="cpu").save(path)
    return path


class Said:
    """What one call of the program returned and said."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(capfd):
    def call(*arguments: object) -> Said:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return Said(code, *capfd.readouterr())

    return call


# --- the program -----------------------------------------------------------------------------------------------------


def test_help_lists_each_command_with_one_sentence(run):
    said = run("--help")
    assert said.code == 0
    lines = {line.split()[0]: line for line in said.out.partition("Commands:")[2].splitlines() if line.strip()}
    assert list(lines) == list(COMMANDS)
    assert all(line.endswith(".") and "..." not in line for line in lines.values())


def test_without_a_command_help_goes_to_stderr_and_the_exit_is_2(run):
    said = run()
    assert (said.code, said.out) == (2, "")
    assert "Commands:" in said.err


def test_version(run):
    assert run("--version").out == f"fullconv {fullconv.__version__}\n"


def test_help_loads_neither_torch_nor_numpy():
    code = (
        "import sys; from fullconv.cli import main; code = main(['train', '--help']);"
        "sys.exit(code or bool({'torch', 'numpy', 'timm', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("trian", "no such command 'trian'. Did you mean 'train'? `fullconv --help` tells more."),
        ("train d -o r --epoch 3", "no such option: --epoch. Did you mean '--epochs'? `fullconv train --help` tells more."),
        ("predict m p -o o --overlya", "no such option: --overlya. Did you mean '--overlay'? `fullconv predict"),
        ("train d", "missing option '-o' / '--out'. `fullconv train --help` tells more."),
        ("evaluate m", "missing argument 'DATA'. `fullconv evaluate --help` tells more."),
        ("train d -o r --epochs many", "--epochs many: "),
        ("predict m p -o o --workers=0", "--workers=0: "),
        ("evaluate m d --split vla", "--split vla: choose val, test, train or all. Did you mean 'val'?"),
        ("evaluate m d --policy nam", "--policy nam: choose nan or present_only. Did you mean 'nan'?"),
        ("predict m p -o o --format gray", "--format gray: choose index, grey, color or original. Did you mean 'grey'?"),
        ("predict m p -o o --tile big", "--tile big: write auto, none, or the side of a tile's core in pixels"),
        ("predict m p -o o --memory lots", "--memory lots: write a size such as 2GB or 500MB."),
        ("predict m p -o o --shard 0/4", "--shard 0/4: write it as i/n with i from 1 to n"),
        ("predict m p -o o --tolerance 2", "--tolerance 2 does nothing without --to: name a tool, or leave it away."),
        ("train d -o r --weights none --variant fcn9s", "there is no variant 'fcn9s'. Did you mean 'fcn8s'?"),
        ("train d -o r --weights none --set loss=dicee", "there is no loss 'dicee'"),
        ("train d -o r --weights none --device tpu", "there is no device 'tpu': use auto, cpu, cuda or cuda:0."),
        ("train d -o r --backbone tiny --weights old.pth", "old.pth: there is no such weights file."),
        ("train d -o r --set optimizer", "--set optimizer: write it as key=value"),
        ("train d -o r --set optimiser=sgd", "there is no setting 'optimiser'. Did you mean 'optimizer'?"),
        ("train d -o r --lr 1 --set lr=2", "--set lr=2: lr was given before as 1.0. Leave one of them away."),
        ("train d -o r --crop 100", "'100' is neither HEIGHTxWIDTH, for example 288x384, nor whole."),
        ("train d -o r --epochs 2 --minutes 3", "set epochs or minutes, not both."),
        ("train d -o r --recipe none.toml", "none.toml: cannot be read"),
        ("train nowhere -o r --weights none", "nowhere: no such folder"),
        ("evaluate nowhere.safetensors d", "nowhere.safetensors: there is no such model file."),
        ("info nowhere.safetensors", "nowhere.safetensors: there is no such model file."),
        ("models fcn9s", "there is no variant 'fcn9s'. Did you mean"),
        ("models fcn8s --backbone resnet81", "there is no backbone 'resnet81'. Did you mean 'resnet18'?"),
        ("models fcn8s --size big", "--size big: write HEIGHTxWIDTH, for example 360x480."),
        ("models --backbone vgg16", "--backbone vgg16: name a variant with it, as in: fullconv models fcn8s"),
    ],
)  # fmt: skip
def test_what_the_user_can_mend_is_one_line_and_exit_2(run, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    said = run(*arguments.split())
    assert said.code == 2
    assert said.out == ""
    assert said.err.startswith("fullconv: ")
    assert words in said.err
    assert said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_with_json_an_error_is_the_one_object(run, tmp_path):
    said = run("info", tmp_path / "none.safetensors", "--json")
    assert said.code == 2
    assert "there is no such model file" in json.loads(said.out)["error"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no disk that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_results_that_cannot_be_written_are_told(unbuffered):
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fullconv", "--version"], stdout=full, stderr=subprocess.PIPE, env=environment
        )
    assert done.returncode == 2
    assert done.stderr.decode() == "fullconv: the results cannot be written to stdout (No space left on device).\n"


@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell closes the streams")
def test_streams_that_the_parent_has_closed_are_no_bug(monkeypatch):
    done = subprocess.run(f'"{sys.executable}" -m fullconv --version <&- >&-', shell=True, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")
    monkeypatch.setattr(sys, "stdin", None)
    use_utf8()
    with sys.stdin as stdin:
        assert stdin.read() == ""


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(model_table, "table", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["models"])


def test_a_reader_that_closes_the_pipe_is_no_error(model):
    command = [sys.executable, "-m", "fullconv", "info", str(model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
@pytest.mark.parametrize(("number", "code", "name"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")])
def test_a_stopped_prediction_says_how_to_go_on(run, model, tmp_path, number, code, name):
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
    said = run("predict", model, tmp_path / "in", "-o", out, "--device", "cpu", "--workers", 1)
    assert said.code == code
    assert f"fullconv: stopped by {name}." in said.err
    assert "once more stops at once" in said.err
    assert "go on by the same command with --skip-existing" in said.err
    done = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert 0 < len(done) == len(list(out.glob("*.png"))) < 600
    assert not list(out.glob(".*"))
    assert signal.getsignal(signal.SIGTERM) is before


def test_progress_without_a_terminal_is_a_line_now_and_then(capfd, monkeypatch):
    monkeypatch.setattr("fullconv.cli.console.SECONDS_BETWEEN_LINES", 0.0)
    with Progress("pictures") as progress:
        time.sleep(0.01)
        progress(5, 20)
        progress(20, 20)
    err = capfd.readouterr().err
    assert err.startswith("5 of 20 pictures, ")
    assert err.count("\n") == 1


# --- check -----------------------------------------------------------------------------------------------------------


def test_check_says_what_there_is(run, data):
    said = run("check", data)
    assert said.code == 0
    for words in ("4 classes, 6 train, 2 val, 2 test pictures", "triangle", "Ready for train."):
        assert words in said.out
    found = json.loads(run("check", data, "--json").out)
    assert (found["ok"], found["splits"]) == (True, {"train": 6, "val": 2, "test": 2})
    assert [row["name"] for row in found["classes"]] == CLASSES


def _empty_folder(root: Path) -> None:
    shutil.rmtree(root)
    root.mkdir()


def _no_folder(root: Path) -> None:
    shutil.rmtree(root)


def _no_masks(root: Path) -> None:
    shutil.rmtree(root / "trainannot")


def _other_size(root: Path) -> None:
    Image.new("L", (9, 9)).save(next((root / "trainannot").iterdir()))


def _label_200(root: Path) -> None:
    Image.new("L", (40, 32), 200).save(next((root / "trainannot").iterdir()))


def _zero_255(root: Path) -> None:
    (root / "data.toml").unlink()
    for mask in root.glob("*annot/*.png"):
        values = np.where(np.asarray(Image.open(mask)) == 1, 255, 0).astype(np.uint8)
        Image.fromarray(values).save(mask)


def _rgb(root: Path) -> None:
    for mask in root.glob("*annot/*.png"):
        Image.new("RGB", (40, 32), (200, 10, 90)).save(mask)


def _cut(root: Path) -> None:
    path = next((root / "train").iterdir())
    path.write_bytes(path.read_bytes()[:200])


def _zero_bytes(root: Path) -> None:
    next((root / "train").iterdir()).write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_no_folder, "no such folder"),
        (_empty_folder, "the folder is empty"),
        (_no_masks, "trainannot|mask"),
        (_other_size, "9x9, its picture 40x32"),
        (_label_200, "200"),
        (_zero_255, "values ="),
        (_rgb, "colors"),
        (_cut, "truncated|decoded"),
        (_zero_bytes, r"0 bytes"),
    ],
)
def test_bad_data_is_explained_by_check_and_refused_by_train(run, data, tmp_path, spoil, words):
    root = tmp_path / "data"
    shutil.copytree(data, root)
    spoil(root)
    said = run("check", root)
    assert said.code == 2
    assert pytest.importorskip("re").search(words, " ".join(said.out.split())), said.out
    assert "train would not start" in said.out
    found = run("check", root, "--json")
    assert found.code == 2
    assert json.loads(found.out)["ok"] is False
    refused = run("train", root, "-o", tmp_path / "run", "--backbone", "tiny", "--weights", "none")
    assert refused.code == 2
    assert refused.err.splitlines()[-1] or "Traceback" not in refused.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["flat", "nowhere"])
def test_check_with_a_format_that_does_not_fit_still_prints_its_object(run, data, name):
    said = run("check", data, "--format", name, "--json")
    assert said.code == 2
    found = json.loads(said.out)
    assert found["ok"] is False
    assert found["problems"][0]["severity"] == "error"
    assert json.loads(run("check", data, "--format", "camvid", "--json").out)["ok"] is True


# --- train -----------------------------------------------------------------------------------------------------------


def test_only_what_the_user_gave_is_handed_on():
    given = {"epochs": 3, "lr": None, "skip_bad": None, "seed": 0}
    settings = collect(given, ["optimizer=sgd", "head.fc=false", "class_weights=[1, 2]", "seed=0"])
    assert settings == {"epochs": 3, "seed": 0, "optimizer": "sgd", "head.fc": False, "class_weights": [1, 2]}
    with pytest.raises(RecipeError, match=r"--set epochs=4: epochs was given before as 3"):
        collect(given, ["epochs=4"])


def test_how_a_run_ended_is_the_exit_code():
    assert [exit_code(status, []) for status in ("done", "sigint", "sigterm")] == [0, 130, 143]
    assert [exit_code(status, ["a"]) for status in ("done", "sigint", "sigterm")] == [3, 130, 143]


def test_a_run_from_data_to_label_maps(run, data, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(data, root)
    next((root / "train").iterdir()).write_bytes(b"")
    out = tmp_path / "run"
    options = ("--backbone", "tiny", "--weights", "none", "--epochs", 1, "--crop", "32x32", "--batch-size", 2,
               "--precision", "fp32", "--device", "cpu", "--workers", 0, "--set", "width=0.25")  # fmt: skip
    said = run("train", root, "-o", out, *options, "--skip-bad")
    assert said.code == 3
    assert said.out == ""
    assert "left out: shape00" in said.err
    assert {"model.safetensors", "recipe.toml", "metrics.jsonl", "report.html"} <= {p.name for p in out.iterdir()}
    assert run("train", root, "-o", out, *options).code == 2  # not empty
    assert run("train", root, "-o", out, "--skip-bad", "--resume").code in (0, 3)  # finished

    card = json.loads(run("info", out, "--json").out)
    assert card["classes"] == CLASSES
    assert card["recipe"]["width"] == 0.25
    said = run("info", out / "model.safetensors")
    assert "fcn8s on tiny" in said.out
    assert "5 train, 2 val, 2 test" in said.out

    scored = json.loads(run("evaluate", out, root, "--split", "test", "--json").out)
    assert scored["mean_iou"] == pytest.approx(card["scores"]["test"]["mean_iou"], abs=1e-9)
    assert run("predict", out, root / "test", "-o", tmp_path / "maps").code == 0
    truth = [
        (np.asarray(Image.open(root / "testannot" / p.name)), read_label_map(p))
        for p in (tmp_path / "maps").glob("*.png")
    ]
    hits = sum(int(((t == m) & (t < 4)).sum()) for t, m in truth)
    assert hits == sum(scored["confusion"][k][k] for k in range(4))


# --- evaluate --------------------------------------------------------------------------------------------------------


def test_evaluate_prints_a_table_or_one_object_and_writes_a_csv(run, data, model, tmp_path):
    said = run("evaluate", model, data, "--split", "all", "--per-image", tmp_path / "each.csv")
    assert said.code == 0
    found = json.loads(run("evaluate", model, data, "--split", "all", "--json").out)
    assert found["images"] == 10
    assert f"{found['mean_iou']:.4f}" in said.out
    assert f"engine             {found['engine']}, {found['precision']}\n" in said.out
    assert all(name in said.out for name in CLASSES)
    with (tmp_path / "each.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40
    assert sum(int(row["tp"]) for row in rows) == sum(found["confusion"][k][k] for k in range(4))
    options = ("--workers", 2, "--batch-size", 3, "--precision", "fp32", "--engine", "torch", "--device", "cpu")
    batched = json.loads(run("evaluate", model, data, "--split", "all", "--json", *options).out)
    assert np.abs(np.array(batched["confusion"]) - found["confusion"]).sum() <= 20  # a batch may round otherwise
    present = json.loads(run("evaluate", model, data, "--policy", "present_only", "--json").out)
    assert present["policy"] == "present_only"


def test_evaluate_names_what_failed_and_exits_with_3(run, data, model, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(data, root)
    bad = min((root / "val").iterdir())
    bad.write_bytes(b"")
    said = run("evaluate", model, root, "--json")
    assert said.code == 3
    found = json.loads(said.out)
    assert found["images"] == 1
    assert found["failed"][0]["input"] == bad.as_posix()
    assert f"fullconv: {bad}: is empty" in said.err
    bad.unlink()
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(
        bad.with_suffix(".tif"), np.zeros((32, 40, 5), np.uint8), planarconfig="contig", photometric="minisblack"
    )
    said = run("evaluate", model, root, "--batch-size", 2)
    assert said.code == 3
    assert f"fullconv: {bad.with_suffix('.tif')}: has 5 bands, the model expects 3." in said.err
    for path in (root / "val").iterdir():
        path.write_bytes(b"")
    said = run("evaluate", model, root, "--json")
    assert said.code == 2
    assert "none of 2 pictures could be scored" in json.loads(said.out)["error"]


def test_classes_that_differ_from_the_models_are_named(run, model, tmp_path):
    other = make_shapes(tmp_path / "other", images=4, size=(32, 40), classes=3)
    said = run("evaluate", model, other)
    assert said.code == 2
    assert "classes of model and data differ: only in the model: triangle" in said.err


@pytest.mark.parametrize("keep", [4, 100, 20_000])
def test_a_model_file_that_was_cut_is_said(run, data, model, tmp_path, keep):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(model.read_bytes()[:keep])
    for command in (("info", cut), ("evaluate", cut, data), ("predict", cut, data / "val", "-o", tmp_path / "out")):
        said = run(*command)
        assert said.code == 2
        assert "cut.safetensors" in said.err
        assert "cut" in said.err.replace("cut.safetensors", "")
    assert not (tmp_path / "out").exists()


# --- predict ---------------------------------------------------------------------------------------------------------


def test_predict_tells_how_many_and_exits_with_3_where_some_failed(run, data, model, tmp_path):
    shutil.copytree(data / "val", tmp_path / "in")
    (tmp_path / "in/bad.png").write_bytes(b"")
    said = run("predict", model, tmp_path / "in", "-o", tmp_path / "out", "--device", "cpu")
    assert said.code == 3
    assert said.out == ""
    assert f"fullconv: {tmp_path / 'in/bad.png'}: is empty (0 bytes)" in said.err
    assert f"2 pictures predicted, 1 failed; results are in {tmp_path / 'out'}." in said.err
    said = run("predict", model, tmp_path / "in", "-o", tmp_path / "out", "--skip-existing")
    assert "0 pictures predicted, 2 skipped, 1 failed" in said.err
    said = run("predict", model, tmp_path / "in/bad.png", "-o", tmp_path / "out")
    assert said.code == 2


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


def test_predict_refuses_to_replace_its_input_before_any_work(run, data, model, tmp_path):
    shutil.copytree(data / "val", tmp_path / "in")
    before = {path.name: path.read_bytes() for path in (tmp_path / "in").iterdir()}
    said = run("predict", model, tmp_path / "in", "-o", tmp_path / "in")
    assert said.code == 2
    assert "is an input, and the result for" in said.err
    assert {path.name: path.read_bytes() for path in (tmp_path / "in").iterdir()} == before


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
def test_what_is_not_here_is_said(run, data, model, tmp_path, options, words):
    said = run("predict", model, data / "val", "-o", tmp_path / "out", *options)
    assert said.code == 2
    assert any(part in said.err for part in words.split("|"))


def test_sizes_and_tiles_are_read():
    assert [parse_bytes(text) for text in ("2GB", "1.5 GiB", "500mb", "7", "3k")] == [
        2 * 10**9, 3 * 2**29, 5 * 10**8, 7, 3000,
    ]  # fmt: skip
    assert [parse_tile(text) for text in ("auto", "none", "96")] == ["auto", "none", 96]
    for wrong in ("", "GB", "-1GB", "2XB", "0"):
        with pytest.raises(FullconvError, match=r"--memory .*: write a size"):
            parse_bytes(wrong)


# --- models ----------------------------------------------------------------------------------------------------------


def test_models_lists_what_can_be_built(run):
    found = json.loads(run("models", "--json").out)
    assert {row["name"] for row in found["variants"]} == set(fullconv.nn.VARIANTS)
    rows = {row["name"]: row for row in found["backbones"]}
    assert (rows["vgg16"]["receptive_field"], rows["vgg16"]["stride"]) == (404, 32)
    assert rows["resnet18"]["exact_tiling"] is True
    assert rows["efficientnet_b0"]["exact_tiling"] is False
    said = run("models")
    assert said.code == 0
    assert "unbounded" in said.out


def test_models_prints_the_layers_of_one(run):
    found = json.loads(run("models", "fcn8s", "--backbone", "tiny", "--size", "100x130", "--json").out)
    assert (found["size"], found["padded"]) == ([100, 130], [128, 160])
    rows = {row["name"]: row for row in found["layers"]}
    first = rows["backbone.stages.0.0"]
    assert (first["shape"], first["stride"], first["receptive_field"]) == ([1, 16, 64, 80], 2, 3)
    assert rows["head.score.32"]["shape"] == [1, 21, 4, 5]
    said = run("models", "fcn8s", "--backbone", "tiny")
    assert "backbone.stages.0.0" in said.out
    assert "computed on 224x224" in said.out


@pytest.mark.parametrize(
    "key", [("fcn8s", "tiny"), ("fcn8s", "vgg16"), ("fcn-os8", "resnet18"), ("voc-fcn8s", "vgg")], ids=str
)
def test_the_catalogue_holds_what_building_gives(key):
    assert model_table.measure(key[0], None if key[1] == "vgg" else key[1]) == model_table.MEASURED[key]


@pytest.mark.slow
@pytest.mark.parametrize("key", model_table.MEASURED, ids=str)
def test_the_whole_catalogue_holds_what_building_gives(key):
    variant, backbone = key
    own = backbone in ("vgg", "caffenet") or variant == "voc-fcn-googlenet"
    assert model_table.measure(variant, None if own else backbone) == model_table.MEASURED[key]
