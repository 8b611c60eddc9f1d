"""Rules of operations that mix positions or features: reductions, norms, products, attention."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fullconv.geometry.axis import Geometry
from fullconv.geometry.rules.shapes import pointwise
from fullconv.geometry.value import OTHER, Call, TensorInfo, common_lengths, tree_leaves, unknown

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
    """``mean``, ``max``, ``softmax``, ``normalize``, ...: over rows or columns they see the whole image."""
    info, place = call.input, 2 if call.name in DIM_IS_THIRD else 1
    if isinstance(call.arg(1, "other"), TensorInfo):
        return pointwise(call)  # torch.max(a, b)
    given = call.const(place, "dim", call.kwargs.get("dims", 1 if call.name == "normalize" else None))
    if isinstance(given, bool):  # std(unbiased)
        given = call.kwargs.get("dim")
    n = len(info.dims)
    over = set(range(n)) if given is None or tree_leaves(given) == [] else {int(i) % n for i in tree_leaves(given)}
    if any(info.dims[i] for i in over):
        info = call.flag(info, global_op=REDUCTIONS.get(call.name, f"{call.name} over positions"))
    if call.name in KEEPS_SHAPE:
        return call.results(info)
    kept = [OTHER if i in over else role for i, role in enumerate(info.dims)]
    first = next((leaf for leaf in tree_leaves(call.out) if hasattr(leaf, "ndim")), None)
    if first is not None and first.ndim != n:
        kept = [role for i, role in enumerate(kept) if i not in over]
    return call.results(info, kept)


def flip_or_roll(call: Call) -> Any:
    """``flip`` (input, dims) and ``roll`` (input, shifts, dims): move cells to other places."""
    given = call.const(2 if call.name == "roll" else 1, "dims")
    info = call.input
    over = range(len(info.dims)) if given is None else [int(i) for i in tree_leaves(given)]
    if any(info.dims[i] for i in over):
        return unknown(call, f"{call.name} of rows or columns")
    return call.results(info)


def layer_norm(call: Call) -> Any:
    """``F.layer_norm`` and ``F.rms_norm``: (input, normalized_shape, ...)."""
    info, count = call.input, len(tree_leaves(call.const(1, "normalized_shape")))
    return call.results(call.flag(info, global_op="a norm over positions") if any(info.dims[-count:]) else info)


def group_norm(call: Call) -> Any:
    """``F.group_norm``: normalise by the mean over all positions; where there are no positions, over features alone."""
    return call.results(_over_positions(call, call.input, f"{call.name.replace('_', ' ')} over positions"))


def instance_norm(call: Call) -> Any:
    """``F.instance_norm``: cell by cell only with stored statistics."""
    stored = call.arg(1, "running_mean") is not None and not call.arg(5, "use_input_stats", True)
    return channelwise(call) if stored else group_norm(call)


def batch_norm(call: Call) -> Any:
    """``F.batch_norm``: cell by cell only with stored statistics."""
    found = channelwise(call)
    if call.arg(1, "running_mean") is not None and not call.const(5, "training", False):
        return found
    return call.results(_over_positions(call, found, "statistics of this very image"))


def _over_positions(call: Call, info: TensorInfo, what: str) -> TensorInfo:
    return call.flag(info, global_op=what) if info.spatial else info


def channelwise(call: Call) -> Any:
    """``F.prelu``, ``F.local_response_norm``: cell by cell, weights by channel."""
    info = replace(call.input, geometry=call.merged())
    return call.results(call.flag(info, unknown_op=f"{call.name} over positions") if any(info.dims[1:2]) else info)


def linear(call: Call) -> Any:
    """``F.linear``: mixes the last dimension."""
    info = call.input
    if info.dims[-1]:
        info = call.flag(info, global_op="features of all positions are mixed")
    return call.results(info, (*info.dims[:-1], OTHER))


def matmul(call: Call) -> Any:
    """``a @ b``, ``matmul``, ``bmm``: two maps, or a map along positions, make attention."""
    a, b = call.inputs[:2]
    geometry = _first_of(call, a, b)
    if call.out is None or len(a.dims) < 2 or len(b.dims) < 2:
        return unknown(call)
    batch = ([OTHER] * (call.out.ndim - len(info.dims)) + list(info.dims[:-2]) for info in (a, b))
    lead = [*(one or other for one, other in zip(*batch, strict=True)), a.dims[-2], b.dims[-1]]
    info = TensorInfo(tuple(call.out.shape), tuple(lead), geometry, a.grid or b.grid, common_lengths([a, b]))
    if a.dims[-1] or b.dims[-2] or (a.spatial and b.spatial):
        info = call.flag(info, global_op="attention over positions")
    if a.dims[-2] and b.dims[-1]:  # one position against another: it belongs to the first
        info = replace(info, dims=(*lead[:-1], OTHER))
    return info


def _first_of(call: Call, first: TensorInfo, *others: TensorInfo) -> Geometry | None:
    """Return what a product reads: its positions are those of the first map, the others only bring their names."""
    infos = sorted([first, *others], key=lambda info: not info.spatial)
    return call.merged([infos[0], *(replace(info, dims=(OTHER,) * len(info.dims)) for info in infos[1:])])


def einsum(call: Call) -> Any:
    """``torch.einsum`` with an equation in letters."""
    equation, operands = call.args[0], call.inputs
    if not isinstance(equation, str) or "." in equation or "->" not in equation or call.out is None:
        return unknown(call)
    inputs, output = equation.replace(" ", "").split("->")
    roles: dict[str, str] = {}
    for letters, operand in zip(inputs.split(","), operands, strict=True):
        for letter, role in zip(letters, operand.dims, strict=True):
            roles[letter] = roles.get(letter) or role
    grid = next((operand.grid for operand in operands if operand.grid), None)
    geometry = _first_of(call, *operands)
    info = TensorInfo(
        tuple(call.out.shape), tuple(roles[letter] for letter in output), geometry, grid, common_lengths(operands)
    )
    contracted = any(role for letter, role in roles.items() if letter not in output)
    if contracted or sum(operand.spatial for operand in operands) > 1:
        info = call.flag(info, global_op="attention over positions")
    return info


def attention(call: Call) -> Any:
    """``F.scaled_dot_product_attention``: (query, key, info, ...)."""
    query, positions = call.inputs[0], any(info.dims[-2] for info in call.inputs[:3])
    info = TensorInfo(query.shape, (*query.dims[:-1], OTHER), _first_of(call, *call.inputs), query.grid, query.lengths)
    if positions:
        info = call.flag(info, global_op="attention over positions")
    return call.results(info, info.dims)


def multihead_attention(call: Call) -> Any:
    """``nn.MultiheadAttention``."""
    info = replace(call.input, geometry=call.merged())
    return call.results(call.flag(info, global_op="attention over positions"))
