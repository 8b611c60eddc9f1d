"""Backbones, heads, upsampling, networks, surgery, foreign weights."""

from fullconv.nn.build import build, check_build_args
from fullconv.nn.network import Network, Scores, tree_map
from fullconv.nn.registry import VARIANTS, Variant
from fullconv.nn.wrapper import ModuleWrapper

__all__ = ["VARIANTS", "ModuleWrapper", "Network", "Scores", "Variant", "build", "check_build_args", "tree_map"]
