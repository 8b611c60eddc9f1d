"""Exporting: the graph, the gate, the file."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fullconv
from fullconv.card import Card
from fullconv.data import Dataset
from fullconv.data.evaluation_samples import check_classes, choose_heads, choose_samples
from fullconv.engines._optional import REQUIRES, check_installed
from fullconv.engines.engine import head_names
from fullconv.engines.exported import ENGINES_OF, EXPORT_KEY, LAYOUT_KEY, PRECISIONS
from fullconv.errors import NetworkError, OutputError, RecipeError, nearest
from fullconv.exports.formats import Export, OnnxExport, OpenVinoExport, Pictures, Pt2Export
from fullconv.exports.layer_diff import layer_that_differs
from fullconv.exports.parity import (
    Image,
    Labels,
    Parity,
    check_bytes,
    crop,
    made_pictures,
    measure,
    validation_pictures,
)
from fullconv.interpolation import ScoreLayout
from fullconv.modelfile import CARD_KEY
from fullconv.segmenter import Segmenter
from fullconv.storage import check_writable

FORMATS: dict[str, tuple[Callable[..., Export], str, tuple[str, ...]]] = {
    "onnx": (OnnxExport, ".onnx", PRECISIONS["onnx"]),
    "openvino": (OpenVinoExport, ".xml", PRECISIONS["openvino"]),
    "pt2": (Pt2Export, ".pt2", PRECISIONS["pt2"]),
}
"""What makes a format, how its files end, and what it can compute in."""
CALIBRATION = 64
"""Pictures that 8 bits are calibrated with."""


@dataclass(frozen=True)
class Exported:
    """A file that was written."""

    path: Path
    format: str
    parity: Parity
    layer: str = ""
    """Where the file was forced: which layer differs."""


def export_model(
    segmenter: Segmenter,
    path: str | Path,
    format: str,  # noqa: A002  (the command's word)
    *,
    precision: str = "fp32",
    dataset: Dataset | None = None,
    probabilities: bool = False,
    force: bool = False,
) -> Exported:
    """Write a model as a file for other runtimes, after comparing its answers with the model's.

    Args:
        segmenter: The model.
        path: The file to write.
        format: "onnx", "openvino" or "pt2".
        precision: "fp32", "fp16", "bf16" or "int8", as far as the format has it.
        dataset: Its validation pictures are what is compared on; 8 bits are calibrated with its training pictures.
        probabilities: Whether the file returns them, too.
        force: Write it although it differs.

    Raises:
        RecipeError: Format and precision do not go together, or 8 bits without data.
        NetworkError: The model cannot be exported, or the file's answers differ too far.
        OutputError: The file cannot be written.
        MissingExtraError: What makes the format is not installed.
    """
    path = Path(path)
    make = _check(segmenter, path, format, precision, dataset)
    network, card = segmenter.network, segmenter.card
    if segmenter.device.type != "cpu":
        network = copy.deepcopy(network).to("cpu")
    exact = Segmenter(network, card, device="cpu", precision="fp32", engine="torch")
    pictures = _calibration(dataset, exact) if dataset is not None and precision == "int8" else None
    found = validation_pictures(dataset, exact) if dataset is not None else made_pictures(card.in_channels)
    first = next(iter(found), None)  # a picture of another kind is told before any work
    export = make(network, card, probabilities, precision, pictures)
    rest = chain([first], found) if first is not None else iter(())
    parity = measure(answers(export, card), exact, precision, rest, made=dataset is None)
    parity.calibrated_on = pictures is not None and dataset is not None and not dataset.splits.get("train")
    layer = ""
    if parity.reasons and first is not None:
        sample = crop(first[0], (96, 128), np.random.default_rng(0))
        layer = layer_that_differs(export, network, card, sample, precision)
        if not force:
            raise NetworkError(
                f"{path} is not written: {'; '.join(parity.reasons)}. {layer} --force writes it all the same."
            )
    about: dict[str, Any] = {
        "format": format, "precision": precision, "probabilities": probabilities, "fullconv": fullconv.__version__,
        "parity": parity.to_dict(),
    }  # fmt: skip
    if isinstance(export, Pt2Export):
        about["scores"] = export.scores
    layout = json.dumps(ScoreLayout.of(network).to_dict(), sort_keys=True)
    export.write(path, {CARD_KEY: card.to_json(), EXPORT_KEY: json.dumps(about, sort_keys=True), LAYOUT_KEY: layout})
    return Exported(path, format, parity, layer)


def _check(
    segmenter: Segmenter,
    path: Path,
    format: str,  # noqa: A002
    precision: str,
    dataset: Dataset | None,
) -> Callable[..., Export]:
    """Check what can be checked before any work, and return what makes the format."""
    if format not in FORMATS:
        raise RecipeError(f"--format {format}: choose onnx, openvino or pt2.{nearest(format, FORMATS)}")
    make, suffix, precisions = FORMATS[format]
    if path.suffix.lower() != suffix:
        raise OutputError(f"{path}: a file of --format {format} ends with {suffix}.")
    if precision not in precisions:
        raise RecipeError(
            f"--precision {precision}: {format} has {', '.join(precisions[:-1])} and {precisions[-1]} here."
        )
    if precision == "int8" and dataset is None:
        raise RecipeError("--precision int8 is calibrated with pictures: give --data DATA.")
    card = segmenter.card
    if any(parameter.is_meta for parameter in segmenter.network.parameters()):
        raise NetworkError("this model is an exported file already: export the model.safetensors that it was made of.")
    if card.range != (0.0, 255.0):
        raise NetworkError(
            f"this model takes values from {card.range[0]:g} to {card.range[1]:g}; an exported file takes pictures of"
            " 8 bits, 0 to 255."
        )
    check_writable(path)
    if format == "openvino":
        check_writable(path.with_suffix(".bin"))
    check_installed(REQUIRES[ENGINES_OF[format][0]], f"export --format {format}")
    if (format, precision) == ("openvino", "int8"):
        check_installed(["nncf"], "export --precision int8")
    if dataset is not None:
        for ours, theirs in choose_heads(card, dataset, None):
            check_classes(card.labels(ours).classes, dataset.labels[theirs].classes, str(dataset.root))
    return make


def answers(export: Export, card: Card) -> Callable[[Image], Labels]:
    """Return label maps by head as the file's own runtime gives them."""
    run, heads = export.answer(), head_names(card)
    return lambda image: dict(zip(heads, run(image), strict=False))  # labels come first


def _calibration(dataset: Dataset, exact: Segmenter) -> Pictures:
    """Return training pictures, spread over the set."""
    samples, _ = choose_samples(dataset, exact.card, "train" if dataset.splits.get("train") else "val")
    step = max(1, len(samples) // CALIBRATION)

    def pictures() -> Any:
        for sample in islice(samples[::step], CALIBRATION):
            image: NDArray[Any] = exact.read(dataset.read_image(sample), sample.image.as_posix())
            check_bytes(image, sample)
            yield np.ascontiguousarray(image)

    return pictures
