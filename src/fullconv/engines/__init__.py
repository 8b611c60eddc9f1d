"""Engines: runtimes that compute scores from images as stored, and exported files. This door loads no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fullconv._lazy import attach
from fullconv.engines._optional import (
    ENGINES,
    REQUIRES,
    check_installed,
    cores,
    import_optional,
    is_installed,
    versions,
)
from fullconv.engines.autotune import AutoEngine, choose_engine
from fullconv.engines.engine import (
    BLANK,
    CHECKSUM_KEY,
    INPUT,
    Engine,
    UnsafeProgramError,
    add_checksum,
    head_names,
    output_names,
)
from fullconv.engines.exported import (
    ENGINES_OF,
    EXPORT_KEY,
    LAYOUT_KEY,
    PRECISIONS,
    exported_engine,
    is_exported,
    read_exported,
    read_layout,
)
from fullconv.engines.onnxruntime import session
from fullconv.engines.openvino import compile_model

if TYPE_CHECKING:
    from fullconv.engines.graph import ExportModule, capture, quiet, to_onnx
    from fullconv.engines.pt2_safety import drop_size_asserts, module_of, save_program
    from fullconv.engines.torch import TorchEngine, in_bf16

__all__ = [
    "BLANK",
    "CHECKSUM_KEY",
    "ENGINES",
    "ENGINES_OF",
    "EXPORT_KEY",
    "INPUT",
    "LAYOUT_KEY",
    "PRECISIONS",
    "REQUIRES",
    "AutoEngine",
    "Engine",
    "ExportModule",
    "TorchEngine",
    "UnsafeProgramError",
    "add_checksum",
    "capture",
    "check_installed",
    "choose_engine",
    "compile_model",
    "cores",
    "drop_size_asserts",
    "exported_engine",
    "head_names",
    "import_optional",
    "in_bf16",
    "is_exported",
    "is_installed",
    "module_of",
    "output_names",
    "quiet",
    "read_exported",
    "read_layout",
    "save_program",
    "session",
    "to_onnx",
    "versions",
]

if not TYPE_CHECKING:  # else every name would exist for type checkers
    __getattr__, _ = attach(
        __name__,
        dict.fromkeys(("ExportModule", "capture", "quiet", "to_onnx"), "fullconv.engines.graph")
        | dict.fromkeys(("drop_size_asserts", "module_of", "save_program"), "fullconv.engines.pt2_safety")
        | dict.fromkeys(("TorchEngine", "in_bf16"), "fullconv.engines.torch"),
    )
