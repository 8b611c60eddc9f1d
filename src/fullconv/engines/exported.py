"""Exported files as models: their card, the layout of their scores, and an engine that computes these scores."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from fullconv.card import Card
from fullconv.engines._optional import import_optional
from fullconv.engines.engine import (
    CHECKSUM_KEY,
    INPUT,
    Engine,
    Scores,
    UnsafeProgramError,
    by_head,
    bytes_or_floats,
    output_names,
    verify_checksum,
)
from fullconv.engines.onnxruntime import OnnxRuntimeEngine
from fullconv.engines.openvino import OpenVinoEngine, read_onnx
from fullconv.errors import ModelFileError, RecipeError, nearest
from fullconv.interpolation import ScoreLayout
from fullconv.modelfile import CARD_KEY

FORMATS = {".onnx": "onnx", ".xml": "openvino", ".pt2": "pt2"}
"""Format by suffix."""
PRECISIONS = {"onnx": ("fp32", "fp16", "int8"), "openvino": ("fp32", "fp16", "bf16", "int8"), "pt2": ("fp32", "bf16")}
"""Precisions in which a format can be exported."""
ENGINES_OF = {"onnx": ("onnxruntime", "openvino"), "openvino": ("openvino",), "pt2": ("torch",)}
EXPORT_KEY = "fullconv_export"
"""Beside the card: format, precision and measured parity, as JSON."""
LAYOUT_KEY = "fullconv_layout"
"""Beside the card: the layout of the scores, as JSON; files of 0.1.0 have none."""
PLACES = ("Exception from ", "Check '")
"""Beginnings of the lines of OpenVINO's messages that refer only to its own source."""


def is_exported(path: str | Path) -> bool:
    """Return whether a path has the suffix of an exported file."""
    return Path(path).suffix.lower() in FORMATS


def read_exported(path: str | Path) -> tuple[Card, dict[str, Any]]:
    """Read the metadata of an exported file: its card; format, precision and parity. Nothing in it is executed."""
    path, texts = Path(path), _read_texts(Path(path))
    if CARD_KEY not in texts:
        raise ModelFileError(
            f"{path}: not exported by this program: it has no fullconv card. `fullconv export` writes such files."
        )
    try:
        about = json.loads(texts.get(EXPORT_KEY, "{}"))
    except ValueError:
        about = {}
    if not isinstance(about, dict) or not isinstance(about.get("precision"), str):
        raise ModelFileError(f"{path}: damaged: its precision is missing. Export it again.")
    return Card.from_json(texts[CARD_KEY], str(path)), about


def read_layout(path: str | Path) -> ScoreLayout | None:
    """Read the layout of an exported file's scores; None in files of 0.1.0."""
    text = _read_texts(Path(path)).get(LAYOUT_KEY)
    if text is None:
        return None
    try:
        return ScoreLayout.from_dict(json.loads(text))
    except (ValueError, KeyError, TypeError, ZeroDivisionError, AttributeError) as error:
        raise ModelFileError(f"{path}: damaged: its layout is not valid. Export it again.") from error


def exported_engine(
    path: str | Path, card: Card, about: dict[str, Any], engine: str, precision: str, min_size: int
) -> Engine:
    """Return the engine that runs an exported file."""
    path = Path(path)
    kind, own = FORMATS[path.suffix.lower()], str(about["precision"])
    if engine != "auto" and engine not in ENGINES_OF[kind]:
        raise RecipeError(f"{path}: engine {engine} does not run it: use {' or '.join(ENGINES_OF[kind])}.")
    if precision not in ("auto", own):
        others = sorted((k for k, found in PRECISIONS.items() if precision in found), key=lambda k: k != kind)
        fix = (
            f"`fullconv export --format {others[0]} --precision {precision}` writes a file that does" if others
            else f"there is no such precision.{nearest(precision, PRECISIONS['openvino'])} Omit --precision"
        )  # fmt: skip
        raise RecipeError(f"{path}: computes in {own}, not in {precision}: {fix}.")
    name = ENGINES_OF[kind][0] if engine == "auto" else engine
    outputs = output_names("scores", card)
    import_optional({"onnx": "onnx", "openvino": "openvino", "pt2": "torch"}[kind], path.name)
    try:
        if kind == "pt2":
            return Pt2Engine(path, about["scores"], card, own)
        if kind == "openvino":
            openvino = import_optional("openvino", path.name)
            model = openvino.Core().read_model(path)
            ports = {name: port for op in model.get_ordered_ops() for port in op.outputs() for name in port.get_names()}
            results = [openvino.opset13.result(ports[name]) for name in outputs]
            model = openvino.Model(results, model.get_parameters(), "scores")
            return OpenVinoEngine(model, card, own, min_size)
        extractor = import_optional("onnx.utils", path.name).Extractor(import_optional("onnx", path.name).load(path))
        model = extractor.extract_model([INPUT], outputs)
        if name == "openvino":
            return OpenVinoEngine(read_onnx(model), card, own if own != "fp16" else "fp32", min_size)
        return OnnxRuntimeEngine(model, card, own)
    except UnsafeProgramError as error:
        raise ModelFileError(
            f"{path}: not loaded, as it contains {error}. `fullconv export` writes files without it."
        ) from error
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        first = next((line for line in lines if not line.startswith(PLACES)), type(error).__name__)
        raise ModelFileError(f"{path}: damaged: {first[:200]} Export it again.") from error


