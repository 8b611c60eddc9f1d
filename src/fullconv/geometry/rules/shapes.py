"""Operations that work cell by cell or move dimensions: broadcasts, permutes, reshapes, slices, joins."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from torch import Tensor

from fullconv.geometry.axis import IDENTITY
from fullconv.geometry.length import Length
from fullconv.geometry.value import (
    BOTH,
    OTHER,
    Call,
    SizeDependent,
    TensorInfo,
    X,
    Y,
    as_const,
    common_lengths,
    formula,
    from_size,
    is_size_dependent,
    map_aggregate,
    tree_leaves,
    unknown,
)


def pointwise(call: Call) -> Any:
    """Cell by cell: operands are lined up from the right, as PyTorch broadcasts them, and what they read is joined."""
    if call.out is None:
        return replace(call.input, geometry=call.merged())
    first = next((leaf for leaf in tree_leaves(call.out) if isinstance(leaf, Tensor)), None)
    return call.out if first is None else call.results(_broadcast(call, call.inputs, first.shape))


TRAINING_ARGUMENT = {
    "dropout": (2, "training", True), "dropout1d": (2, "training", True), "dropout2d": (2, "training", True),
    "dropout3d": (2, "training", True), "stochastic_depth": (3, "training", True),
    "alpha_dropout": (2, "training", False), "feature_alpha_dropout": (2, "training", False),
    "feature_dropout": (2, "training", False), "drop_path": (2, "training", False), "rrelu": (3, "training", False),
}  # fmt: skip
"""Of functions that draw random numbers in training: place, name and default of that argument."""


def dropout(call: Call) -> Any:
    """``F.dropout`` and its like: random in training, which is the default of some, else cell by cell."""
    place, name, default = TRAINING_ARGUMENT[call.name]
    active = call.const(place, name, call.const(place, "train", default))
    never = call.name != "rrelu" and call.const(1, "p") == 0
    return random(call) if active and not never else pointwise(call)


def random(call: Call) -> Any:
    """``rand_like`` and its like: a window gets other random numbers than the whole image."""
    found = pointwise(call)
    return call.flag(replace(found, geometry=found.geometry or IDENTITY), unknown_op="random numbers")


def _broadcast(call: Call, infos: Sequence[TensorInfo], shape: Sequence[int]) -> TensorInfo:
    dims, clash, embedded = [], False, False
    for back in range(len(shape), 0, -1):
        here = [info for info in infos if len(info.dims) >= back]
        roles = {info.dims[-back] for info in here} - {OTHER}
        clash |= len(roles) > 1
        dims.append(roles.pop() if len(roles) == 1 else OTHER)
        # a constant that is no single number runs along rows or columns: a position embedding
        embedded |= bool(dims[-1]) and any(info.geometry is None and info.shape[-back] > 1 for info in here)
    grid = next((info.grid for info in infos if info.grid), None)
    result = TensorInfo(tuple(shape), tuple(dims), call.merged(), grid, common_lengths(infos))
    if clash:
        result = call.flag(result, unknown_op=f"{call.name} of rows with columns")
    if embedded:
        result = call.flag(result, size_dependent=f"{call.name} with a map of fixed size")
    return result


def _flat_ints(call: Call, name: str) -> list[int]:
    """Return dimensions given one by one or as one sequence."""
    given = call.args[1:] or (call.kwargs[name],)
    return [int(as_const(n)) for n in tree_leaves(list(given))]


def permute(call: Call) -> Any:
    """``permute``."""
    order = _flat_ints(call, "dims")
    return call.results(call.input, [call.input.dims[i] for i in order])


def swap(call: Call) -> Any:
    """``transpose`` and its aliases; ``t``, ``T`` and ``mT`` swap the last two."""
    dims = list(call.input.dims)
    a, b = call.const(1, "dim0", -1), call.const(2, "dim1", -2)
    if len(dims) > 1:
        dims[a], dims[b] = dims[b], dims[a]
    return call.results(call.input, dims)


def movedim(call: Call) -> Any:
    """``movedim``."""
    n = len(call.input.dims)
    source = [int(i) % n for i in tree_leaves(call.const(1, "source"))]
    target = [int(i) % n for i in tree_leaves(call.const(2, "destination"))]
    rest = iter([role for i, role in enumerate(call.input.dims) if i not in source])
    moved = {t: call.input.dims[s] for s, t in zip(source, target, strict=True)}
    return call.results(call.input, [moved[i] if i in moved else next(rest) for i in range(n)])


def reshape(call: Call) -> Any:
    """``view``, ``reshape``, ``flatten``, ``unflatten``: by the shapes before and after."""
    info = call.input
    if info.geometry is None or not info.spatial:
        return call.results(info, [OTHER] * call.out.ndim if call.out is not None else info.dims)
    if call.out is None:
        flat = (OTHER,) * 2
        return call.results(call.flag(replace(info, dims=flat), global_op="positions become features"))
    given = tree_leaves(list(call.args[1:]))
    fixed = [isinstance(n, int) and n > 0 for n in given] if len(given) == call.out.ndim else [False] * call.out.ndim
    found = _regroup(info, call.out.shape, fixed)
    if isinstance(found, TensorInfo):
        return found
    if found == "flat":
        none = replace(info, dims=(OTHER,) * call.out.ndim)
        return call.results(call.flag(none, global_op="positions become features"))
    return unknown(call, f"{call.name} that cuts up rows and columns")


def _regroup(info: TensorInfo, shape: Sequence[int], fixed: Sequence[bool]) -> TensorInfo | str:
    """Follow rows and columns through a reshape: ``"flat"`` where positions become features, ``"mixed"`` where they are cut up.

    Rows cut into blocks of a ``fixed`` size, one that does not depend on the image's, become blocks, each of which reads
    what its rows read.
    """
    old = [(n, role) for n, role in zip(info.shape, info.dims, strict=True) if n != 1 or role]
    new = [(n, place) for place, n in enumerate(shape) if n != 1]
    dims, grid = [OTHER] * len(shape), info.grid
    if any(n == 1 for n, _ in old):
        same = tuple(info.shape) == tuple(shape)
        return info if same else "mixed"
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
            length = formula(operator.floordiv, info.length(roles[0]), sizes[1])
            info = info.with_axis(roles[0], info.axis(roles[0]).conv(sizes[1], sizes[1]), length)
            dims[places[0][1]] = roles[0]
        else:
            return "flat" if len(places) == 1 else "mixed"
    return replace(info, shape=tuple(shape), dims=tuple(dims), grid=grid)


def squeeze(call: Call) -> Any:
    """``squeeze``: without dimensions, all of size 1."""
    info = call.input
    given = _flat_ints(call, "dim") if len(call.args) > 1 or call.kwargs else range(len(info.dims))
    gone = {i % len(info.dims) for i in given if info.shape[i] == 1}
    if any(info.dims[i] for i in gone):
        info = call.flag(info, size_dependent="squeezes rows or columns away")
    return call.results(info, [role for i, role in enumerate(info.dims) if i not in gone])


def unsqueeze(call: Call) -> Any:
    """``unsqueeze``."""
    dims, place = list(call.input.dims), call.const(1, "dim")
    dims.insert(place % (len(dims) + 1), OTHER)
    return call.results(call.input, dims)


def expand(call: Call) -> Any:
    """``expand``: lined up from the right."""
    missing = call.out.ndim - len(call.input.dims)
    return call.results(call.input, (*[OTHER] * missing, *call.input.dims))


def repeat(call: Call) -> Any:
    """``repeat`` and ``tile``: repeated rows or columns have no rule."""
    old, new = call.input.shape, tuple(call.out.shape)
    padded = (*[1] * (len(new) - len(old)), *old)
    dims = (*[OTHER] * (len(new) - len(old)), *call.input.dims)
    if any(role and a != b for role, a, b in zip(dims, padded, new, strict=True)):
        return unknown(call)
    return call.results(call.input, dims)


def index(call: Call) -> Any:
    """``x[...]``: of a tensor; or an item of a tuple or a shape."""
    target, key = call.args[0], call.args[1]
    if not isinstance(target, TensorInfo):
        return target[as_const(key)]
    keys = list(key) if isinstance(key, tuple) else [key]
    if any(isinstance(k, (TensorInfo, list)) for k in keys):
        return unknown(call, "indexing by a tensor or list") if target.spatial else pointwise(call)
    info, place = target, 0
    dims: list[str] = []
    used = sum(k is not None and k is not Ellipsis for k in keys)
    for k in keys:
        if k is Ellipsis:
            skip = len(target.dims) - used
            dims += target.dims[place : place + skip]
            place += skip
        elif k is None:
            dims.append(OTHER)
        else:
            info = _take(call, info, place, k)
            dims += [target.dims[place]] if isinstance(k, slice) else []
            place += 1
    return call.results(info, [*dims, *target.dims[place:]])


def _take(call: Call, info: TensorInfo, place: int, key: Any) -> TensorInfo:
    """Apply one slice or number to one dimension."""
    role = info.dims[place]
    if role == OTHER or info.geometry is None:
        return call.sized(info) if is_size_dependent(key) else info
    if not isinstance(key, slice):
        return call.flag(info, unknown_op="picks one row or column")
    if role == BOTH:
        same = as_const((key.start, key.stop, key.step)) in [(None, None, None), (0, None, None), (None, None, 1)]
        return info if same else call.flag(info, unknown_op="slices positions in one row")
    size, before = info.shape[place], info.length(role)
    start, step = as_const(key.start) or 0, as_const(key.step) or 1
    cut, after = _cut_behind(key.stop, before)
    if is_size_dependent((key.start, key.step)) or start < 0 or cut is None:
        info = call.flag(info, size_dependent="depends on the image's size")
        start += size if start < 0 else 0
    length = formula(lambda cells: -(-(cells - start) // step), after)
    return info.trim(role, start, cut or 0).with_axis(role, info.axis(role).crop(start).conv(1, step), length)


def _cut_behind(stop: Any, length: Length | None) -> tuple[Fraction | int | None, Length | None]:
    """Return how many cells a slice cuts off behind in a window within an image, and how many cells are before its end.

    The former is None where this depends on the image's size.
    """
    if stop is None or (isinstance(stop, int) and stop >= sys.maxsize):
        return 0, length
    if isinstance(stop, int):
        shorter = None if length is None else length + stop
        return (-stop, shorter) if stop < 0 else (None, None)
    end = getattr(stop, "length", None)
    if end is None or length is None or not end.slope or end.slope != length.slope or end.role != length.role:
        return None, None
    shorter = replace(end, rest=min(end.rest, length.rest), exact=end.exact and length.exact)
    return length.rest - shorter.rest, shorter


def narrow(call: Call) -> Any:
    """``narrow``: (input, dim, start, length)."""
    place, start, count = call.const(1, "dim") % len(call.input.dims), call.arg(2, "start"), call.arg(3, "length")
    stop = as_const(start) + as_const(count)
    end = from_size(stop, formula(operator.add, start, count)) if is_size_dependent((start, count)) else stop
    return call.results(_take(call, call.input, place, slice(start, end)))


def select(call: Call) -> Any:
    """``select``: (input, dim, index)."""
    place = call.const(1, "dim") % len(call.input.dims)
    info = _take(call, call.input, place, call.arg(2, "index"))
    return call.results(info, [role for i, role in enumerate(info.dims) if i != place])


def divide(call: Call) -> Any:
    """``chunk``, ``split``, ``tensor_split``, ``unbind``: into parts along one dimension."""
    place = call.const(1 if call.name == "unbind" else 2, "dim", 0) % len(call.input.dims)
    if call.input.dims[place]:
        return unknown(call, f"{call.name} of rows or columns")
    dims = list(call.input.dims)
    if call.name == "unbind":
        del dims[place]
    return call.results(call.input, dims)


def concatenate(call: Call) -> Any:
    """``cat`` and ``stack``: maps one behind the other in channels read what both read."""
    parts = [leaf for leaf in tree_leaves(call.arg(0, "tensors")) if isinstance(leaf, TensorInfo)]
    place = call.const(1, "dim", 0)
    if call.name != "stack" and any(part.dims[place] for part in parts):
        return unknown(call, "joins maps along rows or columns")
    result = pointwise(call) if call.out is None else _broadcast(call, parts, parts[0].shape)
    dims = list(result.dims)
    if call.name == "stack":
        dims.insert(place % (len(dims) + 1), OTHER)
    return call.results(result, dims)


def shape(call: Call) -> Any:
    """``x.shape``, ``x.size()``: sizes along rows and columns depend on the image's."""
    sizes, place = call.input.sizes, call.const(1, "dim")
    return sizes if place is None or call.name == "shape" else sizes[place]


def count(call: Call) -> Any:
    """``numel``, ``stride``, ...: numbers that may depend on the image's size."""
    if not is_size_dependent(call.input.sizes):
        return call.out
    return map_aggregate(call.out, lambda leaf: SizeDependent(leaf) if isinstance(leaf, int) else leaf)
