"""Data sets: formats, pairs, checks, augmentation, sampling, batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fullconv._lazy import attach

if TYPE_CHECKING:
    from fullconv.data.augmentation import PRESETS
    from fullconv.data.checks.run import Examination, examine, inspect, require_usable, summary, write_config
    from fullconv.data.convert import TARGETS, convert_dataset
    from fullconv.data.crop_sampling import choose_loss, class_weights
    from fullconv.data.dataset import Dataset, add_bands, choose_samples, match_classes, match_heads
    from fullconv.data.files import IMAGE_SUFFIXES, Folder, walk
    from fullconv.data.leaks import describe_images, leak, trained_on
    from fullconv.data.loader import MIN_STEPS, Batch, TrainingBatches
    from fullconv.data.opening import open_dataset
    from fullconv.data.problems import BadDataError, Problem
    from fullconv.data.samples import Sample
    from fullconv.data.statistics import Statistics

_MODULES = {
    "augmentation": ["PRESETS"],
    "checks.run": ["Examination", "examine", "inspect", "require_usable", "summary", "write_config"],
    "convert": ["TARGETS", "convert_dataset"],
    "crop_sampling": ["choose_loss", "class_weights"],
    "dataset": ["Dataset", "add_bands", "choose_samples", "match_classes", "match_heads"],
    "files": ["IMAGE_SUFFIXES", "Folder", "walk"],
    "leaks": ["describe_images", "leak", "trained_on"],
    "loader": ["MIN_STEPS", "Batch", "TrainingBatches"],
    "opening": ["open_dataset"],
    "problems": ["BadDataError", "Problem"],
    "samples": ["Sample"],
    "statistics": ["Statistics"],
}
__all__ = [
    "IMAGE_SUFFIXES",
    "MIN_STEPS",
    "PRESETS",
    "TARGETS",
    "BadDataError",
    "Batch",
    "Dataset",
    "Examination",
    "Folder",
    "Problem",
    "Sample",
    "Statistics",
    "TrainingBatches",
    "add_bands",
    "choose_loss",
    "choose_samples",
    "class_weights",
    "convert_dataset",
    "describe_images",
    "examine",
    "inspect",
    "leak",
    "match_classes",
    "match_heads",
    "open_dataset",
    "require_usable",
    "summary",
    "trained_on",
    "walk",
    "write_config",
]

if not TYPE_CHECKING:  # else every name would exist for type checkers
    _modules = {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names}
    __getattr__, __dir__ = attach(__name__, _modules)
