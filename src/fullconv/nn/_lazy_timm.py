"""timm and torchvision, loaded as far as a network needs them.

Importing timm imports all of its model files and, by way of torchvision, PyTorch's compiler: 2.5 s before a command has done
anything, where one family of encoders is wanted. Here a package stands in ``sys.modules`` without having run its ``__init__``:
its modules can be imported one by one, and whoever asks the package itself for a name gets it whole, at that moment. So nothing
is missing for anybody else in the process, and what is not needed is not loaded.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import re
import sys
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from torch import nn

_PACKAGES = ("torchvision", "torchvision.ops", "torchvision.models", "timm", "timm.models", "timm.data")
_SMALL = {"timm.data": "timm.data.constants"}
"""A module that holds those names of a package that encoders ask for."""
_FAMILIES = {
    r"(wide_)?resnet\d|resnext\d": "resnet",
    r"vgg\d": "vgg",
    r"mobilenetv3_": "mobilenetv3",
    r"efficientnet_b\d": "efficientnet",
    r"convnext_": "convnext",
}
"""Files of timm by how the names of their models begin; others are found by loading all of timm."""
_pending: dict[str, ModuleType] = {}
_lock = threading.RLock()
_state = threading.local()


def _defer(name: str) -> None:
    """Put a package into ``sys.modules`` that runs its ``__init__`` when it is first asked for a name that it does not have."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        raise ImportError(f"{name} is not installed")
    package = importlib.util.module_from_spec(spec)

    def find(wanted: str) -> Any:
        if name in _SMALL:
            small = importlib.import_module(_SMALL[name])
            if hasattr(small, wanted):
                return getattr(small, wanted)
        if getattr(_state, "sparing", False):
            raise ImportError(f"{name} is wanted whole, for {wanted}")
        complete(name)
        return getattr(package, wanted)

    package.__dict__["__getattr__"] = find
    sys.modules[name] = package
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, package)
    _pending[name] = package


def complete(name: str) -> None:
    """Run the ``__init__`` of a deferred package, and before it its parent's, unless they have run or are running."""
    with _lock:
        if (package := _pending.pop(name, None)) is None:
            return
        complete(name.rpartition(".")[0])
        del package.__dict__["__getattr__"]
        spec = package.__spec__
        assert spec is not None
        assert spec.loader is not None  # _defer has seen to both
        spec.loader.exec_module(package)


def defer() -> None:
    """Make `import timm` and `import torchvision` cheap in this process, unless either has been imported already."""
    with _lock:
        if any(name.partition(".")[0] in ("timm", "torchvision") for name in sys.modules):
            return
        for name in _PACKAGES:
            _defer(name)
        sys.modules["timm"].__dict__["__version__"] = importlib.metadata.version("timm")


@contextlib.contextmanager
def _sparing() -> Iterator[None]:
    """Within it, a package that is wanted whole raises ImportError: better to load all from the start than half-way."""
    _state.sparing = True
    try:
        yield
    finally:
        _state.sparing = False


def _forget() -> None:
    """Take timm and torchvision out of ``sys.modules``, to import them anew and whole."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("timm", "torchvision")]:
        del sys.modules[name]
    _pending.clear()


def _load(name: str) -> None:
    """Import the file of timm that holds a model, or all of timm where that is not known."""
    family = next((file for pattern, file in _FAMILIES.items() if re.match(pattern, name)), None)
    with _lock:
        if family is not None:
            fresh = not any(known.partition(".")[0] in ("timm", "torchvision") for known in sys.modules)
            defer()
            try:
                with _sparing():
                    importlib.import_module(f"timm.models.{family}")
                    if importlib.import_module("timm.models._registry").is_model(name):
                        return
            except ImportError:  # another version of timm, built otherwise
                if fresh:
                    _forget()
        importlib.import_module("timm")
        complete("timm")


def is_model(name: str) -> bool:
    """Say whether timm has a model of a name, without a tag."""
    _load(name)
    return bool(importlib.import_module("timm.models._registry").is_model(name))


def all_models() -> list[str]:
    """Return the names of all models of timm."""
    import timm

    return list(timm.list_models())


def create(name: str, **settings: Any) -> nn.Module:
    """Return ``timm.create_model(name, **settings)``."""
    _load(name)
    model: nn.Module = importlib.import_module("timm.models._factory").create_model(name, **settings)
    return model


def pretrained(name: str) -> Any | None:
    """Return what timm knows of a model's published weights (its ``PretrainedCfg``), or None where there are none.

    Raises:
        RuntimeError: The name has a tag that the model does not have.
    """
    _load(name.split(".")[0])
    return importlib.import_module("timm.models._registry").get_pretrained_cfg(name, allow_unregistered=True)
