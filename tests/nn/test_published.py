"""The nets of the Caffe release against what is known of them, and against the layers written out by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fullconv
from fullconv.losses import PixelLoss
from fullconv.nn.heads import final_crop
from fullconv.nn.registry import VARIANTS
from fullconv.nn.upsample import bilinear_kernel

RELEASE = [name for name, row in VARIANTS.items() if row.caffe is not None]
NARROW = 1 / 16


def narrow(variant, seed=0, **settings):
    torch.manual_seed(seed)
    network = fullconv.build(variant, width=NARROW, **settings)
    for module in network.head.modules():
        if isinstance(module, nn.Conv2d):  # score layers start at 0, which would make every comparison hold
            nn.init.normal_(module.weight, std=0.1)
            nn.init.normal_(module.bias, std=0.1)
    return network


def only(logits):
    return next(iter(logits.values())) if isinstance(logits, dict) else logits


def transposed(x, factor, kernel):
    """A transposed convolution of the release: bilinear, one class at a time, no padding."""
    line = bilinear_kernel(factor, factor - 1 if kernel % 2 else factor - 0.5)[-kernel:].float()
    weight = torch.outer(line, line).expand(x.shape[1], 1, kernel, kernel)
    return F.conv_transpose2d(x, weight, stride=factor, groups=x.shape[1])


def cut(x, offset, height, width):
    return x[..., offset : offset + height, offset : offset + width]


@pytest.mark.parametrize("variant", RELEASE)
@pytest.mark.parametrize("size", [(1, 1), (2, 31), (33, 32), (97, 64)], ids=str)
def test_a_published_net_labels_every_pixel_of_every_size(variant, size):
    network = narrow(variant)
    logits = network(torch.randn(2, network.in_channels, *size))
    heads = logits if isinstance(logits, dict) else {"": logits}
    counts = network.num_classes if isinstance(network.num_classes, dict) else {"": network.num_classes}
    assert {head: value.shape for head, value in heads.items()} == {k: (2, n, *size) for k, n in counts.items()}


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


def test_a_kernel_that_does_not_go_with_the_trunk_is_an_error():
    network = narrow("voc-fcn-alexnet")
    with pytest.raises(fullconv.FullconvError, match=r"would be off by .*\.5 pixels"):
        final_crop(network.geometry, 32, 64)


@pytest.mark.parametrize(
    ("variant", "field"),
    [("voc-fcn32s", 404), ("voc-fcn8s", 404), ("voc-fcn-alexnet", 355), ("voc-fcn-googlenet", 715)],
)
def test_the_receptive_field_is_the_papers(variant, field):
    network = narrow(variant)
    assert (network.receptive_field, network.stride) == (field, 32)


@pytest.mark.parametrize("n", [1, 33, 224, 375, 500, 513])
def test_the_maps_have_the_sizes_of_the_release(n):
    network = narrow("voc-fcn8s")
    table = {1: (25, 13, 1), 33: (29, 15, 2), 224: (53, 27, 8), 375: (72, 36, 12), 500: (88, 44, 16), 513: (89, 45, 17)}
    with torch.no_grad():
        maps = network.backbone(torch.randn(1, 3, n, 1))
        assert tuple(maps[stride].shape[-2] for stride in (8, 16, 32)) == table[n]
        assert maps[32].shape[-2] == math.ceil((n + 198) / 32) - 6
        assert network.scores(torch.randn(1, 3, n, 1)).shape[-2] == 4 * table[n][2] + 6


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
        wanted = cut(transposed(fuse3, 8, 16), 31, *size)
        torch.testing.assert_close(network(x), wanted, atol=1e-5, rtol=1e-5)


def test_alexnet_equals_its_layers_written_out_with_its_odd_kernel():
    network = narrow("voc-fcn-alexnet")
    x = torch.randn(1, 3, 45, 80)
    with torch.no_grad():
        wanted = cut(transposed(network.scores(x), 32, 63), 18, 45, 80)
        torch.testing.assert_close(network(x), wanted, atol=1e-5, rtol=1e-5)


def test_pools_round_up_and_the_first_convolution_is_padded_by_100():
    for variant in ("voc-fcn8s", "voc-fcn-alexnet", "voc-fcn-googlenet"):
        trunk = narrow(variant).backbone
        convolution = next(m for m in trunk.modules() if isinstance(m, nn.Conv2d))
        assert convolution.padding == (100, 100)
        assert all(m.ceil_mode for m in trunk.modules() if isinstance(m, nn.MaxPool2d))


@pytest.mark.parametrize("variant", ["voc-fcn32s", "voc-fcn8s", "voc-fcn8s-atonce", "siftflow-fcn8s"])
def test_zero_score_layers_give_exactly_zero_and_a_gradient_for_the_scores_alone(variant):
    torch.manual_seed(0)
    network = fullconv.build(variant, width=NARROW)
    target = torch.randint(0, 3, (1, 40, 50), dtype=torch.uint8)
    target[0, :5] = 255
    logits = network(torch.randn(1, 3, 40, 50))
    heads = logits if isinstance(logits, dict) else {"": logits}
    loss = PixelLoss(reduction="sum")
    total = sum(loss.sums(value, target).numerator for value in heads.values())
    total.backward()
    assert all((value == 0).all() and (value.argmax(1) == 0).all() for value in heads.values())
    wanted = sum((target != 255).sum().item() * math.log(value.shape[1]) for value in heads.values())
    assert total.item() == pytest.approx(wanted, rel=1e-5)
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


def test_late_fusion_of_equal_trunks_and_inputs_is_one_of_them():
    network = narrow("nyud-fcn32s-color-hha")
    network.backbone.hha.load_state_dict(network.backbone.color.state_dict())
    network.head.score_hha.load_state_dict(network.head.score_color.state_dict())
    single = narrow("nyud-fcn32s-color", seed=5)
    single.backbone.load_state_dict(network.backbone.color.state_dict())
    single.head.score["32"].load_state_dict(network.head.score_color.state_dict())
    x = torch.randn(1, 3, 40, 50)
    with torch.no_grad():
        torch.testing.assert_close(network(torch.cat([x, x], 1)), single(x))


def test_two_heads_share_a_trunk_and_keep_their_gradients_apart():
    network = narrow("siftflow-fcn8s")
    logits = network(torch.randn(1, 3, 40, 50))
    PixelLoss().sums(logits["geometric"], torch.zeros(1, 40, 50, dtype=torch.uint8)).numerator.backward()
    assert network.head["semantic"].score["32"].weight.grad is None
    assert network.head["geometric"].score["32"].weight.grad.abs().sum() > 0


def test_dropout_is_element_wise():
    network = narrow("voc-fcn32s")
    kinds = {type(m) for m in network.modules() if "Dropout" in type(m).__name__}
    assert kinds == {nn.Dropout}


def test_a_backbone_beside_a_published_net_is_refused():
    with pytest.raises(fullconv.FullconvError, match="has its own backbone, vgg: omit backbone = resnet18"):
        fullconv.build("voc-fcn8s", backbone="resnet18")


def test_weights_of_torchvisions_googlenet_and_alexnet_are_refused_with_the_reason():
    with pytest.raises(fullconv.FullconvError, match="3x3 where the paper has 5x5 branches"):
        fullconv.build("voc-fcn-googlenet", weights="imagenet")
    with pytest.raises(fullconv.FullconvError, match="no groups and no local response normalization"):
        fullconv.build("voc-fcn-alexnet", weights="imagenet")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "learnable"),
    [
        ("voc-fcn32s", 134_346_581), ("voc-fcn16s", 134_357_354), ("voc-fcn8s", 134_362_751),
        ("voc-fcn8s-atonce", 134_362_751), ("siftflow-fcn32s", 134_408_036), ("siftflow-fcn16s", 134_426_504),
        ("siftflow-fcn8s", 134_435_756), ("nyud-fcn32s-color", 134_424_424), ("nyud-fcn32s-hha", 134_424_424),
        ("nyud-fcn32s-color-d", 134_425_000), ("nyud-fcn32s-color-hha", 268_848_848),
        ("pascalcontext-fcn32s", 134_506_364), ("pascalcontext-fcn16s", 134_537_144),
        ("pascalcontext-fcn8s", 134_552_564), ("voc-fcn-alexnet", 56_954_261),
    ],
)  # fmt: skip
def test_the_parameters_are_as_many_as_published(variant, learnable):
    network = fullconv.build(variant)
    assert sum(p.numel() for p in network.parameters()) == learnable


@pytest.mark.slow
@pytest.mark.parametrize("variant", RELEASE)
def test_tiles_give_the_whole_pictures_logits(variant):
    from fullconv.tiling import plan, tiled_scores

    network = narrow(variant).double()
    torch.manual_seed(3)
    picture = torch.randn(1, 150, 131, network.in_channels, dtype=torch.float64)
    with torch.no_grad():
        whole = only(network.scores(picture.permute(0, 3, 1, 2)))
        tiled = only(
            tiled_scores(lambda x: network.scores(x.permute(0, 3, 1, 2)), picture, *plan(network, 150, 131, 32))
        )
    torch.testing.assert_close(tiled, whole, atol=1e-12, rtol=1e-12)
