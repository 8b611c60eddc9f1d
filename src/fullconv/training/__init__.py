"""Training: from a recipe to a run, from a run to a model."""

from fullconv.training.config import describe_recipes, machine_info, package_versions
from fullconv.training.finalize import TrainResult
from fullconv.training.nan_debug import debug
from fullconv.training.run import run, train
from fullconv.training.setup import RunRequest

__all__ = ["RunRequest", "TrainResult", "debug", "describe_recipes", "machine_info", "package_versions", "run", "train"]
