"""Engines: runtimes that compute scores from images as stored. This door loads no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fullconv._lazy import attach

if TYPE_CHECKING:
    from fullconv.engines._optional import ENGINES, check_installed, cores, import_optional, is_installed, versions
    from fullconv.engines.autotune import AutoEngine, Choice, choose_engine
    from fullconv.engines.engine import Engine, Scores
    from fullconv.engines.exported import exported_engine, is_exported, read_exported, read_layout
    from fullconv.engines.torch import TorchEngine

_PUBLIC = {
    "AutoEngine": "fullconv.engines.autotune",
    "Choice": "fullconv.engines.autotune",
    "ENGINES": "fullconv.engines._optional",
    "Engine": "fullconv.engines.engine",
    "Scores": "fullconv.engines.engine",
    "TorchEngine": "fullconv.engines.torch",
    "check_installed": "fullconv.engines._optional",
    "choose_engine": "fullconv.engines.autotune",
    "cores": "fullconv.engines._optional",
    "exported_engine": "fullconv.engines.exported",
    "import_optional": "fullconv.engines._optional",
    "is_exported": "fullconv.engines.exported",
    "is_installed": "fullconv.engines._optional",
    "read_exported": "fullconv.engines.exported",
    "read_layout": "fullconv.engines.exported",
    "versions": "fullconv.engines._optional",
}

__all__ = [
    "ENGINES",
    "AutoEngine",
    "Choice",
    "Engine",
    "Scores",
    "TorchEngine",
    "check_installed",
    "choose_engine",
    "cores",
    "exported_engine",
    "import_optional",
    "is_exported",
    "is_installed",
    "read_exported",
    "read_layout",
    "versions",
]

__getattr__, __dir__ = attach(__name__, _PUBLIC)
