"""Rules of operations that mix positions or features: reductions, norms, products, attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fullconv.geometry.axis import Geometry
from fullconv.geometry.call import Call, pointwise, unknown
from fullconv.geometry.layout import OTHER, Value, join, leaves

REDUCTIONS = {
    "mean": "global average pooling",
    "sum": "a sum over positions",
    "amax": "global maximum pooling",
    "max": "global maximum pooling",
    "amin": "a minimum over positions",
    "min": "a minimum over positions",
}
DIM_IS_THIRD = {"norm", "normalize", "vector_norm", "linalg_vector_norm", "renorm", "quantile"}
KEEPS_SHAPE = {"softmax", "log_softmax", "softmin", "normalize", "cumsum", "cumprod", "flip", "roll", "sort"}


def reduce(call: Call) -> Any:
    """``mean``, ``max``, ``softmax``, ``normalize``, ...: over rows or columns they see the whole picture."""
    value, place = call.value, 2 if call.name in DIM_IS_THIRD else 1
    if isinstance(call.arg(1, "other"), Value):
        return pointwise(call)  # torch.max(a, b)
    given = call.number(place, "dim", call.kwargs.get("dims", 1 if call.name == "normalize" else None))
    n = len(value.dims)
    over = set(range(n)) if given is None or given == [] else {int(i) % n for i in leaves(given)}
    if any(value.dims[i] for i in over):
        value = call.flag(value, whole=REDUCTIONS.get(call.name, f"{call.name} over positions"))
    if call.name in KEEPS_SHAPE:
        return call.results(value)
    kept = [OTHER if i in over else role for i, role in enumerate(value.dims)]
    first = next((leaf for leaf in leaves(call.out) if hasattr(leaf, "ndim")), None)
    if first is not None and first.ndim != n:
        kept = [role for i, role in enumerate(kept) if i not in over]
    return call.results(value, kept)


def flip_or_roll(call: Call) -> Any:
    """``flip`` (input, dims) and ``roll`` (input, shifts, dims): move cells to other places."""
    given = call.number(2 if call.name == "roll" else 1, "dims")
    value = call.value
    over = range(len(value.dims)) if given is None else [int(i) for i in leaves(given)]
    if any(value.dims[i] for i in over):
        return unknown(call, f"{call.name} of rows or columns")
    return call.results(value)


def layer_norm(call: Call) -> Any:
    """``F.layer_norm`` and ``F.rms_norm``: (input, normalized_shape, ...)."""
    shape = leaves(call.number(1, "normalized_shape"))
    return over_last(call, len(shape), "a norm over positions")


def over_last(call: Call, count: int, what: str) -> Any:
    """Mix the last ``count`` dimensions without changing the shape."""
    value = call.value
    return call.results(call.flag(value, whole=what) if any(value.dims[-count:]) else value)


def group_norm(call: Call) -> Any:
    """Normalise by the mean over all positions; where there are no positions, over features alone."""
    value = call.value
    return call.results(
        call.flag(value, whole=f"{call.name.replace('_', ' ')} over positions") if value.spatial else value
    )


def channelwise(call: Call) -> Any:
    """``F.batch_norm`` in evaluation, ``F.prelu``, ``F.local_response_norm``: cell by cell, weights by channel."""
    value = replace(call.value, geometry=call.merged())
    return call.results(call.flag(value, unknown=f"{call.name} over positions") if any(value.dims[1:2]) else value)


def linear(call: Call) -> Any:
    """``F.linear``: mixes the last dimension."""
    return _mix(call, call.value, call.value.dims, [-1])


def _mix(call: Call, value: Value, dims: Sequence[str], contracted: Sequence[int]) -> Any:
    """Contract dimensions of one value; over positions that sees the whole picture."""
    if any(dims[i] for i in contracted):
        value = call.flag(value, whole="features of all positions are mixed")
    kept = [OTHER if i - len(dims) in contracted else role for i, role in enumerate(dims)]
    return call.results(replace(value, dims=tuple(kept)), kept)


def matmul(call: Call) -> Any:
    """``a @ b``, ``matmul``, ``bmm``: two maps, or a map along positions, make attention."""
    a, b = call.values[:2]
    geometry = _first_of(call, a, b)
    if call.out is None or len(a.dims) < 2 or len(b.dims) < 2:
        return unknown(call)
    lead = [*_lead(a, b, call.out.ndim), a.dims[-2], b.dims[-1]]
    value = Value(tuple(call.out.shape), tuple(lead), geometry, a.grid or b.grid)
    if a.dims[-1] or b.dims[-2] or (a.spatial and b.spatial):
        value = call.flag(value, whole="attention over positions")
    if a.dims[-2] and b.dims[-1]:  # one position against another: it belongs to the first
        value = replace(value, dims=(*lead[:-1], OTHER))
    return value


def _first_of(call: Call, first: Value, *others: Value) -> Geometry | None:
    """Return what a product reads: its positions are those of the first map, the others only bring their names."""
    values = sorted([first, *others], key=lambda value: not value.spatial)
    return join([values[0], *(replace(value, dims=(OTHER,) * len(value.dims)) for value in values[1:])], call.where)


def _lead(a: Value, b: Value, ndim: int) -> list[str]:
    """Return the roles of the batch dimensions."""
    one, other = ([OTHER] * (ndim - len(v.dims)) + list(v.dims[:-2]) for v in (a, b))
    return [x or y for x, y in zip(one, other, strict=True)]


def einsum(call: Call) -> Any:
    """``torch.einsum`` with an equation in letters."""
    equation, operands = call.args[0], call.values
    if not isinstance(equation, str) or "." in equation or "->" not in equation or call.out is None:
        return unknown(call)
    inputs, output = equation.replace(" ", "").split("->")
    roles: dict[str, str] = {}
    for letters, operand in zip(inputs.split(","), operands, strict=True):
        for letter, role in zip(letters, operand.dims, strict=True):
            roles[letter] = roles.get(letter) or role
    grid = next((operand.grid for operand in operands if operand.grid), None)
    geometry = _first_of(call, *operands)
    value = Value(tuple(call.out.shape), tuple(roles[letter] for letter in output), geometry, grid)
    contracted = any(role for letter, role in roles.items() if letter not in output)
    if contracted or sum(operand.spatial for operand in operands) > 1:
        value = call.flag(value, whole="attention over positions")
    return value


def attention(call: Call) -> Any:
    """``F.scaled_dot_product_attention``: (query, key, value, ...)."""
    query, positions = call.values[0], any(value.dims[-2] for value in call.values[:3])
    value = Value(query.shape, (*query.dims[:-1], OTHER), _first_of(call, *call.values), query.grid)
    if positions:
        value = call.flag(value, whole="attention over positions")
    return call.results(value, value.dims)
