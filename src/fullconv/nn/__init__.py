"""Backbones, heads, upsampling, networks, surgery, foreign weights."""

from fullconv.nn.custom import WholeNetwork
from fullconv.nn.networks import VARIANTS, Network, Scores, Variant, build, map_scores

__all__ = ["VARIANTS", "Network", "Scores", "Variant", "WholeNetwork", "build", "map_scores"]
