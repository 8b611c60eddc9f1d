"""Graphs in 8 and 16 bits; operations before the first and after the last convolution stay in fp32."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.engines import INPUT, import_optional, quiet

CONVOLUTIONS = ("Conv", "ConvTranspose")
QUANTIZED = (*CONVOLUTIONS, "MaxPool", "AveragePool", "GlobalAveragePool", "Add", "Mul", "Concat")
"""Operations that ONNX Runtime can compute in 8 bits."""
PURPOSE = "export --precision int8"


def quantize_onnx(model: Any, scores: Sequence[str], images: Iterable[NDArray[np.uint8]]) -> Any:
    """Return an ``onnx.ModelProto`` whose convolutions compute in int8; ONNX Runtime calibrates it with images (H, W, C)."""
    onnx, tools = import_optional("onnx", PURPOSE), import_optional("onnxruntime.quantization", PURPOSE)
    prepare = import_optional("onnxruntime.quantization.shape_inference", PURPOSE)

    class Reader(tools.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.rest: Iterator[NDArray[np.uint8]] = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self.rest, None)
            return None if image is None else {INPUT: image[None]}

    with quiet(), _quiet_root(), tempfile.TemporaryDirectory() as folder:
        ready, done = Path(folder) / "ready.onnx", Path(folder) / "done.onnx"
        plain = Path(folder) / "plain.onnx"  # in memory, its weights would go into a file that is missing later
        onnx.save(model, plain)
        prepare.quant_pre_process(plain, ready, skip_symbolic_shape=True)
        middle = between(onnx.load(ready), scores)
        tools.quantize_static(
            str(ready), str(done), Reader(), quant_format=tools.QuantFormat.QDQ, per_channel=True,
            activation_type=tools.QuantType.QUInt8, weight_type=tools.QuantType.QInt8,
            op_types_to_quantize=list(QUANTIZED), nodes_to_quantize=middle,
        )  # fmt: skip
        return onnx.load(done)


def half_onnx(model: Any, scores: Sequence[str]) -> Any:
    """Return an ``onnx.ModelProto`` whose network computes in fp16, from the first convolutions to the scores."""
    tools = import_optional("onnxruntime.transformers.float16", "export --precision fp16")
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"node_{index}"
    middle = set(between(model, scores))
    rest = [node.name for node in model.graph.node if node.name not in middle]
    with quiet(), _quiet_root():
        half = tools.convert_float_to_float16(model, keep_io_types=True, node_block_list=rest, disable_shape_infer=True)
    seen: set[str] = set()
    nodes = list(half.graph.node)
    del half.graph.node[:]
    for node in nodes:
        if not seen & set(node.output):  # a value is cast again, under one name, for each of its readers
            half.graph.node.append(node)
            seen |= set(node.output)
    return half


def between(model: Any, scores: Sequence[str]) -> list[str]:
    """Return the names of the nodes from the first convolutions to the scores, in order."""
    behind: set[str] = set()  # values that depend on a convolution
    for node in model.graph.node:
        if node.op_type in CONVOLUTIONS or behind & set(node.input):
            behind |= set(node.output)
    needed = set(scores)
    found = []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            if behind & set(node.output):
                found.append(node.name)
    return found[::-1]


def quantize_openvino(model: Any, scores: set[str], images: Iterable[NDArray[np.uint8]]) -> Any:
    """Return an ``openvino.Model`` whose convolutions compute in int8; NNCF calibrates it with images (H, W, C)."""
    nncf = import_optional("nncf", PURPOSE)
    calibration = [image[None] for image in images]
    excluded = sorted(_outside(model, scores))
    with quiet(), _quiet_root():
        nncf.set_log_level(logging.ERROR)
        return nncf.quantize(
            model, nncf.Dataset(calibration), subset_size=len(calibration), preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=excluded, validate=False),
        )  # fmt: skip


def _outside(model: Any, scores: set[str]) -> set[str]:
    """Return the names of the operations before the first and after the last convolution."""
    ops = list(model.get_ordered_ops())
    behind: set[str] = set()
    for op in ops:
        sources = {value.get_node().get_friendly_name() for value in op.input_values()}
        if "Convolution" in op.get_type_name() or behind & sources:
            behind.add(op.get_friendly_name())
    needed: set[str] = set()
    for op in reversed(ops):
        names = {name for port in op.outputs() for name in port.get_names()}
        if op.get_type_name() != "Result" and (scores & names or op.get_friendly_name() in needed):
            needed |= {op.get_friendly_name(), *(value.get_node().get_friendly_name() for value in op.input_values())}
    kinds = {"Constant", "Parameter", "Result"}
    return {op.get_friendly_name() for op in ops if op.get_type_name() not in kinds} - (behind & needed)


@contextmanager
def _quiet_root() -> Iterator[None]:
    """Silence what quantisers log to the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
