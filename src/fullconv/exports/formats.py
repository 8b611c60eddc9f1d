"""The whole prediction as one graph, with the card in its metadata, as ONNX, OpenVINO IR or an exported PyTorch program."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fullconv.card import Card
from fullconv.engines import (
    BLANK,
    CHECKSUM_KEY,
    INPUT,
    ExportModule,
    UnsafeProgramError,
    add_checksum,
    capture,
    compile_model,
    drop_size_asserts,
    head_names,
    import_optional,
    in_bf16,
    module_of,
    output_names,
    save_program,
    session,
    to_onnx,
)
from fullconv.errors import NetworkError, OutputError
from fullconv.exports.quantize import half_onnx, quantize_onnx, quantize_openvino
from fullconv.geometry import Axis
from fullconv.nn import ModuleWrapper, Network
from fullconv.nn.upsample import Border
from fullconv.storage import publish, write_bytes

Runner = Callable[[NDArray[np.uint8]], list[NDArray[Any]]]
"""Maps an image (H, W, C) to all outputs of a file, without the batch axis."""
Images = Callable[[], Iterable[NDArray[np.uint8]]]
"""Returns the images for calibration, each time from the first on."""


class LabelGraph(nn.Module):
    """Images (N, H, W, C) uint8 to label maps (N, H, W) uint8 and, where asked for, probabilities (N, K, H, W) and scores.

    It upsamples as `Network.upsample` does, with integer arithmetic wherever that decides between two cells.
    """

    def __init__(
        self,
        network: Network,
        card: Card,
        probabilities: bool = False,
        scores: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if card.scale != 1:
            raise NetworkError(
                f"this model works at {card.scale:g} of the images' size, and an exported file cannot resize. Export"
                " a model that was trained with --scale 1."
            )
        self.body = ExportModule(network, card, dtype)
        self.whole = isinstance(network, ModuleWrapper)
        self.upsamples_by_size = self.whole or network.spec.upsample_mode == "size"
        self.border: Border = "replicate" if self.whole else network.border
        self.axes = (network.geometry.y, network.geometry.x)
        self.probabilities, self.scores = probabilities, scores
        words = ["labels", *(["probabilities"] if probabilities else []), *(["scores"] if scores else [])]
        self.names = [name for word in words for name in output_names(word, card)]

    def forward(self, images: Tensor) -> tuple[Tensor, ...] | Tensor:
        """Return labels, probabilities and scores, of each head; the labels alone where they are all."""
        scores = self.body(images)
        size = (images.shape[1], images.shape[2])
        logits = [self.upsample(part, size) for part in scores]
        labels = [part.argmax(1).to(torch.uint8) for part in logits]
        chances = [part.softmax(1) for part in logits] if self.probabilities else []
        found = (*labels, *chances, *(scores if self.scores else ()))
        return found if len(found) > 1 else found[0]

    def upsample(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """Upsample scores (N, K, h, w) to logits (N, K, H, W): the width first, as the full-size map is largest."""
        if self.whole:
            return scores
        for dim, axis, full in ((-1, self.axes[1], size[1]), (-2, self.axes[0], size[0])):
            left, weight = self.positions(axis, full, scores.shape[dim])
            low, high = (_take(scores, dim, index, self.border) for index in (left, left + 1))
            scores = low + (high - low) * weight.reshape(-1, *([1] * (-1 - dim)))
        return scores

    def positions(self, axis: Axis, full: int, cells: int) -> tuple[Tensor, Tensor]:
        """Return for every pixel of an axis the cell at or before it, and the fraction of the way to the next."""
        pixel = torch.arange(full)
        if self.upsamples_by_size:  # (pixel + 1/2) cells / full - 1/2, and no less than 0
            return _divide(((2 * pixel + 1) * cells - full).clamp(min=0), 2 * full)
        offset, step = axis.offset, axis.jump
        # (pixel - offset) / step, in integers; `before` cells keep the dividend from being negative
        above, below = offset.numerator * step.denominator, offset.denominator * step.numerator
        unit = offset.denominator * step.denominator
        before = max(0, math.ceil(above / below))
        cell, weight = _divide(pixel * unit - above + before * below, below)
        return cell - before, weight


def _divide(value: Tensor, by: int) -> tuple[Tensor, Tensor]:
    """Return quotient and remainder, the latter as a fraction of the divisor."""
    quotient = value // by
    return quotient, (value - quotient * by).to(torch.float32) / by


def _take(x: Tensor, dim: int, index: Tensor, border: Border) -> Tensor:
    """Return cells of an axis; some may lie outside."""
    n = x.shape[dim]
    cells = x.index_select(dim, index.clamp(min=0).clamp(max=n - 1))
    if border == "zero":
        inside = ((index >= 0) & (index < n)).to(torch.float32)
        cells = cells * inside.reshape(-1, *([1] * (-1 - dim)))
    return cells


class OnnxExport:
    """ONNX: fp32, fp16 or int8."""

    def __init__(
        self, network: Network, card: Card, probabilities: bool, precision: str, images: Images | None
    ) -> None:
        graph = LabelGraph(network, card, probabilities).eval()
        model = to_onnx(capture(graph, card.in_channels, card.variant), graph.names)
        scores = output_names("scores", card)
        if precision == "int8" and images is not None:
            model = quantize_onnx(model, scores, images())
        model = hide(model, scores)
        self.model = half_onnx(model, scores) if precision == "fp16" else model

    def runner(self) -> Runner:
        """Return a function that computes it in ONNX Runtime."""
        run = session(self.model).run
        return lambda image: [found[0] for found in run(None, {INPUT: image[None]})]

    def values(self, image: NDArray[np.uint8], names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return activations by name."""
        onnx = import_optional("onnx", "export")
        produced = {name for node in self.model.graph.node for name in node.output}
        found = [name for name in names if name in produced]
        shown = onnx.ModelProto()
        shown.CopyFrom(self.model)
        del shown.graph.output[:]
        shown.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in found)
        return dict(zip(found, session(shown).run(None, {INPUT: image[None]}), strict=True))

    def write(self, path: Path, texts: Mapping[str, str]) -> None:
        """Write the file."""
        del self.model.metadata_props[:]
        for key, text in {**texts, CHECKSUM_KEY: BLANK}.items():
            self.model.metadata_props.add(key=key, value=text)
        write_bytes(path, [add_checksum(self.model.SerializeToString())])


