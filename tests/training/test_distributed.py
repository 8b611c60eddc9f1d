"""Several processes: the same loss, gradient and scores as one; one voice; a rendezvous; an end that can be resumed."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import ranks
import torch
import torch.distributed as dist
from runs import SMALL, identity, lines, state

from fullconv.errors import NetworkError, RecipeError, RunError
from fullconv.training import train
from fullconv.training.distributed import Distributed, convert_sync_batchnorm, init_distributed, rank_device, rendezvous
from synthetic.shapes import make_shapes

STEADY = {"norm": "none", "batch_size": 6, "crop": "64x64", "epochs": 20}
"""Crops without padding and a slow rise of the learning rate: rounding stays rounding for more than 20 steps."""


@pytest.fixture(scope="module")
def start():
    with pytest.MonkeyPatch.context() as patch, ranks.starter() as starter:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield starter


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("scenes") / "data", images=10, size=(72, 80))


def wait(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_distributed_evaluation_equals_one_process(start, shapes, tmp_path):
    alone = json.loads(json.dumps(ranks.scored(str(shapes))))
    assert len(alone["per_image"]) == 12
    for count in (2, 3):
        for result in start(count, tmp_path / str(count), ranks.scored, str(shapes)).results():
            assert result == alone


@pytest.mark.parametrize(
    "settings",
    [
        {"norm": "none", "loss": "cross_entropy + dice", "class_weights": "median_frequency", "batch_size": 5},
        {"norm": "none", "loss": "focal", "reduction": "sum", "batch_size": 5},
    ],
    ids=["dice", "focal-sum"],
)
def test_loss_and_gradient_are_those_of_the_global_batch(start, shapes, tmp_path, settings):
    alone = ranks.first_gradient(str(shapes), settings)
    for result in start(2, tmp_path, ranks.first_gradient, str(shapes), settings).results():
        assert_alike(result, alone)


def assert_alike(found: dict, wanted: dict) -> None:
    """Loss, gradients and running statistics agree but for rounding."""
    assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-5)
    for kind in ("gradients", "running"):
        assert found[kind].keys() == wanted[kind].keys()
        for name, numbers in wanted[kind].items():
            np.testing.assert_allclose(found[kind][name], numbers, rtol=1e-4, atol=2e-4 * np.abs(numbers).max() + 1e-5)


def test_sync_batchnorm_on_several_cpu_ranks_is_refused():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    with pytest.raises(NetworkError, match=r"sync_batchnorm = true needs CUDA.* Remove the setting\."):
        convert_sync_batchnorm(network, Distributed(world_size=2))
    convert_sync_batchnorm(network, Distributed())  # one rank's batch is the global batch


@pytest.mark.slow
def test_running_statistics_are_averaged_over_processes(start, shapes, tmp_path):
    settings = {"norm": "batch", "batch_size": 4}
    alone = ranks.first_gradient(str(shapes), settings)["running"]
    first, second = (r["running"] for r in start(2, tmp_path, ranks.first_gradient, str(shapes), settings).results())
    assert first == second
    name = next(name for name in alone if name.endswith("running_mean"))
    np.testing.assert_allclose(first[name], alone[name], rtol=1e-3, atol=1e-5)  # the first layer sees the same images


@pytest.mark.slow
def test_two_processes_train_as_one(start, scenes, tmp_path):
    settings = {**STEADY, "epochs": 1, "warmup": 0.5, "lr": 2e-4}
    alone = ranks.trained(str(scenes), str(tmp_path / "one"), settings)
    found = start(2, tmp_path / "outputs", ranks.trained, str(scenes), str(tmp_path / "two"), settings).results()
    np.testing.assert_allclose(found[0]["losses"][:20], alone["losses"][:20], rtol=1e-5)
    assert found[0]["weights"] == found[1]["weights"]
    assert found[1]["losses"] == []  # one voice
    assert {path.name for path in (tmp_path / "two").iterdir()} == {path.name for path in (tmp_path / "one").iterdir()}
    assert re.search(r"^processes = 2$", (tmp_path / "two" / "recipe.toml").read_text(), re.M)


def begun(run: Path):
    return lambda: (run / "checkpoints" / "last").exists()


LONG = {"epochs": 400, "batch_size": 4, "checkpoint_every": 0.3}


def test_dead_process_ends_the_run_with_a_checkpoint_to_resume(start, shapes, tmp_path):
    run = tmp_path / "run"
    two = start(2, tmp_path / "outputs", ranks.trained, str(shapes), str(run), LONG)
    wait(begun(run))
    two.processes[1].kill()
    two.processes[0].join(timeout=60)
    assert two.processes[0].exitcode == 2
    assert re.search(r"another process of this run is gone .*rerun the same command with --resume", two.stderr())
    step = state(run)["step"]
    assert step > 0
    # with another number of processes, to the end of fewer steps
    text = (run / "recipe.toml").read_text()
    (run / "recipe.toml").write_text(re.sub(r"^steps = \d+$", f"steps = {step + 3}", text, flags=re.M))
    one = start(1, tmp_path / "again", ranks.trained, str(shapes), str(run), LONG, True)
    assert len(one.results()[0]["losses"]) == 3
    assert "This run had 2 processes and resumes with 1" in one.stderr()
    assert lines(run)[-1]["step"] == step + 3


@pytest.mark.slow
def test_signal_to_any_process_stops_all_after_the_same_step(start, shapes, tmp_path):
    run = tmp_path / "run"
    two = start(2, tmp_path / "outputs", ranks.trained, str(shapes), str(run), LONG)
    wait(begun(run))
    os.kill(two.processes[1].pid, signal.SIGTERM)
    results = two.results()
    assert [result["status"] for result in results] == ["sigterm", "sigterm"]
    assert results[0]["weights"] == results[1]["weights"]
    assert json.loads((run / "status.json").read_text())["step"] == state(run)["step"] == len(results[0]["losses"])


@pytest.mark.slow
def test_a_run_of_two_that_is_killed_ends_with_the_same_bits(start, shapes, tmp_path):
    settings = {"epochs": 1, "batch_size": 4, "checkpoint_every": 0.2}
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    start(2, tmp_path / "a", ranks.trained, str(shapes), str(straight), settings).results()
    two = start(2, tmp_path / "b", ranks.trained, str(shapes), str(broken), settings)
    wait(begun(broken))
    for process in two.processes:
        process.kill()
        process.join()
    start(2, tmp_path / "c", ranks.trained, str(shapes), str(broken), settings, True).results()
    assert identity(broken) == identity(straight)


@pytest.mark.slow
def test_image_that_breaks_in_one_process_stops_all_and_is_reported_once(start, tmp_path):
    data = make_shapes(tmp_path / "data", images=12, size=(40, 48))
    run = tmp_path / "run"
    two = start(2, tmp_path / "outputs", ranks.trained, str(data), str(run), LONG)
    wait(begun(run))
    broken = sorted((data / "val").iterdir())[1]  # the second is scored by the second process
    broken.write_bytes(broken.read_bytes()[:200])
    for process in two.processes:
        process.join(timeout=60)
    assert [process.exitcode for process in two.processes] == [2, 2]
    assert f"{broken.name}: " in two.stderr(0)
    assert "(in process 1 of 0 to 1)" in two.stderr(0)
    assert two.stderr(1) == ""


def test_batch_smaller_than_the_world_size_is_rejected(start, shapes, tmp_path):
    two = start(2, tmp_path / "outputs", ranks.trained, str(shapes), str(tmp_path / "run"), {"batch_size": 1})
    for process in two.processes:
        process.join(timeout=60)
    assert [process.exitcode for process in two.processes] == [2, 2]
    assert re.search(r"a batch of 1 crop is too small for 2 processes: .*--batch-size 2", two.stderr(0))
    assert two.stderr(1) == ""
    assert not (tmp_path / "run").exists()


def test_incomplete_torchrun_environment_is_reported(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with (
        pytest.raises(RunError, match=r"WORLD_SIZE is 2, but 'RANK' is not set as torchrun does.*unset WORLD_SIZE"),
        init_distributed("cpu"),
    ):
        pass


def test_one_gpu_for_several_processes_is_rejected():
    with pytest.raises(RunError, match=r"--device cuda:1 is one GPU for 2 processes\. Use cuda, auto or cpu"):
        rank_device("cuda:1", Distributed(0, 2))
    assert rank_device("cuda", Distributed(1, 2, 1, 2)) == "cuda:1"


def test_sync_batchnorm_without_batch_norm_is_rejected(shapes, tmp_path):
    with pytest.raises(NetworkError, match="sync_batchnorm = true does nothing in this network: it has no batch norm"):
        train(shapes, tmp_path / "run", **SMALL, norm="none", sync_batchnorm=True)
    with pytest.raises(RecipeError, match="sync_batchnorm = true does nothing with freeze = norm"):
        train(shapes, tmp_path / "run", **SMALL, freeze="norm", sync_batchnorm=True)


def torchrun(*arguments: object, limit: float = 500) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit, check=False)


@pytest.mark.slow
def test_one_two_and_three_processes_under_torchrun(scenes, tmp_path):
    """The first 20 losses to 1e-5; and where the weights stand still, scores to the digit."""
    found, still = {}, {}
    for count in (1, 2, 3):
        for kind, more in (("train", ["epochs=1", "warmup=0.5", "lr=2e-4"]), ("still", ["epochs=1", "lr=1e-8"])):
            run, outputs = tmp_path / f"{kind}{count}", tmp_path / f"outputs-{kind}{count}"
            outputs.mkdir()
            settings = ["norm=none", "batch_size=6", "crop=64x64", *more]
            done = torchrun(f"--nproc-per-node={count}", "--standalone", Path(__file__).with_name("ranks.py"), scenes, run,
                            outputs, *settings)  # fmt: skip
            assert done.returncode == 0, done.stderr
            results = [json.loads((outputs / f"{rank}.json").read_text()) for rank in range(count)]
            assert len({result["weights"] for result in results}) == 1
            found[kind, count] = results[0]["losses"]
        still[count] = [line["val"] for line in lines(tmp_path / f"still{count}")]
    for count in (2, 3):
        np.testing.assert_allclose(found["train", count][:20], found["train", 1][:20], rtol=1e-5)
        assert still[count] == still[1]


@pytest.mark.slow
def test_torchrun_restarts_and_the_run_resumes(shapes, tmp_path):
    run = tmp_path / "run"
    torchrun = "torch.distributed.run --nproc-per-node=2 --standalone --max-restarts=2 -m fullconv train"
    options = (
        "--backbone tiny --weights none --crop 32x32 --batch-size 4 --epochs 12 --checkpoint-every 0.5 --device cpu"
    )
    command = [sys.executable, "-m", *shlex.split(f"{torchrun} {shapes} -o {run} {options} --precision fp32")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:  # fmt: skip
        wait(begun(run))
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        _, stderr = process.communicate(timeout=500)
    assert process.returncode == 0, stderr
    assert "Resuming at step" in stderr
    assert lines(run)[-1]["step"] == 600


@pytest.fixture
def store():
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))


def meet(store, ranks: int, late: np.ndarray, patience: float = 60) -> list[str]:
    """Let every rank come, each so many seconds late, on a connection of its own."""

    def come(rank: int) -> str:
        own = dist.TCPStore("127.0.0.1", store.port, is_master=False, timeout=timedelta(seconds=60))
        time.sleep(float(late[rank]))
        return rendezvous(own, rank, ranks, timedelta(seconds=patience))

    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(come, range(ranks)))


@pytest.mark.parametrize("sizes", [[2] * 12, [3, 2, 4, 1, 3, 3, 2]])
def test_rendezvous_gives_each_start_a_new_prefix(store, sizes):
    draw = np.random.default_rng(0)
    names = []
    for size in sizes:
        found = meet(store, size, draw.choice([0.0, 0.002, 0.05, 0.1], size))
        assert len(set(found)) == 1
        names.append(found[0])
    assert len(set(names)) == len(sizes)
    assert all(names)


def test_rendezvous_timeout(store):
    results = [ThreadPoolExecutor(1).submit(rendezvous, store, rank, 3, timedelta(seconds=0.2)) for rank in (0, 1)]
    for rank, result in enumerate(results):
        with pytest.raises(RunError, match=rf"process {rank} waited 0:00:00.2\d* for all 3 of them"):
            result.result()
