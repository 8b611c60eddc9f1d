"""Proxies of torch.fx that know their value with the example."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, fx
from torch.fx.proxy import Attribute

CONCRETE = {"device", "dtype", "ndim", "is_cuda", "layout", "is_quantized", "is_nested", "is_sparse", "requires_grad"}


class Seen:
    """Ways in which Python can look at a proxy's value: as a number, a truth, a length."""

    tracer: Any
    node: Any

    def _look(self) -> Any:
        return self.tracer.look(self.node)

    def __str__(self) -> str:
        return str(self.tracer.value(self.node))  # as an assertion's message shows it

    def __len__(self) -> int:
        return len(self.tracer.value(self.node))

    def __index__(self) -> int:
        return int(self._look())

    def __int__(self) -> int:
        return int(self._look())

    def __float__(self) -> float:
        return float(self._look())

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
            return SeenAttribute(self, name)  # type: ignore[arg-type]
        return self.tracer.create_proxy("call_function", getattr, (self, name), {})


class SeenProxy(Seen, fx.Proxy):
    """A proxy that knows its value."""


class SeenAttribute(Seen, Attribute):
    """A method of such a proxy, which becomes a node when it is called."""
