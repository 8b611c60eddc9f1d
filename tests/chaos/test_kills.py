"""kill -9 at random moments, again and again: the weights in the end are those of the run that was left alone."""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from runs import SMALL, identity, state

from fullconv.training import train

SETTINGS = {**SMALL, "epochs": 3, "seed": 11, "checkpoint_every": 0.15}


@pytest.fixture(scope="module")
def start():
    """Start a run in a process of its own, forked from one that has imported torch."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fullconv.training"])
    begun = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")

        def begin(data: Path, run: Path, **settings):
            process = context.Process(target=train, args=(str(data), str(run)), kwargs={**SETTINGS, **settings})
            process.start()
            begun.append(process)
            return process

        yield begin
        for process in begun:
            process.kill()
            process.join()


def finish(process) -> None:
    process.join(timeout=500)
    assert process.exitcode == 0


def wait(process, condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while process.is_alive() and time.monotonic() < end and not condition():
        time.sleep(0.0005)


def mtime(path: Path) -> int:
    """Modification time of a file; 0 where it is missing, as `last` is for a moment while the next takes its place."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


KINDS = {"anywhere": 0.45, "writing": 0.25, "at once": 0.15, "starting": 0.05, "ending": 0.1}


def strike(process, run: Path, kind: str, rng: np.random.Generator) -> str:
    """Kill a run; return what it was doing: "ended" before, "writing" a checkpoint, or something "else"."""
    last = run / "checkpoints" / "last"
    before = mtime(last)
    if kind == "writing":
        wait(process, lambda: any((run / "checkpoints").glob(".*.part")), 60)
    elif kind == "anywhere":  # some time after a checkpoint of its own, so that the run advances
        wait(process, lambda: mtime(last) not in (0, before), 60)
        time.sleep(rng.uniform(0, 0.4))
    elif kind == "starting":
        wait(process, (run / "recipe.toml").exists, 60)
    elif kind == "ending":
        wait(process, (run / "model.safetensors").exists, 60)
    else:  # "at once": before it can have done much
        time.sleep(rng.uniform(0, 0.5))
    alive = process.is_alive()
    process.kill()
    process.join()
    if not alive or process.exitcode != -9:
        return "ended"
    return "writing" if any(run.rglob(".*.part")) or (run / "checkpoints" / ".fresh").exists() else "else"


def torture(start, data: Path, folder: Path, kills: int, seed: int, **settings) -> Counter[str]:
    """Kill runs until so many kills were survived; some sessions have another number of workers."""
    straight = folder / "straight"
    finish(start(data, straight, **settings))
    rng = np.random.default_rng(seed)
    count: Counter[str] = Counter()
    number = 0
    while count["killed"] < kills:
        run = folder / f"run{number}"
        number += 1
        for _ in range(int(rng.integers(4, 14))):
            if count["killed"] >= kills:
                break
            kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
            workers = settings.get("workers", int(rng.choice([0, 0, 1, 2])))
            process = start(data, run, resume=run.exists(), **{**settings, "workers": workers})
            doing = strike(process, run, kind, rng)
            count["killed"] += doing != "ended"
            count["while writing"] += doing == "writing"
            count["with workers"] += doing != "ended" and workers > 0
        finish(start(data, run, resume=run.exists(), **settings))
        assert identity(run) == identity(straight), f"run {number} after {dict(count)}"
        ours, theirs = ({**state(folder), "seconds": 0, "history": 0} for folder in (run, straight))
        assert ours == theirs
        assert not list(run.rglob("*.part"))
        count["runs"] += 1
        print(f"survived {count['killed']} kills in {count['runs']} runs: {dict(count)}", flush=True)
    return count


@pytest.mark.slow
def test_a_few_kills_change_nothing(start, shapes, tmp_path):
    assert torture(start, shapes, tmp_path, kills=3, seed=0)["killed"] >= 3


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_hundred_kills_change_nothing(start, shapes, tmp_path):
    count = torture(start, shapes, tmp_path, kills=100, seed=1)
    assert count["killed"] >= 100
    assert count["while writing"] >= 5
    assert count["with workers"] >= 20


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "sgd", "accumulate": 3, "ema": 0.0, "augment": "microscopy", "schedule": "cosine"},
        {"backbone": "resnet18", "width": 0.25, "workers": 2, "loss": "cross_entropy + dice", "sampling": "rare"},
        {"backbone": "vgg16", "width": 0.0625, "head": {"upsampling": "learned"}, "precision": "bf16", "clip": 1.0},
        {"early_stop": 1, "epochs": 6, "lr": 1e-7},
    ],
    ids=["sgd", "resnet-workers", "vgg-dropout", "early-stop"],
)
def test_training_modes_survive_twelve_kills(start, shapes, tmp_path, settings):
    assert torture(start, shapes, tmp_path, kills=12, seed=1, **settings)["killed"] >= 12
