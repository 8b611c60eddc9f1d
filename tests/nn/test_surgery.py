"""Surgery on weights, against networks that do the same another way: torchvision's, timm's, and arithmetic."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import fullconv
from caffe_files import caffemodel
from fullconv.card import IMAGENET_MEAN
from fullconv.errors import NetworkError, WeightsError
from fullconv.nn.surgery import (
    append_mean_channels,
    convolutionalize,
    convolutionalize_classifier,
    expand_score,
    load_late_fusion,
    transplant,
)
from fullconv.recipe import parse_recipe
from fullconv.training.setup import input_convention
from networks import random_images, randomized

NARROW = 1 / 16


class Small(nn.Module):
    """A classifier of VGG's layout, small."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 6, 3, 2, 1))
        self.avgpool = nn.AdaptiveAvgPool2d((4, 4))
        self.classifier = nn.Sequential(nn.Linear(96, 11), nn.ReLU(True), nn.Dropout(), nn.Linear(11, 9))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def classifiers() -> dict[str, tuple[nn.Module, int]]:
    """Classifiers with the size that they are made for."""
    narrow = [4, "M", 6, "M", 8, "M", 8, "M", 8, "M"]
    return {
        "own": (Small(), 32),
        "timm": (timm.models.vgg.VGG(cfg=narrow, num_classes=9), 224),
        "torchvision": (torchvision.models.alexnet(num_classes=9), 224),
    }


@pytest.mark.parametrize("kind", ["own", "timm", "torchvision"])
def test_a_classifier_made_convolutional_says_the_same_and_more_of_larger_images(kind):
    torch.manual_seed(0)
    classifier, size = classifiers()[kind]
    classifier.eval()
    with torch.no_grad():
        for parameter in classifier.parameters():
            if parameter.ndim == 1:
                parameter.normal_()
    x = random_images(2, 3, size, size)
    network = convolutionalize_classifier(classifier)
    with torch.inference_mode():
        expected = classifier(x)
        found = network(x)
        assert found.shape == (2, 9, 1, 1)
        torch.testing.assert_close(found[..., 0, 0], expected, rtol=0, atol=1e-5)
        step = 8 if kind == "own" else 32
        assert network(random_images(1, 3, size + step, size + 2 * step)).shape == (1, 9, 2, 3)
    assert all(a is not b for a in network.parameters() for b in classifier.parameters())


@pytest.mark.slow
def test_vgg16_made_convolutional_is_its_classifier_at_full_width():
    torch.manual_seed(0)
    classifier = torchvision.models.vgg16(weights=None).eval()
    network = convolutionalize_classifier(classifier)
    with torch.inference_mode():
        x = random_images(1, 3, 224, 224)
        torch.testing.assert_close(network(x)[..., 0, 0], classifier(x), rtol=0, atol=1e-5)
        assert network(random_images(1, 3, 256, 288)).shape == (1, 1000, 2, 3)


def test_weights_flattened_in_another_order_would_be_noticed():
    classifier = Small().eval()
    wrong = convolutionalize_classifier(classifier)
    with torch.no_grad():
        wrong[1].weight.copy_(classifier.classifier[0].weight.view(11, 4, 4, 6).permute(0, 3, 1, 2))
        x = random_images(1, 3, 32, 32)
        assert (wrong(x)[..., 0, 0] - classifier(x)).abs().max() > 1e-3


def test_what_cannot_be_made_convolutional_is_said():
    with pytest.raises(NetworkError, match="ResNet has no features"):
        convolutionalize_classifier(torchvision.models.resnet18())
    odd = Small()
    odd.classifier = nn.Sequential(nn.Linear(6 * 5, 9))
    with pytest.raises(NetworkError, match="a layer of 30 inputs cannot see 6 square maps"):
        convolutionalize_classifier(odd)
    odd.classifier = nn.Sequential(nn.Linear(96, 9), nn.LayerNorm(9))
    with pytest.raises(NetworkError, match="Small has a LayerNorm between its features and its classes"):
        convolutionalize_classifier(odd)


