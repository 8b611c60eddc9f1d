"""Export a model: build the graph, check its parity, write the file."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv._version import __version__
from fullconv.card import Card
from fullconv.data import Dataset, choose_samples, match_classes
from fullconv.engines import (
    ENGINES_OF,
    EXPORT_KEY,
    LAYOUT_KEY,
    PRECISIONS,
    REQUIRES,
    ExportModule,
    capture,
    check_installed,
    head_names,
)
from fullconv.errors import NetworkError, OutputError, RecipeError, nearest, percent
from fullconv.exports.formats import Export, OnnxExport, OpenVinoExport, Pt2Export, program_values
from fullconv.exports.parity import Parity, check_bytes, crop, measure_parity, synthetic_images, validation_images
from fullconv.interpolation import ScoreLayout
from fullconv.modelfile import CARD_KEY
from fullconv.nn import Network
from fullconv.notices import Notice
from fullconv.segmenter import Segmenter
from fullconv.storage import check_writable

FORMATS: dict[str, tuple[Callable[..., Export], str, tuple[str, ...]]] = {
    "onnx": (OnnxExport, ".onnx", PRECISIONS["onnx"]),
    "openvino": (OpenVinoExport, ".xml", PRECISIONS["openvino"]),
    "pt2": (Pt2Export, ".pt2", PRECISIONS["pt2"]),
}
"""Class, suffix and precisions of each format."""
CALIBRATION_IMAGES = 64
MAX_ERROR = {"fp32": 1e-3, "fp16": 0.02, "bf16": 0.05, "int8": 0.2}
"""Relative error of a layer's output above which it is reported."""


@dataclass(frozen=True)
class Exported:
    """A file that was written."""

    path: Path
    parity: Parity
    layer: str = ""
    """The layer that differs, where the file was written with ``force``."""


def export_model(
    segmenter: Segmenter,
    path: str | Path,
    format: str,  # noqa: A002  (the option's name)
    *,
    precision: str = "fp32",
    dataset: Dataset | None = None,
    probabilities: bool = False,
    force: bool = False,
) -> Exported:
    """Write a model as a file for other runtimes, after comparing its labels with the model's.

    Args:
        segmenter: The model.
        path: The file to write.
        format: "onnx", "openvino" or "pt2".
        precision: "fp32", "fp16", "bf16" or "int8", where the format supports it.
        dataset: Its validation images are compared; int8 is calibrated with its training images.
        probabilities: Whether the file outputs them, too.
        force: Write the file even if it differs.

    Raises:
        RecipeError: Format and precision do not fit, or int8 without data.
        NetworkError: The model cannot be exported, or the file's labels differ too much.
        OutputError: The file cannot be written.
        MissingExtraError: The format's libraries are not installed.
    """
    path = Path(path)
    create = _check(segmenter, path, format, precision, dataset)
    network, card = segmenter.network, segmenter.card
    if card.short_side is not None:
        message = (
            f"{path}: an exported file cannot resize images to a shorter side of {card.short_side} pixels as the model does."
            " It takes them as they are given: resize them before."
        )
        segmenter.log(Notice("short-side", message, str(path)))
        card = card.model_copy(update={"short_side": None})
    if segmenter.device.type != "cpu":
        network = copy.deepcopy(network).to("cpu")
    exact = Segmenter(network, card, device="cpu", precision="fp32", engine="torch")
    images = partial(_calibration, dataset, exact) if dataset is not None and precision == "int8" else None
    found = validation_images(dataset, exact) if dataset is not None else synthetic_images(card.in_channels)
    first = next(iter(found), None)  # an unsuitable image is reported before any work
    export = create(network, card, probabilities, precision, images)
    rest = chain([first], found) if first is not None else iter(())
    run, heads = export.runner(), head_names(card)  # of a file's outputs, labels come first
    parity = measure_parity(
        lambda image: dict(zip(heads, run(image), strict=False)), exact, precision, rest, made=dataset is None
    )
    parity.calibrated_on = images is not None and dataset is not None and not dataset.splits.get("train")
    layer = ""
    if parity.reasons and first is not None:
        sample = crop(first[0], (96, 128), np.random.default_rng(0))
        layer = find_divergent_layer(export, network, card, sample, precision)
        if not force:
            raise NetworkError(f"{path} is not written: {'; '.join(parity.reasons)}. {layer} --force writes it anyway.")
    about: dict[str, Any] = {
        "format": format, "precision": precision, "probabilities": probabilities, "fullconv": __version__,
        "parity": asdict(parity),
    }  # fmt: skip
    if isinstance(export, Pt2Export):
        about["scores"] = export.scores
    layout = json.dumps(ScoreLayout.of(network).to_dict(), sort_keys=True)
    export.write(path, {CARD_KEY: card.to_json(), EXPORT_KEY: json.dumps(about, sort_keys=True), LAYOUT_KEY: layout})
    return Exported(path, parity, layer)


