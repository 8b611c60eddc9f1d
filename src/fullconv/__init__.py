"""Fully convolutional networks for semantic segmentation: the same answer everywhere, at any size.

Every public name loads on first use, so that ``import fullconv`` loads no torch (PEP 562).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fullconv._lazy import attach
from fullconv._version import __version__

if TYPE_CHECKING:
    from fullconv.card import Card
    from fullconv.data import open_dataset
    from fullconv.errors import FullconvError
    from fullconv.evaluation import evaluate
    from fullconv.images import read_image
    from fullconv.nn.build import build
    from fullconv.prediction import Prediction, show
    from fullconv.rasters import predict_raster
    from fullconv.recipe import Recipe
    from fullconv.segmenter import Segmenter, load
    from fullconv.training import train

_PUBLIC = {
    "Card": "fullconv.card",
    "FullconvError": "fullconv.errors",
    "Prediction": "fullconv.prediction",
    "Recipe": "fullconv.recipe",
    "Segmenter": "fullconv.segmenter",
    "build": "fullconv.nn",
    "evaluate": "fullconv.evaluation",
    "load": "fullconv.segmenter",
    "open_dataset": "fullconv.data",
    "predict_raster": "fullconv.rasters",
    "read_image": "fullconv.images",
    "show": "fullconv.prediction",
    "train": "fullconv.training",
}

__all__ = [
    "Card",
    "FullconvError",
    "Prediction",
    "Recipe",
    "Segmenter",
    "__version__",
    "build",
    "evaluate",
    "load",
    "open_dataset",
    "predict_raster",
    "read_image",
    "show",
    "train",
]


if not TYPE_CHECKING:  # else every name would exist for type checkers
    __getattr__, _names = attach(__name__, _PUBLIC)


def __dir__() -> list[str]:
    return __all__
