"""Heads of the Caffe release, against their layers written out, and torchvision's."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fullconv
from fullconv.geometry import EXAMPLE_SIZE, trace
from fullconv.losses import PixelLoss, ratio
from fullconv.nn.caffe.backbones import build_caffe_backbone
from fullconv.nn.caffe.convert import to_caffe_state_dict
from fullconv.nn.heads import CaffeSkipHead, final_crop
from fullconv.nn.registry import VARIANTS, CaffeSpec
from fullconv.nn.upsample import bilinear_kernel
from networks import linearize, narrow


def transposed(x, factor, kernel):
    """A transposed convolution of the release: bilinear, one class at a time, no padding."""
    line = bilinear_kernel(factor, factor - 1 if kernel % 2 else factor - 0.5)[-kernel:].float()
    weight = torch.outer(line, line).expand(x.shape[1], 1, kernel, kernel)
    return F.conv_transpose2d(x, weight, stride=factor, groups=x.shape[1])


def cut(x, offset, height, width):
    return x[..., offset : offset + height, offset : offset + width]


@pytest.mark.parametrize(
    ("variant", "inner", "last"),
    [
        ("voc-fcn32s", {}, 19), ("voc-fcn16s", {16: 5}, 27), ("voc-fcn8s", {16: 5, 8: 9}, 31),
        ("voc-fcn8s-atonce", {16: 5, 8: 9}, 31), ("pascalcontext-fcn16s", {16: 5}, 27), ("voc-fcn-alexnet", {}, 18),
    ],
)  # fmt: skip
def test_the_crops_follow_from_the_layers(variant, inner, last):
    network = narrow(variant)
    assert {int(stride): crop.offset for stride, crop in network.head.crop.items()} == inner
    assert final_crop(network.geometry, network.score_stride, VARIANTS[variant].caffe.kernel) == last


def test_a_kernel_that_does_not_go_with_the_backbone_is_an_error():
    network = narrow("voc-fcn-alexnet")
    with pytest.raises(fullconv.FullconvError, match=r"would be off by .*\.5 pixels"):
        final_crop(network.geometry, 32, 64)


@pytest.mark.parametrize("size", [(50, 70), (33, 65), (1, 97)], ids=str)
def test_fcn8s_equals_its_layers_written_out(size):
    network = narrow("voc-fcn8s")
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        maps = network.backbone(x)
        score = {stride: network.head.score[str(stride)](maps[stride]) for stride in (8, 16, 32)}
        upscore2 = transposed(score[32], 2, 4)
        fuse4 = upscore2 + cut(score[16], 5, *upscore2.shape[-2:])
        upscore4 = transposed(fuse4, 2, 4)
        fuse3 = upscore4 + cut(score[8], 9, *upscore4.shape[-2:])
        expected = cut(transposed(fuse3, 8, 16), 31, *size)
        torch.testing.assert_close(network(x), expected, atol=1e-5, rtol=1e-5)


def test_alexnet_equals_its_layers_written_out_with_its_odd_kernel():
    network = narrow("voc-fcn-alexnet")
    x = torch.randn(1, 3, 45, 80)
    with torch.no_grad():
        expected = cut(transposed(network.scores(x), 32, 63), 18, 45, 80)
        torch.testing.assert_close(network(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", ["voc-fcn32s", "voc-fcn8s", "voc-fcn8s-atonce", "siftflow-fcn8s"])
def test_zero_score_layers_give_exactly_zero_and_a_gradient_for_the_scores_alone(variant):
    torch.manual_seed(0)
    network = fullconv.build(variant, width=1 / 16)
    target = torch.randint(0, 3, (1, 40, 50), dtype=torch.uint8)
    target[0, :5] = 255
    logits = network(torch.randn(1, 3, 40, 50))
    heads = logits if isinstance(logits, dict) else {"": logits}
    loss = PixelLoss(reduction="sum")
    total = sum(loss.sums(value, target).numerator for value in heads.values())
    total.backward()
    assert all((value == 0).all() and (value.argmax(1) == 0).all() for value in heads.values())
    expected = sum((target != 255).sum().item() * math.log(value.shape[1]) for value in heads.values())
    assert total.item() == pytest.approx(expected, rel=1e-5)
    for name, parameter in network.named_parameters():
        moved = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert moved == name.startswith("head."), name


def test_an_at_once_net_is_the_staged_net_with_smaller_skip_weights():
    atonce, staged = narrow("voc-fcn8s-atonce", seed=1), narrow("voc-fcn8s", seed=2)
    staged.load_state_dict(atonce.state_dict())
    x = torch.randn(1, 3, 40, 60)
    with torch.no_grad():
        assert not torch.allclose(staged(x), atonce(x), atol=1e-3)
        staged.head.score["16"].weight *= 0.01
        staged.head.score["8"].weight *= 0.0001
        torch.testing.assert_close(staged(x), atonce(x), atol=1e-6, rtol=1e-5)


def test_late_fusion_of_equal_backbones_and_inputs_is_one_of_them():
    network = narrow("nyud-fcn32s-color-hha")
    network.backbone.hha.load_state_dict(network.backbone.color.state_dict())
    network.head.score_hha.load_state_dict(network.head.score_color.state_dict())
    single = narrow("nyud-fcn32s-color", seed=5)
    single.backbone.load_state_dict(network.backbone.color.state_dict())
    single.head.score["32"].load_state_dict(network.head.score_color.state_dict())
    x = torch.randn(1, 3, 40, 50)
    with torch.no_grad():
        torch.testing.assert_close(network(torch.cat([x, x], 1)), single(x))


def coordinates(backbone: nn.Module) -> dict[str, tuple[float, float]]:
    """(scale, shift) of each layer's cells: c' = c / s + (p - (k - 1) d / 2) / s, as Caffe's coord_map composes them."""
    scale, shift, found = 1.0, 0.0, {}
    for name, layer in backbone.layers.items():
        if isinstance(layer, (nn.Conv2d, nn.MaxPool2d)):
            k, s, p, d = (v if isinstance(v, int) else v[0] for v in
                          (layer.kernel_size, layer.stride, layer.padding, layer.dilation))  # fmt: skip
            scale, shift = scale / s, (shift + p - (k - 1) * d / 2) / s
        found[name] = (scale, shift)
    return found


