"""The geometry of timm's and torchvision's networks against the pixels that they really read."""

from fractions import Fraction
from functools import cache

import pytest
import timm
import torch
import torchvision
from geometry_oracle import covered, marked
from torch import nn

from fullconv.geometry import chain, trace, trace_network

EXAMPLE = torch.zeros(1, 3, 64, 96)
SHAPE_ONLY = EXAMPLE.to("meta")
# Name: receptive field and centre of cell 0 at stride 32; a network as thin as its family allows stands for the others.
EXPECTED = {
    "resnet18": (435, 0), "resnet34": (899, 0), "resnet50": (427, 0), "resnet101": (971, 0), "vgg16": (212, 15.5),
    "vgg16_bn": (212, 15.5), "vgg19": (268, 15.5), "mobilenetv3_large_100": (595, 0), "efficientnet_b0": (851, 0),
    "convnext_tiny": (1688, 15.5), "densenet121": (2071, 14), "regnety_016": (727, 0),
}  # fmt: skip
SEEN = ["resnet18", "resnet50", "resnet50d", "mobilenetv3_large_100", "efficientnet_b0", "convnext_atto", "densenet121"]
MORE = """
resnet101 vgg16_bn convnext_tiny regnety_016 regnetx_002 dla34 repvgg_a0 mobilenetv2_050 gernet_s cspresnet50
darknet53 dpn68 fasternet_t0 fastvit_t8 hgnetv2_b0 inception_next_atto legacy_xception mobilenetv1_100 selecsls42
mobilenetv4_conv_small vovnet39a ese_vovnet19b_dw xception41 resnetaa50 starnet_s1 ghostnet_100
"""
FAMILIES = """
cs3darknet_s efficientvit_b0 ghostnetv2_100 hrnet_w18_small lcnet_050 mixnet_s mobileone_s0 nfnet_l0 poolformer_s12
regnetz_b16 rexnet_100 res2net50_14w_8s resnetblur18 resnetv2_50 seresnet18 skresnet18 tf_mixnet_s
"""


def backbone(name: str) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, features_only=True, pretrained=False).eval()


@cache
def outline(name: str) -> nn.Module:
    """Build a backbone without its numbers; shared, so never to be changed."""
    with torch.device("meta"):
        return timm.create_model(name, features_only=True, pretrained=False)


def open_up(network: nn.Module) -> nn.Module:
    """Set the layer scales to 1, and take out the gates that the geometry names."""
    for name, weight in network.named_parameters():
        if weight.ndim == 1 and ("gamma" in name or "scale" in name):
            nn.init.ones_(weight)
    for entry in {entry for geometry in trace(network, EXAMPLE) for entry in geometry.global_ops}:
        parent, _, child = entry.split(" ")[0].rpartition(".")
        setattr(network.get_submodule(parent), child, nn.Identity())
    return network


