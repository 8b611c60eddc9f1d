"""Pretrained weights: from the cache, from files of other layouts, and what is refused."""

from __future__ import annotations

import copy
import hashlib
import io
import os
import pickle
import urllib.request
import warnings
from functools import cache
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from fullconv.card import Card, Labels
from fullconv.errors import NetworkError, WeightsError
from fullconv.modelfile import write_model
from fullconv.nn import build, load_model_weights
from fullconv.nn.pretrained import PretrainedCfg, download, load_by_class, pretrained_cfg, read_weights
from networks import enliven, random_images


@pytest.fixture
def weights_cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("FULLCONV_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "weights"
    folder.mkdir(parents=True)
    return folder


@cache
def resnet18() -> dict[str, torch.Tensor]:
    """timm's state dict of resnet18, whose names are torchvision's, too; not to be changed."""
    torch.manual_seed(5)
    return timm.create_model("resnet18", pretrained=False).state_dict()


def check_resnet(built, state) -> None:
    own = built.backbone.body.state_dict()
    assert own
    assert not {key for key in own if not torch.equal(own[key], state[key])}


def test_imagenet_weights_are_taken_from_the_cache(weights_cache):
    state = resnet18()
    save_file(state, weights_cache / pretrained_cfg("resnet18").filename)
    check_resnet(build("fcn8s", backbone="resnet18", num_classes=3, weights="imagenet"), state)


@pytest.mark.parametrize("wrapped", [False, "state_dict", "model", "model_state_dict"])
def test_a_file_of_torchvisions_names_serves_also_wrapped(tmp_path, wrapped):
    state = torchvision.models.resnet18(weights=None).state_dict()
    torch.save({wrapped: state, "epoch": 3} if wrapped else state, tmp_path / "resnet18.pth")
    assert read_weights(tmp_path / "resnet18.pth").keys() == state.keys()
    if not wrapped:
        check_resnet(build("fcn8s", backbone="resnet18", num_classes=3, weights=tmp_path / "resnet18.pth"), state)


@pytest.mark.slow
def test_timms_and_torchvisions_vgg16_make_the_same_network(tmp_path):
    torch.manual_seed(0)
    theirs = torchvision.models.vgg16(weights=None).eval()
    state = theirs.state_dict()
    torch.save(state, tmp_path / "tv.pth")
    renamed = {key: value for key, value in state.items() if key.startswith("features.")}
    for old, new, shape in (("0", "fc1", (4096, 512, 7, 7)), ("3", "fc2", (4096, 4096, 1, 1))):
        renamed[f"pre_logits.{new}.weight"] = state[f"classifier.{old}.weight"].reshape(shape).clone()
        renamed[f"pre_logits.{new}.bias"] = state[f"classifier.{old}.bias"]
    timm.create_model("vgg16", pretrained=False, num_classes=0).load_state_dict(renamed)  # strict: it is timm's layout
    save_file(renamed, tmp_path / "timm.safetensors")
    x = random_images(1, 3, 224, 224)
    out = {}
    for name in ("tv.pth", "timm.safetensors"):
        built = build("fcn32s", backbone="vgg16", num_classes=2, weights=tmp_path / name)
        with torch.inference_mode():
            out[name] = built.backbone(x)[32]
    assert torch.equal(out["tv.pth"], out["timm.safetensors"])
    with torch.inference_mode():  # fcn.md 8.9: in the middle no padding is seen, so fc7 is the classifier's
        flat = theirs.classifier[:6](theirs.features(x).flatten(1))
    middle = out["tv.pth"][0, :, 3, 3]
    torch.testing.assert_close(middle, flat[0], rtol=0, atol=1e-5 * float(flat.abs().max()))


@pytest.mark.parametrize("in_channels", [1, 2, 4, 5])
def test_a_pretrained_stem_is_adapted_and_not_drawn_anew(tmp_path, in_channels):
    state = resnet18()
    save_file(state, tmp_path / "w.safetensors")
    settings = {"backbone": "resnet18", "num_classes": 2, "weights": tmp_path / "w.safetensors"}
    built = build("fcn8s", in_channels=in_channels, **settings)
    stem, given = built.backbone.body.conv1.weight, state["conv1.weight"]
    expected = given.repeat(1, 2, 1, 1)[:, :in_channels] * 3 / in_channels  # in turn; the answer keeps its size
    if in_channels == 1:
        expected = given.sum(1, keepdim=True)  # a grey image is answered as its RGB copy
    torch.testing.assert_close(stem.detach(), expected)


def test_offline_the_file_its_place_and_the_way_out_are_named(weights_cache):
    with pytest.raises(WeightsError) as caught:
        build("fcn8s", backbone="resnet18", num_classes=2, weights="imagenet")
    text = str(caught.value)
    published = pretrained_cfg("resnet18")
    file = weights_cache / published.filename
    for part in (published.filename, published.url, str(file), "--weights none", "FULLCONV_OFFLINE"):
        assert part in text
    assert isinstance(caught.value, OSError)


def test_published_weights_have_an_address_a_name_and_a_licence():
    for name in ("resnet18", "vgg16", "convnext_tiny", "alexnet", "googlenet", "mobilenetv3_large_100"):
        published = pretrained_cfg(name)
        assert published.url.startswith("https://")
        assert "/" not in published.filename
        assert published.license


def test_a_network_that_fails_is_told_with_the_way_out(weights_cache, monkeypatch):
    monkeypatch.delenv("FULLCONV_OFFLINE")

    def refuse(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    message = r"cannot be downloaded \(no route to host\)\. Put https://.* at .*--weights none"
    with pytest.raises(WeightsError, match=message):
        build("fcn8s", backbone="resnet18", num_classes=2, weights="imagenet")


class Answer(io.BytesIO):
    def __init__(self, data: bytes, length: int) -> None:
        super().__init__(data)
        self.headers = {"Content-Length": str(length)}


def test_a_fetch_says_file_size_and_licence_and_keeps_only_what_is_whole(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("FULLCONV_OFFLINE")
    data = b"w" * 2_000_000
    name = f"net-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    published = PretrainedCfg("https://example.org/x", name, "mit")
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: Answer(data, len(data)))
    assert download(published, tmp_path / name).read_bytes() == data
    assert "Downloading https://example.org/x (2 MB, license: mit)" in capsys.readouterr().err
    for answer, message in ((Answer(data[:-1], len(data)), "connection ended after"), (Answer(data[:-1], 0), "hash")):
        monkeypatch.setattr(urllib.request, "urlopen", lambda *_, answer=answer, **__: answer)
        with pytest.raises(WeightsError, match=message):
            download(published, tmp_path / "again" / name)
        assert list((tmp_path / "again").iterdir()) == []


def test_a_weights_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"none\.pth: there is no such weights file"):
        build("fcn8s", backbone="resnet18", num_classes=2, weights=tmp_path / "none.pth")


def test_a_backbone_without_published_weights_is_named():
    with pytest.raises(WeightsError, match=r"there are no published ImageNet weights for .*: use --weights none"):
        build("fcn8s", backbone="resnet14t.no_such_tag", num_classes=2, weights="imagenet")


class Bomb:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("make", [lambda b, f: torch.save({"w": b}, f), lambda b, f: f.write_bytes(pickle.dumps(b))])
def test_a_file_that_would_run_code_is_refused_and_nothing_runs(tmp_path, make):
    place = tmp_path / "boom"
    make(Bomb(place), tmp_path / "bomb.pth")
    with pytest.raises(WeightsError, match=r"bomb\.pth: cannot be read as weights without running code"):
        build("fcn8s", backbone="resnet18", num_classes=2, weights=tmp_path / "bomb.pth")
    assert not place.exists()
    pickle.loads(pickle.dumps(Bomb(place)))  # it would have
    assert place.exists()


def test_torch_does_not_warn_of_a_file_that_is_refused(tmp_path, recwarn):
    warnings.simplefilter("always")
    (tmp_path / "w.pth").write_bytes(pickle.dumps(print, protocol=4))
    with pytest.raises(WeightsError, match=r"w\.pth: cannot be read as weights"):
        read_weights(tmp_path / "w.pth")
    assert not [str(warning.message) for warning in recwarn]


@pytest.mark.parametrize("content", [[1, 2], {"w": 3}, {}, {"state_dict": {}}])
def test_a_file_without_tensors_is_told_so(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds no table of tensors by name"):
        read_weights(tmp_path / "w.pth")


OTHER_WEIGHTS = {
    "shape": lambda: {"conv1.weight": torch.zeros(1)},
    "name": lambda: {"layer.weight": torch.zeros(3)},
    "prefix": lambda: {f"encoder.{name}": value for name, value in resnet18().items()},
    "resnet18": resnet18,
}


@pytest.mark.parametrize(
    ("backbone", "weights"),
    [("resnet18", "shape"), ("resnet18", "name"), ("resnet18", "prefix"), ("vgg11", "prefix"), ("convnext_atto", "prefix"),
     ("resnet34", "resnet18")],
)  # fmt: skip
def test_weights_of_another_network_are_refused(tmp_path, backbone, weights):
    save_file(OTHER_WEIGHTS[weights](), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=rf"w\.safetensors: not the weights of {backbone}") as caught:
        build("fcn8s", backbone=backbone, num_classes=2, weights=tmp_path / "w.safetensors")
    assert "\n" not in str(caught.value)
    assert "('layer" in str(caught.value) or backbone != "resnet34"


def test_a_foreign_file_is_not_silently_left_away_by_the_backbone_that_has_none(tmp_path):
    save_file(resnet18(), tmp_path / "w.safetensors")
    with pytest.raises(NetworkError, match="tiny has no published weights: use --weights none, or a fullconv model"):
        build("fcn8s", backbone="tiny", num_classes=2, weights=tmp_path / "w.safetensors")


def test_a_network_does_not_keep_the_file_that_it_was_made_from(tmp_path):
    save_file(resnet18(), tmp_path / "w.safetensors")
    built = build("fcn8s", backbone="resnet18", num_classes=2, weights=tmp_path / "w.safetensors")
    for module in built.modules():
        config = getattr(module, "pretrained_cfg", None) or {}
        assert not config.get("state_dict")


@pytest.mark.parametrize(
    ("name", "message"),
    [("resnet81", "Did you mean 'resnet"), ("vit_tiny_patch16_224", "the nearest in size that can")],
)
def test_a_backbone_that_cannot_be_is_told_so_before_anything_is_fetched(weights_cache, name, message):
    with pytest.raises(NetworkError, match=message):
        build("fcn8s", backbone=name, num_classes=2, weights="imagenet")


# classes of our own models are names


def model_file(path, variant, classes, **options):
    """Write a model whose scores and kernels all differ; returns its network."""
    torch.manual_seed(len(str(path)))
    heads = classes if isinstance(classes, dict) else None
    counts = {head: len(names) for head, names in classes.items()} if heads else len(classes)
    built = enliven(build(variant, num_classes=counts, **options))
    with torch.no_grad():
        for value in built.head.parameters():
            value.normal_(std=0.1)
    first = next(iter(classes.values())) if heads else classes
    labels = {head: Labels(classes=names) for head, names in heads.items()} if heads else None
    write_model(path, Card(variant=variant, classes=first, heads=labels), built.state_dict())
    return built


CLASS_VARIANTS = [
    ("fcn8s", {"backbone": "tiny"}),
    ("fcn8s", {"backbone": "tiny", "head": {"upsampling": "learned"}}),
    ("fcn32s", {"backbone": "tiny"}),
    ("fcn-os8", {"backbone": "resnet18", "width": 1 / 16}),
    ("voc-fcn8s-atonce", {"width": 1 / 16}),
    ("nyud-fcn32s-color-hha", {"width": 1 / 16}),
]


@pytest.mark.parametrize(("variant", "options"), CLASS_VARIANTS)
def test_every_head_declares_the_layers_that_have_a_row_per_class(variant, options):
    few, many = (build(variant, num_classes=count, **options) for count in (3, 5))
    other = {key for key, value in few.state_dict().items() if value.shape != many.state_dict()[key].shape}
    layers = tuple(f"head.{name}." for name in few.head.class_layers)
    assert other
    assert other == {key for key in few.state_dict() if key.startswith(layers)}
    for key in other:
        assert [len(built.state_dict()[key]) for built in (few, many)] == [3, 5]


@pytest.mark.parametrize(("variant", "options"), CLASS_VARIANTS)
def test_scores_of_a_class_come_from_the_class_of_its_name(tmp_path, variant, options):
    names = ("background", "disc", "ball", "box")
    old = model_file(tmp_path / "old.safetensors", variant, names, **options)
    own = ("background", "ball", "hand", "disc")
    new = build(variant, num_classes=4, **options)
    fresh = copy.deepcopy(new)
    (row,) = load_model_weights(new, tmp_path / "old.safetensors", {"": own})
    assert new.missing_keys == []
    assert (row.kept, row.new) == (("background",), ("hand",))
    assert row.moved == (("ball", 2, 1), ("disc", 1, 3))
    assert str(row) == (
        "carried over: background; carried over from another index: ball (2 to 1), disc (1 to 3); newly initialized: hand"
    )
    x = random_images(1, old.in_channels, 48, 40)
    before, after = old(x), new(x)
    for index, name in enumerate(own):
        if name in names:
            torch.testing.assert_close(after[:, index], before[:, names.index(name)], rtol=1e-4, atol=1e-5)
    for key, value in new.head.state_dict().items():
        if key.startswith(tuple(f"{layer}." for layer in new.head.class_layers)):
            assert torch.equal(value[2], fresh.head.state_dict()[key][2])  # "hand" is as it was built


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(5)), keep=st.integers(1, 5))
def test_any_order_of_the_classes_gives_the_same_scores_by_name(order, keep):
    names = tuple("abcde")
    stored = dict(zip(names, torch.arange(10.0).reshape(5, 2).unbind(), strict=True))
    own = tuple(names[i] for i in order)[:keep]
    new = network_of(len(own))
    tensors = {key: torch.stack([stored[name][0] + value[0] * 0 for name in names]) if is_row else value * 0
               for key, value, is_row in class_tensors(new)}  # fmt: skip
    missing, rows = load_by_class(new, tensors, {"": names}, {"": own})
    assert missing == []
    assert rows[0].new == ()
    for key, value, is_row in class_tensors(new):
        if is_row:
            for index, name in enumerate(own):
                assert torch.equal(value[index], torch.full_like(value[index], float(stored[name][0]))), key