def grown(place: tuple[float, float], kernel: int, factor: int) -> tuple[float, float]:
    """The same through a transposed convolution: c' = s c + (k - 1) / 2."""
    return place[0] * factor, place[1] * factor + (kernel - 1) / 2


@pytest.mark.parametrize(
    ("pad", "dilation", "crops"),
    # 19 | 5, 27 | 5, 9, 31 are the release's. A pixel more of padding shifts the last crop by a pixel and leaves the
    # inner ones; fc6 dilated by 2 reaches 3 cells of stride 32 further.
    [(100, 1, (5, 9, 31)), (97, 1, (5, 9, 28)), (130, 1, (5, 9, 61)), (200, 2, (11, 21, 35))],
)
def test_other_paddings_and_dilations_have_other_crops(pad, dilation, crops):
    backbone = build_caffe_backbone(CaffeSpec("vgg"), 3, (8, 16, 32), 1 / 64)
    backbone.layers["conv1_1"].padding = (pad, pad)
    backbone.layers["fc6"].dilation = (dilation, dilation)
    features = trace(backbone, torch.zeros(1, 3, *EXAMPLE_SIZE))
    head = CaffeSkipHead(features, backbone.channels, 2, {})
    fused = head.grow["8"].trace_geometry(head.grow["16"].trace_geometry(features[32], features[16]), features[8])
    found = head.crop["16"].offset, head.crop["8"].offset, final_crop(fused, 8, 16)
    place = coordinates(backbone)
    at16 = grown(place["fc7"], 4, 2)
    at8 = grown(at16, 4, 2)
    by_coordinates = (place["pool4"][1] - at16[1], place["pool3"][1] - at8[1], grown(at8, 16, 8)[1])
    assert found == by_coordinates == crops


