"""Exported files as models: their card, and an engine that takes their scores, so that all else stays ours."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from torch import Tensor, nn

from fullconv.card import Card
from fullconv.engines._optional import runtime
from fullconv.engines.checksum import CHECKSUM_KEY, check_seal
from fullconv.engines.engine import Engine, ForeignProgramError
from fullconv.engines.graph import INPUT, by_head, metadata, output_names
from fullconv.engines.onnxruntime import OnnxRuntimeEngine
from fullconv.engines.openvino import OpenVinoEngine, read_onnx
from fullconv.errors import ModelFileError, RecipeError, nearest
from fullconv.modelfile import CARD_KEY
from fullconv.nn import Scores

FORMATS = {".onnx": "onnx", ".xml": "openvino", ".pt2": "pt2"}
"""By the ending of the file."""
COMPUTE_IN = {"onnx": ("fp32", "fp16", "int8"), "openvino": ("fp32", "fp16", "bf16", "int8"), "pt2": ("fp32", "bf16")}
"""What a format can be exported in."""
SERVED_BY = {"onnx": ("onnxruntime", "openvino"), "openvino": ("openvino",), "pt2": ("torch",)}
EXPORT_KEY = "fullconv_export"
"""Beside the card: format, precision and measured parity, as JSON."""
PLACES = ("Exception from ", "Check '")
"""How OpenVINO's messages begin that tell of its own source only."""
FOREIGN = "not exported by this program: it has no fullconv card"


def is_exported(path: str | Path) -> bool:
    """Say whether a path names an exported file."""
    return Path(path).suffix.lower() in FORMATS


