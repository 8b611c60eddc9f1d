"""Which layer of a file differs: its activations, compared with those of the model in fp32."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.card import Card
from fullconv.engines import ExportModule, capture
from fullconv.exports.formats import Export, program_values
from fullconv.nn import Network

MAX_ERROR = {"fp32": 1e-3, "fp16": 0.02, "bf16": 0.05, "int8": 0.2}
"""Relative error of a layer's output above which it is reported."""


def find_divergent_layer(export: Export, network: Network, card: Card, image: NDArray[np.uint8], precision: str) -> str:
    """Return a sentence on the first layer whose activations differ, or else on the one that differs most.

    Args:
        export: The file.
        network: The model's.
        card: Its card.
        image: (H, W, C).
        precision: What the file computes in.
    """
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
        return (
            f"No layer stands out; {layers[name]} differs most, by {100 * errors[name]:.2g} % of its activations' norm."
        )
    size = (
        "they are not finite"
        if not np.isfinite(errors[name])
        else f"they differ by {100 * errors[name]:.2g} % of their norm"
    )
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
