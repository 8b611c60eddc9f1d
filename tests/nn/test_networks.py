"""Every variant on every backbone: sizes, the two halves, rows, channels, heads, and the words of refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fullconv.errors import NetworkError
from fullconv.geometry import graph
from fullconv.nn import VARIANTS, build
from fullconv.nn.backbones import TimmBackbone
from networks import DILATABLE, DILATED, PUBLISHED, SKIPS, WIDTHS, enliven, network, pictures, served

SIZES = [(1, 1), (2, 2), (31, 31), (32, 32), (33, 33), (97, 97), (224, 161)]
HEAVY = {"resnet101", "resnet34", "googlenet", "efficientnet_b0", "mobilenetv3_large_100"}


@pytest.mark.parametrize(("variant", "backbone"), served())
def test_the_logits_have_the_size_of_the_picture_and_are_the_two_halves_composed(variant, backbone):
    built = network(variant, backbone)
    assert not built.training
    for height, width in SIZES:
        x = pictures(1, 3, height, width)
        with torch.inference_mode():
            logits, scores = built(x), built.scores(x)
            assert logits.shape == (1, 3, height, width)
            assert logits.isfinite().all()
            assert torch.equal(logits, built.upsample(scores, (height, width)))
            padded = built.padded_size(height, width)
            assert scores.shape[-2:] == tuple(-(-side // built.score_stride) for side in padded)
            a, b = height // 3, height // 3 + max(1, height // 4)
            assert torch.equal(built.upsample(scores, (height, width), rows=(a, b)), logits[:, :, a:b])


def test_a_network_is_not_blind():
    """The checks above would pass on constants."""
    for variant, backbone in served():
        with torch.inference_mode():
            logits = network(variant, backbone)(pictures(1, 3, 64, 96))
        assert logits.std() > 1e-4 * logits.abs().max()


@pytest.mark.parametrize(("variant", "strides"), [("fcn8s", [8, 16, 32]), ("fcn-os16", [16])])
@pytest.mark.parametrize("backbone", ["resnet18", "mobilenetv3_large_100", "convnext_tiny"])
def test_an_encoder_holds_no_maps_but_those_that_are_handed_on(variant, strides, backbone):
    pyramid = next(part for part in network(variant, backbone).modules() if isinstance(part, TimmBackbone))
    with torch.inference_mode():
        maps, handed = pyramid.body(pictures(1, 3, 64, 96)), pyramid(pictures(1, 3, 64, 96))
    assert [tuple(x.shape[-2:]) for x in maps] == [(64 // stride, 96 // stride) for stride in strides]
    assert list(handed) == strides
    assert all(torch.equal(handed[stride], x) for stride, x in zip(strides, maps, strict=True))


@pytest.mark.parametrize("variant", ["fcn32s", "fcn8s", "fcn-os8", "torchvision-fcn_resnet50"])
@pytest.mark.parametrize("size", [(40, 53), (7, 300), (129, 3)])
@pytest.mark.parametrize("working", [None, (20, 26), (80, 107), (1, 1)])
def test_rows_are_the_bits_of_the_whole_also_at_another_working_size(variant, size, working):
    built = network(variant, VARIANTS[variant].backbone or "resnet18")
    with torch.inference_mode():
        scores = built.scores(pictures(2, 3, *(working or size)))
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
    scores = pictures(2, 3, *cells, dtype=torch.float64)
    rows, columns = built.interpolation_matrices(scores, size)
    assert rows.shape == (size[0], cells[0])
    torch.testing.assert_close(rows @ scores @ columns.T, built.upsample(scores, size), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("variant", SKIPS)
def test_logits_are_the_same_with_and_without_gradients(variant):
    built = network(variant, "tiny")
    x = pictures(1, 3, 45, 70)
    with torch.inference_mode():
        without = built(x)
    torch.testing.assert_close(built(x).detach(), without, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", [*SKIPS, *DILATED])
def test_every_parameter_gets_a_gradient(variant):
    built = build(variant, backbone="resnet18", num_classes=3, width=1 / 8)
    built.train()
    built(pictures(2, 3, 65, 64)).square().mean().backward()
    assert [name for name, p in built.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn"])
def test_on_vgg_the_skips_are_the_pools(name):
    built = build("fcn8s", backbone=name, num_classes=5, width=1 / 16)
    assert {int(s): conv.in_channels for s, conv in built.head.score.items()} == {8: 16, 16: 32, 32: 256}
    seen = {}
    for index, layer in enumerate(built.backbone.features):
        layer.register_forward_hook(lambda _, __, out, index=index: seen.update({index: out}))
    features = built.backbone(pictures(1, 3, 64, 96))
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
    for height, width in SIZES:
        assert built(pictures(1, 3, height, width)).shape == (1, 21, height, width)


@pytest.mark.slow
@pytest.mark.parametrize("variant", SKIPS)
@pytest.mark.parametrize("backbone", [name for name in WIDTHS if WIDTHS[name] != 1])
def test_at_full_width_the_logits_have_the_size_of_the_picture(variant, backbone):
    built = build(variant, backbone=backbone, num_classes=2)
    for height, width in SIZES:
        with torch.inference_mode():
            assert built(pictures(1, 3, height, width)).shape == (1, 2, height, width)


def test_without_fc_vggs_pool5_itself_is_scored():
    built = build("fcn8s", backbone="vgg16", num_classes=5, width=1 / 16, head={"fc": False})
    assert not hasattr(built.backbone, "fc")
    assert built.head.score["32"].in_channels == 32
    assert built.receptive_field == 212


def test_the_receptive_field_of_vggs_coarsest_score_is_the_papers_404():
    built = network("fcn8s", "vgg16")
    assert (built.receptive_field, built.stride, built.score_stride) == (404, 32, 8)


@pytest.mark.parametrize("in_channels", [1, 2, 4, 5])
@pytest.mark.parametrize("backbone", ["tiny", "resnet18", "vgg16", "mobilenetv3_large_100", "convnext_tiny"])
def test_pictures_may_have_any_number_of_channels(in_channels, backbone):
    built = build("fcn8s", backbone=backbone, num_classes=2, in_channels=in_channels, width=WIDTHS[backbone])
    assert built(pictures(1, in_channels, 33, 40)).shape == (1, 2, 33, 40)


def test_several_heads_give_a_dict_of_logits_each_with_its_classes():
    built = build("fcn8s", backbone="tiny", num_classes={"semantic": 5, "geometric": 3})
    x = pictures(1, 3, 40, 50)
    with torch.inference_mode():
        logits, scores = built(x), built.scores(x)
        grown = built.upsample(scores, (40, 50), rows=(3, 9))
    assert {name: tuple(value.shape) for name, value in logits.items()} == {
        "semantic": (1, 5, 40, 50), "geometric": (1, 3, 40, 50)
    }  # fmt: skip
    assert all(torch.equal(grown[name], logits[name][:, :, 3:9]) for name in logits)


@pytest.mark.parametrize("backbone", ["resnet18", "vgg16"])
def test_bf16_is_sane_on_a_picture_one_score_wide(backbone):
    built = network("fcn8s", backbone)
    x = pictures(1, 3, 600, 20)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        low = built(x).float()
    with torch.inference_mode():
        exact = built(x)
    assert low.isfinite().all()
    assert (low - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize("backbone", [b for b in DILATABLE if b.startswith("resnet")])
def test_resnets_of_both_kinds_of_blocks_are_dilated_to_stride_8(backbone):
    built = network("fcn-os8", backbone)
    assert (built.stride, built.score_stride) == (8, 8)
    dilations = {m.dilation[0] for m in built.backbone.modules() if isinstance(m, nn.Conv2d)}
    assert dilations == {1, 2, 4}
    assert built.halo is not None


@pytest.mark.parametrize("variant", PUBLISHED)
def test_a_published_net_knows_its_backbone_and_its_classes(variant):
    built = build(variant)
    assert built.num_classes == 21
    assert sum(1 for _ in built.state_dict()) == {"50": 326, "01": 632}[variant[-2:]]


@pytest.mark.parametrize("size", [(1, 1), (33, 47), (65, 40)])
def test_torchvisions_net_is_torchvisions_at_odd_sizes(size):
    from torchvision.models.segmentation import fcn_resnet50

    torch.manual_seed(0)
    theirs = enliven(fcn_resnet50(weights=None, weights_backbone=None, num_classes=4))
    ours = build("torchvision-fcn_resnet50", num_classes=4)
    renamed = {
        key.replace("classifier.", "head.", 1)
        if key.startswith("classifier.")
        else key.replace("backbone.", "backbone.body.", 1): value
        for key, value in theirs.state_dict().items()
    }
    ours.load_state_dict(renamed)  # strict: every tensor of both
    x = pictures(2, 3, *size)
    with torch.inference_mode():
        wanted, got = theirs(x)["out"], ours(x)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


def test_torchvisions_half_pixel_rule_is_not_the_fixed_one():
    """A mutation that the equality above must notice: at odd sizes the two rules differ."""
    built = network("torchvision-fcn_resnet50", "resnet50")
    scores = built.scores(pictures(1, 3, 65, 41))
    fixed = network("fcn-os8", "resnet50").upsample(scores, (65, 41))
    assert (built.upsample(scores, (65, 41)) - fixed).abs().max() > 1e-3 * scores.abs().max()


def test_a_static_same_padding_net_is_bounded_where_timms_own_depends_on_the_size():
    built = enliven(build("fcn8s", backbone="tf_efficientnet_lite0", num_classes=2))
    assert built.geometry.size_dependent == ()
    assert built.halo is not None
    gated = build("fcn8s", backbone="tf_efficientnet_b0", num_classes=2)
    assert gated.geometry.size_dependent == ()
    assert gated.halo is None
    assert "SqueezeExcite" in gated.geometry.global_ops[0]


def test_on_sizes_that_the_strides_divide_static_padding_is_tensorflows():
    import timm

    torch.manual_seed(0)
    theirs = enliven(timm.create_model("tf_efficientnet_lite0", features_only=True, pretrained=False))
    ours = build("fcn8s", backbone="tf_efficientnet_lite0", num_classes=2)
    ours.backbone.body.load_state_dict(theirs.state_dict())
    x = pictures(1, 3, 64, 96)
    with torch.inference_mode():
        wanted = dict(zip(theirs.feature_info.reduction(), theirs(x), strict=True))
        got = ours.backbone(x)
    for stride in (8, 16, 32):
        assert torch.equal(got[stride], wanted[stride])


# --- words -------------------------------------------------------------------------------------------------------


def test_an_unknown_variant_is_answered_with_the_nearest():
    with pytest.raises(NetworkError, match=r"there is no variant 'fcn8'\. Did you mean 'fcn8s'\? `fullconv models`"):
        build("fcn8", num_classes=2)


def test_an_unknown_backbone_is_answered_with_the_nearest():
    with pytest.raises(NetworkError, match=r"there is no backbone 'resnet81'\. Did you mean 'resnet\d+'\?"):
        build("fcn8s", backbone="resnet81", num_classes=2)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "deit_tiny_patch16_224"])
def test_a_family_that_cannot_serve_gets_one_sentence_with_the_nearest_that_can(name):
    with pytest.raises(NetworkError) as caught:
        build("fcn8s", backbone=name, num_classes=2)
    text = str(caught.value)
    assert text.startswith(name)
    assert "\n" not in text
    assert text.endswith(", the nearest in size that can.")


def test_a_net_without_classes_is_asked_for_them():
    with pytest.raises(NetworkError, match="fcn8s needs num_classes"):
        build("fcn8s", backbone="tiny")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_classes": 0}, "num_classes is 1 to 255 and in_channels at least 1, not 0 and 3"),
        ({"num_classes": 256}, "num_classes is 1 to 255"),
        ({"num_classes": {"a": 2, "b": 0}}, "num_classes is 1 to 255"),
        ({"num_classes": 2, "in_channels": 0}, "in_channels at least 1, not 2 and 0"),
        ({"num_classes": 2, "backbone": "resnet18", "norm": "none"}, "norm = 'none' is for the backbone tiny"),
        ({"num_classes": 2, "backbone": "tiny", "weights": "imagenet"}, "tiny has no ImageNet weights"),
        ({"num_classes": 2, "backbone": "resnet18", "width": 0.5, "weights": "imagenet"}, "its weights do not fit"),
        ({"num_classes": 2, "backbone": "alexnet", "width": 0.5}, "width is not available for alexnet"),
        ({"num_classes": 2, "backbone": "densenet121", "width": 0.5}, "width is not available for densenet121"),
        ({"num_classes": 2, "backbone": "tiny", "head": {"fcx": True}}, "head.fcx.*Did you mean 'head.fc'"),
        ({"num_classes": 2, "backbone": "tiny", "head": {"dropout": 2}}, "head.dropout = 2"),
    ],
)
def test_what_cannot_be_is_refused_in_words(settings, words):
    with pytest.raises(NetworkError, match=words):
        build("fcn8s", **settings)


@pytest.mark.parametrize("name", ["tiny", "vgg16", "alexnet", "googlenet"])
def test_a_backbone_that_cannot_be_dilated_says_so(name):
    with pytest.raises(NetworkError, match=f"{name} cannot be dilated to stride 8: use a ResNet"):
        build("fcn-os8", backbone=name, num_classes=2)


def test_a_published_net_refuses_another_backbone():
    with pytest.raises(
        NetworkError, match="torchvision-fcn_resnet50 has its own backbone, resnet50: omit backbone = vgg16"
    ):
        build("torchvision-fcn_resnet50", backbone="vgg16")


@pytest.mark.parametrize(
    ("variant", "backbone", "head", "words"),
    [
        (
            "fcn8s",
            "tiny",
            {"fc": False},
            r"head\.fc = False has no effect in fcn8s on tiny; it is for skip variants on VGG",
        ),
        ("fcn8s", "tiny", {"dropout": 0.1}, r"head\.dropout = 0\.1 has no effect"),
        ("fcn32s", "tiny", {"upsampling": "learned"}, r"head\.upsampling = learned has no effect in fcn32s on tiny"),
    ],
)
def test_a_setting_of_the_head_that_would_do_nothing_is_refused(variant, backbone, head, words):
    with pytest.raises(NetworkError, match=words):
        build(variant, backbone=backbone, num_classes=3, head=head)


def test_a_network_is_traced_no_more_often_than_it_must_be(monkeypatch):
    """A trace takes a twentieth of a second, at every start of the program."""
    traced = []
    once = graph._trace
    monkeypatch.setattr(graph, "_trace", lambda *given: traced.append(given) or once(*given))
    built = build("fcn8s", backbone="tiny", num_classes=3)
    assert len(traced) == 2, "the features for the head's phases, and the whole with its features"
    assert built.activation_bytes(96, 130, 2) < built.activation_bytes(96, 130, 4)
    assert len(traced) == 3