def test_a_padding_for_which_no_crop_is_whole_is_refused():
    backbone = build_caffe_backbone(CaffeSpec("vgg"), 3, (16, 32), 1 / 64)
    backbone.layers["pool5"] = nn.MaxPool2d(3, 2, ceil_mode=True)  # its cells lie half a cell of pool4 further
    with pytest.raises(fullconv.FullconvError, match=r"they are 5\.5 cells of 16 pixels apart, not a whole number"):
        CaffeSkipHead(trace(backbone, torch.zeros(1, 3, *EXAMPLE_SIZE)), backbone.channels, 2, {})


@pytest.mark.parametrize(
    "variant", ["voc-fcn32s", "voc-fcn8s-atonce", "voc-fcn16s", "voc-fcn-alexnet", "voc-fcn-googlenet"]
)
def test_each_path_of_a_published_net_answers_a_ramp_with_the_coordinate(variant):
    network = linearize(narrow(variant, 1 / 64, num_classes=1))
    score = network.head.score
    reach = math.ceil(max(-network.geometry.x.rf_start, network.geometry.x.rf_end)) + 64
    ramp = torch.arange(2 * reach + 96, dtype=torch.float64)
    ones = torch.ones(1, 3, 8, len(ramp), dtype=torch.float64)
    for alone in score:
        for stride, layer in score.items():
            nn.init.constant_(layer.weight, float(stride == alone))
        with torch.inference_mode():
            # Zeros around the image are no pixels of the ramp; what remains of them cancels in the quotient's interior.
            answer = network(ones * ramp) / network(ones)
        error = (answer - ramp)[0, 0, 4, reach:-reach]
        assert float(error.abs().max()) < 1e-4, alone


