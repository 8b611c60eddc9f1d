"""Rules of operations that move dimensions about: permutes, reshapes, slices, joins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from fullconv.geometry.call import Call, pointwise, unknown
from fullconv.geometry.layout import BOTH, OTHER, Sized, Value, leaves, plain, rebuild, regroup, sized


def flat_ints(call: Call, name: str) -> list[int]:
    """Return dimensions given one by one or as one sequence."""
    given = call.args[1:] or (call.kwargs[name],)
    return [int(plain(n)) for n in leaves(list(given))]


def permute(call: Call) -> Any:
    """``permute``."""
    order = flat_ints(call, "dims")
    return call.results(call.value, [call.value.dims[i] for i in order])


def swap(call: Call) -> Any:
    """``transpose`` and its aliases; ``t``, ``T`` and ``mT`` swap the last two."""
    dims = list(call.value.dims)
    a, b = call.number(1, "dim0", -1), call.number(2, "dim1", -2)
    if len(dims) > 1:
        dims[a], dims[b] = dims[b], dims[a]
    return call.results(call.value, dims)


def movedim(call: Call) -> Any:
    """``movedim``."""
    n = len(call.value.dims)
    source = [int(i) % n for i in leaves(call.number(1, "source"))]
    target = [int(i) % n for i in leaves(call.number(2, "destination"))]
    rest = iter([role for i, role in enumerate(call.value.dims) if i not in source])
    moved = {t: call.value.dims[s] for s, t in zip(source, target, strict=True)}
    return call.results(call.value, [moved[i] if i in moved else next(rest) for i in range(n)])


def reshape(call: Call) -> Any:
    """``view``, ``reshape``, ``flatten``, ``unflatten``: by the shapes before and after."""
    value = call.value
    if value.geometry is None or not value.spatial:
        return call.results(value, [OTHER] * call.out.ndim if call.out is not None else value.dims)
    if call.out is None:
        flat = (OTHER,) * 2
        return call.results(call.flag(replace(value, dims=flat), whole="positions become features"))
    given = leaves(list(call.args[1:]))
    fixed = [isinstance(n, int) and n > 0 for n in given] if len(given) == call.out.ndim else [False] * call.out.ndim
    found = regroup(value, call.out.shape, fixed)
    if isinstance(found, Value):
        return found
    if found == "flat":
        none = replace(value, dims=(OTHER,) * call.out.ndim)
        return call.results(call.flag(none, whole="positions become features"))
    return unknown(call, f"{call.name} that cuts up rows and columns")


def squeeze(call: Call) -> Any:
    """``squeeze``: without dimensions, all of size 1."""
    value = call.value
    given = flat_ints(call, "dim") if len(call.args) > 1 or call.kwargs else range(len(value.dims))
    gone = {i % len(value.dims) for i in given if value.shape[i] == 1}
    if any(value.dims[i] for i in gone):
        value = call.flag(value, size_dependent="squeezes rows or columns away")
    return call.results(value, [role for i, role in enumerate(value.dims) if i not in gone])


def unsqueeze(call: Call) -> Any:
    """``unsqueeze``."""
    dims, place = list(call.value.dims), call.number(1, "dim")
    dims.insert(place % (len(dims) + 1), OTHER)
    return call.results(call.value, dims)


def expand(call: Call) -> Any:
    """``expand``: lined up from the right."""
    missing = call.out.ndim - len(call.value.dims)
    return call.results(call.value, (*[OTHER] * missing, *call.value.dims))


def repeat(call: Call) -> Any:
    """``repeat`` and ``tile``: of rows or columns nobody described."""
    old, new = call.value.shape, tuple(call.out.shape)
    padded = (*[1] * (len(new) - len(old)), *old)
    dims = (*[OTHER] * (len(new) - len(old)), *call.value.dims)
    if any(role and a != b for role, a, b in zip(dims, padded, new, strict=True)):
        return unknown(call)
    return call.results(call.value, dims)


def index(call: Call) -> Any:
    """``x[...]``: of a tensor; or an item of a tuple or a shape."""
    target, key = call.args[0], call.args[1]
    if not isinstance(target, Value):
        return target[plain(key)]
    keys = list(key) if isinstance(key, tuple) else [key]
    if any(isinstance(k, (Value, list)) for k in keys):
        return unknown(call, "indexing by a tensor or list") if target.spatial else pointwise(call)
    value, place = target, 0
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
            value = _take(call, value, place, k)
            dims += [target.dims[place]] if isinstance(k, slice) else []
            place += 1
    return call.results(value, [*dims, *target.dims[place:]])


def _take(call: Call, value: Value, place: int, key: Any) -> Value:
    """Apply one slice or number to one dimension."""
    role = value.dims[place]
    if role == OTHER or value.geometry is None:
        return value
    if not isinstance(key, slice):
        return call.flag(value, unknown="picks one row or column")
    start, step = plain(key.start) or 0, plain(key.step) or 1
    if role == BOTH:
        same = start == 0 and step == 1 and plain(key.stop) is None
        return value if same else call.flag(value, unknown="slices positions in one row")
    if sized(key.start) or start < 0:
        value = call.flag(value, size_dependent="depends on the picture's size")
        start += value.shape[place] if start < 0 else 0
    return value.with_axis(role, value.axis(role).crop(start).conv(1, step))


def narrow(call: Call) -> Any:
    """``narrow``: (input, dim, start, length)."""
    place, start = call.number(1, "dim") % len(call.value.dims), call.arg(2, "start")
    return call.results(_take(call, call.value, place, slice(start, None)))


def select(call: Call) -> Any:
    """``select``: (input, dim, index)."""
    place = call.number(1, "dim") % len(call.value.dims)
    value = _take(call, call.value, place, call.arg(2, "index"))
    return call.results(value, [role for i, role in enumerate(value.dims) if i != place])


def divide(call: Call) -> Any:
    """``chunk``, ``split``, ``tensor_split``, ``unbind``: into parts along one dimension."""
    place = call.number(1 if call.name == "unbind" else 2, "dim", 0) % len(call.value.dims)
    if call.value.dims[place]:
        return unknown(call, f"{call.name} of rows or columns")
    dims = list(call.value.dims)
    if call.name == "unbind":
        del dims[place]
    return call.results(call.value, dims)


def concatenate(call: Call) -> Any:
    """``cat`` and ``stack``: maps one behind the other in channels read what both read."""
    parts = [leaf for leaf in leaves(call.arg(0, "tensors")) if isinstance(leaf, Value)]
    place = call.number(1, "dim", 0)
    if call.name != "stack" and any(part.dims[place] for part in parts):
        return unknown(call, "joins maps along rows or columns")
    result = pointwise(replace(call, out=_example(parts))) if call.out is not None else pointwise(call)
    dims = list(result.dims)
    if call.name == "stack":
        dims.insert(place % (len(dims) + 1), OTHER)
    return call.results(result, dims)


def _example(parts: Sequence[Value]) -> Tensor:
    """Return an empty tensor of the first part's shape, on no device."""
    return Tensor().new_empty(parts[0].shape, device="meta")


def shape(call: Call) -> Any:
    """``x.shape``, ``x.size()``: sizes along rows and columns depend on the picture's."""
    value = call.value
    place = call.number(1, "dim")
    sizes = tuple(
        Sized(n) if role and value.geometry is not None else n for n, role in zip(value.shape, value.dims, strict=True)
    )
    return sizes if place is None or call.name == "shape" else sizes[place]


def count(call: Call) -> Any:
    """``numel``, ``stride``, ...: numbers that may depend on the picture's size."""
    if not call.value.spatial:
        return call.out
    return rebuild(call.out, lambda leaf: Sized(leaf) if isinstance(leaf, int) else leaf)
