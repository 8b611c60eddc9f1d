"""What a traced graph knows of a tensor and of a call: which dimensions are rows and columns, and what they read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from torch import Tensor, fx

from fullconv.geometry.axis import IDENTITY, Axis, Geometry, merge
from fullconv.geometry.length import Length, NoFormulaError

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
    lengths: tuple[Length | None, Length | None] = field(default=(None, None), compare=False)
    """Numbers of rows and columns as formulas of the image's size, where there is one."""
    trimmed: tuple[Fraction, Fraction, Fraction, Fraction] = (Fraction(0),) * 4
    """Pixels that this very operation cuts off: rows before and behind, columns before and behind."""

    @classmethod
    def constant(cls, tensor: Tensor) -> TensorInfo:
        """Describe a weight or constant."""
        return cls(tuple(tensor.shape), (OTHER,) * tensor.ndim, None)

    @property
    def spatial(self) -> bool:
        """Whether any dimension runs over positions."""
        return any(self.dims)

    @property
    def sizes(self) -> tuple[Any, ...]:
        """The shape, with the numbers that depend on the image; behind an unknown operation (``nonzero``) all may."""
        if self.geometry is None:
            return self.shape
        unknown_ops = bool(self.geometry.unknown_ops)
        return tuple(
            from_size(n, self.length(role) if role in (Y, X) else None) if role or unknown_ops else n
            for n, role in zip(self.shape, self.dims, strict=True)
        )

    def known(self) -> Geometry:
        """Return the geometry of a tensor that has one."""
        assert self.geometry is not None
        return self.geometry

    def axis(self, role: str) -> Axis:
        """Return the axis of the rows (``Y``) or columns (``X``)."""
        return self.known().y if role == Y else self.known().x

    def length(self, role: str) -> Length | None:
        """Return the number of rows (``Y``) or columns (``X``) as a formula of the image's size."""
        return self.lengths[role == X]

    def with_axis(self, role: str, axis: Axis, length: Length | None = None) -> TensorInfo:
        """Return this tensor with another axis and its length."""
        known, (rows, columns) = self.known(), self.lengths
        if role == Y:
            return replace(self, geometry=replace(known, y=axis), lengths=(length, columns))
        return replace(self, geometry=replace(known, x=axis), lengths=(rows, length))

    def trim(self, role: str, before: Fraction | int, after: Fraction | int) -> TensorInfo:
        """Note the cells that are cut off, which a window within an image lacks, too."""
        jump, zero = self.axis(role).jump, Fraction(0)
        cut = max(zero, before * jump), max(zero, after * jump)
        return replace(self, trimmed=(*cut, *self.trimmed[2:]) if role == Y else (*self.trimmed[:2], *cut))


@dataclass(frozen=True)
class SizeDependent:
    """A number that was computed from the image's size, and is not the same for all images."""

    number: Any
    """With the example."""
    length: Length | None = field(default=None, compare=False)
    """Its formula, where there is one."""


def from_size(number: Any, length: Any) -> Any:
    """Return a number computed from the image's size: as it is where it is the same for all images."""
    if not isinstance(length, Length):
        return SizeDependent(number) if length is None else number
    return SizeDependent(number, length) if length.constant() is None else number


def as_length(value: Any) -> Any:
    """Return a number's formula, or a plain number as it is.

    Raises:
        NoFormulaError: It is computed from the image's size and has no formula.
    """
    if not isinstance(value, SizeDependent):
        return value
    if value.length is None:
        raise NoFormulaError
    return value.length


def formula(compute: Callable[..., Any], *args: Any) -> Any:
    """Return what a function gives for formulas; None where that is no formula, or not the same for all images."""
    try:
        return compute(*map_aggregate(args, as_length))
    except Exception:  # whatever the function raises for what is no number
        return None


def as_const(value: Any) -> Any:
    """Return an argument with size-dependent numbers as plain ones."""
    return map_aggregate(value, lambda leaf: leaf.number if isinstance(leaf, SizeDependent) else leaf)


def tree_leaves(value: Any) -> list[Any]:
    """List what an argument holds, through tuples, lists, dicts and slices."""
    found: list[Any] = []
    map_aggregate(value, found.append)
    return found


def common_lengths(infos: Sequence[TensorInfo]) -> tuple[Length | None, Length | None]:
    """Return the rows and columns of maps that meet, whose sizes are equal: those of the first with a formula."""
    rows, columns = (
        [info.length(role) for info in infos if role in info.dims and info.length(role) is not None] for role in (Y, X)
    )
    return rows[0] if rows else None, columns[0] if columns else None


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

    def sized(self, info: TensorInfo) -> TensorInfo:
        """Return a tensor that names this call as one that computes with the image's size."""
        geometry = IDENTITY if info.geometry is None else info.geometry
        return self.flag(replace(info, geometry=geometry), size_dependent="depends on the image's size")

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
