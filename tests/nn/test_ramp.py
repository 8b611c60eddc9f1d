"""Sub-pixel alignment: a network whose layers only average answers a ramp with the coordinate of each pixel."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from fullconv.nn import Network, build
from networks import DILATED, SKIPS, WIDTHS, linearize

NARROW = [(variant, name, {}) for variant in ("fcn32s", "fcn8s", "fcn4s") for name in WIDTHS]
NARROW += [("fcn16s", "tiny", {}), ("fcn16s", "vgg16", {}), ("fcn8s", "vgg16", {"fc": False})]
NARROW += [("fcn8s", "alexnet", {"fc": False}), ("fcn32s", "alexnet", {"fc": False})]
NARROW += [("fcn8s", "vgg16", {"upsampling": "learned"}), ("fcn4s", "resnet18", {"upsampling": "learned"})]
NARROW += [(variant, name, {}) for variant in DILATED for name in ("resnet18", "resnet50", "mobilenetv3_large_100")]


def averaging(variant: str, backbone: str, head: dict) -> Network:
    return linearize(build(variant, backbone=backbone, num_classes=1, width=WIDTHS.get(backbone, 1.0), head=head))


@torch.inference_mode()
def misplaced(built: Network, dim: int) -> tuple[Tensor, int]:
    """How far each interior pixel's answer lies from its own coordinate, in pixels, and how many pixels there are."""
    axis = built.geometry.y if dim == 2 else built.geometry.x
    reach = math.ceil(max(-axis.rf_start, axis.rf_end)) + 64
    long = -(-2 * reach // 32) * 32 + 96
    size = (long, 64) if dim == 2 else (64, long)
    ones = torch.ones(1, 3, *size, dtype=torch.float64)
    coordinate = torch.arange(long, dtype=torch.float64).reshape([-1, 1] if dim == 2 else [1, -1])
    answer = built(ones * coordinate) / built(ones)
    inner = (answer - coordinate)[0, 0].narrow(dim - 2, reach, long - 2 * reach)
    return inner, inner.numel()


@pytest.mark.parametrize(("variant", "backbone", "head"), NARROW, ids=lambda v: str(v) if v else "")
def test_every_pixel_is_answered_from_its_own_place(variant, backbone, head):
    built = averaging(variant, backbone, head)
    for dim in (2, 3):
        error, count = misplaced(built, dim)
        assert count >= 96 * 64
        assert float(error.abs().max()) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("variant", SKIPS[:3])
def test_alexnets_even_fc6_is_answered_from_its_own_place(variant):
    error, _ = misplaced(averaging(variant, "alexnet", {}), 3)
    assert float(error.abs().max()) < 1e-4


@pytest.mark.parametrize("part", ["last", "skip"])
def test_a_phase_that_is_half_a_pixel_wrong_is_noticed(part):
    built = averaging("fcn8s", "resnet18", {})
    if part == "last":
        from dataclasses import replace

        moved = replace(built.geometry.x, offset=built.geometry.x.offset + Fraction(1, 2))
        built.geometry = replace(built.geometry, x=moved)
        wanted = 0.5
    else:
        built.head.grow["16"].phase += Fraction(1, 2)
        wanted = 0.5
    error, _ = misplaced(built, 3)
    assert float(error.abs().max()) > wanted