class Pt2Engine(Engine):
    """Run an exported PyTorch program, in which ``names`` are the values that are the scores of each head."""

    name = "torch"

    def __init__(self, path: Path, names: Sequence[str], card: Card, precision: str) -> None:
        self.path, self.names, self.card, self.precision = path, list(names), card, precision
        self.module = self._read()

    def _read(self) -> Any:
        """Return the part of the program that leads to the scores."""
        import torch

        from fullconv.engines.pt2_safety import module_of, read_program  # loads sympy

        module: Any = module_of(read_program(self.path))
        for node in list(module.graph.nodes):
            if node.target is torch.ops.aten._assert_tensor_metadata.default:  # bytes only; resized images are floats
                module.graph.erase_node(node)
        nodes = {node.name: node for node in module.graph.nodes}
        (output,) = [node for node in module.graph.nodes if node.op == "output"]
        output.args = (tuple(nodes[name] for name in self.names),)
        module.graph.set_codegen(torch.fx.graph.CodeGen())
        module.graph.eliminate_dead_code()
        module.recompile()
        return module

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "module": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.module = self._read()

    def scores(self, images: NDArray[Any]) -> Scores:
        """Map images (N, H, W, C) as stored to scores (N, K, h, w) float32 by head."""
        import torch

        with torch.inference_mode():
            found = self.module(torch.from_numpy(np.ascontiguousarray(bytes_or_floats(images))))
        return by_head([scores.numpy() for scores in found], self.card)


def _read_texts(path: Path) -> dict[str, str]:
    """Return the texts of an exported file's metadata, after checking the file for damage."""
    if not path.is_file():
        raise ModelFileError(f"{path}: there is no such model file.")
    return {"onnx": _onnx_texts, "openvino": _openvino_texts, "pt2": _pt2_texts}[FORMATS[path.suffix.lower()]](path)


def _onnx_texts(path: Path) -> dict[str, str]:
    onnx = import_optional("onnx", f"reading {path.name}")
    try:
        content = path.read_bytes()
        texts = {entry.key: entry.value for entry in onnx.load_model_from_string(content).metadata_props}
    except Exception as error:  # protobuf's own type of error
        raise ModelFileError(f"{path}: damaged, or not an ONNX file. Export it again.") from error
    verify_checksum(path, texts.get(CHECKSUM_KEY), content)
    return texts


def _openvino_texts(path: Path) -> dict[str, str]:
    """Read the texts in an IR's rt_info."""
    try:
        content = path.read_bytes()
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, OSError) as error:
        raise ModelFileError(f"{path}: damaged, or not an OpenVINO file. Export it again.") from error
    found = {key: root.find(f"./rt_info/{key}") for key in (CARD_KEY, EXPORT_KEY, LAYOUT_KEY, CHECKSUM_KEY)}
    texts = {key: str(node.get("value", "")) for key, node in found.items() if node is not None}
    if CARD_KEY in texts:
        weights = path.with_suffix(".bin")
        if not weights.is_file():
            raise ModelFileError(f"{path}: its weights, {weights.name}, are not beside it. Copy both files.")
        verify_checksum(path, texts.get(CHECKSUM_KEY), content, weights.read_bytes())
    return texts


def _pt2_texts(path: Path) -> dict[str, str]:
    keys = (CARD_KEY, EXPORT_KEY, LAYOUT_KEY)
    try:
        with zipfile.ZipFile(path) as archive:
            names = {Path(name).name: name for name in archive.namelist() if "/extra/" in f"/{name}"}
            texts = {key: archive.read(names[key]).decode("utf-8") for key in keys if key in names}
            bad = archive.testzip() if CARD_KEY in texts else None  # PyTorch's own reader compares no checksums
    except (zipfile.BadZipFile, OSError, UnicodeDecodeError) as error:
        raise ModelFileError(f"{path}: damaged, or not an exported program. Export it again.") from error
    if bad is not None:
        raise ModelFileError(f"{path}: damaged, or changed after it was exported: {bad}. Export it again.")
    return texts
