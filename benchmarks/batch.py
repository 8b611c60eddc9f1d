"""`fullconv batch` on a local Ray beside `fullconv predict`, on one CPU and on two; and the effect of kills.

The images are synthetic (96x128, noise over soft patches, PNG), the model is a `tiny` network with random weights. A rate is
measured between a short and a long job, so that the start does not count. Memory is the sum of the proportional set sizes
of all processes of a job.

    python benchmarks/batch.py [--images 3000] [--rounds 3]
    python benchmarks/batch.py --kills --images 20000
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow.parquet
import torch
from harness import keep
from PIL import Image

import fullconv

SHORT = 8
"""The short job has so many times fewer images."""


def write_images(folder: Path, count: int) -> Path:
    """Write images that are all different."""
    folder.mkdir()
    for number in range(count):
        draw = np.random.default_rng(number)
        soft = draw.integers(0, 256, (6, 8, 3)).repeat(16, 0).repeat(16, 1)
        noisy = np.clip(soft + draw.normal(0, 12, soft.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number:06}.png", compress_level=1)
    return folder


def make_model(path: Path) -> Path:
    """Write a small network with random weights."""
    torch.manual_seed(0)
    network = fullconv.build("fcn8s", backbone="tiny", num_classes=4)
    fullconv.Segmenter.from_network(network, classes=["a", "b", "c", "d"]).save(path)
    return path


def processes_of(group: int) -> list[Path]:
    """Return the processes of a session, also those that Ray has put into groups of their own."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "stat").read_text().rpartition(")")[2].split()
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        if int(words[3]) == group or f"BATCH_BENCHMARK={group}".encode() in environment:
            found.append(folder)
    return found


def memory_of(folders: Sequence[Path]) -> int:
    """Return the proportional set size of processes in bytes."""
    total = 0
    for folder in folders:
        try:
            lines = (folder / "smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
    return total


def run(command: Sequence[str], processors: int) -> tuple[float, int]:
    """Run a command on a number of CPUs; return seconds and peak bytes."""
    mark = str(time.monotonic_ns())
    chosen = sorted(os.sched_getaffinity(0))[:processors]
    environment = os.environ | {"OMP_NUM_THREADS": str(processors), "BATCH_BENCHMARK": mark}
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "fullconv", *command], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True, preexec_fn=lambda: os.sched_setaffinity(0, chosen),
    )  # fmt: skip
    peak = [0]
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            folders = [*processes_of(process.pid), *processes_of(int(mark))]
            peak[0] = max(peak[0], memory_of(list(dict.fromkeys(folders))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    seconds = time.perf_counter() - start
    ended.set()
    watcher.join()
    if code:
        raise SystemExit(f"{' '.join(command)} ended with {code}")
    return seconds, peak[0]


def compare(work: Path, count: int, rounds: int) -> dict[str, object]:
    """Return rates and memory of both commands on one and two processors."""
    model = str(make_model(work / "model.safetensors"))
    sources = {size: str(write_images(work / f"in{size}", size)) for size in (count // SHORT, count)}
    rows = []
    for processors in (1, 2):
        found: dict[str, dict[str, list[float]]] = {}
        for turn in range(rounds):
            for name, more in (("predict", []), ("batch", ["--actors", str(processors)])):
                seconds, peaks = {}, []
                for size, source in sources.items():
                    out = work / f"out-{name}-{processors}-{turn}-{size}"
                    common = [model, source, "-o", str(out), "--engine", "torch", "--precision", "fp32"]
                    seconds[size], peak = run([name, *common, *more], processors)
                    peaks.append(peak)
                entry = found.setdefault(name, {"rate": [], "start": [], "memory": []})
                rate = (count - count // SHORT) / (seconds[count] - seconds[count // SHORT])
                entry["rate"].append(rate)
                entry["start"].append(seconds[count // SHORT] - count // SHORT / rate)
                entry["memory"].append(max(peaks))
        for name, entry in found.items():
            rows.append({
                "command": name, "processors": processors, "pictures_per_s": median(entry["rate"]),
                "slowest": min(entry["rate"]), "fastest": max(entry["rate"]), "start_s": median(entry["start"]),
                "peak_memory_bytes": max(entry["memory"]),
            })  # fmt: skip
            print(rows[-1], flush=True)
    return {"pictures": count, "size": [96, 128], "rounds": rounds, "rows": rows}


def kill_and_resume(work: Path, count: int, actors: int = 5, drivers: int = 2) -> dict[str, object]:
    """Kill actors and drivers of a job, resume it, and compare its results with those of `predict`."""
    model, source = str(make_model(work / "model.safetensors")), write_images(work / "in", count)
    out, plain = work / "out", work / "plain"
    common = ["--engine", "torch", "--precision", "fp32"]
    command = [sys.executable, "-m", "fullconv", "batch", model, str(source), "-o", str(out), "--actors", "2", *common]
    draw = np.random.default_rng(0)
    killed = {"actors": 0, "drivers": 0}
    attempts = 0
    start = time.perf_counter()
    while True:
        driver = subprocess.Popen(command + ["--resume"] * (attempts > 0), stderr=subprocess.DEVNULL)
        attempts += 1
        last = attempts > drivers
        target = actors if last else killed["actors"] + actors // (drivers + 1) + 1
        while driver.poll() is None:
            written = len(list(out.glob("*.png")))
            time.sleep(float(draw.uniform(1, 4)))
            victims = predictors()
            if written and victims and killed["actors"] < min(actors, target):
                os.kill(int(draw.choice(victims)), signal.SIGKILL)
                killed["actors"] += 1
            elif written > attempts * count // (drivers + 2) and not last:
                driver.kill()
                killed["drivers"] += 1
                driver.wait()
        if last:
            break
    seconds = time.perf_counter() - start
    rows = [
        row
        for path in sorted((out / "manifest").glob("*.parquet"))
        for row in pyarrow.parquet.read_table(path).to_pylist()
    ]
    subprocess.run([sys.executable, "-m", "fullconv", "predict", model, str(source), "-o", str(plain), *common],
                   check=True, capture_output=True)  # fmt: skip
    same = sum(digest(out / path.name) == digest(path) for path in plain.glob("*.png"))
    result = {
        "pictures": count, "killed": killed, "exit": driver.returncode, "seconds": seconds, "rows": len(rows),
        "inputs": len({row["input"] for row in rows}), "done": sum(row["status"] == "done" for row in rows),
        "files": len(list(out.glob("*.png"))), "equal_to_predict": same,
    }  # fmt: skip
    print(result)
    return result


def digest(path: Path) -> str:
    """Return a file's SHA-256, "" where it is missing."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def predictors() -> list[int]:
    """Return the ids of the processes that hold the model."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if b"ray::" in title and b"Predictor" in title:
            found.append(int(folder.name))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.kills:
            path = keep("batch_kills", kill_and_resume(Path(folder), options.images))
        else:
            path = keep("batch", compare(Path(folder), options.images, options.rounds))
    print(f"kept in {path.name}")


if __name__ == "__main__":
    main()
