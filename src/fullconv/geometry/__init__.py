"""Where the cells of a network's maps lie in the image, which pixels they read, and what follows from that.

Coordinates are pixels of the input; pixel i has its centre at i. All numbers are exact fractions. ``Axis`` is the algebra
of one axis; ``chain`` and ``trace_network`` apply it to layers and networks; ``crop_between`` and ``halo`` draw the
conclusions. A module may describe itself: see `fullconv.geometry.rules`.

Source: Long et al., CVPR 2015; Caffe's ``coord_map``.
"""

from typing import TYPE_CHECKING

from fullconv._lazy import attach
from fullconv.geometry.axis import IDENTITY, Axis, Geometry, crop_between, halo, merge

if TYPE_CHECKING:
    from fullconv.geometry.graph import (
        EXAMPLE_SIZE,
        NetworkTrace,
        chain,
        operation,
        trace,
        trace_graph,
        trace_network,
        traced_geometry,
    )
    from fullconv.geometry.rules import WindowSpec, per_dim
    from fullconv.geometry.tracer import LayerGeometry, shared
    from fullconv.geometry.value import OTHER, TensorInfo, X, Y, map_aggregate, tree_leaves

__all__ = [
    "EXAMPLE_SIZE",
    "IDENTITY",
    "OTHER",
    "Axis",
    "Geometry",
    "LayerGeometry",
    "NetworkTrace",
    "TensorInfo",
    "WindowSpec",
    "X",
    "Y",
    "chain",
    "crop_between",
    "halo",
    "map_aggregate",
    "merge",
    "operation",
    "per_dim",
    "shared",
    "trace",
    "trace_graph",
    "trace_network",
    "traced_geometry",
    "tree_leaves",
]

if not TYPE_CHECKING:  # else every name would exist for type checkers
    __getattr__, _ = attach(
        __name__,
        dict.fromkeys(
            (
                "EXAMPLE_SIZE",
                "NetworkTrace",
                "chain",
                "operation",
                "trace",
                "trace_graph",
                "trace_network",
                "traced_geometry",
            ),
            "fullconv.geometry.graph",
        )
        | dict.fromkeys(("WindowSpec", "per_dim"), "fullconv.geometry.rules")
        | dict.fromkeys(("LayerGeometry", "shared"), "fullconv.geometry.tracer")
        | dict.fromkeys(("OTHER", "TensorInfo", "X", "Y", "map_aggregate", "tree_leaves"), "fullconv.geometry.value"),
    )
