"""Backbones, heads, upsampling, networks, pretrained and foreign weights."""

from fullconv.nn.backbones import TESTED, Conv2dSameStatic
from fullconv.nn.build import build, build_meta, build_with_weights, check_build_args, load_model_weights
from fullconv.nn.caffe.convert import ALIASES, convertible, load_foreign
from fullconv.nn.copies import preserved_rng, private_copy
from fullconv.nn.network import Network, Scores, scores_by_head
from fullconv.nn.pretrained import PretrainedCfg, download, pretrained_cfg, pretrained_statistics
from fullconv.nn.registry import VARIANTS, Variant, get_variant
from fullconv.nn.wrapper import ModuleWrapper

__all__ = [
    "ALIASES",
    "TESTED",
    "VARIANTS",
    "Conv2dSameStatic",
    "ModuleWrapper",
    "Network",
    "PretrainedCfg",
    "Scores",
    "Variant",
    "build",
    "build_meta",
    "build_with_weights",
    "check_build_args",
    "convertible",
    "download",
    "get_variant",
    "load_foreign",
    "load_model_weights",
    "preserved_rng",
    "pretrained_cfg",
    "pretrained_statistics",
    "private_copy",
    "scores_by_head",
]
