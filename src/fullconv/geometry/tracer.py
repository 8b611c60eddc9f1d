"""A tracer of torch.fx that runs every node on an example and describes its geometry at once.

Symbolic tracing alone stops at ``if x.shape[-1] % 2`` and at ``assert x.ndim == 4``. Here every proxy knows its value
with the example, so both go on; a decision that hangs on the picture's size is named in all that follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from fullconv.errors import NetworkError, first_line
from fullconv.geometry.aliases import write_back
from fullconv.geometry.axis import IDENTITY
from fullconv.geometry.call import Call, unknown
from fullconv.geometry.layout import OTHER, Sized, Value, X, Y, constant, rebuild, sized
from fullconv.geometry.modules import layer, rule_of
from fullconv.geometry.proxies import SeenProxy
from fullconv.geometry.rules import apply, name_of, reveals

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class NodeGeometry:
    """One row of the layer table."""

    name: str
    """Of the node in the graph."""
    path: str
    """Of the module that computes it, by its qualified name; empty at the top."""
    op: str
    """The layer's class or the operation's name."""
    shape: tuple[int, ...]
    """With the example."""
    geometry: Any
    """A ``Geometry``."""


class Tracer(fx.Tracer):
    """Records what a network does with an example, and the geometry of every value.

    Args:
        example: (N, C, H, W).
        opaque: Paths of modules that could not be traced through, and why; they are unknown.
    """

    def __init__(self, example: Tensor, opaque: Mapping[str, str]) -> None:
        super().__init__()
        self.example, self.opaque = example, opaque
        self.failed: str | None = None
        self.rows: list[NodeGeometry] = []
        self._running = False
        self._weights: dict[int, str] = {}
        self._decided: list[tuple[str, str]] = []  # branches taken because of the picture's size
        self._guessed: list[tuple[str, str]] = []  # branches taken because of its contents

    def value(self, node: fx.Node) -> Any:
        """Return what a node computed."""
        if "value" not in node.meta:  # a weight or constant
            node.meta["value"] = found = _attribute(self.root, str(node.target))
            node.meta["result"] = self._loose(str(node.target), found) if isinstance(found, Tensor) else found
        return node.meta["value"]

    def _loose(self, name: str, tensor: Tensor) -> Value:
        """Describe a weight or constant; where modules are opaque, it may have come out of one by a side door."""
        value = constant(tensor)
        if not self.opaque or not name.startswith("_tensor_constant"):
            return value
        return replace(value, geometry=IDENTITY.flagged(unknown=["a tensor of unknown origin"]))

    def result(self, node: fx.Node) -> Any:
        """Return how a node's value is described."""
        self.value(node)
        return node.meta["result"]

    def look(self, node: fx.Node) -> Any:
        """Return a node's value to Python, which may now decide by it."""
        value, result = self.value(node), self.result(node)
        if isinstance(value, Tensor) and isinstance(result, Value) and result.geometry is not None:
            self._guessed.append((self.scope.module_path, self._say("a decision by the picture's contents")))
        elif sized(result):
            self._decided.append((self.scope.module_path, self._say("depends on the picture's size")))
        return value

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Take the branch that the example takes."""
        return bool(self.look(obj.node))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """Go through a tuple, a shape or the first dimension of a tensor."""
        proxy: Any = obj
        return iter([proxy[i] for i in range(len(self.value(obj.node)))])

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Wrap a node."""
        return SeenProxy(node, self)

    def create_arg(self, a: Any) -> Any:
        """Let torch's own types pass as they are."""
        return a if isinstance(a, (torch.Generator, type)) else super().create_arg(a)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is described as a whole."""
        if rule_of(m) is not None or module_qualified_name in self.opaque:
            return True
        return type(m).__module__.startswith("torch.nn.modules") and not isinstance(m, CONTAINERS)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Record weights and buffers that a module touches while it is traced through."""
        name = None if self._running or not isinstance(attr_val, Tensor) else self._names().get(id(attr_val))
        if name is None:
            return attr_val
        if name not in parameter_proxy_cache:
            parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {})
        return parameter_proxy_cache[name]

    def _names(self) -> dict[int, str]:
        """Return the names of weights and buffers."""
        if not self._weights:
            named = [*self.root.named_parameters(), *self.root.named_buffers()]
            self._weights = {id(tensor): name for name, tensor in named}
        return self._weights

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Trace through a module or record it; remember the innermost one that fails."""
        if self._running or not any(isinstance(a, fx.Proxy) for a in _flat([list(args), kwargs])):
            return forward(*args, **kwargs)
        try:
            out = super().call_module(m, forward, args, kwargs)
        except NetworkError:
            raise
        except Exception:
            self.failed = self.failed or self.path_of_module(m)
            raise
        self._returned(m, out)
        for given in _flat([list(args), kwargs]):
            if isinstance(given, fx.Proxy):  # whoever calls a module holds what it gave until the module returns
                given.node.meta["held_until"] = next(iter(reversed(self.graph.nodes)))
        if self.is_leaf_module(m, self.path_of_module(m)):
            for hook in m._forward_hooks.values():  # timm's feature hooks
                changed = hook(m, args, out)
                out = out if changed is None else changed
        return out

    def _returned(self, m: nn.Module, out: Any) -> None:
        """Name a module's decisions in what it returns: it may have chosen between values that were there before."""
        path = self.path_of_module(m)
        decided = [name for place, name in self._decided if place == path]
        guessed = [name for place, name in self._guessed if place == path]
        for leaf in _flat(out) if decided or guessed else ():
            if isinstance(leaf, fx.Proxy):
                described = self.result(leaf.node)
                leaf.node.meta["result"] = rebuild(described, lambda value: _flagged(value, decided, guessed))

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **options: Any) -> Any:
        """Record a node, run it on the example and describe its result."""
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **options)
        node = proxy.node
        if kind == "placeholder":
            value: Any = self.example
            dims = (*[OTHER] * (value.ndim - 2), Y, X)
            result: Any = Value(tuple(value.shape), dims, IDENTITY)
        elif kind == "output":
            value, result = None, rebuild(node.args[0], lambda leaf: self._described(leaf))
        else:
            value, result = self._run(node), None
        node.meta["value"] = value
        node.meta["result"] = self._apply(node) if result is None and kind != "output" else result
        self._note(node)
        return proxy

    def _described(self, leaf: Any) -> Any:
        return self.result(leaf) if isinstance(leaf, fx.Node) else leaf

    def _run(self, node: fx.Node) -> Any:
        """Compute a node as PyTorch would."""
        args, kwargs = fx.map_arg((node.args, node.kwargs), self.value)
        self._running = True
        try:
            if node.op == "call_module":
                return self.root.get_submodule(str(node.target)).forward(*args, **kwargs)
            if node.op == "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
            if node.op == "get_attr":
                return _attribute(self.root, str(node.target))
            return node.target(*args, **kwargs)  # type: ignore[operator]
        except Exception as error:
            path, kind = self._place()
            where = f"{path} ({kind})" if path else kind
            where = where if node.op == "call_module" else f"{name_of(node.target)} in {where}"
            shape = tuple(self.example.shape)
            raise NetworkError(f"{where} cannot run on an example of shape {shape}: {first_line(error)}") from error
        finally:
            self._running = False

    def _apply(self, node: fx.Node) -> Any:
        """Describe a node's result."""
        args = rebuild(tuple(node.args), self._described)
        kwargs = rebuild(dict(node.kwargs), self._described)
        path, kind = self._place()
        call = Call(name_of(node.target), path, kind, args, kwargs, node.meta["value"], node.name.removeprefix("root_"))
        if node.op == "get_attr":
            return rebuild(call.out, lambda leaf: constant(leaf) if isinstance(leaf, Tensor) else leaf)
        if node.op == "call_module":
            module = self.root.get_submodule(str(node.target))
            call.name = call.kind = type(module).__name__
            reason = self.opaque.get(str(node.target))
            found = layer(module, call) if reason is None else unknown(call, f"cannot be traced: {reason}")
        elif node.target is getattr:
            call = replace(call, name=str(node.args[1]), args=args[:1])
            found = apply(call)
        else:
            found = apply(call)
        write_back(node, call, found, self.result)
        if reveals(call, found):
            self._guessed.append((self.scope.module_path, self._say(f"numbers from the picture ({call.name})")))
        if not call.values:
            found = _tainted(found, sized([list(args), kwargs])) if call.name != "getitem" else found
        return rebuild(found, self._hindsight)

    def _hindsight(self, leaf: Any) -> Any:
        """Name in a value the decisions that were taken before it."""
        if isinstance(leaf, Tensor):
            return constant(leaf)
        return _flagged(leaf, [name for _, name in self._decided], [name for _, name in self._guessed])

    def _note(self, node: fx.Node) -> None:
        """Add a row to the layer table for a tensor that depends on the picture."""
        result = node.meta["result"]
        if isinstance(result, Value) and result.geometry is not None:
            path, kind = self._place()
            op = {"placeholder": "input", "call_module": kind}.get(node.op, name_of(node.target))
            row = NodeGeometry(node.name.removeprefix("root_"), path, op, result.shape, result.geometry)
            node.meta["layer"] = row
            self.rows.append(row)

    def _place(self) -> tuple[str, str]:
        """Return the path and class of the module that is running; the wrapper around the root is left out."""
        path, kind = self.scope.module_path, self.scope.module_type
        return path.partition(".")[2], kind.__name__ if kind is not None else "input"

    def _say(self, what: str) -> str:
        path, kind = self._place()
        return f"{path} ({kind}: {what})" if path else f"{kind}: {what}"


def _flagged(leaf: Any, decided: list[str], guessed: list[str]) -> Any:
    """Name decisions in a value."""
    if not isinstance(leaf, Value) or leaf.geometry is None:
        return leaf
    return replace(leaf, geometry=leaf.geometry.flagged(unknown=guessed, size_dependent=decided))


def _tainted(found: Any, by_size: bool) -> Any:
    """Mark numbers that were computed from numbers which depend on the picture's size."""
    if not by_size:
        return found
    return rebuild(found, lambda leaf: Sized(leaf) if isinstance(leaf, (int, float, bool)) else leaf)


def _flat(value: Any) -> list[Any]:
    """List what the arguments of a module hold."""
    if isinstance(value, dict):
        return _flat(list(value.values()))
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in _flat(item)]
    return [value]


def _attribute(root: nn.Module, path: str) -> Any:
    """Return a weight, buffer or constant by its dotted path."""
    found: Any = root
    for part in path.split("."):
        found = getattr(found, part)
    return found
