"""Backbones: which maps they return, dilation, static padding, and names of timm's picked at random."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from fullconv.errors import NetworkError
from fullconv.nn import build
from fullconv.nn.backbones import TimmBackbone
from networks import DILATABLE, enliven, network, random_images


@pytest.mark.parametrize(("variant", "strides"), [("fcn8s", [8, 16, 32]), ("fcn-os16", [16])])
@pytest.mark.parametrize("backbone", ["resnet18", "mobilenetv3_large_100", "convnext_tiny"])
def test_an_encoder_holds_no_maps_but_those_that_are_handed_on(variant, strides, backbone):
    pyramid = next(part for part in network(variant, backbone).modules() if isinstance(part, TimmBackbone))
    with torch.inference_mode():
        maps, handed = pyramid.body(random_images(1, 3, 64, 96)), pyramid(random_images(1, 3, 64, 96))
    assert [tuple(x.shape[-2:]) for x in maps] == [(64 // stride, 96 // stride) for stride in strides]
    assert list(handed) == strides
    assert all(torch.equal(handed[stride], x) for stride, x in zip(strides, maps, strict=True))


@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn"])
def test_on_vgg_the_skips_are_the_pools(name):
    built = build("fcn8s", backbone=name, num_classes=5, width=1 / 16)
    assert {int(s): conv.in_channels for s, conv in built.head.score.items()} == {8: 16, 16: 32, 32: 256}
    seen = {}
    for index, layer in enumerate(built.backbone.features):
        layer.register_forward_hook(lambda _, __, out, index=index: seen.update({index: out}))
    features = built.backbone(random_images(1, 3, 64, 96))
    pools = [i for i, layer in enumerate(built.backbone.features) if isinstance(layer, nn.MaxPool2d)]
    assert len(pools) == 5
    assert torch.equal(features[8], seen[pools[2]])
    assert torch.equal(features[16], seen[pools[3]])
    assert torch.equal(features[32], built.backbone.fc(seen[pools[4]]))
    assert [layer.kernel_size for layer in built.backbone.fc if isinstance(layer, nn.Conv2d)] == [(7, 7), (1, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn"])
def test_at_full_width_vggs_scores_read_256_512_and_4096_channels(name):
    built = build("fcn8s", backbone=name, num_classes=21, weights=None)
    assert {int(s): conv.in_channels for s, conv in built.head.score.items()} == {8: 256, 16: 512, 32: 4096}
    if name == "vgg16":  # fcn.md 1.8: the learnable parameters of VOC 8s
        assert sum(p.numel() for p in built.parameters()) == 134_362_751


@pytest.mark.slow
def test_alexnets_scores_read_its_pools_and_fc7():
    built = build("fcn8s", backbone="alexnet", num_classes=21)
    assert {int(s): conv.in_channels for s, conv in built.head.score.items()} == {8: 64, 16: 192, 32: 4096}
    for height, width in ((1, 1), (33, 32), (97, 64)):
        assert built(random_images(1, 3, height, width)).shape == (1, 21, height, width)


def test_without_fc_vggs_pool5_itself_is_scored():
    built = build("fcn8s", backbone="vgg16", num_classes=5, width=1 / 16, head={"fc": False})
    assert not hasattr(built.backbone, "fc")
    assert built.head.score["32"].in_channels == 32
    assert built.receptive_field == 212


@pytest.mark.parametrize("backbone", [b for b in DILATABLE if b.startswith("resnet")])
def test_resnets_of_both_kinds_of_blocks_are_dilated_to_stride_8(backbone):
    built = network("fcn-os8", backbone)
    assert (built.stride, built.score_stride) == (8, 8)
    dilations = {m.dilation[0] for m in built.backbone.modules() if isinstance(m, nn.Conv2d)}
    assert dilations == {1, 2, 4}
    assert built.halo is not None


def test_a_static_same_padding_net_is_bounded_where_timms_own_depends_on_the_size():
    built = enliven(build("fcn8s", backbone="tf_efficientnet_lite0", num_classes=2))
    assert built.geometry.size_dependent == ()
    assert built.halo is not None
    gated = build("fcn8s", backbone="tf_efficientnet_b0", num_classes=2)
    assert gated.geometry.size_dependent == ()
    assert gated.halo is None
    assert "SqueezeExcite" in gated.geometry.global_ops[0]


def test_on_sizes_that_the_strides_divide_static_padding_is_tensorflows():

    torch.manual_seed(0)
    theirs = enliven(timm.create_model("tf_efficientnet_lite0", features_only=True, pretrained=False))
    ours = build("fcn8s", backbone="tf_efficientnet_lite0", num_classes=2)
    ours.backbone.body.load_state_dict(theirs.state_dict())
    x = random_images(1, 3, 64, 96)
    with torch.inference_mode():
        expected = dict(zip(theirs.feature_info.reduction(), theirs(x), strict=True))
        got = ours.backbone(x)
    for stride in (8, 16, 32):
        assert torch.equal(got[stride], expected[stride])


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "deit_tiny_patch16_224"])
def test_a_family_that_cannot_serve_gets_one_sentence_with_the_nearest_that_can(name):
    with pytest.raises(NetworkError) as caught:
        build("fcn8s", backbone=name, num_classes=2)
    text = str(caught.value)
    assert text.startswith(name)
    assert "\n" not in text
    assert text.endswith(", the nearest in size that can.")


@pytest.mark.parametrize("name", ["tiny", "vgg16", "alexnet", "googlenet"])
def test_a_backbone_that_cannot_be_dilated_says_so(name):
    with pytest.raises(NetworkError, match=f"{name} cannot be dilated to stride 8: use a ResNet"):
        build("fcn-os8", backbone=name, num_classes=2)


SCRIPT = Path(__file__).parents[2] / "benchmarks" / "backbones.py"


def script():
    spec = importlib.util.spec_from_file_location("benchmark_backbones", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def check(trials) -> None:
    for trial in trials:
        if trial.refusal is not None:
            assert "\n" not in trial.refusal
            assert trial.refusal.endswith("the nearest in size that can."), trial


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore")  # what timm's families warn of while they are made is theirs
def test_fifty_names_picked_at_random_serve_or_say_in_one_sentence_why_not():
    page, trials = script().table(50, seed=0)
    assert len(trials) == 50
    check(trials)
    serving = {trial.name for trial in trials if trial.refusal is None}
    assert len(serving) >= 15
    kept = (SCRIPT.parents[1] / "docs" / "reference" / "backbones.md").read_text(encoding="utf-8")
    listed = {line.split(" | ")[0].removeprefix("| ") for line in kept.splitlines() if " | yes | " in line}
    if page.splitlines()[2:4] == kept.splitlines()[2:4]:  # the same timm drew the same names
        assert serving == listed


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["regnetx_002", "resnest14d", "mixer_s16_224", "efficientformer_l1"])
def test_some_names_serve_or_say_in_one_sentence_why_not(name):
    check([script().attempt(name, 5.0)])


def test_a_family_whose_first_map_has_stride_1_returns_the_requested_maps():
    built = build("fcn8s", backbone="dla34", num_classes=2)  # timm numbers its maps from 1 on
    assert built.backbone.body.feature_info.reduction() == [8, 16, 32]
    with torch.inference_mode():
        assert built(random_images(1, 3, 33, 50)).shape == (1, 2, 33, 50)


def test_timms_warnings_of_a_classifiers_weights_stay_out_of_our_output(tmp_path, caplog):
    torch.save(timm.create_model("efficientnet_lite0").state_dict(), tmp_path / "w.pth")
    build("fcn8s", backbone="efficientnet_lite0", num_classes=2, weights=tmp_path / "w.pth")
    assert not caplog.records
