"""Sections 1 and 2 of the interface: the command itself."""

from __future__ import annotations

import os
import subprocess
import sys

import contract_tools as tools
import pytest
from contract_tools import call, pairs, spawn


def test_help_answers_within_half_a_second():
    resource = pytest.importorskip("resource")

    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert spawn("--help").rc == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(once() for _ in range(3)) < 0.5  # processor time, so that a busy machine does not count


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


def test_stderr_of_a_run_is_plain_lines_where_it_is_not_a_terminal(trained):
    _, answer = trained
    assert "loss" not in answer.out.lower()
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
    assert "boîte" in answer.text


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