@pytest.mark.parametrize("variant", ["voc-fcn32s", "voc-fcn16s", "voc-fcn8s", "voc-fcn-alexnet"])
def test_upsampling_is_the_stored_convolution_dense_and_by_class_and_bilinear_inside(variant):
    network = narrow(variant, 1 / 64)
    row = VARIANTS[variant]
    factor, name = row.strides[0], {32: "upscore", 16: "upscore16", 8: "upscore8"}[row.strides[0]]
    dense = to_caffe_state_dict(network)[f"{name}.weight"].double()
    grouped = dense.diagonal(dim1=0, dim2=1).permute(2, 0, 1)[:, None]
    assert torch.equal(grouped, grouped.transpose(-1, -2))
    assert torch.equal(grouped, grouped.flip(-1))
    torch.testing.assert_close(grouped.sum((1, 2, 3)), torch.full((21,), float(factor**2), dtype=torch.float64))
    crop = final_crop(network.geometry, factor, row.caffe.kernel)
    with torch.inference_mode():
        x = torch.randn(1, 3, 70, 41)
        scores, logits = network.scores(x), network(x)
        whole = F.conv_transpose2d(scores.double(), dense, stride=factor)
        by_class = F.conv_transpose2d(scores.double(), grouped, stride=factor, groups=21)
    torch.testing.assert_close(by_class, whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(logits.double(), whole[..., crop : crop + 70, crop : crop + 41], rtol=1e-5, atol=1e-5)


def test_after_repeating_the_border_the_stored_convolution_is_pytorchs_interpolation_everywhere():
    weight = to_caffe_state_dict(narrow("voc-fcn8s", 1 / 64))["upscore8.weight"][:1, :1].double()
    scores = torch.randn(1, 1, 9, 7, dtype=torch.float64)
    expected = F.interpolate(scores, scale_factor=8, mode="bilinear", align_corners=False)
    bare = F.conv_transpose2d(scores, weight, stride=8, padding=4)
    torch.testing.assert_close(bare[..., 4:-4, 4:-4], expected[..., 4:-4, 4:-4], rtol=0, atol=1e-12)
    assert (bare - expected).abs().max() > 0.1  # the release's fading border
    repeated = F.conv_transpose2d(F.pad(scores, (1, 1, 1, 1), mode="replicate"), weight, stride=8, padding=4)
    torch.testing.assert_close(repeated[..., 8:-8, 8:-8], expected, rtol=0, atol=1e-12)


def test_the_scores_fade_at_the_border_as_the_release_does():
    """With 1 in every coarse cell: below 1 in 13, 7 and 10 pixels, 0.609 at the first pixel, 0.371 in the corner."""
    network = narrow("voc-fcn32s", 1 / 64)
    with torch.inference_mode():
        c = [network.scores(torch.zeros(1, 3, n, 1)).shape[-2] for n in (375, 500)]
        ones = network.upsample(torch.ones(1, 21, *c), (375, 500))[0, 0]
    row, column = ones[180], ones[:, 250]
    parts = (row[:250], row[250:], column[:180], column[180:])
    assert [int((part < 1 - 1e-6).sum()) for part in parts] == [13, 7, 13, 10]
    assert float(row[0]) == pytest.approx(0.609, abs=5e-4)
    assert float(ones[0, 0]) == pytest.approx(0.371, abs=5e-4)


def test_fcn16s_begins_as_fcn32s_grown_in_two_steps():
    coarse, fine = narrow("voc-fcn32s"), narrow("voc-fcn16s", seed=1)
    fine.backbone.load_state_dict(coarse.backbone.state_dict())
    fine.head.score["32"].load_state_dict(coarse.head.score["32"].state_dict())
    for parameter in fine.head.score["16"].parameters():
        nn.init.zeros_(parameter)
    height, width = 300, 260
    x = torch.randn(1, 3, height, width)
    with torch.inference_mode():
        c = coarse.scores(x)
        two_steps = fine.upsample(
            fine.head.grow["16"].to_size(c, 2 * c.shape[-2] + 2, 2 * c.shape[-1] + 2), (height, width)
        )
        logits16, logits32 = fine(x), coarse(x)
    assert torch.equal(logits16, two_steps)
    bound = sum(float(bend.abs().max()) / 8 for bend in (
        2 * c[..., 1:-1, :] - c[..., :-2, :] - c[..., 2:, :], 2 * c[..., 1:-1] - c[..., :-2] - c[..., 2:]
    ))  # fmt: skip
    inside = (..., slice(32, -32), slice(32, -32))
    difference = float((logits16 - logits32)[inside].abs().max())
    assert 0 < difference <= bound
    PixelLoss(reduction="sum").sums(fine(x), torch.randint(0, 21, (1, height, width))).numerator.backward()
    assert fine.head.score["16"].weight.grad.abs().sum() > 0


def test_the_backbone_begins_to_learn_at_the_second_step():
    torch.manual_seed(0)
    network = fullconv.build("voc-fcn8s", width=1 / 16)
    x, target = torch.randn(1, 3, 40, 50), torch.randint(0, 21, (1, 40, 50))
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-5)
    moved = []
    for _ in range(2):
        optimizer.zero_grad()
        PixelLoss(reduction="sum").sums(network(x), target).numerator.backward()
        gradient = [p.grad.abs().sum() for n, p in network.named_parameters() if n.startswith("backbone.layers.conv")]
        moved.append(float(torch.stack(gradient).sum()))
        optimizer.step()
    assert moved[0] == 0
    assert moved[1] > 0


def test_both_heads_have_the_size_of_the_image_and_their_losses_add_up():
    network = narrow("siftflow-fcn16s")
    x = torch.randn(1, 3, 37, 51)
    targets = {"semantic": torch.randint(0, 33, (1, 37, 51)), "geometric": torch.randint(0, 3, (1, 37, 51))}
    logits = network(x)
    shapes = {"semantic": (1, 33, 37, 51), "geometric": (1, 3, 37, 51)}
    assert {head: tuple(value.shape) for head, value in logits.items()} == shapes
    loss = PixelLoss(reduction="sum")
    alone = {head: ratio(*loss.sums(logits[head], targets[head])) for head in targets}
    shared = network.backbone.layers["conv1_1"].weight
    each = [torch.autograd.grad(value, shared, retain_graph=True)[0] for value in alone.values()]
    semantic, geometric = (network.head[head].score["32"].weight for head in targets)
    gradients = torch.autograd.grad(alone["geometric"], [semantic, geometric], retain_graph=True, allow_unused=True)
    assert gradients[0] is None
    assert gradients[1].abs().sum() > 0
    both = torch.autograd.grad(sum(alone.values()), shared)[0]
    torch.testing.assert_close(both, each[0] + each[1], rtol=1e-4, atol=1e-4 * float(both.abs().max()))
