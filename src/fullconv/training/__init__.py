"""Training: recipe to run, run to model."""

from fullconv.training.run import run, train
from fullconv.training.session import Outcome

__all__ = ["Outcome", "run", "train"]
