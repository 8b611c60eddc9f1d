"""Which dimensions of a tensor are rows and columns of the picture, through permutes, reshapes and broadcasts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from fullconv.geometry.axis import Axis, Geometry, merge

Y, X, BOTH, OTHER = "y", "x", "yx", ""


@dataclass(frozen=True)
class Value:
    """A tensor in a traced graph: its shape, what its dimensions mean, and what it reads."""

    shape: tuple[int, ...]
    """Sizes with the example; empty where nothing was run (``chain``)."""
    dims: tuple[str, ...]
    """Per dimension: rows ``"y"``, columns ``"x"``, positions in one row ``"yx"``, anything else ``""``."""
    geometry: Geometry | None
    """None where the tensor does not depend on the picture (a weight, a constant)."""
    grid: tuple[int, int] | None = None
    """Rows and columns that a ``"yx"`` dimension holds."""

    @property
    def spatial(self) -> bool:
        """Whether any dimension runs over positions."""
        return any(self.dims)

    def axis(self, role: str) -> Axis:
        """Return the axis that rows (``"y"``) or columns (``"x"``) run along."""
        return self.known().y if role == Y else self.known().x

    def with_axis(self, role: str, axis: Axis) -> Value:
        """Return this value with another axis."""
        known = self.known()
        return replace(self, geometry=replace(known, y=axis) if role == Y else replace(known, x=axis))

    def known(self) -> Geometry:
        """Return the geometry of a value that has one."""
        assert self.geometry is not None
        return self.geometry


@dataclass(frozen=True)
class Sized:
    """A number that was computed from the picture's size."""

    number: Any


def plain(value: Any) -> Any:
    """Return an argument with the sized numbers as numbers."""
    return rebuild(value, lambda leaf: leaf.number if isinstance(leaf, Sized) else leaf)


def leaves(value: Any) -> list[Any]:
    """List what an argument holds, through tuples, lists, dicts and slices."""
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, (tuple, list)):
        return [leaf for item in value for leaf in leaves(item)]
    if isinstance(value, slice):
        return [value.start, value.stop, value.step]
    return [value]


def rebuild(value: Any, change: Any) -> Any:
    """Return the same structure with every leaf changed; named tuples become tuples."""
    if isinstance(value, dict):
        return {key: rebuild(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [rebuild(item, change) for item in value]
    if isinstance(value, tuple):
        return tuple(rebuild(item, change) for item in value)
    if isinstance(value, slice):
        return slice(change(value.start), change(value.stop), change(value.step))
    return change(value)


def sized(value: Any) -> bool:
    """Whether an argument holds a number that was computed from the picture's size."""
    return any(isinstance(leaf, Sized) for leaf in leaves(value))


def constant(tensor: Tensor) -> Value:
    """Describe a weight or constant."""
    return Value(tuple(tensor.shape), (OTHER,) * tensor.ndim, None)


def join(values: Sequence[Value], where: str) -> Geometry | None:
    """Return what a value made of several reads: maps meet; gates and vectors only bring their names along."""
    live = [value for value in values if value.geometry is not None]
    if not live:
        return None
    geometries = [value.known() for value in live]
    if len(live) == 1:
        return geometries[0]
    y = [value.known() for value in live if Y in value.dims or BOTH in value.dims]
    x = [value.known() for value in live if X in value.dims or BOTH in value.dims]
    return merge(where, y or geometries[:1], x or geometries[:1], geometries)


def broadcast(values: Sequence[Value], shape: Sequence[int]) -> tuple[tuple[str, ...], bool, bool]:
    """Line up the dimensions of operands from the right, as PyTorch does.

    Returns:
        The roles of the result's dimensions; whether two roles clash; whether a constant that is no single number runs
        along rows or columns (a position embedding).
    """
    dims, clash, embedded = [], False, False
    for back in range(len(shape), 0, -1):
        here = [v for v in values if len(v.dims) >= back]
        roles = {v.dims[-back] for v in here} - {OTHER}
        clash |= len(roles) > 1
        dims.append(roles.pop() if len(roles) == 1 else OTHER)
        embedded |= bool(dims[-1]) and any(v.geometry is None and v.shape[-back] > 1 for v in here)
    return tuple(dims), clash, embedded


def regroup(value: Value, shape: Sequence[int], fixed: Sequence[bool]) -> Value | str:
    """Follow rows and columns through a reshape.

    Rows cut into blocks of a fixed size become blocks, each of which reads what its rows read.

    Args:
        value: Before.
        shape: After.
        fixed: Per dimension after: its size does not depend on the picture's.

    Returns:
        The reshaped value, or ``"flat"`` where positions become features, or ``"mixed"`` where they are cut up.
    """
    old = [(n, role) for n, role in zip(value.shape, value.dims, strict=True) if n != 1 or role]
    new = [(n, place) for place, n in enumerate(shape) if n != 1]
    dims, grid = [OTHER] * len(shape), value.grid
    if any(n == 1 for n, _ in old):
        same = tuple(value.shape) == tuple(shape)
        return value if same else "mixed"
    while old:
        block, places = [old.pop(0)], [new.pop(0)]
        while (have := math.prod(n for n, _ in block)) != (want := math.prod(n for n, _ in places)):
            if not (old if have < want else new):
                return "mixed"
            (block.append(old.pop(0)) if have < want else places.append(new.pop(0)))
        roles = [role for _, role in block]
        sizes = tuple(n for n, _ in places)
        if not any(roles):
            continue
        if len(block) == len(places) == 1:
            dims[places[0][1]] = roles[0]
        elif roles == [Y, X] and len(places) == 1:
            dims[places[0][1]], grid = BOTH, (block[0][0], block[1][0])
        elif roles == [BOTH] and sizes == grid:
            dims[places[0][1]], dims[places[1][1]] = Y, X
        elif roles in ([Y], [X]) and len(places) == 2 and fixed[places[1][1]]:
            value = value.with_axis(roles[0], value.axis(roles[0]).conv(sizes[1], sizes[1]))
            dims[places[0][1]] = roles[0]
        else:
            return "flat" if len(places) == 1 else "mixed"
    return replace(value, shape=tuple(shape), dims=tuple(dims), grid=grid)
