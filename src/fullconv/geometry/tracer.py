"""A tracer of torch.fx that runs every node on an example and describes its geometry at once.

Symbolic tracing alone stops at ``if x.shape[-1] % 2`` and at ``assert x.ndim == 4``. Here every proxy knows its value with
the example, so both continue; a decision that depends on the image's size is named in all that follows.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import reduce
from operator import methodcaller
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import Attribute, Scope, ScopeContextManager

from fullconv.errors import NetworkError, first_line
from fullconv.geometry.axis import IDENTITY, Geometry
from fullconv.geometry.length import Length, Sizes
from fullconv.geometry.rules import apply, describe_layer, is_described, leaks_data, name_of
from fullconv.geometry.value import (
    OTHER,
    Call,
    TensorInfo,
    X,
    Y,
    formula,
    from_size,
    is_size_dependent,
    map_aggregate,
    tree_leaves,
    unknown,
)

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
IN_PLACE = ["iadd", "isub", "imul", "itruediv", "ifloordiv", "ipow", "imod", "imatmul", "iand", "ior", "ixor"]
VIEWS = [
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
]
CONCRETE = ["device", "dtype", "ndim", "is_cuda", "layout", "is_quantized", "is_nested", "is_sparse", "requires_grad"]
"""Attributes of a tensor that do not depend on the image."""

NOTHING = (Fraction(0),) * 4

_readers_changed = threading.Condition()
_readers = 0
_writer = threading.RLock()


@contextmanager
def shared() -> Iterator[None]:
    """Let a network compute: several threads may at a time, but not while one traces."""
    global _readers
    with _writer, _readers_changed:
        _readers += 1
    try:
        yield
    finally:
        with _readers_changed:
            _readers -= 1
            _readers_changed.notify_all()


@contextmanager
def exclusive() -> Iterator[None]:
    """Trace while no network computes: torch.fx patches how every module is called, in all threads."""
    with _writer:
        with _readers_changed:
            _readers_changed.wait_for(lambda: _readers == 0)
        yield


class _Concrete:
    """What Python asks of a proxy's value: a number, a truth value, a length."""

    tracer: Any
    node: Any

    def __str__(self) -> str:
        return str(self.tracer.value(self.node))  # as an assertion's message shows it

    def __len__(self) -> int:
        return int(self.tracer.count(self.node))

    def __index__(self) -> int:
        return int(self.tracer.concretize(self.node))

    __int__ = __index__

    def __float__(self) -> float:
        return float(self.tracer.concretize(self.node))

    def __ceil__(self) -> Any:
        return self.tracer.create_proxy("call_function", math.ceil, (self,), {})

    def __round__(self, digits: int | None = None) -> Any:
        return self.tracer.create_proxy("call_function", round, (self, digits), {})

    def __floor__(self) -> Any:
        return self.tracer.create_proxy("call_function", math.floor, (self,), {})

    def __getattr__(self, name: str) -> Any:
        value = self.tracer.value(self.node)
        found = getattr(value, name)  # raises AttributeError as the value itself would
        if name in CONCRETE and isinstance(value, Tensor):
            return found
        if callable(found):
            return ConcreteAttribute(self, name)  # type: ignore[arg-type]
        return self.tracer.create_proxy("call_function", getattr, (self, name), {})


class ConcreteProxy(_Concrete, fx.Proxy):
    """A proxy that knows its value."""


class ConcreteAttribute(_Concrete, Attribute):
    """A method of such a proxy, which becomes a node when it is called."""


@dataclass(frozen=True)
class LayerGeometry:
    """One row of the layer table."""

    name: str
    """Of the node in the graph."""
    path: str
    """Qualified name of the module that computes it; empty at the top."""
    op: str
    """The layer's class or the operation's name."""
    shape: tuple[int, ...]
    """With the example."""
    geometry: Geometry


