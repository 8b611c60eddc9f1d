"""Processes that train together, for the tests: forked from one that has imported torch, or started by torchrun.

torchrun --nproc-per-node N ranks.py DATA RUN TOLD [KEY=VALUE ...]
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from runs import SMALL

from fullconv.data import open_dataset
from fullconv.data.loader import Batch
from fullconv.modelfile import weights_sha256
from fullconv.recipe import parse_recipe, parse_setting
from fullconv.segmenter import Segmenter
from fullconv.training import RunRequest, run
from fullconv.training.config import resolve_defaults
from fullconv.training.console import Console
from fullconv.training.distributed import (
    evaluate_distributed,
    init_distributed,
)
from fullconv.training.setup import build_card, build_criteria, build_model, build_train_loader
from fullconv.training.state import new_state
from fullconv.training.step import TrainStep, set_training_mode


class Recording(Console):
    """A console that keeps the loss of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def step(self, step: int, steps: int, loss: float) -> None:
        self.losses.append(loss)
        super().step(step, steps, loss)


def trained(
    data: str, out: str, settings: dict[str, Any], resume: bool = False, recipe: str | None = None
) -> dict[str, Any]:
    """Train; return the losses that the first process showed, and the weights of this one."""
    torch.set_num_threads(1)
    console = Recording()
    small = {key: value for key, value in SMALL.items() if recipe is None or key != "variant"}
    outcome = run(RunRequest(Path(data), Path(out), {**small, **settings}, resume, recipe=recipe, console=console))
    weights = weights_sha256(outcome.segmenter.network.state_dict())
    return {"status": outcome.status, "losses": console.losses, "weights": weights}


def scored(data: str) -> dict[str, Any]:
    """Score an untrained network on all images."""
    torch.set_num_threads(1)
    dataset = open_dataset(Path(data))
    with init_distributed("cpu") as processes:
        recipe = resolve_defaults(parse_recipe(SMALL), dataset, dataset.statistics("train"), processes)
        torch.manual_seed(5)
        network, _ = build_model(recipe, dataset, 3, torch.device("cpu"), Console(quiet=True))
        card = build_card(recipe, network, dataset, dataset.statistics("train"), "")
        segmenter = Segmenter(network, card, "cpu", "fp32")
        members = dataset.samples("all")
        (report,) = evaluate_distributed(processes, segmenter, dataset, "all", members, on_error="record").values()
    per_image = {stem: [part.tolist() for part in counts] for stem, counts in report.per_image.items()}
    return {**report.to_dict(), "seconds": 0, "per_image": per_image}


def first_gradient(data: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return loss, gradients and running statistics of the first step, as numbers."""
    torch.set_num_threads(1)
    dataset = open_dataset(Path(data))
    statistics = dataset.statistics("train")
    with init_distributed("cpu") as processes:
        recipe = resolve_defaults(parse_recipe({**SMALL, **settings}), dataset, statistics, processes)
        torch.manual_seed(recipe.seed)
        network, _ = build_model(recipe, dataset, 3, torch.device("cpu"), Console(quiet=True))
        card, (losses, _) = build_card(recipe, network, dataset, statistics, ""), build_criteria(recipe, dataset)
        train_step = TrainStep(recipe, card, losses, torch.device("cpu"), "fp32", processes)
        batches: list[Batch] = list(build_train_loader(recipe, dataset, statistics, processes).batches(0, 2))
        set_training_mode(network, recipe)
        value = train_step.backward(new_state(network, recipe), batches)
        gradients = {name: p.grad.flatten().tolist() for name, p in network.named_parameters() if p.grad is not None}
        running = {name: b.flatten().tolist() for name, b in network.named_buffers() if "running" in name}
    return {"loss": value, "gradients": gradients, "running": running}


@dataclass
class Ranks:
    """Processes that were started together."""

    processes: list[Any]
    outputs: Path

    def results(self) -> list[dict[str, Any]]:
        """Wait for all, and return what each came to."""
        for process in self.processes:
            process.join(timeout=300)
        assert [process.exitcode for process in self.processes] == [0] * len(self.processes)
        return [json.loads((self.outputs / f"{rank}.json").read_text()) for rank in range(len(self.processes))]

    def stderr(self, rank: int = 0) -> str:
        """What a process wrote on stderr so far."""
        return (self.outputs / f"{rank}.err").read_text()


def _one(rank: int, ranks: int, port: int, outputs: str, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    sys.stderr = (Path(outputs) / f"{rank}.err").open("w", buffering=1)
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    try:
        result = work(*arguments)
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
    (Path(outputs) / f"{rank}.json").write_text(json.dumps(result))


@contextmanager
def starter() -> Iterator[Callable[..., Ranks]]:
    """Yield a function that starts `ranks` processes which do some work together; all are dead at the end."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fullconv.training", "ranks"])
    begun: list[Any] = []

    def start(ranks: int, outputs: Path, work: Callable[..., Any], *arguments: Any) -> Ranks:
        outputs.mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        processes = [
            context.Process(target=_one, args=(rank, ranks, port, str(outputs), work, arguments))
            for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        begun.extend(processes)
        return Ranks(processes, outputs)

    yield start
    for process in begun:
        process.kill()
        process.join()


if __name__ == "__main__":
    data, out, outputs, *pairs = sys.argv[1:]
    result = trained(data, out, dict(parse_setting(pair) for pair in pairs))
    Path(outputs, f"{os.environ.get('RANK', '0')}.json").write_text(json.dumps(result))
