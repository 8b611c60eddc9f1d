"""Training: recipe to run, run to model."""

from fullconv.training.run import run, train
from fullconv.training.session import TrainResult

__all__ = ["TrainResult", "run", "train"]
