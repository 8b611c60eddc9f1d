"""Backbones, heads, upsampling, networks, surgery, foreign weights."""

from fullconv.nn.building import build, require_known
from fullconv.nn.custom import WholeNetwork
from fullconv.nn.networks import Network, Scores, map_scores
from fullconv.nn.variants import VARIANTS, Variant

__all__ = ["VARIANTS", "Network", "Scores", "Variant", "WholeNetwork", "build", "map_scores", "require_known"]
