"""What turns pictures as stored into scores: one narrow seam, several runtimes."""

from fullconv.engines.autotune import AutoEngine, choose_engine
from fullconv.engines.engine import Engine
from fullconv.engines.torch import TorchEngine

__all__ = ["AutoEngine", "Engine", "TorchEngine", "choose_engine"]
