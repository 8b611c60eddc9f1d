"""timm's models by name, importing no more of timm than a model needs where the process allows it (cli/startup.py)."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

from torch import nn

FAMILIES = {
    r"(wide_)?resnet\d|resnext\d": "resnet",
    r"vgg\d": "vgg",
    r"mobilenetv3_": "mobilenetv3",
    r"efficientnet_b\d": "efficientnet",
    r"convnext_": "convnext",
}
"""Files of timm by how the names of their models begin; others are found by importing all of timm."""


def _load(name: str) -> None:
    """Import the file of timm that holds a model, or all of timm where that is unknown."""
    family = next((file for pattern, file in FAMILIES.items() if re.match(pattern, name)), None)
    if family is not None:
        try:
            import_module(f"timm.models.{family}")
            if import_module("timm.models._registry").is_model(name):
                return
        except ImportError:  # a version of timm with other files
            pass
    from timm import create_model  # noqa: F401  # a name of the package, so that a lazy one loads all of it


def is_model(name: str) -> bool:
    """Return whether timm has a model of a name, without a tag."""
    _load(name)
    return bool(import_module("timm.models._registry").is_model(name))


def all_models() -> list[str]:
    """Return the names of all models of timm."""
    import timm

    return list(timm.list_models())


def create(name: str, **settings: Any) -> nn.Module:
    """Return ``timm.create_model(name, **settings)``."""
    _load(name)
    model: nn.Module = import_module("timm.models._factory").create_model(name, **settings)
    return model


def pretrained(name: str) -> Any | None:
    """Return timm's ``PretrainedCfg`` of a model, or None where it has no published weights.

    Raises:
        RuntimeError: The name has a tag that the model does not have.
    """
    _load(name.split(".")[0])
    return import_module("timm.models._registry").get_pretrained_cfg(name, allow_unregistered=True)
