"""OpenVINO as an engine, on the CPU."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.card import Card
from fullconv.engines._optional import import_optional, threads
from fullconv.engines.engine import Engine, Scores, bf16_unsafe, by_head, bytes_or_floats
from fullconv.profiling import PREPARING, timed

HINTS = {"fp32": "f32", "fp16": "f32", "bf16": "bf16", "int8": "f32"}
"""Precision of all but quantised layers; fp16 is only how an exported file stores its weights. Without a hint
OpenVINO takes bf16 wherever the CPU has it."""


class OpenVinoEngine(Engine):
    """Run an ``openvino.Model`` from images (N, H, W, C) uint8 to the scores of each head.

    ``min_size`` is the smallest size at which the network computes; below 64 small images are not computed in bf16.
    """

    name = "openvino"

    def __init__(self, model: Any, card: Card, precision: str, min_size: int) -> None:
        self.model, self.card, self.precision, self.min_size = model, card, precision, min_size
        self._requests: dict[tuple[str, str], Any] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            graph = Path(folder) / "model.xml"
            import_optional("openvino", "copying an engine").serialize(self.model, graph)
            model = graph.read_bytes(), graph.with_suffix(".bin").read_bytes()
        return {**self.__dict__, "model": model, "_requests": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        core = import_optional("openvino", "copying an engine").Core()
        self.__dict__.update(state, model=core.read_model(*state["model"]), _lock=threading.Lock())

    def scores(self, images: NDArray[Any]) -> Scores:
        """Map images (N, H, W, C) as stored, one by one as in ONNX Runtime, to scores (N, K, h, w) float32 by head."""
        images = bytes_or_floats(images)
        small = bf16_unsafe(images.shape[1], images.shape[2], self.min_size)
        precision = "fp32" if small and self.precision == "bf16" else self.precision
        results = []
        with self._lock:  # a request owns its inputs and outputs
            key = images.dtype.name, precision
            if key not in self._requests:
                with timed(PREPARING):
                    compiled = compile_model(with_input_type(self.model, images.dtype), precision)
                self._requests[key] = compiled.create_infer_request()
            request = self._requests[key]
            for image in images:
                request.infer([np.ascontiguousarray(image[None])], share_inputs=True)
                outputs = [request.get_output_tensor(index).data for index in range(len(self.model.outputs))]
                results.append([np.array(output, np.float32) for output in outputs])  # copies: it reuses its memory
        maps = [group[0] if len(group) == 1 else np.concatenate(group) for group in zip(*results, strict=True)]
        return by_head(maps, self.card)


def compile_model(model: Any, precision: str) -> Any:
    """Compile for the CPU with the cores that this process may use, in a precision that every machine has."""
    openvino = import_optional("openvino", "--engine openvino")
    settings = {
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "INFERENCE_NUM_THREADS": threads(),
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # processes beside each other would share the first cores
    }
    return openvino.Core().compile_model(model, "CPU", settings)


def with_input_type(model: Any, dtype: np.dtype[Any]) -> Any:
    """Return a model whose images are uint8 or float32."""
    openvino = import_optional("openvino", "--engine openvino")
    expected = openvino.Type.u8 if dtype == np.uint8 else openvino.Type.f32
    if model.input(0).element_type == expected:
        return model
    changed = model.clone()
    changed.input(0).get_node().set_element_type(expected)
    changed.validate_nodes_and_infer_types()
    return changed


def read_onnx(model: Any) -> Any:
    """Read an ``onnx.ModelProto`` as an ``openvino.Model``."""
    return import_optional("openvino", "--engine openvino").Core().read_model(model.SerializeToString())


def read_file(path: Path) -> Any:
    """Read a file of a format that OpenVINO knows; an ONNX file in a tenth of the time that `onnx.load` takes."""
    return import_optional("openvino", "--engine openvino").Core().read_model(path)
