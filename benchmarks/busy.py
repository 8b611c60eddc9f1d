"""A training step on cores that another process uses, too: threads that wait by going round, and threads that soon sleep.

The network is that of `fullconv demo`, in bf16, in two processes that differ in one variable of the environment, in turn;
first on a machine that has nothing else to do, then beside a process that trains in plain PyTorch.

    python benchmarks/busy.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from harness import alternate, elsewhere, keep, summarize

import fullconv
from fullconv.threads import SPIN_COUNT, TURNS


def training(backbone: str, size: int, crop: tuple[int, int], dtype: torch.dtype):
    """Return a training step, and what its process goes by."""
    torch.manual_seed(0)
    network = fullconv.build("fcn8s", backbone=backbone, num_classes=4).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    pictures = torch.randn(size, 3, *crop).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 4, (size, *crop))

    def step() -> float:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = F.cross_entropy(network(pictures), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, os.environ.get(SPIN_COUNT)


def train_for_ever(ready: Any) -> None:
    """Be another process that trains."""
    step, _ = training("resnet18", 4, (288, 384), torch.float32)
    step()
    ready.set()
    while True:
        step()


@contextmanager
def waiting(turns: str | None):
    """Start processes with threads that wait so; None is libgomp's own way."""
    before = os.environ.pop(SPIN_COUNT, None)
    if turns is not None:
        os.environ[SPIN_COUNT] = turns
    try:
        yield
    finally:
        os.environ.pop(SPIN_COUNT, None)
        if before is not None:
            os.environ[SPIN_COUNT] = before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    words = ("tiny", 16, (96, 128), torch.bfloat16)
    with ExitStack() as stack:
        runs = {}
        for name, turns in (("libgomp's own", None), ("fullconv's", TURNS)):
            with waiting(turns):
                runs[name], told = stack.enter_context(elsewhere(training, *words))
            assert told == turns
        figures = {"alone": summarize(alternate(runs, options.rounds, warm_up=3))}
        context = multiprocessing.get_context("spawn")
        ready = context.Event()
        other = context.Process(target=train_for_ever, args=(ready,), daemon=True)
        with waiting(None):
            other.start()
        ready.wait()
        figures["beside another"] = summarize(alternate(runs, options.rounds, warm_up=1))
        other.kill()
    for place, rows in figures.items():
        for name, row in rows.items():
            print(
                f"{place:15} {name:14} {row['median_s']:.3f} s ({row['quartile_1_s']:.3f} to {row['quartile_3_s']:.3f})"
            )
    print(f"kept in {keep('busy', {'seconds': figures}).name}")


if __name__ == "__main__":
    main()
