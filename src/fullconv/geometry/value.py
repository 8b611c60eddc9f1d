"""What a traced graph knows of a tensor and of a call: which dimensions are rows and columns, and what they read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, fx

from fullconv.geometry.axis import Axis, Geometry, merge

map_aggregate: Callable[[Any, Callable[[Any], Any]], Any] = (
    fx.node.map_aggregate
)  # its own types are narrower than what it does

Y, X, BOTH, OTHER = "y", "x", "yx", ""
"""Roles of dimensions: rows, columns, positions flattened into one dimension, anything else."""


@dataclass(frozen=True)
class TensorInfo:
    """A tensor in a traced graph: its shape, the roles of its dimensions, and what it reads."""

    shape: tuple[int, ...]
    """With the example; empty where nothing was run (``chain``)."""
    dims: tuple[str, ...]
    """The role of each dimension."""
    geometry: Geometry | None
    """None where the tensor does not depend on the image (a weight, a constant)."""
    grid: tuple[int, int] | None = None
    """Rows and columns that a ``BOTH`` dimension holds."""

    @classmethod
    def constant(cls, tensor: Tensor) -> TensorInfo:
        """Describe a weight or constant."""
        return cls(tuple(tensor.shape), (OTHER,) * tensor.ndim, None)

    @property
    def spatial(self) -> bool:
        """Whether any dimension runs over positions."""
        return any(self.dims)

    def known(self) -> Geometry:
        """Return the geometry of a tensor that has one."""
        assert self.geometry is not None
        return self.geometry

    def axis(self, role: str) -> Axis:
        """Return the axis of the rows (``Y``) or columns (``X``)."""
        return self.known().y if role == Y else self.known().x

    def with_axis(self, role: str, axis: Axis) -> TensorInfo:
        """Return this tensor with another axis."""
        known = self.known()
        return replace(self, geometry=replace(known, y=axis) if role == Y else replace(known, x=axis))


@dataclass(frozen=True)
class SizeDependent:
    """A number that was computed from the image's size."""

    number: Any


def as_const(value: Any) -> Any:
    """Return an argument with size-dependent numbers as plain ones."""
    return map_aggregate(value, lambda leaf: leaf.number if isinstance(leaf, SizeDependent) else leaf)


def tree_leaves(value: Any) -> list[Any]:
    """List what an argument holds, through tuples, lists, dicts and slices."""
    found: list[Any] = []
    map_aggregate(value, found.append)
    return found


def is_size_dependent(value: Any) -> bool:
    """Whether an argument holds a number that was computed from the image's size."""
    return any(isinstance(leaf, SizeDependent) for leaf in tree_leaves(value))


@dataclass
class Call:
    """An operation, its arguments, and its result with the example, as a rule sees them.

    Arguments hold ``TensorInfo`` for tensors and ``SizeDependent`` for numbers computed from the image's size; of a layer,
    keywords are the attributes that the function of the same name takes. ``out`` is None where nothing was run (``chain``).
    """

    name: str
    path: str
    module_type: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    out: Any = None
    node: str = ""

    def arg(self, place: int, name: str, default: Any = None) -> Any:
        """Return an argument by its place or name; ``axis`` is PyTorch's other name for ``dim``."""
        if len(self.args) > place:
            return self.args[place]
        return self.kwargs.get("axis" if name == "dim" and "axis" in self.kwargs else name, default)

    def const(self, place: int, name: str, default: Any = None) -> Any:
        """Return an argument with size-dependent numbers as plain ones."""
        return as_const(self.arg(place, name, default))

    @property
    def inputs(self) -> list[TensorInfo]:
        """All tensors among the arguments."""
        return [leaf for leaf in tree_leaves([list(self.args), self.kwargs]) if isinstance(leaf, TensorInfo)]

    @property
    def input(self) -> TensorInfo:
        """The first tensor among the arguments."""
        return self.inputs[0]

    def with_input(self, info: TensorInfo) -> Call:
        """Return the call with its first argument replaced."""
        return replace(self, args=(info, *self.args[1:]))

    def label(self, what: str) -> str:
        """Return an entry of a geometry's lists: ``"blocks.0.se (SqueezeExcite: global average pooling)"``."""
        return f"{self.path} ({self.module_type}: {what})" if self.path else f"{self.module_type}: {what}"

    def flag(
        self,
        info: TensorInfo,
        global_op: str | None = None,
        unknown_op: str | None = None,
        size_dependent: str | None = None,
    ) -> TensorInfo:
        """Return a tensor that names this call in its geometry's lists."""
        if info.geometry is None:
            return info
        names = [(self.label(text),) if text else () for text in (global_op, unknown_op, size_dependent)]
        return replace(info, geometry=info.geometry.flagged(*names))

    def merged(self, infos: Sequence[TensorInfo] | None = None) -> Geometry | None:
        """Return what tensors, by default all inputs, read together: maps meet, gates and vectors only add their names."""
        live = [info for info in (self.inputs if infos is None else infos) if info.geometry is not None]
        if len(live) < 2:
            return live[0].geometry if live else None
        everything = [info.known() for info in live]
        y = [info.known() for info in live if Y in info.dims or BOTH in info.dims]
        x = [info.known() for info in live if X in info.dims or BOTH in info.dims]
        node = self.node or self.name
        location = f"{self.path} ({node})" if self.path else node
        return merge(location, y or everything[:1], x or everything[:1], everything)

    def results(self, info: TensorInfo, dims: Sequence[str] | None = None) -> Any:
        """Return a tensor in the structure of the operation's result, with the result's shapes."""
        dims = info.dims if dims is None else tuple(dims)
        if self.out is None:
            return replace(info, dims=dims)

        def shaped(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            return replace(info, shape=tuple(leaf.shape), dims=dims if len(dims) == leaf.ndim else (OTHER,) * leaf.ndim)

        return map_aggregate(self.out, shaped)


def unknown(call: Call, what: str | None = None) -> Any:
    """Describe an operation without a rule; it may read anything."""
    geometry = call.merged()
    if geometry is None:
        return map_aggregate(call.out, lambda leaf: TensorInfo.constant(leaf) if isinstance(leaf, Tensor) else leaf)
    lead = next(info for info in call.inputs if info.geometry is not None)
    lead = call.flag(replace(lead, geometry=geometry), unknown_op=what or f"no geometry rule for {call.name}")
    if call.out is None:
        return replace(lead, dims=(OTHER,) * len(lead.dims))

    def shaped(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        shape = tuple(leaf.shape)
        # Rows and columns are followed further only where the operation kept their number.
        keeps = len(shape) == len(lead.dims) and all(
            not role or shape[i] == lead.shape[i] for i, role in enumerate(lead.dims)
        )
        return replace(lead, shape=shape, dims=lead.dims if keeps else (OTHER,) * len(shape))

    return map_aggregate(call.out, shaped)
