"""Prediction over files: which pictures, under which names, and what is written for them."""

from __future__ import annotations

from fullconv.predict.inputs import expand, read_list
from fullconv.predict.names import Picture, Plan, parse_shard
from fullconv.predict.outputs import FORMATS, Format
from fullconv.predict.run import Job, Tally, predict_files

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
