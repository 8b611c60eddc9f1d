"""Names of timm's picked at random: each serves, or says in one sentence why not."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "backbones.py"


def script():
    spec = importlib.util.spec_from_file_location("benchmark_backbones", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def check(trials) -> None:
    for trial in trials:
        if trial.refusal is not None:
            assert "\n" not in trial.refusal
            assert trial.refusal.endswith("the nearest in size that can."), trial


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore")  # what timm's families warn of while they are made is theirs
def test_fifty_names_picked_at_random_serve_or_say_in_one_sentence_why_not():
    page, trials = script().table(50, seed=0)
    assert len(trials) == 50
    check(trials)
    serving = {trial.name for trial in trials if trial.refusal is None}
    assert len(serving) >= 15
    kept = (SCRIPT.parents[1] / "docs" / "reference" / "backbones.md").read_text(encoding="utf-8")
    listed = {line.split(" | ")[0].removeprefix("| ") for line in kept.splitlines() if " | yes | " in line}
    if page.splitlines()[2:4] == kept.splitlines()[2:4]:  # the same timm drew the same names
        assert serving == listed


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["regnetx_002", "resnest14d", "mixer_s16_224", "efficientformer_l1"])
def test_some_names_serve_or_say_in_one_sentence_why_not(name):
    check([script().attempt(name, 5.0)])
