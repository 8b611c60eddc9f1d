"""Where the cells of a network's maps lie in the picture, which pixels they read, and what follows from that.

Coordinates are pixels of the input; pixel i has its centre at i. All numbers are exact fractions. ``Axis`` is the
algebra of one axis, ``chain`` and ``trace`` apply it to layers and networks, ``crop_between`` and ``halo`` draw the
conclusions.

A module that has a method ``trace_geometry(self, geometry: Geometry) -> Geometry`` is not looked into but asked. One
that takes several tensors gets ``trace_geometry(geometry, *other_geometries)``.

Source: Long et al., CVPR 2015; Caffe's ``coord_map``.
"""

from fullconv.geometry.axis import IDENTITY, Axis, Geometry, crop_between, halo, merge
from fullconv.geometry.graph import EXAMPLE, chain, map_bytes, peak_bytes, trace, trace_graph, trace_nodes
from fullconv.geometry.tracer import NodeGeometry

__all__ = [
    "EXAMPLE",
    "IDENTITY",
    "Axis",
    "Geometry",
    "NodeGeometry",
    "chain",
    "crop_between",
    "halo",
    "map_bytes",
    "merge",
    "peak_bytes",
    "trace",
    "trace_graph",
    "trace_nodes",
]
