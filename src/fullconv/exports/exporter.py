"""Export a model: build the graph, check its parity, write the file."""

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

from fullconv._version import __version__
from fullconv.card import Card
from fullconv.data import Dataset, check_classes, choose_samples, match_heads
from fullconv.engines import ENGINES_OF, EXPORT_KEY, LAYOUT_KEY, PRECISIONS, REQUIRES, check_installed, head_names
from fullconv.errors import NetworkError, OutputError, RecipeError, nearest
from fullconv.exports.formats import Export, Images, OnnxExport, OpenVinoExport, Pt2Export
from fullconv.exports.layer_diff import find_divergent_layer
from fullconv.exports.parity import (
    Image,
    Labels,
    Parity,
    check_bytes,
    crop,
    measure_parity,
    synthetic_images,
    validation_images,
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
"""Class, suffix and precisions of each format."""
CALIBRATION_IMAGES = 64


@dataclass(frozen=True)
class Exported:
    """A file that was written."""

    path: Path
    format: str
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
    if segmenter.device.type != "cpu":
        network = copy.deepcopy(network).to("cpu")
    exact = Segmenter(network, card, device="cpu", precision="fp32", engine="torch")
    images = _calibration(dataset, exact) if dataset is not None and precision == "int8" else None
    found = validation_images(dataset, exact) if dataset is not None else synthetic_images(card.in_channels)
    first = next(iter(found), None)  # an unsuitable image is reported before any work
    export = create(network, card, probabilities, precision, images)
    rest = chain([first], found) if first is not None else iter(())
    parity = measure_parity(label_function(export, card), exact, precision, rest, made=dataset is None)
    parity.calibrated_on = images is not None and dataset is not None and not dataset.splits.get("train")
    layer = ""
    if parity.reasons and first is not None:
        sample = crop(first[0], (96, 128), np.random.default_rng(0))
        layer = find_divergent_layer(export, network, card, sample, precision)
        if not force:
            raise NetworkError(f"{path} is not written: {'; '.join(parity.reasons)}. {layer} --force writes it anyway.")
    about: dict[str, Any] = {
        "format": format, "precision": precision, "probabilities": probabilities, "fullconv": __version__,
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
    if card.range != (0.0, 255.0):
        raise NetworkError(
            f"this model takes values from {card.range[0]:g} to {card.range[1]:g}; an exported file takes 8-bit"
            " images, 0 to 255."
        )
    check_writable(path)
    if format == "openvino":
        check_writable(path.with_suffix(".bin"))
    check_installed(REQUIRES[ENGINES_OF[format][0]], f"export --format {format}")
    if (format, precision) == ("openvino", "int8"):
        check_installed(["nncf"], "export --precision int8")
    if dataset is not None:
        for ours, theirs in match_heads(card, dataset, None):
            check_classes(card.labels(ours).classes, dataset.labels[theirs].classes, str(dataset.root))
    return create


def label_function(export: Export, card: Card) -> Callable[[Image], Labels]:
    """Return a function that computes label maps by head in the file's own runtime."""
    run, heads = export.runner(), head_names(card)
    return lambda image: dict(zip(heads, run(image), strict=False))  # labels come first


def _calibration(dataset: Dataset, exact: Segmenter) -> Images:
    """Return evenly spaced training images."""
    samples, _ = choose_samples(dataset, exact.card, "train" if dataset.splits.get("train") else "val")
    step = max(1, len(samples) // CALIBRATION_IMAGES)

    def images() -> Any:
        for sample in islice(samples[::step], CALIBRATION_IMAGES):
            image: NDArray[Any] = exact.read(dataset.read_image(sample), sample.image.as_posix())
            check_bytes(image, sample)
            yield np.ascontiguousarray(image)

    return images
