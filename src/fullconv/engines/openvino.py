"""OpenVINO as an engine, on the CPU."""

from __future__ import annotations

import json
import logging
import tempfile
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.card import Card
from fullconv.engines._optional import import_optional, threads
from fullconv.engines.engine import Engine, Scores, bf16_unsafe, by_head, bytes_or_floats
from fullconv.errors import OutputError
from fullconv.profiling import PREPARING, timed
from fullconv.storage import DiskCache

LOG = logging.getLogger("fullconv")
CACHE_BYTES = 4 * 2**30
"""Of translated networks, and as much of compiled ones, in the user's cache."""
HINTS = {"fp32": "f32", "fp16": "f32", "bf16": "bf16", "int8": "f32"}
"""Precision of all but quantised layers; fp16 is only how an exported file stores its weights. Without a hint
OpenVINO takes bf16 wherever the CPU has it."""


class OpenVinoEngine(Engine):
    """Run an ``openvino.Model`` from images (N, H, W, C) uint8 to the scores of each head.

    ``min_size`` is the smallest size at which the network computes; below 64 small images are not computed in bf16.
    ``model`` may be a function that reads it: with an ``identity``, a text of all that the result depends on but the
    library, what was compiled is kept in the user's cache, and later engines need no model.
    """

    name = "openvino"

    def __init__(self, model: Any, card: Card, precision: str, min_size: int, identity: str | None = None) -> None:
        self._model, self.card, self.precision, self.min_size = model, card, precision, min_size
        self.identity = identity
        self._requests: dict[tuple[str, str], Any] = {}
        self._lock = threading.Lock()

    @property
    def model(self) -> Any:
        """The ``openvino.Model``."""
        if callable(self._model):
            self._model = self._model()
        return self._model

    def __getstate__(self) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            graph = Path(folder) / "model.xml"
            import_optional("openvino", "copying an engine").serialize(self.model, graph)
            model = graph.read_bytes(), graph.with_suffix(".bin").read_bytes()
        return {**self.__dict__, "_model": model, "_requests": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        core = import_optional("openvino", "copying an engine").Core()
        self.__dict__.update(state, _model=core.read_model(*state["_model"]), _lock=threading.Lock())

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
                    compiled = self._compile(images.dtype, precision)
                self._requests[key] = compiled.create_infer_request()
            request = self._requests[key]
            for image in images:
                request.infer([np.ascontiguousarray(image[None])], share_inputs=True)
                outputs = [request.get_output_tensor(index).data for index in range(len(request.output_tensors))]
                results.append([np.array(output, np.float32) for output in outputs])  # copies: it reuses its memory
        maps = [group[0] if len(group) == 1 else np.concatenate(group) for group in zip(*results, strict=True)]
        return by_head(maps, self.card)

    def _compile(self, dtype: np.dtype[Any], precision: str) -> Any:
        """Compile the model, or import what an earlier process compiled."""
        if self.identity is None:
            return compile_model(with_input_type(self.model, dtype), precision)
        cache = DiskCache("engines", ".openvino", CACHE_BYTES)
        version = import_optional("openvino", "--engine openvino").__version__
        key = json.dumps([self.identity, dtype.name, _settings(precision), version], sort_keys=True)
        if (path := cache.get(key)) is not None and (compiled := _import_compiled(path, precision)) is not None:
            return compiled
        compiled = compile_model(with_input_type(self.model, dtype), precision)
        try:
            content = bytes(compiled.export_model().getvalue())
            cache.put(key, [content, zlib.crc32(content).to_bytes(4, "little")])
        except (OutputError, RuntimeError) as error:  # later processes compile again
            LOG.info("engine: the compiled network could not be cached: %s", error)
        return compiled


def _import_compiled(path: Path, precision: str) -> Any:
    """Import a compiled model; None where the file is damaged or of another library."""
    openvino = import_optional("openvino", "--engine openvino")
    try:
        content = path.read_bytes()
        if zlib.crc32(content[:-4]) != int.from_bytes(content[-4:], "little"):
            return None
        return openvino.Core().import_model(
            openvino.Tensor(np.frombuffer(content, np.uint8)[:-4]), "CPU", _settings(precision)
        )
    except (OSError, RuntimeError):
        return None


def _settings(precision: str) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "INFERENCE_NUM_THREADS": threads(),
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # processes beside each other would share the first cores
    }


def compile_model(model: Any, precision: str) -> Any:
    """Compile for the CPU with the cores that this process may use, in a precision that every machine has."""
    openvino = import_optional("openvino", "--engine openvino")
    return openvino.Core().compile_model(model, "CPU", _settings(precision))


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
