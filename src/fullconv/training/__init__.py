"""Training: recipe to run, run to model."""

from fullconv.training.run import Outcome, run, train

__all__ = ["Outcome", "run", "train"]