@pytest.mark.parametrize(("coarse", "fine", "anew"), [
    ("voc-fcn32s", "voc-fcn16s", ["head.score.16"]), ("voc-fcn16s", "voc-fcn8s", ["head.score.8"]),
    ("siftflow-fcn32s", "siftflow-fcn16s", ["head.semantic.score.16", "head.geometric.score.16"]),
])  # fmt: skip
def test_a_finer_net_gets_the_coarser_ones_weights_and_a_skip_of_zeros(coarse, fine, anew):
    source, target = randomized(coarse), fullconv.build(fine, width=NARROW)
    left = transplant(source, target)
    assert left == [f"{name}.{part}" for name in anew for part in ("weight", "bias")]
    own, theirs = target.state_dict(), source.state_dict()
    assert all(torch.equal(own[name], value) for name, value in theirs.items())
    assert all((own[name] == 0).all() for name in left)
    # With skips of zeros, the finer net's scores are the coarser one's, grown twice as large.
    x = random_images(1, 3, 40, 52)
    with torch.inference_mode():
        found, coarse_scores = target.scores(x), source.scores(x)
        for head in found if isinstance(found, dict) else [""]:
            f, c = (s[head] if head else s for s in (found, coarse_scores))
            kernel = torch.outer(line := torch.tensor([0.25, 0.75, 0.75, 0.25]), line).expand(f.shape[1], 1, 4, 4)
            grown = F.conv_transpose2d(c, kernel, stride=2, groups=f.shape[1])
            torch.testing.assert_close(f, grown[..., : f.shape[-2], : f.shape[-1]])


def test_more_classes_keep_the_scores_of_those_before_and_begin_at_zero():
    source = randomized("voc-fcn8s", num_classes=3)
    target = randomized("voc-fcn8s", seed=5, num_classes=5)
    assert transplant(source, target) == []
    x = random_images(1, 3, 33, 40)
    with torch.inference_mode():
        before, after = source(x), target(x)
    torch.testing.assert_close(after[:, :3], before)
    assert (after[:, 3:] == 0).all()
    with pytest.raises(ValueError, match="a score layer of 5 classes cannot be expanded to 3"):
        expand_score(torch.ones(5, 2), 3)


def test_fewer_classes_and_other_shapes_are_left_as_they_are():
    source, target = randomized("voc-fcn32s", num_classes=5), randomized("voc-fcn32s", seed=1, num_classes=3)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    left = transplant(source, target)
    assert left == ["head.score.32.weight", "head.score.32.bias"]
    assert all(torch.equal(target.state_dict()[name], before[name]) for name in left)


def test_a_fourth_channel_sees_what_the_mean_of_the_three_would():
    weight, bias = random_images(7, 3, 5, 5), random_images(7)
    image, depth = random_images(2, 3, 9, 11), random_images(2, 1, 9, 11, seed=1)
    grown = append_mean_channels(weight, 4)
    assert torch.equal(grown[:, :3], weight)
    found = F.conv2d(torch.cat([image, depth], 1), grown, bias)
    torch.testing.assert_close(found, F.conv2d(image + depth / 3, weight, bias), rtol=1e-4, atol=1e-5)
    source, target = randomized("nyud-fcn32s-color"), randomized("nyud-fcn32s-color-d", seed=2)
    assert transplant(source, target) == []
    with torch.inference_mode():
        x = random_images(1, 3, 30, 40)
        torch.testing.assert_close(target(torch.cat([x, torch.zeros(1, 1, 30, 40)], 1)), source(x))
    with pytest.raises(ValueError, match="weights of 3 channels cannot be appended to become 2"):
        append_mean_channels(weight, 2)


def test_two_equal_backbone_on_equal_images_say_what_one_says():
    single, late = randomized("nyud-fcn32s-color"), randomized("nyud-fcn32s-color-hha", seed=3)
    assert load_late_fusion(single.state_dict(), single.state_dict(), late) == []
    x = random_images(1, 3, 30, 40)
    with torch.inference_mode():
        torch.testing.assert_close(late(torch.cat([x, x], 1)), single(x))
        other = randomized("nyud-fcn32s-hha", seed=4)
        load_late_fusion(single.state_dict(), other.state_dict(), late)
        torch.testing.assert_close(late(torch.cat([x, 2 * x], 1)), (single(x) + other(2 * x)) / 2)


def classifier_file(variant: str, path, rename) -> dict[str, Tensor]:
    """Write a backbone's weights as a classifier's file by Caffe's names; return them."""
    state = {}
    for key, value in randomized(variant).backbone.state_dict().items():
        layer, _, part = key.removeprefix("layers.").rpartition(".")
        state[f"{rename(layer)}.{part}"] = value.flatten(1) if layer in ("fc6", "fc7") and value.ndim > 1 else value
    state["fc8.weight"], state["fc8.bias"] = torch.zeros(1000, 2), torch.zeros(1000)
    path.write_bytes(caffemodel(state))
    return state