def _check(
    segmenter: Segmenter,
    path: Path,
    format: str,  # noqa: A002
    precision: str,
    dataset: Dataset | None,
) -> Callable[..., Export]:
    """Check the arguments before any work; returns the format's class."""
    if format not in FORMATS:
        raise RecipeError(f"--format {format}: choose onnx, openvino or pt2.{nearest(format, FORMATS)}")
    create, suffix, precisions = FORMATS[format]
    if path.suffix.lower() != suffix:
        raise OutputError(f"{path}: use a name that ends in {suffix} for --format {format}.")
    if precision not in precisions:
        raise RecipeError(
            f"--precision {precision}: {format} has {', '.join(precisions[:-1])} and {precisions[-1]} here."
        )
    if precision == "int8" and dataset is None:
        raise RecipeError("--precision int8 needs images for calibration: use --data DATA.")
    card = segmenter.card
    if any(parameter.is_meta for parameter in segmenter.network.parameters()):
        raise NetworkError("this model is already an export: export its model.safetensors.")
    if card.image_range is None:
        raise NetworkError("this model takes log depth; an exported file takes 8-bit images, 0 to 255.")
    if card.image_range != (0.0, 255.0):
        low, high = card.image_range
        raise NetworkError(
            f"this model takes values from {low:g} to {high:g}; an exported file takes 8-bit images, 0 to 255."
        )
    check_writable(path)
    if format == "openvino":
        check_writable(path.with_suffix(".bin"))
    check_installed(REQUIRES[ENGINES_OF[format][0]], f"export --format {format}")
    if (format, precision) == ("openvino", "int8"):
        check_installed(["nncf"], "export --precision int8")
    if dataset is not None:
        match_classes(card, dataset)
    return create


def _calibration(dataset: Dataset, exact: Segmenter) -> Iterator[NDArray[np.uint8]]:
    """Yield evenly spaced training images."""
    samples, _ = choose_samples(dataset, exact.card, "train" if dataset.splits.get("train") else "val")
    for sample in samples[:: max(1, len(samples) // CALIBRATION_IMAGES)][:CALIBRATION_IMAGES]:
        image = exact.read(dataset.read_pixels(sample), sample.image.as_posix()).values
        check_bytes(image, sample)
        yield np.ascontiguousarray(image)


def find_divergent_layer(export: Export, network: Network, card: Card, image: NDArray[np.uint8], precision: str) -> str:
    """Return a sentence on the first layer whose activations differ, or else on the one that differs most."""
    program = capture(ExportModule(network, card).eval(), card.in_channels, card.variant)
    layers = {node.name: _path(node) for node in program.graph.nodes if _path(node)}
    expected = program_values(program, image, list(layers))
    got = export.values(image, list(layers))
    errors = {name: _error(expected[name], got[name]) for name in layers if name in expected and name in got}
    if not errors:
        return "The layer that differs is unknown: its activations have other names in the file."
    name = next((name for name, error in errors.items() if not error <= MAX_ERROR[precision]), None)
    if name is None:
        name = max(errors, key=lambda key: errors[key])
        return f"No layer stands out; {layers[name]} differs most, by {percent(errors[name])} of its activations' norm."
    share = f"they differ by {percent(errors[name])} of their norm"
    size = share if np.isfinite(errors[name]) else "they are not finite"
    return f"The first layer that differs in its activations is {layers[name]}: {size}."


def _path(node: Any) -> str:
    """Return the path of the layer that a node of a captured program comes from; "" for other nodes."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    value = node.meta.get("val")
    if not stack or getattr(value, "ndim", 0) != 4 or not value.dtype.is_floating_point:
        return ""
    return str(stack[-1][0]).removeprefix("L['self'].").removeprefix("body.").removeprefix("network.")


def _error(expected: NDArray[Any], got: NDArray[Any]) -> float:
    """Return the difference of two arrays relative to the norm of the first; infinite where they are not comparable."""
    if expected.shape != got.shape or not np.isfinite(got).all():
        return float("inf")
    size = float(np.linalg.norm(expected.astype(np.float64)))
    return float(np.linalg.norm(expected.astype(np.float64) - got)) / (size or 1.0)
