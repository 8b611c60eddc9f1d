"""The program: help, errors, exit codes, streams."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fullconv.cli import COMMANDS, main, models
from fullconv.cli.console import Progress
from fullconv.cli.startup import use_utf8


def test_help_lists_each_command_with_one_sentence(run):
    done = run("--help")
    assert done.code == 0
    lines = {line.split()[0]: line for line in done.out.partition("Commands:")[2].splitlines() if line.strip()}
    assert list(lines) == list(COMMANDS)
    assert all(line.endswith(".") and "..." not in line for line in lines.values())


def test_without_a_command_help_goes_to_stderr_and_the_exit_is_2(run):
    done = run()
    assert (done.code, done.out) == (2, "")
    assert "Commands:" in done.err


def test_help_and_version_load_neither_torch_nor_numpy():
    code = (
        "import sys; from fullconv.cli import main\n"
        "code = any(main(line.split()) for line in ('--help', '--version', 'train --help', 'predict --help'))\n"
        "sys.exit(code or bool({'torch', 'torchvision', 'numpy', 'timm', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("trian", "no such command 'trian'. Did you mean 'train'? See `fullconv --help`."),
        ("train d -o r --epoch 3", "no such option: --epoch. Did you mean '--epochs'? See `fullconv train --help`."),
        ("train d -o r --batchsize 3", "no such option: --batchsize. Did you mean '--batch-size'?"),
        ("train d -o r --engine openvino", "no such option: --engine."),
        ("predict m p -o o --overlya", "no such option: --overlya. Did you mean '--overlay'? See `fullconv predict"),
        ("train d", "missing option '-o' / '--out'. See `fullconv train --help`."),
        ("predict m.safetensors", "missing option '-o' / '--out'. See `fullconv predict --help`."),
        ("evaluate m", "missing argument 'DATA'. See `fullconv evaluate --help`."),
        ("train d -o r --epochs many", "--epochs many: "),
        ("predict m p -o o --workers=0", "--workers=0: "),
        ("evaluate m d --split vla", "--split vla: choose val, test, train or all. Did you mean 'val'?"),
        ("evaluate m d --policy nam", "--policy nam: choose nan or present_only. Did you mean 'nan'?"),
        ("predict m p -o o --format gray", "--format gray: choose index, grey, color or original. Did you mean 'grey'?"),
        ("predict m p -o o --tile big", "--tile big: write auto, none, or a tile size in pixels"),
        ("predict m p -o o --memory lots", "--memory lots: write a size such as 2GB or 500MB."),
        ("predict m p -o o --shard 0/4", "--shard 0/4: write it as i/n with i from 1 to n"),
        ("predict m p -o o --tolerance 2", "--tolerance 2 has no effect without --to. Add --to, or omit --tolerance."),
        ("train d -o r --weights none --variant fcn9s", "there is no variant 'fcn9s'. Did you mean 'fcn8s'?"),
        ("train d -o r --weights none --set loss=dicee", "there is no loss 'dicee'"),
        ("train d -o r --weights none --device tpu", "there is no device 'tpu': use auto, cpu, cuda or cuda:0."),
        ("train d -o r --weights none --device cuda:99", "device cuda:99 is not available: PyTorch finds"),
        ("train d -o r --backbone resnet81", "there is no backbone 'resnet81'. Did you mean 'resnet18'?"),
        ("train d -o r --weights none --backbone tinny", "there is no backbone 'tinny'. Did you mean 'tiny'?"),
        ("train d -o r --weights none --augment strete", "augment = 'strete' is invalid: input should be 'street', 'aerial'"),
        ("train d -o r --weights none --precision fp23", "precision = 'fp23' is invalid: input should be 'auto', 'fp32' or"),
        ("train d -o r --weights none --crop 0x32", "crop must be at least 1x1, not 0x32."),
        ("train d -o r --weights none --epochs -1", "epochs = -1 is invalid: input should be greater than or equal to 1."),
        ("train d -o r --weights none --batch-size 0", "batch_size = 0 is invalid: input should be greater than or equal"),
        ("train d -o r --weights none --lr -0.1", "lr = -0.1 is invalid: input should be greater than 0."),
        ("train d -o r --weights none --scale 0", "scale = 0.0 is invalid: input should be greater than 0."),
        ("train d -o r --weights none --set seed=many", "seed = 'many' is invalid: input should be a valid integer"),
        ("train d -o r --backbone tiny --weights old.pth", "old.pth: there is no such weights file."),
        ("train d -o r --set optimizer", "--set optimizer: write it as key=value"),
        ("train d -o r --set optimiser=sgd", "there is no setting 'optimiser'. Did you mean 'optimizer'?"),
        ("train d -o r --lr 1 --set lr=2", "--set lr=2: lr was given before as 1.0. Omit one of them."),
        ("train d -o r --crop 100", "'100' is neither HEIGHTxWIDTH, for example 288x384, nor whole."),
        ("train d -o r --epochs 2 --minutes 3", "set epochs or minutes, not both."),
        ("train d -o r --recipe none.toml", "none.toml: cannot be read"),
        ("train nowhere -o r --weights none", "nowhere: no such folder"),
        ("evaluate nowhere.safetensors d", "nowhere.safetensors: there is no such model file."),
        ("info nowhere.safetensors", "nowhere.safetensors: there is no such model file."),
        ("models fcn9s", "there is no variant 'fcn9s'. Did you mean"),
        ("models fcn8s --backbone resnet81", "there is no backbone 'resnet81'. Did you mean 'resnet18'?"),
        ("models fcn8s --size big", "--size big: write HEIGHTxWIDTH, for example 360x480."),
        ("models --backbone vgg16", "--backbone vgg16: add a variant, as in: fullconv models fcn8s"),
    ],
)  # fmt: skip
def test_user_errors_are_one_line_and_exit_2(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    done = run(*arguments.split())
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("fullconv: ")
    assert message in done.err
    assert done.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_with_json_an_error_is_the_one_object(run, tmp_path):
    done = run("info", tmp_path / "none.safetensors", "--json")
    assert done.code == 2
    assert "there is no such model file" in json.loads(done.out)["error"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no disk that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_results_that_cannot_be_written_are_reported(unbuffered):
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fullconv", "--version"], stdout=full, stderr=subprocess.PIPE, env=environment
        )
    assert done.returncode == 2
    assert done.stderr.decode() == "fullconv: the results cannot be written to stdout (No space left on device).\n"


@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell closes the streams")
def test_closed_streams_are_replaced(monkeypatch):
    done = subprocess.run(f'"{sys.executable}" -m fullconv --version <&- >&-', shell=True, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")
    monkeypatch.setattr(sys, "stdin", None)
    use_utf8()
    with sys.stdin as stdin:
        assert stdin.read() == ""


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(models, "table", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["models"])


def test_progress_without_a_terminal_is_a_line_now_and_then(capfd, monkeypatch):
    monkeypatch.setattr("fullconv.cli.console.PROGRESS_INTERVAL_S", 0.0)
    with Progress() as progress:
        time.sleep(0.01)
        progress(5, 20)
        progress(20, 20)
    err = capfd.readouterr().err
    assert err.startswith("5 of 20 images, ")
    assert err.count("\n") == 1