def caffe_googlenet(layer: str) -> str:
    """What Caffe calls a layer of GoogLeNet."""
    plain = {"conv1.0": "conv1/7x7_s2", "conv2_reduce.0": "conv2/3x3_reduce", "conv2.0": "conv2/3x3"}
    if layer in plain:
        return plain[layer]
    module, _, part = layer.partition(".")
    parts = {"one.0": "1x1", "three.0.0": "3x3_reduce", "three.1.0": "3x3", "five.0.0": "5x5_reduce",
             "five.1.0": "5x5", "pool.1.0": "pool_proj"}  # fmt: skip
    return f"{module}/{parts[part]}"


@pytest.mark.parametrize(("variant", "rename"), [
    ("voc-fcn-alexnet", str), ("voc-fcn-googlenet", caffe_googlenet), ("voc-fcn32s", str),
])  # fmt: skip
def test_a_classifier_of_caffes_fills_the_backbone(variant, rename, tmp_path):
    state = classifier_file(variant, tmp_path / "net.caffemodel", rename)
    network = fullconv.build(variant, width=NARROW, weights=tmp_path / "net.caffemodel")
    expected = randomized(variant).backbone.state_dict()
    assert len(expected) == len(state) - 2
    for name, value in network.backbone.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_a_net_of_four_channels_begins_from_a_classifier_of_three(tmp_path):
    state = classifier_file("nyud-fcn32s-color", tmp_path / "vgg.caffemodel", str)
    network = fullconv.build("nyud-fcn32s-color-d", width=NARROW, weights=tmp_path / "vgg.caffemodel")
    stem = network.backbone.layers["conv1_1"].weight
    assert torch.equal(stem[:, :3], state["conv1_1.weight"])
    torch.testing.assert_close(stem[:, 3], state["conv1_1.weight"].mean(1))


def test_damaged_weights_are_refused(tmp_path):
    state = classifier_file("voc-fcn32s", tmp_path / "vgg.caffemodel", str)
    state["fc6.weight"][0, 0] = float("nan")
    (tmp_path / "vgg.caffemodel").write_bytes(caffemodel(state))
    with pytest.raises(WeightsError, match=r"'layers\.fc6\.weight' holds NaN or infinite numbers"):
        fullconv.build("voc-fcn32s", width=NARROW, weights=tmp_path / "vgg.caffemodel")


@pytest.mark.parametrize(
    ("variant", "weights", "channels", "order", "mean"),
    [
        ("voc-fcn32s", "a.caffemodel", 3, "bgr", (122.67892, 116.66877, 104.00699)),
        ("nyud-fcn32s-hha", "a.caffemodel", 3, "rgb", (132.431, 94.076, 118.477)),
        ("nyud-fcn32s-color-d", "a.caffemodel", 4, "bgr", (92.318, 97.203, 116.190, 51.0)),
        ("voc-fcn32s", "a.pth", 3, "rgb", IMAGENET_MEAN),
    ],
)
def test_the_preprocessing_follows_the_starting_weights(variant, weights, channels, order, mean):
    recipe = parse_recipe({"variant": variant, "backbone": "vgg", "weights": weights})
    found = SimpleNamespace(channels=channels, dtype="uint8", mean=(0.2,) * 4, std=(0.1,) * 4, range=(0.0, 255.0),
                            fill=(51.0,) * channels)  # fmt: skip
    found_order, means, std, value_range = input_convention(recipe, found, None)  # type: ignore[arg-type]
    assert found_order == order
    assert means == pytest.approx(mean)
    caffe = weights.endswith(".caffemodel")
    assert (std, value_range) == (((1.0,) * channels, (0.0, 1.0)) if caffe else ((0.229, 0.224, 0.225), (0.0, 255.0)))


def test_a_fully_connected_layer_is_the_convolution_that_sees_its_map_once():
    linear = torch.nn.Linear(3 * 7 * 5, 4)
    x = random_images(2, 3, 7, 5)
    torch.testing.assert_close(convolutionalize(linear, (7, 5))(x)[..., 0, 0], linear(x.flatten(1)))
    wrong = linear(x.permute(0, 2, 3, 1).flatten(1))  # a map flattened in another order: another classifier
    assert (wrong - linear(x.flatten(1))).abs().max() > 1e-2
    with pytest.raises(ValueError, match="a layer of 105 inputs cannot see maps of 2x2 cells"):
        convolutionalize(linear, (2, 2))
