"""ONNX Runtime as an engine, on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fullconv.card import Card
from fullconv.engines._optional import runtime, threads
from fullconv.engines.graph import INPUT, by_head, with_input_type
from fullconv.nn import Scores
from fullconv.profiling import PREPARING, timed


class OnnxRuntimeEngine:
    """Run a graph in ONNX Runtime.

    Args:
        model: An ``onnx.ModelProto`` from pictures (N, H, W, C) uint8 to the scores of each head.
        card: For the names of the heads.
        precision: "fp32"; or what the graph itself computes in, "fp16" or "int8".
    """

    name = "onnxruntime"

    def __init__(self, model: Any, card: Card, precision: str = "fp32") -> None:
        self.model, self.card, self.precision = model, card, precision
        self._sessions: dict[torch.dtype, Any] = {}

    def at(self, height: int, width: int) -> OnnxRuntimeEngine:
        """Return itself."""
        return self

    def scores(self, images: Tensor) -> Scores:
        """Map pictures (N, H, W, C) as stored to scores (N, K, h, w) float32, or a dict by head.

        Pictures are computed one by one: on a CPU a batch gains nothing, and so it cannot change an answer.
        """
        images = images if images.dtype == torch.uint8 else images.float()
        if images.dtype not in self._sessions:
            with timed(PREPARING):
                self._sessions[images.dtype] = session(with_input_type(self.model, images.dtype))
        run = self._sessions[images.dtype].run
        parts = [run(None, {INPUT: image.contiguous().numpy()}) for image in images.cpu()[:, None]]
        maps = [torch.cat([torch.from_numpy(part) for part in group]).float() for group in zip(*parts, strict=True)]
        return by_head(maps, self.card)


def session(model: Any) -> Any:
    """Make a session for the CPU with the cores that one has."""
    onnxruntime = runtime("onnxruntime", "--engine onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    options.log_severity_level = 3
    # Threads that wait by spinning would take the cores from what comes next: upsampling, reading, writing.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
