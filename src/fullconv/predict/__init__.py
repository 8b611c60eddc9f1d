"""Prediction over files: which images, under which names, and what is written for them."""

from __future__ import annotations

from fullconv.predict.inputs import expand, read_list, why_empty
from fullconv.predict.names import ImageList, InputImage, parse_shard
from fullconv.predict.outputs import FORMATS, Format, encode, encode_probabilities, written_labels
from fullconv.predict.run import PredictJob, RunSummary, predict_files

__all__ = [
    "FORMATS",
    "Format",
    "ImageList",
    "InputImage",
    "PredictJob",
    "RunSummary",
    "encode",
    "encode_probabilities",
    "expand",
    "parse_shard",
    "predict_files",
    "read_list",
    "why_empty",
    "written_labels",
]
