"""The state of a run: everything that a checkpoint holds."""

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
from fullconv.training.optimizer import ModelEma, make_optimizer, optimizer_tensors, restore_optimizer


@dataclass
class TrainState:
    """What changes from step to step."""

    network: Network
    optimizer: torch.optim.Optimizer
    ema: ModelEma | None
    step: int = 0
    """Steps done."""
    best: float | None = None
    """Best val mIoU so far."""
    best_step: int | None = None
    bad_epochs: int = 0
    """Validations since the best one."""
    loss: tuple[float, float] = (0.0, 0.0)
    """Sum and number of the current epoch's losses."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """The lines of metrics.jsonl."""
    seconds: float = 0.0
    """Wall time up to the latest checkpoint."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Images skipped during the run, with the reason."""

    def weights(self) -> dict[str, Tensor]:
        """Return the weights to validate and save: the moving average where there is one."""
        return self.network.state_dict() if self.ema is None else self.ema.tensors

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by their name in a checkpoint."""
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        if self.ema is not None:
            tensors |= {f"ema.{name}": value for name, value in self.ema.tensors.items()}
        return tensors | optimizer_tensors(self.optimizer)

    def bytes(self) -> int:
        """Return the size of the tensors."""
        return sum(value.numel() * value.element_size() for value in self.tensors().values())

    def scalars(self) -> dict[str, Any]:
        """Return everything else as JSON-serializable values; floats keep every bit in JSON."""
        return {
            "step": self.step, "best": self.best, "best_step": self.best_step, "waited": self.bad_epochs,
            "loss": list(self.loss), "history": self.history, "seconds": self.seconds, "skipped": self.skipped,
        }  # fmt: skip

    def save(self, folder: Path) -> None:
        """Write a checkpoint."""
        write_checkpoint(folder, self.tensors(), self.scalars())

    def restore(self, tensors: dict[str, Tensor], scalars: dict[str, Any]) -> None:
        """Load the content of a checkpoint."""
        try:
            self.network.load_state_dict(
                {name.removeprefix("network."): v for name, v in tensors.items() if name.startswith("network.")}
            )
            if self.ema is not None:
                for name, value in self.ema.tensors.items():
                    value.copy_(tensors[f"ema.{name}"])
        except (RuntimeError, KeyError) as error:
            raise RunError(f"the checkpoint does not match this run's recipe ({first_line(error)}).") from error
        restore_optimizer(self.optimizer, tensors)
        for name in ("step", "best", "best_step", "history", "seconds", "skipped"):
            setattr(self, name, scalars[name])
        self.bad_epochs = scalars["waited"]
        self.loss = (scalars["loss"][0], scalars["loss"][1])


def new_state(network: Network, recipe: Recipe) -> TrainState:
    """Return the state of a run before its first step."""
    ema = ModelEma(network, recipe.ema) if recipe.ema > 0 else None
    return TrainState(network, make_optimizer(network, recipe), ema)