def network_of(count):
    return build("fcn16s", backbone="tiny", num_classes=count, width=0.25, head={"upsampling": "learned"})


def class_tensors(network):
    layers = tuple(f"head.{name}." for name in network.head.class_layers)
    return [(key, value, key.startswith(layers)) for key, value in network.state_dict().items()]


def test_several_heads_take_the_scores_of_the_head_of_their_name(tmp_path):
    old = model_file(
        tmp_path / "old.safetensors", "fcn8s", {"sort": ("a", "b", "c"), "state": ("dry", "wet")}, backbone="tiny"
    )
    new = build("fcn8s", backbone="tiny", num_classes={"state": 2, "sort": 2})
    rows = load_model_weights(new, tmp_path / "old.safetensors", {"state": ("wet", "dry"), "sort": ("c", "d")})
    assert [str(row) for row in rows] == [
        "head state: carried over from another index: wet (1 to 0), dry (0 to 1)",
        "head sort: carried over from another index: c (2 to 0); newly initialized: d",
    ]
    x = random_images(1, 3, 40, 40)
    torch.testing.assert_close(new(x)["state"], old(x)["state"].flip(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(new(x)["sort"][:, 0], old(x)["sort"][:, 2], rtol=1e-4, atol=1e-5)
    single = build("fcn8s", backbone="tiny", num_classes=3)
    (row,) = load_model_weights(single, tmp_path / "old.safetensors", {"": ("a", "b", "c")})
    assert str(row) == "all 3 carried over"
    torch.testing.assert_close(single(x), old(x)["sort"], rtol=1e-4, atol=1e-5)


def test_a_model_without_a_common_class_lends_its_backbone_only(tmp_path):
    old = model_file(tmp_path / "old.safetensors", "fcn8s", ("a", "b"), backbone="tiny")
    new = build("fcn8s", backbone="tiny", num_classes=2)
    (row,) = load_model_weights(new, tmp_path / "old.safetensors", {"": ("x", "y")})
    assert str(row) == "newly initialized: x, y"
    assert {key.split(".")[1] for key in new.missing_keys} == {"score"}
    for key, value in new.backbone.state_dict().items():
        assert torch.equal(value, old.backbone.state_dict()[key])
