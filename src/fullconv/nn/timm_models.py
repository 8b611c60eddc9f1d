"""timm's models by name, by way of the one file of timm that defines them.

In an ordinary process, importing that file imports all of timm, and nothing is gained. The command line makes the packages
lazy (`fullconv.cli.startup`): then it saves 2 s.
"""

from __future__ import annotations

import re
from importlib import import_module
from types import ModuleType
from typing import Any

from torch import nn

FAMILIES = {
    r"(wide_)?resnet\d|resnext\d": "resnet",
    r"vgg\d": "vgg",
    r"mobilenetv3_": "mobilenetv3",
    r"(tf_)?efficientnet_(b|lite)\d": "efficientnet",
    r"convnext_": "convnext",
}
"""Files of timm by how the names of their models begin; for other names all of timm is imported."""


def _family(name: str) -> ModuleType | None:
    """Return the module of timm that defines a model, if it is known."""
    for pattern, file in FAMILIES.items():
        if re.match(pattern, name):
            try:
                module = import_module(f"timm.models.{file}")
            except ImportError:  # a version of timm with other files
                return None
            return module if hasattr(module, name.split(".")[0]) else None
    return None


def is_model(name: str) -> bool:
    """Return whether timm has a model of a name, without a tag."""
    if _family(name) is not None:
        return True
    import timm

    return bool(timm.is_model(name))


def create(name: str, **settings: Any) -> nn.Module:
    """Return ``timm.create_model(name, **settings)``."""
    model: nn.Module
    if (family := _family(name)) is not None:
        plain, _, tag = name.partition(".")
        model = getattr(family, plain)(pretrained_cfg=tag or None, **settings)
    else:
        import timm

        model = timm.create_model(name, **settings)
    return model


def pretrained(name: str) -> tuple[str, Any] | None:
    """Return the tag and timm's ``PretrainedCfg`` of a model's weights, or None if it has no such model or tag."""
    plain, _, tag = name.partition(".")
    family = _family(name)
    if family is None:
        import timm

        try:
            config = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
        except RuntimeError:  # a tag that the model does not have
            return None
        return None if config is None else (config.tag or "", config)
    known = family.default_cfgs.get(plain)
    tag = tag or (known.tags[0] if known and known.tags else "")
    return (tag, known.cfgs[tag]) if known and tag in known.cfgs else None