def hide(model: Any, names: Sequence[str]) -> Any:
    """Turn outputs of an ``onnx.ModelProto`` into activations, which can still be extracted by name."""
    hidden = [output for output in model.graph.output if output.name in names]
    for output in hidden:
        model.graph.value_info.append(output)
        model.graph.output.remove(output)
    return model


class OpenVinoExport:
    """OpenVINO's IR: fp32, fp16 or bf16 (weights in 16 bits), or int8."""

    def __init__(
        self, network: Network, card: Card, probabilities: bool, precision: str, images: Images | None
    ) -> None:
        openvino = import_optional("openvino", "export --format openvino")
        graph = LabelGraph(network, card, probabilities).eval()
        proto = to_onnx(capture(graph, card.in_channels, card.variant), graph.names)
        model = openvino.Core().read_model(proto.SerializeToString())
        scores = set(output_names("scores", card))
        if precision == "int8" and images is not None:
            model = quantize_openvino(model, scores, images())
        for output in list(model.outputs):
            if scores & set(output.get_names()):
                model.remove_result(output.get_node())
        self.model, self.precision = model, precision

    def runner(self) -> Runner:
        """Return a function that computes it in OpenVINO, with the precision's hint."""
        request = self._compiled(self.model).create_infer_request()
        count = len(self.model.outputs)

        def run(image: NDArray[np.uint8]) -> list[NDArray[Any]]:
            request.infer([image[None]])
            return [np.array(request.get_output_tensor(index).data[0]) for index in range(count)]

        return run

    def _compiled(self, model: Any) -> Any:
        """Compile a model as its file will store it."""
        if self.precision in ("fp16", "bf16"):
            model = model.clone()
            import_optional("openvino._offline_transformations", "export").compress_model_transformation(model)
        return compile_model(model, {"fp16": "fp32"}.get(self.precision, self.precision))  # 16 bits: only of weights

    def values(self, image: NDArray[np.uint8], names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return activations by name."""
        openvino = import_optional("openvino", "export")
        model = self.model.clone()
        ports = {name: port for op in model.get_ordered_ops() for port in op.outputs() for name in port.get_names()}
        found = [name for name in names if name in ports]
        results = [openvino.opset13.result(ports[name]) for name in found]
        request = self._compiled(openvino.Model(results, model.get_parameters(), "inner")).create_infer_request()
        request.infer([image[None]])
        return {name: np.array(request.get_output_tensor(index).data) for index, name in enumerate(found)}

    def write(self, path: Path, texts: Mapping[str, str]) -> None:
        """Write the .xml, and the weights beside it as .bin; both are complete before one gets its name."""
        openvino = import_optional("openvino", "export")
        for key, text in {**texts, CHECKSUM_KEY: BLANK}.items():
            self.model.set_rt_info(text, key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".", suffix=".part", dir=path.parent) as folder:
                graph, weights = Path(folder) / "model.xml", Path(folder) / "model.bin"
                openvino.save_model(self.model, graph, compress_to_fp16=self.precision in ("fp16", "bf16"))
                openvino.Core().read_model(graph)  # raises where a file was truncated
                graph.write_bytes(add_checksum(graph.read_bytes(), weights.read_bytes()))
                publish(weights, path.with_suffix(".bin"))  # first: the .xml appears only when all is there
                publish(graph, path)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror or error}).") from error
        except RuntimeError as error:  # OpenVINO's error on a full disk
            raise OutputError(f"{path}: OpenVINO cannot write it. Check the free disk space.") from error


class Pt2Export:
    """A PyTorch program (`torch.export`): fp32 or bf16."""

    def __init__(
        self, network: Network, card: Card, probabilities: bool, precision: str, images: Images | None
    ) -> None:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        body = in_bf16(network) if precision == "bf16" else network
        full, plain = (LabelGraph(body, card, probabilities, scores, dtype).eval() for scores in (True, False))
        names = [str(value) for value in capture(full, card.in_channels, card.variant).graph_signature.user_outputs]
        self.scores = names[-len(head_names(card)) :]
        self.variant = card.variant
        self.program = drop_size_asserts(capture(plain, card.in_channels, card.variant))

    def runner(self) -> Runner:
        """Return a function that computes it in PyTorch."""
        module = module_of(self.program)

        def run(image: NDArray[np.uint8]) -> list[NDArray[Any]]:
            with torch.inference_mode():
                found = module(torch.from_numpy(image[None]))
            return [part[0].numpy() for part in (found if isinstance(found, (tuple, list)) else (found,))]

        return run

    def values(self, image: NDArray[np.uint8], names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return activations by name."""
        return program_values(self.program, image, names)

    def write(self, path: Path, texts: Mapping[str, str]) -> None:
        """Write the file."""
        try:
            content = save_program(self.program, texts)
        except UnsafeProgramError as error:
            raise NetworkError(
                f"{self.variant} contains {error}, so it is not written as pt2. Use --format onnx."
            ) from error
        write_bytes(path, [content])


Export = OnnxExport | OpenVinoExport | Pt2Export


def program_values(program: Any, image: NDArray[np.uint8], names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Run a captured program and return values by the names of its nodes."""
    module = module_of(program)
    kept: dict[str, NDArray[Any]] = {}

    class Recorder(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            result = super().run_node(n)
            if n.name in names and isinstance(result, torch.Tensor):
                kept[n.name] = result.float().numpy().copy()
            return result

    with torch.inference_mode():
        Recorder(module).run(torch.from_numpy(image[None]))
    return kept
