"""What turns pictures as stored into scores: one narrow seam, several runtimes."""

from fullconv.engines.choose import AutoEngine, choose_engine
from fullconv.engines.seam import Engine
from fullconv.engines.torch_engine import TorchEngine

__all__ = ["AutoEngine", "Engine", "TorchEngine", "choose_engine"]
