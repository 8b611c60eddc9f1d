"""Backbones, heads, upsampling, networks, surgery, foreign weights."""

from fullconv.nn.build import build, require_known
from fullconv.nn.network import Network, Scores, map_scores
from fullconv.nn.registry import VARIANTS, Variant
from fullconv.nn.wrapper import WholeNetwork

__all__ = ["VARIANTS", "Network", "Scores", "Variant", "WholeNetwork", "build", "map_scores", "require_known"]
