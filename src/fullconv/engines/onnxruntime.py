"""ONNX Runtime as an engine, on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.card import Card
from fullconv.engines._optional import import_optional, threads
from fullconv.engines.engine import INPUT, Engine, Scores, by_head, bytes_or_floats
from fullconv.profiling import PREPARING, timed


class OnnxRuntimeEngine(Engine):
    """Run an ``onnx.ModelProto`` from images (N, H, W, C) uint8 to the scores of each head."""

    name = "onnxruntime"

    def __init__(self, model: Any, card: Card, precision: str = "fp32") -> None:
        self.model, self.card, self.precision = model, card, precision
        self._sessions: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sessions": {}}

    def scores(self, images: NDArray[Any]) -> Scores:
        """Map images (N, H, W, C) as stored to scores (N, K, h, w) float32 by head.

        Images are computed one by one: on a CPU a batch gains nothing, and so it cannot change a result.
        """
        images = bytes_or_floats(images)
        if images.dtype.name not in self._sessions:
            with timed(PREPARING):
                self._sessions[images.dtype.name] = session(with_input_type(self.model, images.dtype))
        run = self._sessions[images.dtype.name].run
        results = [run(None, {INPUT: np.ascontiguousarray(image[None])}) for image in images]
        maps = [np.concatenate(group).astype(np.float32, copy=False) for group in zip(*results, strict=True)]
        return by_head(maps, self.card)


def session(model: Any) -> Any:
    """Create a session on the CPU with the cores that this process may use."""
    onnxruntime = import_optional("onnxruntime", "--engine onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    options.log_severity_level = 3
    # Threads that wait by spinning would take the cores from what comes next: upsampling, reading, writing.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def with_input_type(model: Any, dtype: np.dtype[Any]) -> Any:
    """Return an ``onnx.ModelProto`` whose images are uint8 or float32; the graph converts them to float32 first."""
    if dtype == np.uint8:
        return model
    onnx = import_optional("onnx", "turning the network into a graph")
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    changed.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return changed