def check_by_nan(name: str, limit: int) -> int:
    """Compare every feature map whose field is at most ``limit`` pixels; return how many were compared."""
    network = open_up(backbone(name))
    compared = 0
    for level, geometry in enumerate(trace(network, EXAMPLE)):
        assert geometry.bounded
        field = geometry.x.receptive_field()
        if field > limit:
            continue
        compared += 1
        long = (field * 2 // 64 + 3) * 64
        for column in (long // 2, long // 2 + 13):
            cells = marked(network, 64, 30, long, column, level)
            assert cells.any(0).nonzero().flatten().tolist() == covered(geometry.x, column, cells.shape[1]), level
        cells = marked(network, long, long // 2, 64, 30, level)
        assert cells.any(1).nonzero().flatten().tolist() == covered(geometry.y, long // 2, cells.shape[0]), level
    return compared


@pytest.mark.parametrize(("name", "expected"), EXPECTED.items())
def test_a_backbone_has_its_field_and_its_centre(name, expected):
    *_, geometry = trace(outline(name), SHAPE_ONLY)
    assert (geometry.y.receptive_field(), geometry.y.offset, geometry.stride) == (*expected, 32)
    assert geometry.x == geometry.y
    assert geometry.y.misalignment == 0
    assert geometry.misalignments == ()
    assert not geometry.unknown_ops
    assert not geometry.size_dependent
    gated = name.startswith(("mobilenetv3", "efficientnet", "regnety"))
    assert bool(geometry.global_ops) == gated
    assert geometry.receptive_field == (None if gated else expected[0])
    if name == "mobilenetv3_large_100":
        assert geometry.global_ops[0] == "blocks.2.0.se (SqueezeExcite: global average pooling)"
        assert len(geometry.global_ops) == 8


@pytest.mark.parametrize("name", SEEN)
def test_one_nan_in_the_image_comes_out_exactly_where_the_geometry_says(name):
    assert check_by_nan(name, 300) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE.split())
def test_one_nan_comes_out_exactly_where_the_geometry_says_in_more_families(name):
    assert check_by_nan(name, 1200) >= 2


def test_branches_of_resnet50d_that_meet_with_different_centres_are_named_with_their_misalignment():
    first, *_, geometry = trace(outline("resnet50d"), SHAPE_ONLY)
    assert first.misalignments == ()
    assert geometry.misalignments == (
        ("layer2.0 (add_3)", Fraction(2)),
        ("layer3.0 (add_7)", Fraction(6)),
        ("layer4.0 (add_13)", Fraction(14)),
    )
    assert (geometry.y.offset, geometry.y.misalignment) == (7, 14)


def test_padding_that_depends_on_the_size_is_named():
    *_, geometry = trace(outline("tf_efficientnet_b0"), SHAPE_ONLY)
    assert geometry.size_dependent[:2] == (
        "conv_stem (Conv2dSame: depends on the image's size)",
        "blocks.1.0.conv_dw (Conv2dSame: depends on the image's size)",
    )
    assert len(geometry.size_dependent) == 5
    assert not geometry.bounded


@pytest.mark.parametrize(("depth", "field"), [(50, 443), (101, 987)])
def test_torchvisions_head_has_its_field_and_its_resize_is_named(depth, field):
    make = getattr(torchvision.models.segmentation, f"fcn_resnet{depth}")
    with torch.device("meta"):
        network = make(weights=None, weights_backbone=None)
    rows = {row.path: row for row in trace_network(network, SHAPE_ONLY).layers}
    head = rows["classifier.4"]
    assert (head.geometry.receptive_field, head.geometry.stride, head.shape[1:]) == (field, 8, (21, 8, 12))
    out = trace(network, SHAPE_ONLY)["out"]
    assert out.size_dependent == ("FCN: resizing to a size; the factor depends on the image's size",)
    assert out.stride == 1


def test_torchvisions_classifiers_see_the_whole_image_and_their_features_do_not():
    with torch.device("meta"):
        alexnet = torchvision.models.alexnet(weights=None)
        vgg = torchvision.models.vgg16(weights=None).features
        googlenet = torchvision.models.googlenet(weights=None, init_weights=False)
    assert trace(alexnet, SHAPE_ONLY).global_ops == ("avgpool (AdaptiveAvgPool2d: adaptive average pooling to (6, 6))",)
    assert trace(alexnet.features, SHAPE_ONLY).receptive_field == 195
    assert trace(vgg, SHAPE_ONLY) == chain(vgg)
    assert chain(vgg).receptive_field == 212
    rows = {row.path: row.geometry for row in trace_network(googlenet, SHAPE_ONLY).layers}
    assert rows["inception5b"].bounded
    assert rows["avgpool"].global_ops == ("avgpool (AdaptiveAvgPool2d: global average pooling)",)


@pytest.mark.parametrize("name", FAMILIES.split())
def test_many_families_can_be_traced_and_have_the_strides_that_timm_states(name):
    network = outline(name)
    geometries = trace(network, SHAPE_ONLY)
    assert [geometry.stride for geometry in geometries] == network.feature_info.reduction()
    assert geometries[-1].unknown_ops == ()
    if name == "efficientvit_b0":
        attention = "stages_2.blocks.1.context_module.main (LiteMLA: attention over positions)"
        assert attention in geometries[-1].global_ops