def read_exported(path: str | Path) -> tuple[Card, dict[str, Any]]:
    """Read what an exported file says about itself: its card; format, precision and parity. Nothing in it is run.

    Raises:
        ModelFileError: The file is missing, damaged or foreign.
        MissingExtraError: An ONNX file, and onnx is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelFileError(f"{path}: there is no such model file.")
    read = {"onnx": _onnx_texts, "openvino": _openvino_texts, "pt2": _pt2_texts}[FORMATS[path.suffix.lower()]]
    texts = read(path)
    if CARD_KEY not in texts:
        raise ModelFileError(f"{path}: {FOREIGN}. `fullconv export` makes such files.")
    try:
        about = json.loads(texts.get(EXPORT_KEY, "{}"))
    except ValueError:
        about = {}
    if not isinstance(about, dict) or not isinstance(about.get("precision"), str):
        raise ModelFileError(f"{path}: damaged: it does not say what it computes in. Export it again.")
    return Card.from_json(texts[CARD_KEY], str(path)), about


def exported_engine(
    path: str | Path, card: Card, about: dict[str, Any], engine: str, precision: str, least: int
) -> Engine:
    """Return the engine that runs an exported file.

    Args:
        path: The file.
        card: Its card.
        about: What else it says about itself.
        engine: "auto", or one that serves its format.
        precision: "auto", or what the file computes in.
        least: Smallest size on which the network computes.

    Raises:
        RecipeError: The file is served by other engines, or computes in another precision.
        ModelFileError: It cannot be read.
    """
    path = Path(path)
    kind, computes = FORMATS[path.suffix.lower()], str(about["precision"])
    if engine != "auto" and engine not in SERVED_BY[kind]:
        raise RecipeError(f"{path}: engine {engine} does not run it: use {' or '.join(SERVED_BY[kind])}.")
    if precision not in ("auto", computes):
        others = sorted((k for k, found in COMPUTE_IN.items() if precision in found), key=lambda k: k != kind)
        remedy = (
            f"`fullconv export --format {others[0]} --precision {precision}` makes a file that does" if others
            else f"there is no such precision.{nearest(precision, COMPUTE_IN['openvino'])} Leave --precision away"
        )  # fmt: skip
        raise RecipeError(f"{path}: computes in {computes}, not in {precision}: {remedy}.")
    name = SERVED_BY[kind][0] if engine == "auto" else engine
    outputs = output_names("scores", card)
    runtime({"onnx": "onnx", "openvino": "openvino", "pt2": "torch"}[kind], f"{path.name}")
    try:
        if kind == "pt2":
            return ProgramEngine(pt2_scores(path, about["scores"]), card, computes)
        if kind == "openvino":
            openvino = runtime("openvino", path.name)
            return OpenVinoEngine(openvino_part(openvino.Core().read_model(path), outputs), card, computes, least)
        model = onnx_part(runtime("onnx", path.name).load(path), outputs)
        if name == "openvino":
            return OpenVinoEngine(read_onnx(model), card, computes if computes != "fp16" else "fp32", least)
        return OnnxRuntimeEngine(model, card, computes)
    except ForeignProgramError as error:
        raise ModelFileError(
            f"{path}: not loaded, as it holds {error}. `fullconv export` makes such files without."
        ) from error
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        first = next((line for line in lines if not line.startswith(PLACES)), type(error).__name__)
        raise ModelFileError(f"{path}: damaged: {first[:200]} Export it again.") from error


def onnx_part(model: Any, outputs: Sequence[str]) -> Any:
    """Return the part of an ``onnx.ModelProto`` that leads from the pictures to some of its values."""
    return runtime("onnx.utils", "reading ONNX").Extractor(model).extract_model([INPUT], list(outputs))


def openvino_part(model: Any, outputs: Sequence[str]) -> Any:
    """Return the part of an ``openvino.Model`` that leads from the pictures to some of its values."""
    openvino = runtime("openvino", "reading OpenVINO")
    ports = {name: port for op in model.get_ordered_ops() for port in op.outputs() for name in port.get_names()}
    results = [openvino.opset13.result(ports[name]) for name in outputs]
    return openvino.Model(results, model.get_parameters(), "scores")


def pt2_scores(path: Path, names: Sequence[str]) -> nn.Module:
    """Return the part of a saved program that leads to the values of some names."""
    from fullconv.engines.pt2_safety import (  # loads sympy: only where there is a program to read
        module_of,
        read_program,
    )

    module: Any = module_of(read_program(path))
    for node in list(module.graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:  # bytes only; what was resized holds floats
            module.graph.erase_node(node)
    nodes = {node.name: node for node in module.graph.nodes}
    (output,) = [node for node in module.graph.nodes if node.op == "output"]
    output.args = (tuple(nodes[name] for name in names),)
    module.graph.set_codegen(torch.fx.graph.CodeGen())
    module.graph.eliminate_dead_code()
    module.recompile()
    return module  # type: ignore[no-any-return]


class ProgramEngine:
    """Run an exported PyTorch program.

    Args:
        module: From pictures (N, H, W, C) uint8 to the scores of each head.
        card: For the names of the heads.
        precision: What it computes in.
    """

    name = "torch"

    def __init__(self, module: nn.Module, card: Card, precision: str) -> None:
        self.module, self.card, self.precision = module, card, precision

    def at(self, height: int, width: int) -> ProgramEngine:
        """Return itself."""
        return self

    @torch.inference_mode()
    def scores(self, images: Tensor) -> Scores:
        """Map pictures (N, H, W, C) as stored to scores (N, K, h, w) float32, or a dict by head."""
        images = images if images.dtype == torch.uint8 else images.float()
        return by_head(list(self.module(images.cpu())), self.card)


def _onnx_texts(path: Path) -> dict[str, str]:
    onnx = runtime("onnx", f"reading {path.name}")
    try:
        content = path.read_bytes()
        texts = dict(metadata(onnx.load_model_from_string(content)))
    except Exception as error:  # protobuf's own kind of error
        raise ModelFileError(f"{path}: damaged, or no ONNX file. Export it again.") from error
    check_seal(path, texts.get(CHECKSUM_KEY), content)
    return texts


def _openvino_texts(path: Path) -> dict[str, str]:
    """Read the texts in an IR's rt_info."""
    try:
        content = path.read_bytes()
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, OSError) as error:
        raise ModelFileError(f"{path}: damaged, or no OpenVINO file. Export it again.") from error
    found = {key: root.find(f"./rt_info/{key}") for key in (CARD_KEY, EXPORT_KEY, CHECKSUM_KEY)}
    texts = {key: str(node.get("value", "")) for key, node in found.items() if node is not None}
    if CARD_KEY in texts:
        weights = path.with_suffix(".bin")
        if not weights.is_file():
            raise ModelFileError(f"{path}: its weights, {weights.name}, are not beside it. Copy both files.")
        check_seal(path, texts.get(CHECKSUM_KEY), content, weights.read_bytes())
    return texts


def _pt2_texts(path: Path) -> dict[str, str]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {Path(name).name: name for name in archive.namelist() if "/extra/" in f"/{name}"}
            texts = {key: archive.read(names[key]).decode("utf-8") for key in (CARD_KEY, EXPORT_KEY) if key in names}
            bad = archive.testzip() if CARD_KEY in texts else None  # PyTorch's own reader compares no checksums
    except (zipfile.BadZipFile, OSError, UnicodeDecodeError) as error:
        raise ModelFileError(f"{path}: damaged, or no exported program. Export it again.") from error
    if bad is not None:
        raise ModelFileError(f"{path}: damaged, or changed after it was exported: {bad}. Export it again.")
    return texts
