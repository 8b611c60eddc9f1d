"""OpenVINO as an engine, on the CPU."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fullconv.card import Card
from fullconv.engines._optional import runtime, threads
from fullconv.engines.graph import by_head
from fullconv.engines.torch import too_small
from fullconv.nn import Scores
from fullconv.profiling import PREPARING, timed

HINTS = {"fp32": "f32", "fp16": "f32", "bf16": "bf16", "int8": "f32"}
"""What everything but quantised layers is computed in; fp16 is how an exported file keeps its weights. Without a hint
OpenVINO takes bf16 wherever the CPU has it."""


class OpenVinoEngine:
    """Run a graph in OpenVINO.

    Args:
        model: An ``openvino.Model`` from pictures (N, H, W, C) uint8 to the scores of each head.
        card: For the names of the heads.
        precision: "fp32", "bf16", or "int8" for a graph that is quantised.
        minimum_size: Least size on which the network computes; below 64 small pictures are not computed in bf16.
    """

    name = "openvino"

    def __init__(self, model: Any, card: Card, precision: str, minimum_size: int) -> None:
        self.model, self.card, self.precision, self.minimum_size = model, card, precision, minimum_size
        self._compiled: dict[tuple[torch.dtype, str], Any] = {}
        self._lock = threading.Lock()

    def at(self, height: int, width: int) -> OpenVinoEngine:
        """Return itself."""
        return self

    def scores(self, images: Tensor) -> Scores:
        """Map pictures (N, H, W, C) as stored to scores (N, K, h, w) float32, or a dict by head.

        Pictures are computed one by one: on a CPU a batch gains nothing, and so it cannot change an answer.
        """
        images = images if images.dtype == torch.uint8 else images.float()
        small = too_small(images.shape[1], images.shape[2], self.minimum_size)
        precision = "fp32" if small and self.precision == "bf16" else self.precision
        with self._lock:  # a request holds its inputs and outputs
            request = self._request(images.dtype, precision)
            parts = [self._one(request, image.contiguous().numpy()) for image in images.cpu()[:, None]]
        return by_head([torch.cat(maps) for maps in zip(*parts, strict=True)], self.card)

    def _one(self, request: Any, image: Any) -> list[Tensor]:
        request.infer([image], share_inputs=True)
        maps = [request.get_output_tensor(index).data for index in range(len(self.model.outputs))]
        return [torch.from_numpy(np.array(found, np.float32)) for found in maps]  # copies: the next picture reuses them

    def _request(self, dtype: torch.dtype, precision: str) -> Any:
        if (dtype, precision) not in self._compiled:
            with timed(PREPARING):
                compiled = compile_model(with_input_type(self.model, dtype), precision)
            self._compiled[dtype, precision] = compiled.create_infer_request()
        return self._compiled[dtype, precision]


def compile_model(model: Any, precision: str) -> Any:
    """Compile for the CPU with the cores that one has, in a precision that does not depend on the machine."""
    openvino = runtime("openvino", "--engine openvino")
    settings = {
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "INFERENCE_NUM_THREADS": threads(),
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # processes beside each other would share the first cores
    }
    return openvino.Core().compile_model(model, "CPU", settings)


def with_input_type(model: Any, dtype: torch.dtype) -> Any:
    """Return a model whose pictures are uint8 or float32."""
    openvino = runtime("openvino", "--engine openvino")
    wanted = openvino.Type.u8 if dtype == torch.uint8 else openvino.Type.f32
    if model.input(0).element_type == wanted:
        return model
    changed = model.clone()
    changed.input(0).get_node().set_element_type(wanted)
    changed.validate_nodes_and_infer_types()
    return changed


def read_onnx(model: Any) -> Any:
    """Read an ``onnx.ModelProto`` as an ``openvino.Model``."""
    openvino = runtime("openvino", "--engine openvino")
    return openvino.Core().read_model(model.SerializeToString())


def read_file(path: Path) -> Any:
    """Read a file of a format that OpenVINO knows, of ONNX in a tenth of the time that `read_onnx` takes with `onnx.load`.

    Raises:
        RuntimeError: It is damaged.
    """
    return runtime("openvino", "--engine openvino").Core().read_model(path)
