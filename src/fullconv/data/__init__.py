"""Data sets: formats, pairs, what is wrong with them, augmentation, sampling.

What needs torch is in `fullconv.data.loader`: `TrainingBatches` and `pictures`.
"""

from __future__ import annotations

from fullconv.data.checks.run import Examination, examine, inspect, require_usable, summary
from fullconv.data.dataset import Dataset, open_dataset
from fullconv.data.files import IMAGE_SUFFIXES
from fullconv.data.problems import BadDataError, Problem
from fullconv.data.samples import Sample
from fullconv.data.statistics import Statistics

__all__ = [
    "IMAGE_SUFFIXES",
    "BadDataError",
    "Dataset",
    "Examination",
    "Problem",
    "Sample",
    "Statistics",
    "examine",
    "inspect",
    "open_dataset",
    "require_usable",
    "summary",
]
