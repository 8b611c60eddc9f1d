"""What every benchmark shares: alternating rounds, medians and quartiles, the machine, JSON that is kept."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles
from typing import Any

from fullconv.training import machine_info, package_versions

RESULTS = Path(__file__).parent / "results"


def alternate(
    runs: Mapping[str, Callable[[], Any]],
    rounds: int,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Run contenders in turn, so that whatever else the machine does hits all alike; return seconds of a clock by name."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(warm_up + rounds):
        for name, run in runs.items():
            start = clock()
            run()
            if turn >= warm_up:
                seconds[name].append(clock() - start)
    return seconds


@contextmanager
def elsewhere(
    make: Callable[..., tuple[Callable[[], Any], Any]], *arguments: Any
) -> Iterator[tuple[Callable[[], Any], Any]]:
    """Make a contender in a process of its own, where no setting of another's reaches it.

    Args:
        make: Returns what is to be run, and what is to be told about it.
        arguments: For it; they and what is told are pickled.

    Yields:
        A function that runs it there once and returns its result, and what was told.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, make, arguments))  # no daemon: it may have workers
    process.start()
    there.close()  # so that the death of the process is an end of file here

    def run() -> Any:
        here.send(None)
        return here.recv()

    try:
        yield run, here.recv()
    finally:
        here.close()
        process.join(10)
        process.terminate()


def _serve(pipe: Any, make: Callable[..., tuple[Callable[[], Any], Any]], arguments: tuple[Any, ...]) -> None:
    run, told = make(*arguments)
    pipe.send(told)
    with contextlib.suppress(EOFError):  # the other side has enough
        while True:
            pipe.recv()
            pipe.send(run())


def summarize(seconds: Mapping[str, list[float]]) -> dict[str, dict[str, float]]:
    """Return median and quartiles in seconds by name."""
    summary = {}
    for name, values in seconds.items():
        low, middle, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
        summary[name] = {"median_s": middle, "quartile_1_s": low, "quartile_3_s": high, "rounds": len(values)}
    return summary


def keep(name: str, content: Mapping[str, Any]) -> Path:
    """Write a result with machine, versions and commit; return its file."""
    RESULTS.mkdir(exist_ok=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    path = RESULTS / f"{name}.json"
    everything = {
        "commit": commit.stdout.strip(), "machine": machine_info(), "versions": package_versions(), **content
    }  # fmt: skip
    path.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
    return path