class Tracer(fx.Tracer):
    """Records what a network does with an example (N, C, H, W), and the geometry of every value.

    Each node's ``meta`` holds its ``value`` with the example, its ``info`` (a `TensorInfo` for each tensor), and of a map its
    row of the layer table as ``layer``. Modules with a path in ``opaque`` cannot be traced through, for the reason there.
    """

    def __init__(self, example: Tensor, opaque: Mapping[str, str], multiple: int = 1) -> None:
        super().__init__()
        self.example, self.opaque, self.sizes = example, opaque, Sizes(multiple, multiple)
        self.trimmed = [Fraction(0)] * 4
        self.failed: str | None = None
        self.layers: list[LayerGeometry] = []
        self._running = False
        self._weights: dict[int, str] = {}
        # branches taken because of the image's size and of its contents: path of the module, label
        self._shape_dependent: list[tuple[str, str]] = []
        self._data_dependent: list[tuple[str, str]] = []

    def value(self, node: fx.Node) -> Any:
        """Return what a node computed."""
        if "value" not in node.meta:  # a weight or constant
            name = str(node.target)
            value = node.meta["value"] = node.meta["info"] = _attribute(self.root, name)
            if isinstance(value, Tensor):
                info = TensorInfo.constant(value)
                if self.opaque and name.startswith("_tensor_constant"):  # perhaps computed by an opaque module
                    info = replace(info, geometry=IDENTITY.flagged(unknown_ops=["a tensor of unknown origin"]))
                node.meta["info"] = info
        return node.meta["value"]

    def info(self, node: Any) -> Any:
        """Return how a node's value is described; other arguments as they are."""
        if not isinstance(node, fx.Node):
            return node
        self.value(node)
        return node.meta["info"]

    def concretize(self, node: fx.Node) -> Any:
        """Return a node's value to Python, which may now decide by it."""
        value, info = self.value(node), self.info(node)
        if isinstance(value, Tensor) and isinstance(info, TensorInfo) and info.geometry is not None:
            self._data_dependent.append((self.scope.module_path, self._label("a decision by the image's contents")))
        elif is_size_dependent(info):
            self._shape_dependent.append((self.scope.module_path, self._label("depends on the image's size")))
        return value

    def count(self, node: fx.Node) -> int:
        """Return a value's length to Python, which may now decide by it."""
        value, info = self.value(node), self.info(node)
        if isinstance(info, TensorInfo) and is_size_dependent(info.sizes[:1]):
            self._shape_dependent.append((self.scope.module_path, self._label("depends on the image's size")))
        return len(value)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Take the branch that the example takes."""
        return bool(self.concretize(obj.node))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """Go through a tuple, a shape or the first dimension of a tensor."""
        proxy: Any = obj
        return iter([proxy[i] for i in range(len(self.value(obj.node)))])

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Wrap a node."""
        return ConcreteProxy(node, self)

    def create_arg(self, a: Any) -> Any:
        """Keep torch's own types as they are."""
        return a if isinstance(a, (torch.Generator, type)) else super().create_arg(a)

    def path_of_module(self, mod: nn.Module) -> str:
        """Return a module's path, also of one that the network added or only used while it was traced."""
        if mod not in (self.submodule_paths or {}):
            paths = {module: path for path, module in self.root.named_modules()}
            if mod not in paths:  # ``nn.Softmax(1)(x)``
                paths[mod] = f"made_{len(list(self.root.children()))}"
                self.root.add_module(paths[mod], mod)
            self.submodule_paths, self._weights = paths, {}
        return super().path_of_module(mod)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is described as a whole."""
        if is_described(m) or module_qualified_name in self.opaque:
            return True
        return type(m).__module__.startswith("torch.nn.modules") and not isinstance(m, CONTAINERS)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Record weights and buffers that a module uses while it is traced through."""
        if self._running or not isinstance(attr_val, Tensor):
            return attr_val
        if not self._weights:
            named = [*self.root.named_parameters(), *self.root.named_buffers()]
            self._weights = {id(tensor): name for name, tensor in named}
        name = self._weights.get(id(attr_val))
        if name is None:
            return attr_val
        if name not in parameter_proxy_cache:
            parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {})
        return parameter_proxy_cache[name]

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Trace through a module or record it; remember the innermost one that fails."""
        inputs = [leaf for leaf in tree_leaves([list(args), kwargs]) if isinstance(leaf, fx.Proxy)]
        if self._running or not inputs:
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        leaf_module = self.is_leaf_module(m, path)
        try:
            if leaf_module:  # torch.fx runs the hooks of others
                args, kwargs = self._before_forward(m, args, kwargs)
            out = super().call_module(m, forward, args, kwargs)
            if leaf_module:
                out = self._after_forward(m, args, kwargs, out)
        except NetworkError:
            raise
        except Exception:
            self.failed = self.failed or path
            raise
        # A module may return one of several values from before its decisions, so these are named in what it returns.
        flags = [
            [label for place, label in decisions if place == path]
            for decisions in (self._data_dependent, self._shape_dependent)
        ]
        for leaf in tree_leaves(out) if any(flags) else ():
            if isinstance(leaf, fx.Proxy):
                leaf.node.meta["info"] = map_aggregate(self.info(leaf.node), lambda info: _flagged(info, *flags))
        for proxy in inputs:  # the caller of a module holds its inputs until the module returns
            proxy.node.meta["held_until"] = next(iter(reversed(self.graph.nodes)))
        return out

    def _before_forward(self, m: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Run the hooks of a layer that change what it is given."""
        with self._real(), self._within(m):
            for key, hook in m._forward_pre_hooks.items():
                if key in m._forward_pre_hooks_with_kwargs:
                    changed = hook(m, args, kwargs)
                    args, kwargs = (args, kwargs) if changed is None else changed
                elif (changed := hook(m, args)) is not None:
                    args = changed if isinstance(changed, tuple) else (changed,)
        return args, kwargs

    def _after_forward(self, m: nn.Module, args: Any, kwargs: Any, out: Any) -> Any:
        """Run the hooks of a layer that read or change what it gives, such as those that keep timm's features."""
        with self._real(), self._within(m):
            for key, hook in m._forward_hooks.items():
                both = key in m._forward_hooks_with_kwargs
                changed = hook(m, args, kwargs, out) if both else hook(m, args, out)
                out = out if changed is None else changed
        return out

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **options: Any) -> Any:
        """Record a node, run it on the example and describe its result."""
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **options)
        node = proxy.node
        if kind == "placeholder":
            node.meta["value"] = self.example
            dims = (*[OTHER] * (self.example.ndim - 2), Y, X)
            lengths = Length.image(Y, self.sizes), Length.image(X, self.sizes)
            node.meta["info"] = TensorInfo(tuple(self.example.shape), dims, IDENTITY, lengths=lengths)
        else:
            with self._real():
                node.meta["value"] = self._run(node)
                node.meta["info"] = self._describe(node)
        info = node.meta["info"]
        if isinstance(info, TensorInfo) and info.geometry is not None:
            path, module_type = self._place()
            op = {"placeholder": "input", "call_module": module_type}.get(node.op, name_of(node.target))
            row = LayerGeometry(node.name.removeprefix("root_"), path, op, info.shape, info.geometry)
            node.meta["layer"] = row
            self.layers.append(row)
        return proxy

    def _within(self, m: nn.Module) -> ScopeContextManager:
        """Name what is recorded as a part of a module."""
        return ScopeContextManager(self.scope, Scope(self.path_of_module(m), type(m)))

    @contextmanager
    def _real(self) -> Iterator[None]:
        """Let modules give their weights, not proxies."""
        before, self._running = self._running, True
        try:
            yield
        finally:
            self._running = before

    def _run(self, node: fx.Node) -> Any:
        """Compute a node as PyTorch would."""
        args, kwargs = fx.map_arg((node.args, node.kwargs), self.value)
        try:
            if node.op == "call_module":
                return self.root.get_submodule(str(node.target)).forward(*args, **kwargs)
            if node.op == "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
            if node.op == "get_attr":
                return _attribute(self.root, str(node.target))
            return node.target(*args, **kwargs)  # type: ignore[operator]
        except Exception as error:
            path, module_type = self._place()
            where = f"{path} ({module_type})" if path else module_type
            where = where if node.op == "call_module" else f"{name_of(node.target)} in {where}"
            shape = tuple(self.example.shape)
            raise NetworkError(f"{where} cannot run on an example of shape {shape}: {first_line(error)}") from error

    def _describe(self, node: fx.Node) -> Any:
        """Describe a node's result."""
        args, kwargs = map_aggregate(tuple(node.args), self.info), map_aggregate(dict(node.kwargs), self.info)
        path, module_type = self._place()
        out, name = node.meta["value"], name_of(node.target)
        call = Call(name, path, module_type, args, kwargs, out, node.name.removeprefix("root_"))
        if node.op == "get_attr":
            return map_aggregate(out, lambda leaf: TensorInfo.constant(leaf) if isinstance(leaf, Tensor) else leaf)
        if node.op == "call_module":
            module = self.root.get_submodule(str(node.target))
            call.name = call.module_type = type(module).__name__
            reason = self.opaque.get(str(node.target))
            found = describe_layer(module, call) if reason is None else unknown(call, f"cannot be traced: {reason}")
        elif node.target is getattr:
            call = replace(call, name=str(node.args[1]), args=call.args[:1])
            found = apply(call)
        else:
            found = apply(call)
        self._propagate_inplace(node, call, found)
        if leaks_data(call, found):
            label = self._label(f"numbers from the image ({call.name})")
            self._data_dependent.append((self.scope.module_path, label))
        flags = [label for _, label in self._data_dependent], [label for _, label in self._shape_dependent]
        if not call.inputs and call.name != "getitem" and is_size_dependent([list(call.args), call.kwargs]):
            return self._described_numbers(node, found, call, flags)

        def finished(leaf: Any) -> Any:
            if not isinstance(leaf, TensorInfo):
                return TensorInfo.constant(leaf) if isinstance(leaf, Tensor) else leaf
            self.trimmed = [a + b for a, b in zip(self.trimmed, leaf.trimmed, strict=True)]
            return _flagged(replace(leaf, trimmed=NOTHING), *flags)

        return map_aggregate(found, finished)

    def _described_numbers(self, node: fx.Node, found: Any, call: Call, flags: Any) -> Any:
        """Describe what was computed from numbers of the image's size: by a formula, where there is one."""
        target = node.target
        compute = methodcaller(target, *call.args[1:]) if isinstance(target, str) else target
        given = call.args[:1] if isinstance(target, str) else call.args
        lengths = formula(compute, *given) if not call.kwargs else None
        single = isinstance(found, (bool, int, float))

        def finished(leaf: Any) -> Any:
            if isinstance(leaf, (bool, int, float)):
                return from_size(leaf, lengths if single else None)
            return _flagged(leaf, *flags)

        return map_aggregate(found, finished)

    def _propagate_inplace(self, node: fx.Node, call: Call, found: Any) -> None:
        """Let an operation that works in place change its first argument, and what that is a view of."""
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        in_place = (name.endswith("_") and not name.endswith("__")) or name in IN_PLACE
        written = node.args[0] if node.args else None
        if not (in_place and isinstance(written, fx.Node) and isinstance(found, TensorInfo)):
            return
        before = self.info(written)
        if not isinstance(before, TensorInfo) or found.geometry == before.geometry:
            return
        written.meta["info"] = replace(found, shape=before.shape, dims=before.dims)
        while name_of(written.target) in VIEWS and isinstance(base := written.args[0], fx.Node):
            written, whole = base, self.info(base)
            if isinstance(whole, TensorInfo):
                flagged = replace(found, shape=whole.shape, dims=whole.dims)
                written.meta["info"] = call.flag(flagged, unknown_op="writes into a view")

    def _place(self) -> tuple[str, str]:
        """Return path and class of the module that is running, without the wrapper around the network."""
        path, module_type = self.scope.module_path, self.scope.module_type
        return path.partition(".")[2], module_type.__name__ if module_type is not None else "input"

    def _label(self, what: str) -> str:
        path, module_type = self._place()
        return f"{path} ({module_type}: {what})" if path else f"{module_type}: {what}"


def _flagged(leaf: Any, data_dependent: list[str], shape_dependent: list[str]) -> Any:
    """Name decisions in a tensor's geometry."""
    if not isinstance(leaf, TensorInfo) or leaf.geometry is None:
        return leaf
    return replace(leaf, geometry=leaf.geometry.flagged(unknown_ops=data_dependent, size_dependent=shape_dependent))


def _attribute(root: nn.Module, path: str) -> Any:
    """Return a weight, buffer or constant by its dotted path."""
    return reduce(getattr, path.split("."), root)
