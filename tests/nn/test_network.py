"""Every variant on every backbone: sizes, the two halves, rows, heads, sub-pixel alignment."""

from __future__ import annotations

import math
import pickle
from copy import deepcopy
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from fullconv.nn import VARIANTS, Network, build, scores_by_head
from networks import DEEP, DILATED, SKIPS, WIDTHS, linearize, network, random_images, served

SIZES = [(1, 1), (33, 32), (97, 64)]


@pytest.mark.parametrize(("variant", "backbone"), served())
def test_the_logits_have_the_size_of_the_image_and_are_the_two_halves_composed(variant, backbone):
    built = network(variant, backbone)
    assert not built.training
    for height, width in SIZES:
        x = random_images(1, 3, height, width)
        with torch.inference_mode():
            logits, scores = built(x), built.scores(x)
            assert logits.shape == (1, 3, height, width)
            assert logits.isfinite().all()
            assert torch.equal(logits, built.upsample(scores, (height, width)))
            padded = built.padded_size(height, width)
            assert scores.shape[-2:] == tuple(-(-side // built.score_stride) for side in padded)
            if height > 64:  # else all of the above holds for constants, too
                assert logits.std() > 1e-4 * logits.abs().max()
            a, b = height // 3, height // 3 + max(1, height // 4)
            assert torch.equal(built.upsample(scores, (height, width), rows=(a, b)), logits[:, :, a:b])


@pytest.mark.parametrize("variant", ["fcn32s", "fcn8s", "fcn-os8", "torchvision-fcn_resnet50"])
@pytest.mark.parametrize("size", [(40, 53), (7, 300), (129, 3)])
@pytest.mark.parametrize("working", [None, (20, 26), (80, 107), (1, 1)])
def test_rows_are_the_bits_of_the_whole_also_at_another_working_size(variant, size, working):
    built = network(variant, VARIANTS[variant].backbone or "resnet18")
    with torch.inference_mode():
        scores = built.scores(random_images(2, 3, *(working or size)))
        whole = built.upsample(scores, size, None, working)
        assert whole.shape == (2, 3, *size)
        cuts = sorted({0, 1, size[0] // 3, size[0] // 2, size[0] - 1, size[0]})
        for a in cuts:
            for b in cuts:
                if a < b:
                    assert torch.equal(built.upsample(scores, size, (a, b), working), whole[:, :, a:b]), (a, b)


@pytest.mark.parametrize("variant", ["fcn32s", "fcn8s", "fcn-os8", "torchvision-fcn_resnet50", "voc-fcn16s"])
@pytest.mark.parametrize("size", [(1, 1), (40, 53), (129, 3)])
def test_upsampling_is_the_product_of_the_two_matrices(variant, size):
    built = network(variant, "resnet50") if variant != "voc-fcn16s" else build(variant, width=1 / 16, num_classes=3)
    cells = tuple(-(-side // built.score_stride) + 2 for side in size)
    scores = random_images(2, 3, *cells, dtype=torch.float64)
    rows, columns = built.interpolation_matrices(scores, size)
    assert rows.shape == (size[0], cells[0])
    torch.testing.assert_close(rows @ scores @ columns.T, built.upsample(scores, size), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("variant", SKIPS)
def test_logits_are_the_same_with_and_without_gradients(variant):
    built = network(variant, "tiny")
    x = random_images(1, 3, 45, 70)
    with torch.inference_mode():
        without = built(x)
    torch.testing.assert_close(built(x).detach(), without, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", [*SKIPS, *DILATED])
def test_every_parameter_gets_a_gradient(variant):
    built = build(variant, backbone="resnet18", num_classes=3, width=1 / 8)
    built.train()
    built(random_images(2, 3, 65, 64)).square().mean().backward()
    assert [name for name, p in built.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_several_heads_give_a_dict_of_logits_each_with_its_classes():
    built = build("fcn8s", backbone="tiny", num_classes={"semantic": 5, "geometric": 3})
    x = random_images(1, 3, 40, 50)
    with torch.inference_mode():
        logits, scores = built(x), built.scores(x)
        grown = built.upsample(scores, (40, 50), rows=(3, 9))
    assert {name: tuple(value.shape) for name, value in logits.items()} == {
        "semantic": (1, 5, 40, 50), "geometric": (1, 3, 40, 50)
    }  # fmt: skip
    assert all(torch.equal(grown[name], logits[name][:, :, 3:9]) for name in logits)


@pytest.mark.parametrize("backbone", ["resnet18", "vgg16"])
def test_bf16_is_sane_on_a_image_one_score_wide(backbone):
    built = network("fcn8s", backbone)
    x = random_images(1, 3, 600, 20)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        low = built(x).float()
    with torch.inference_mode():
        exact = built(x)
    assert low.isfinite().all()
    assert (low - exact).abs().max() < 0.05 * exact.abs().max()


def test_torchvisions_half_pixel_rule_is_not_the_fixed_one():
    """A mutation that the equality above must notice: at odd sizes the two rules differ."""
    built = network("torchvision-fcn_resnet50", "resnet50")
    scores = built.scores(random_images(1, 3, 65, 41))
    fixed = network("fcn-os8", "resnet50").upsample(scores, (65, 41))
    assert (built.upsample(scores, (65, 41)) - fixed).abs().max() > 1e-3 * scores.abs().max()


NARROW = [("fcn8s", name, {}) for name in WIDTHS]
NARROW += [(variant, name, {}) for variant in ("fcn32s", "fcn4s") for name in WIDTHS if name not in DEEP]
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
    size = (long, 32) if dim == 2 else (32, long)
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
        assert count >= 96 * 32
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
        moved = replace(built.geometry.x, offset=built.geometry.x.offset + Fraction(1, 2))
        built.geometry = replace(built.geometry, x=moved)
    else:
        built.head.grow["16"].phase += Fraction(1, 2)
    error, _ = misplaced(built, 3)
    assert float(error.abs().max()) > 0.5


@pytest.mark.parametrize("variant", ["fcn8s", "fcn-os8", "voc-fcn8s-atonce", "siftflow-fcn8s", "nyud-fcn32s-color-hha"])
def test_a_network_pickles_and_copies_to_the_same_network(variant):
    plain = {"backbone": "resnet18", "num_classes": 3} if variant.startswith("fcn") else {}
    built = build(variant, width=1 / 16, **plain)
    built.activation_bytes(64, 96, 4)
    x = torch.randn(1, built.in_channels, 33, 41)
    with torch.inference_mode():
        expected = scores_by_head(built(x))
        for copy in (pickle.loads(pickle.dumps(built)), deepcopy(built)):
            assert all(torch.equal(logits, expected[head]) for head, logits in scores_by_head(copy(x)).items())
            assert copy.halo == built.halo
