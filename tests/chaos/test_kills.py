"""kill -9 at random moments, again and again: the weights in the end are those of the run that was left alone."""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from runs import SMALL, identity

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


def written(path: Path) -> int:
    """When a file was written; 0 where it is not there, as `last` for a moment while the next takes its place."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def strike(process, run: Path, kind: str, rng: np.random.Generator) -> str:
    """Kill a run in a way; return what it was doing: "ended" before, "writing" a checkpoint, or something "else"."""
    last = run / "checkpoints" / "last"
    before = written(last)
    if kind == "writing":
        wait(process, lambda: any((run / "checkpoints").glob(".*.part")), 60)
    elif kind == "anywhere":  # some time after a checkpoint of its own, so that the run gets on
        wait(process, lambda: written(last) not in (0, before), 60)
        time.sleep(rng.uniform(0, 0.4))
    else:  # "at once": before it can have done much
        time.sleep(rng.uniform(0, 0.5))
    alive = process.is_alive()
    process.kill()
    process.join()
    if not alive or process.exitcode != -9:
        return "ended"
    return "writing" if any(run.rglob(".*.part")) or (run / "checkpoints" / ".fresh").exists() else "else"


def torture(start, data: Path, folder: Path, kills: int, seed: int) -> Counter[str]:
    """Kill runs until so many kills were survived; each run goes on with another number of workers now and then."""
    straight = folder / "straight"
    finish(start(data, straight))
    wanted = identity(straight)
    rng = np.random.default_rng(seed)
    tried: Counter[str] = Counter()
    number = 0
    while tried["killed"] < kills:
        run = folder / f"run{number}"
        number += 1
        for _ in range(int(rng.integers(4, 14))):
            if tried["killed"] >= kills:
                break
            kind = str(rng.choice(["anywhere", "writing", "at once"], p=[0.55, 0.25, 0.2]))
            workers = int(rng.choice([0, 0, 1, 2]))
            doing = strike(start(data, run, resume=run.exists(), workers=workers), run, kind, rng)
            tried["killed"] += doing != "ended"
            tried["while writing"] += doing == "writing"
            tried["with workers"] += doing != "ended" and workers > 0
            tried["at once"] += doing != "ended" and kind == "at once"
        finish(start(data, run, resume=run.exists()))
        assert identity(run) == wanted, f"run {number} after {dict(tried)}"
        assert not list(run.rglob("*.part"))
        tried["runs"] += 1
        print(
            f"survived {tried['killed']} of {tried['killed']} kills in {tried['runs']} runs: {dict(tried)}", flush=True
        )
    return tried


def test_a_few_kills_change_nothing(start, shapes, tmp_path):
    assert torture(start, shapes, tmp_path, kills=3, seed=0)["killed"] >= 3


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_hundred_kills_change_nothing(start, shapes, tmp_path):
    tried = torture(start, shapes, tmp_path, kills=100, seed=1)
    assert tried["killed"] >= 100
    assert tried["while writing"] >= 5
    assert tried["with workers"] >= 20
