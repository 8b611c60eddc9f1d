"""What the tests of runs share: small settings, and what makes two runs the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from fullconv.modelfile import read_header
from fullconv.nn import Network, build
from fullconv.recipe import Recipe, parse_recipe
from fullconv.training.config import Schedule

SMALL: dict[str, Any] = {
    "variant": "fcn8s", "backbone": "tiny", "weights": "none", "crop": "32x32", "batch_size": 2, "workers": 0,
    "precision": "fp32", "device": "cpu",
}  # fmt: skip
MEASURED = Schedule(
    steps=500, steps_per_epoch=50, precision="bf16", threads=2, seconds_per_step=0.1, validate_every=1,
    validation_pictures=20,
)  # fmt: skip


def small_recipe(**settings: Any) -> Recipe:
    return parse_recipe({"loss": "cross_entropy", "lr": 0.01, "weight_decay": 0.1, **SMALL, **settings})


def small_network(**settings: Any) -> Network:
    """An untrained network in training mode."""
    torch.manual_seed(0)
    return build("fcn8s", backbone="tiny", num_classes=3, **settings).train()


def lines(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without the time that they took."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    for line in found:
        assert line.pop("seconds") >= 0
    return found


def identity(run: Path) -> tuple[str, str, list[dict[str, Any]]]:
    """What is the same in two runs that are the same (interface 7)."""
    model = json.loads(read_header(run / "model.safetensors")[1]["fullconv"])["weights_sha256"]
    last = read_header(run / "checkpoints" / "last")[1]["weights_sha256"]
    return model, last, lines(run)


def state(run: Path) -> dict[str, Any]:
    """The numbers of the newest checkpoint."""
    return json.loads(read_header(run / "checkpoints" / "last")[1]["state"])
