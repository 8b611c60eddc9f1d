"""One operation of a traced graph, as its rule sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from fullconv.geometry.axis import Geometry
from fullconv.geometry.layout import OTHER, Value, broadcast, constant, join, leaves, plain, rebuild


@dataclass
class Call:
    """An operation, its arguments and its result with the example.

    Args:
        name: Of the operation (``"conv2d"``).
        path: Of the module that calls it, by its qualified name.
        kind: That module's class name.
        args: Positional arguments: ``Value`` for tensors, ``Sized`` for numbers that depend on the picture's size.
        kwargs: Keyword arguments, likewise.
        out: What the operation returned with the example; None where nothing was run (``chain``).
        node: Name of the graph node.
    """

    name: str
    path: str
    kind: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    out: Any = None
    node: str = ""

    def arg(self, place: int, name: str, default: Any = None) -> Any:
        """Return an argument by its place or name; ``axis`` is PyTorch's other name for ``dim``."""
        if len(self.args) > place:
            return self.args[place]
        return self.kwargs.get("axis" if name == "dim" and "axis" in self.kwargs else name, default)

    def number(self, place: int, name: str, default: Any = None) -> Any:
        """Return an argument with its numbers plain."""
        return plain(self.arg(place, name, default))

    @property
    def value(self) -> Value:
        """The first tensor among the arguments."""
        return self.values[0]

    @property
    def values(self) -> list[Value]:
        """All tensors among the arguments."""
        return [leaf for leaf in leaves([list(self.args), self.kwargs]) if isinstance(leaf, Value)]

    @property
    def where(self) -> str:
        """The place in words: ``"layer1.0 (add)"``."""
        return f"{self.path} ({self.node or self.name})" if self.path else self.node or self.name

    def say(self, what: str) -> str:
        """Return an entry of the lists: ``"blocks.0.se (SqueezeExcite: global average pooling)"``."""
        return f"{self.path} ({self.kind}: {what})" if self.path else f"{self.kind}: {what}"

    def results(self, value: Value, dims: Sequence[str] | None = None) -> Any:
        """Return the value in the form of the operation's result, with the result's shapes."""
        dims = value.dims if dims is None else tuple(dims)
        if self.out is None:
            return replace(value, dims=dims)

        def shaped(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            fits = dims if len(dims) == leaf.ndim else (OTHER,) * leaf.ndim
            return replace(value, shape=tuple(leaf.shape), dims=fits)

        return rebuild(self.out, shaped)

    def flag(
        self, value: Value, whole: str | None = None, unknown: str | None = None, size_dependent: str | None = None
    ) -> Value:
        """Return a value that names this call in its lists."""
        if value.geometry is None:
            return value
        names = [(self.say(text),) if text else () for text in (whole, unknown, size_dependent)]
        return replace(value, geometry=value.geometry.flagged(*names))

    def merged(self) -> Geometry | None:
        """Return what all tensors among the arguments read together."""
        return join(self.values, self.where)


Rule = Callable[[Call], Any]


def pointwise(call: Call) -> Any:
    """Cell by cell: operands are lined up as PyTorch broadcasts them, and what they read is joined."""
    values = call.values
    if call.out is None:
        return replace(call.value, geometry=call.merged())
    first = next((leaf for leaf in leaves(call.out) if isinstance(leaf, Tensor)), None)
    if first is None:
        return call.out
    dims, clash, embedded = broadcast(values, first.shape)
    grid = next((value.grid for value in values if value.grid), None)
    result = Value(tuple(first.shape), dims, call.merged(), grid)
    if clash:
        result = call.flag(result, unknown=f"{call.name} of rows with columns")
    if embedded:
        result = call.flag(result, size_dependent=f"{call.name} with a map of fixed size")
    return call.results(result, dims)


def unknown(call: Call, what: str | None = None) -> Any:
    """Name an operation nobody described; it may read anything."""
    geometry = call.merged()
    if geometry is None:
        return rebuild(call.out, lambda leaf: constant(leaf) if isinstance(leaf, Tensor) else leaf)
    lead = next(value for value in call.values if value.geometry is not None)
    lead = call.flag(replace(lead, geometry=geometry), unknown=what or f"nobody described {call.name}")
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

    return rebuild(call.out, shaped)
