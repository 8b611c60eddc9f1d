"""Sections 1 and 2 of the interface: the command itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import contract_tools as tools
import pytest
from contract_tools import assert_mendable, call, pairs, spawn

import fullconv

COMMANDS = ("demo", "check", "train", "evaluate", "predict", "info", "models")


def run_code(code: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **tools.environment()},
        check=False,
    )


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"], ["predict", "--help"]])
def test_help_and_version_load_no_torch(arguments):
    done = run_code(
        "import runpy, sys\n"
        f"sys.argv = ['fullconv', *{arguments!r}]\n"
        "try:\n    runpy.run_module('fullconv', run_name='__main__')\n"
        "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "assert not {'torch', 'torchvision', 'timm'} & set(sys.modules)\n"
    )
    assert done.returncode == 0, done.stderr


def test_help_answers_within_half_a_second():
    resource = pytest.importorskip("resource")

    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert spawn("--help").rc == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(once() for _ in range(3)) < 0.5  # processor time, so that a busy machine does not count


def test_every_command_is_listed_and_has_its_own_help():
    answer = call("--help")
    assert answer.rc == 0
    for name in COMMANDS:
        assert re.search(rf"\b{name}\b", answer.out), name
        assert call(name, "--help").rc == 0, name
    for name in ("convert", "export", "import", "compare", "debug", "bench", "serve", "batch", "runs", "rank"):
        if re.search(rf"^\W*{name}\s{{2,}}", answer.out, flags=re.MULTILINE):
            assert call(name, "--help").rc == 0, name


OPTIONS = {
    "check": "--json",
    "train": "--variant --backbone --weights --epochs --minutes --batch-size --crop --scale --lr --seed --augment "
    "--recipe --set --checkpoint-every --skip-bad --resume --device --precision --workers",
    "evaluate": "--split --per-image --json --device --precision --workers --batch-size",
    "predict": "--format --overlay --probabilities --list --skip-existing --shard --head --memory --tile --blend --device "
    "--precision --workers --batch-size",
    "info": "--json",
    "models": "--json",
}


@pytest.mark.parametrize("command", OPTIONS)
def test_help_lists_the_options(command):
    text = call(command, "--help").out
    for option in OPTIONS[command].split():
        assert option in text, option


def test_version_is_on_stdout():
    answer = call("--version")
    assert answer.rc == 0
    assert fullconv.__version__ in answer.out


@pytest.mark.parametrize(
    ("arguments", "patterns"),
    [
        (["trian"], ["trian", r"\btrain\b"]),
        (["predikt", "a", "b"], [r"\bpredict\b"]),
        (["train", "data", "-o", "run", "--epoks", "3"], ["--epoks", "--epochs"]),
        (["train", "data", "-o", "run", "--batchsize", "3"], ["--batch-size"]),
        (["predict", "m", "p", "-o", "o", "--overlays"], ["--overlay"]),
        (["train"], ["DATA"]),
        (["train", "data"], ["-o"]),
        (["predict", "model.safetensors"], ["INPUT|-o"]),
        (["train", "data", "-o", "run", "--epochs", "many"], ["many", "epochs"]),
        (["evaluate", "m", "d", "--split", "trian"], [r"\btrain\b"]),
        (["predict", "m", "p", "-o", "o", "--format", "gray"], [r"\bgrey\b"]),
        (["train", "d", "-o", "r", "--engine", "openvino"], ["--engine"]),
    ],
    ids=" ".join,
)
def test_usage_errors_exit_2_with_the_nearest_name(arguments, patterns, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = call(*arguments)
    assert_mendable(answer, *patterns)
    assert answer.out == ""
    assert not list(tmp_path.iterdir())


def test_messages_go_to_stderr_and_results_to_stdout(trained, model, shapes, tmp_path):
    _, answer = trained
    assert "loss" not in answer.out.lower()
    answer = call("evaluate", model, shapes, "--json")
    assert answer.out.strip().startswith("{")
    assert answer.json()
    answer = call("predict", model, shapes / "val/images", "-o", tmp_path / "out")
    assert "Traceback" not in answer.err


def test_stderr_of_a_run_is_plain_lines_where_it_is_not_a_terminal(trained):
    _, answer = trained
    assert b"\x1b[" not in answer.stderr
    assert b"\r" not in answer.stderr
    assert "Warning" not in answer.err


def test_stdout_is_utf_8_whatever_the_locale(tmp_path):
    data = pairs(tmp_path / "données", 5, 'classes = ["fond", "disque", "boîte"]\n')
    answer = spawn("check", data, "--json", LC_ALL="C", LANG="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert answer.rc == 0, str(answer)
    assert answer.json()["classes"][2]["name"] == "boîte"
    answer = spawn("check", data, LC_ALL="C", LANG="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert answer.rc == 0, str(answer)
    assert "boîte" in answer.words


def test_models_lists_variants_and_backbones():
    answer = call("models", "--json")
    assert answer.rc == 0, str(answer)
    text = str(answer.json())
    for name in ("fcn32s", "fcn16s", "fcn8s", "fcn4s", "fcn-os8", "fcn-os16", "tiny", "resnet18", "vgg16"):
        assert name in text, name
    for word in ("parameters", "stride", "receptive_field", "tiling"):
        assert word in text, word
    plain = call("models")
    assert plain.rc == 0
    assert "fcn8s" in plain.out
    assert "resnet18" in plain.out


def test_globs_are_expanded_by_the_command(model, shapes, tmp_path):
    answer = call("predict", model, f"{shapes}/val/images/p0?.png", "-o", tmp_path / "out")
    assert answer.rc == 0, str(answer)
    assert {file.name for file in (tmp_path / "out").glob("*.png")} == {"p00.png", "p01.png"}


def test_a_closed_pipe_is_no_traceback(model):
    command = f"{sys.executable} -m fullconv info {model} | head -c 1"
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        timeout=120,
        env={**os.environ, **tools.environment()},
        check=False,
    )
    assert done.stderr == b""
