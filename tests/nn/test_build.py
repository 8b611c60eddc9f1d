"""Building networks: from settings, from cards with and without weights, and what is refused."""

from __future__ import annotations

import pytest
import torch

from fullconv.card import Card
from fullconv.errors import NetworkError
from fullconv.modelfile import write_model
from fullconv.nn import build
from fullconv.nn.build import build_meta, build_with_weights
from networks import PUBLISHED, random_images


@pytest.mark.parametrize(
    ("settings", "message"),
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
def test_what_cannot_be_is_refused_in_words(settings, message):
    with pytest.raises(NetworkError, match=message):
        build("fcn8s", **settings)


@pytest.mark.parametrize(
    ("variant", "head", "message"),
    [
        ("fcn8s", {"fc": False}, r"head\.fc = False has no effect in fcn8s on tiny; it is for skip variants on VGG"),
        ("fcn8s", {"dropout": 0.1}, r"head\.dropout = 0\.1 has no effect"),
        ("fcn32s", {"upsampling": "learned"}, r"head\.upsampling = learned has no effect in fcn32s on tiny"),
    ],
)
def test_a_setting_of_the_head_that_would_do_nothing_is_refused(variant, head, message):
    with pytest.raises(NetworkError, match=message):
        build(variant, backbone="tiny", num_classes=3, head=head)


@pytest.mark.parametrize(
    ("variant", "settings", "message"),
    [
        ("voc-fcn8s", {"backbone": "resnet18"}, "has its own backbone, vgg: omit backbone = resnet18"),
        ("torchvision-fcn_resnet50", {"backbone": "vgg16"}, "has its own backbone, resnet50: omit backbone = vgg16"),
        ("voc-fcn8s", {"phase": 3.5}, r"phase = 3\.5 has no effect in"),
        ("torchvision-fcn_resnet50", {"phase": 3.5}, r"phase = 3\.5 has no effect in"),
    ],
)
def test_a_published_net_refuses_settings_that_it_fixes(variant, settings, message):
    with pytest.raises(NetworkError, match=message):
        build(variant, **settings)


@pytest.mark.parametrize("variant", PUBLISHED)
def test_a_published_net_knows_its_backbone_and_its_classes(variant):
    built = build(variant, width=1 / 16)
    assert built.num_classes == 21
    assert sum(1 for _ in built.state_dict()) == {"50": 326, "01": 632}[variant[-2:]]


def test_an_own_model_of_other_classes_lends_what_fits_and_lists_what_starts_anew(tmp_path):
    torch.manual_seed(0)
    old = build("fcn8s", backbone="tiny", num_classes=3)
    card = Card(variant="fcn8s", backbone="tiny", classes=("a", "b", "c"))
    write_model(tmp_path / "old.safetensors", card, old.state_dict())
    new = build("fcn8s", backbone="tiny", num_classes=5, weights=tmp_path / "old.safetensors")
    assert sorted(new.missing_keys) == [f"head.score.{s}.{part}" for s in (16, 32, 8) for part in ("bias", "weight")]
    for name, value in new.backbone.state_dict().items():
        assert torch.equal(value, old.backbone.state_dict()[name])
    same = build("fcn8s", backbone="tiny", num_classes=3, weights=str(tmp_path / "old.safetensors"))
    assert same.missing_keys == []
    x = random_images(1, 3, 50, 40)
    assert torch.equal(same(x), old(x))
    fewer = build("fcn16s", backbone="tiny", num_classes=3, weights=tmp_path / "old.safetensors")
    assert fewer.missing_keys == []  # a part of a network is taken from the whole


def score_rows(network):
    return {name: value for name, value in network.state_dict().items() if name.startswith("head.score")}


def test_scores_of_an_own_model_are_taken_by_class_name(tmp_path, caplog):
    torch.manual_seed(0)
    old = build("fcn8s", backbone="tiny", num_classes=3)
    with torch.no_grad():
        for value in score_rows(old).values():
            value.normal_()
    path = tmp_path / "old.safetensors"
    write_model(path, Card(variant="fcn8s", backbone="tiny", classes=("ground", "disc", "ball")), old.state_dict())
    theirs = score_rows(old)
    caplog.set_level("INFO", logger="fullconv")
    permuted = build("fcn8s", backbone="tiny", classes=["ball", "ground", "disc"], weights=path)
    for name, value in score_rows(permuted).items():
        assert torch.equal(value, theirs[name][[2, 0, 1]])
    assert "by name: carried over from another index: ball (2 to 0), ground (0 to 1), disc (1 to 2)" in caplog.text
    caplog.clear()
    other = build("fcn8s", backbone="tiny", classes=["tree", "disc"], weights=path)
    assert other.num_classes == 2
    for name, value in score_rows(other).items():
        assert torch.equal(value[1], theirs[name][1])
    assert "newly initialized: tree" in caplog.text
    several = build("fcn8s", backbone="tiny", classes={"a": ["ball", "x"], "b": ["disc", "ground"]}, weights=path)
    assert several.num_classes == {"a": 2, "b": 2}
    for name, value in theirs.items():
        assert torch.equal(several.state_dict()[name.replace("head.", "head.b.")], value[[1, 0]])


def test_without_names_the_order_of_an_own_models_scores_is_logged(tmp_path, caplog):
    old = build("fcn8s", backbone="tiny", num_classes=2)
    path = tmp_path / "old.safetensors"
    write_model(path, Card(variant="fcn8s", backbone="tiny", classes=("ground", "disc")), old.state_dict())
    build("fcn8s", backbone="tiny", num_classes=2, weights=path)
    assert "are those of its classes, in their order: ground, disc. Give classes to match names." in caplog.text
    caplog.clear()
    build("fcn8s", backbone="tiny", num_classes=5, weights=path)  # no score fits
    assert caplog.text == ""


def test_names_of_classes_that_cannot_be_are_refused():
    with pytest.raises(NetworkError, match="give classes or num_classes, not both"):
        build("fcn8s", backbone="tiny", num_classes=2, classes=["a", "b"])
    for classes in ("ab", ["a", "a"], {"x": "ab"}, [1, 2]):
        with pytest.raises(NetworkError, match="classes are a list of different names"):
            build("fcn8s", backbone="tiny", classes=classes)


def test_a_network_without_weights_knows_the_memory_of_its_maps():
    whole = build("fcn8s", backbone="resnet18", num_classes=3, width=0.25)
    card = Card(variant="fcn8s", backbone="resnet18", classes=("a", "b", "c"), network={"width": 0.25})
    empty = build_meta(card)
    assert {value.device.type for value in empty.state_dict().values()} == {"meta"}
    for item_bytes in (2, 4):
        assert empty.activation_bytes(96, 130, item_bytes) == whole.activation_bytes(96, 130, item_bytes)
    wide = card.model_copy(update={"in_channels": 17})  # no longer known to be small, so built on the meta device
    whole = build("fcn8s", backbone="resnet18", num_classes=3, width=0.25, in_channels=17)
    untraced = build_meta(wide)
    assert untraced.activation_bytes(96, 130, 4) == whole.activation_bytes(96, 130, 4)


def test_weights_without_a_norm_s_count_are_read_without_a_warning():
    settings = {"width": 2.0, "head": {}}  # compared first
    card = Card(variant="fcn8s", backbone="tiny", classes=("a", "b"), network=settings)
    tensors = build("fcn8s", backbone="tiny", num_classes=2, width=2.0).state_dict()
    (count, *_) = [name for name in tensors if name.endswith("num_batches_tracked")]
    found = build_with_weights(card, {name: value for name, value in tensors.items() if name != count}).state_dict()
    assert found[count] == 0
    assert all(torch.equal(value, tensors[name]) for name, value in found.items() if name != count)
