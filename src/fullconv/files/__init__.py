"""Prediction over files: which pictures, under which names, and what is written for them."""

from __future__ import annotations

from fullconv.files.inputs import expand, read_list
from fullconv.files.outputs import FORMATS, Format
from fullconv.files.plan import Picture, Plan, parse_shard
from fullconv.files.run import Job, Tally, predict_files

__all__ = [
    "FORMATS",
    "Format",
    "Job",
    "Picture",
    "Plan",
    "Tally",
    "expand",
    "parse_shard",
    "predict_files",
    "read_list",
]
