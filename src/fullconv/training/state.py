"""The whole state of a run: what a checkpoint holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fullconv.checkpoint import write_checkpoint
from fullconv.errors import RunError, first_line
from fullconv.nn import Network
from fullconv.recipe import Recipe
from fullconv.training.optimizer import MovingAverage, make_optimizer, optimizer_tensors, restore_optimizer


@dataclass
class TrainState:
    """Everything that decides how a run goes on."""

    network: Network
    optimizer: torch.optim.Optimizer
    ema: MovingAverage | None
    step: int = 0
    """Steps done."""
    best: float | None = None
    """Best mean IU on val so far."""
    best_step: int | None = None
    waited: int = 0
    """Validations since."""
    loss: tuple[float, float] = (0.0, 0.0)
    """Sum and count of the present epoch's losses."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """The lines of metrics.jsonl."""
    seconds: float = 0.0
    """Wall time of earlier sessions."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Pictures left out in the middle of the run, and why."""

    def weights(self) -> dict[str, Tensor]:
        """Return what is validated and kept: the moving average, or the weights themselves."""
        return self.network.state_dict() if self.ema is None else self.ema.tensors

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors of the state by name."""
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        if self.ema is not None:
            tensors |= {f"ema.{name}": value for name, value in self.ema.tensors.items()}
        return tensors | optimizer_tensors(self.optimizer)

    def bytes(self) -> int:
        """Return the size of the state's tensors."""
        return sum(value.numel() * value.element_size() for value in self.tensors().values())

    def numbers(self) -> dict[str, Any]:
        """Return the rest of the state as JSON takes it (floats keep every bit there)."""
        return {
            "step": self.step, "best": self.best, "best_step": self.best_step, "waited": self.waited,
            "loss": list(self.loss), "history": self.history, "seconds": self.seconds, "skipped": self.skipped,
        }  # fmt: skip

    def save(self, folder: Path) -> None:
        """Write a checkpoint into a folder."""
        write_checkpoint(folder, self.tensors(), self.numbers())

    def restore(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Become the state of a checkpoint.

        Raises:
            RunError: The checkpoint is of another network or optimiser.
        """
        network = {k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")}
        try:
            self.network.load_state_dict(network)
            if self.ema is not None:
                for name, value in self.ema.tensors.items():
                    value.copy_(tensors[f"ema.{name}"])
        except (RuntimeError, KeyError) as error:
            raise RunError(f"the checkpoint does not fit this run's recipe ({first_line(error)}).") from error
        restore_optimizer(self.optimizer, tensors)
        for name in ("step", "best", "best_step", "waited", "history", "seconds", "skipped"):
            setattr(self, name, numbers[name])
        self.loss = (numbers["loss"][0], numbers["loss"][1])


def new_state(network: Network, recipe: Recipe) -> TrainState:
    """Return the state of a run that has not begun."""
    ema = MovingAverage(network, recipe.ema) if recipe.ema > 0 else None
    return TrainState(network, make_optimizer(network, recipe), ema)
