"""kill -9 of a run that goes on with another number of processes each time: it ends well, and says what it cannot promise."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from runs import lines, state

import fullconv
from fullconv.errors import plural
from synthetic.shapes import make_shapes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes by /proc"),
]

OPTIONS = [
    "--backbone", "tiny", "--weights", "none", "--set", "norm=none", "--crop", "64x64", "--batch-size", "6", "--epochs", "3",
    "--set", "warmup=0.5", "--lr", "2e-4", "--workers", "0", "--device", "cpu", "--precision", "fp32",
    "--checkpoint-every", "0.3", "--resume",
]  # fmt: skip


def begin(data: Path, run: Path, ranks: int, outputs: Path) -> subprocess.Popen[bytes]:
    """Start or go on with a run: under torchrun where there are several processes."""
    launcher = ["torch.distributed.run", f"--nproc-per-node={ranks}", "--standalone", "-m"] if ranks > 1 else []
    message = [sys.executable, "-m", *launcher, "fullconv", "train", str(data), "-o", str(run), *OPTIONS]
    with outputs.open("wb") as file:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(message, stdout=file, stderr=file, env=environment)


def written(run: Path) -> int:
    try:
        return (run / "checkpoints" / "last").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def children(pid: int) -> list[int]:
    """All that a process started, and what these did."""
    own = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return own + [further for child in own for further in children(child)]


def strike(process: subprocess.Popen[bytes], run: Path, rng: np.random.Generator) -> bool:
    """Kill torchrun and all its processes some time after a checkpoint of theirs; say whether they were alive."""
    before, end = written(run), time.monotonic() + 300
    while process.poll() is None and written(run) in (0, before):
        assert time.monotonic() < end, "no checkpoint came"
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.5))
    alive = process.poll() is None
    if alive:
        for pid in [process.pid, *children(process.pid)]:  # torchrun gives each of its processes a session of its own
            os.kill(pid, signal.SIGKILL)
    process.wait()
    return alive


def changes(ranks: list[int], stderr: list[str]) -> Counter[str]:
    """Hold what each session stderr of its number of processes against that of the one before."""
    tally: Counter[str] = Counter()
    for before, now, message in zip(ranks, ranks[1:], stderr[1:], strict=False):
        outputs = (
            f"This run had {plural(before, 'process', 'processes')} and resumes with {now}: sums round differently"
            in message
        )
        assert outputs == (before != now), message
        assert not outputs or "it will not end with the same bits" in message
        tally[f"{before} to {now}"] += 1
    return tally


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("order", [[2, 1], [1, 2], [2, 3, 1]], ids=["2-1", "1-2", "2-3-1"])
def test_run_killed_under_torchrun_resumes_with_another_world_size(tmp_path, order):
    data = make_shapes(tmp_path / "data", images=10, size=(72, 80))
    straight, run = tmp_path / "straight", tmp_path / "run"
    assert begin(data, straight, 1, tmp_path / "straight.txt").wait(timeout=900) == 0, (
        tmp_path / "straight.txt"
    ).read_text()
    rng = np.random.default_rng(len(order) + order[0])
    ranks: list[int] = []
    kills = 0
    while kills < 4:
        ranks.append(order[len(ranks) % len(order)])
        killed = strike(begin(data, run, ranks[-1], tmp_path / f"stderr{len(ranks)}"), run, rng)
        if not killed:
            break
        kills += 1
        assert not state(run)["history"] or lines(run)[-1]["step"] <= state(run)["step"]
    ranks.append(order[len(ranks) % len(order)])
    last = tmp_path / f"stderr{len(ranks)}"
    assert begin(data, run, ranks[-1], last).wait(timeout=900) == 0, last.read_text()
    stderr = [(tmp_path / f"stderr{number + 1}").read_text() for number in range(len(ranks))]
    print(
        f"survived {kills} of {kills} kills, sessions of {ranks} processes: {dict(changes(ranks, stderr))}", flush=True
    )
    assert kills >= 2
    # no line twice, none missing, and the same training but for rounding
    assert [line["epoch"] for line in lines(run)] == [1, 2, 3]
    assert [line["step"] for line in lines(run)] == [line["step"] for line in lines(straight)]
    for line, wanted in zip(lines(run), lines(straight), strict=True):
        assert math.isclose(line["train_loss"], wanted["train_loss"], rel_tol=0.02)
    assert not list(run.rglob("*.part"))
    assert 0 < fullconv.evaluate(fullconv.load(run, engine="torch", precision="fp32"), data, split="val").mean_iou <= 1
