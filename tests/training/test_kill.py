"""A run that a kill cannot change: the same bits, whenever and however often it dies."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import numpy as np
import pytest
from runs import SMALL, identity, state

from fullconv.training import train

SETTINGS = {**SMALL, "epochs": 2, "seed": 3, "checkpoint_every": 0.2}


@pytest.fixture(scope="module")
def start():
    """Start a run in a process of its own; all are forked from one that has imported torch."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fullconv.training"])
    begun = []
    patch = pytest.MonkeyPatch()
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
    patch.undo()


def finish(process) -> None:
    process.join(timeout=300)
    assert process.exitcode == 0


def wait(process, condition, seconds: float = 120) -> bool:
    """Wait for a condition, and say whether it came before the process ended."""
    end = time.monotonic() + seconds
    while process.is_alive() and time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.001)
    return False


def kill(process) -> None:
    process.kill()
    process.join()


def writing(run: Path) -> bool:
    return any((run / "checkpoints").glob(".*.part"))


def at_a_random_moment(rng):
    """Some steps after a new checkpoint, wherever the run then is."""

    def strike(process, run: Path) -> None:
        last = run / "checkpoints" / "last"
        before = last.stat().st_mtime_ns if last.exists() else None
        wait(process, lambda: last.exists() and last.stat().st_mtime_ns != before)
        time.sleep(rng.uniform(0, 0.3))
        kill(process)

    return strike


def while_it_writes_a_checkpoint(process, run: Path) -> None:
    wait(process, lambda: writing(run))
    kill(process)


def before_the_first_step(process, run: Path) -> None:
    wait(process, lambda: (run / "recipe.toml").exists())
    kill(process)


def while_it_ends(process, run: Path) -> None:
    wait(process, lambda: (run / "model.safetensors").exists())
    kill(process)


def killed(start, data: Path, run: Path, strikes, **settings) -> int:
    """Run to the end through all the strikes; return the number of kills that met a living process."""
    met = 0
    for strike in strikes:
        process = start(data, run, resume=run.exists(), **settings)
        strike(process, run)
        met += process.exitcode == -9
    finish(start(data, run, resume=True, **settings))
    return met


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(start, shapes, tmp_path):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    finish(start(shapes, straight))
    rng = np.random.default_rng(0)
    strikes = [before_the_first_step, at_a_random_moment(rng), while_it_writes_a_checkpoint, while_it_ends]
    assert killed(start, shapes, broken, strikes) >= 3
    assert identity(broken) == identity(straight)
    assert {**state(broken), "seconds": 0, "history": 0} == {**state(straight), "seconds": 0, "history": 0}
    assert not [path.name for path in broken.rglob("*.part")]


@pytest.mark.slow  # the contract's test of seeds is not
def test_another_seed_gives_other_bits(start, shapes, tmp_path):
    first, second = start(shapes, tmp_path / "a", epochs=1), start(shapes, tmp_path / "b", epochs=1, seed=4)
    finish(first)
    finish(second)
    assert identity(tmp_path / "a")[:2] != identity(tmp_path / "b")[:2]


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
def test_every_way_of_training_survives_twelve_kills(start, shapes, tmp_path, settings):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    settings = {"epochs": 4, **settings}
    finish(start(shapes, straight, **settings))
    rng = np.random.default_rng(1)
    strikes = [before_the_first_step]
    for _ in range(5):
        strikes += [at_a_random_moment(rng), while_it_writes_a_checkpoint]
    killed(start, shapes, broken, [*strikes, while_it_ends], **settings)
    assert identity(broken) == identity(straight)
