"""Operations that work in place, and the views that they write through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import fx

from fullconv.geometry.call import Call
from fullconv.geometry.layout import Value
from fullconv.geometry.rules import name_of

IN_PLACE = {"iadd", "isub", "imul", "itruediv", "ifloordiv", "ipow", "imod", "imatmul", "iand", "ior", "ixor"}
VIEWS = {
    "getitem",
    "view",
    "reshape",
    "flatten",
    "permute",
    "transpose",
    "chunk",
    "split",
    "narrow",
    "select",
    "unbind",
}


def write_back(node: fx.Node, call: Call, found: Any, result: Callable[[fx.Node], Any]) -> None:
    """Let an operation that works in place change its first argument, and what that is a view of.

    Args:
        node: The operation.
        call: The same as its rule saw it.
        found: What the rule said.
        result: Looks up how a node's value is described.
    """
    written = node.args[0] if node.args else None
    if not isinstance(written, fx.Node) or not isinstance(found, Value) or not _in_place(node.target):
        return
    before = result(written)
    if not isinstance(before, Value) or found.geometry == before.geometry:
        return
    written.meta["result"] = replace(found, shape=before.shape, dims=before.dims)
    while name_of(written.target) in VIEWS and isinstance(base := written.args[0], fx.Node):
        written, whole = base, result(base)
        if isinstance(whole, Value):
            flagged = replace(found, shape=whole.shape, dims=whole.dims)
            written.meta["result"] = call.flag(flagged, unknown="writes into a view")


def _in_place(target: Any) -> bool:
    """Whether an operation writes its result into its first argument: ``add_``, ``+=``."""
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    return (name.endswith("_") and not name.endswith("__")) or name in IN_PLACE
