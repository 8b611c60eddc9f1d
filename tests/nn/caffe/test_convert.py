"""Foreign checkpoints: the release's, wkentaro's and torchvision's, there and back."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import fullconv
from caffe_files import caffemodel, field, varint
from fullconv.hub import foreign_card, import_file
from fullconv.nn import build
from fullconv.nn.caffe.caffemodel import read_caffemodel
from fullconv.nn.caffe.convert import to_caffe_state_dict
from fullconv.nn.upsample import bilinear_kernel
from fullconv.preprocess import normalization, normalize, range_warning
from networks import RELEASE, enliven, narrow, random_images, randomized

TENSORS = {"voc-fcn32s": 33, "voc-fcn16s": 36, "voc-fcn8s": 39, "voc-fcn8s-atonce": 39}


def dense(classes, kernel):
    factor = kernel // 2
    line = bilinear_kernel(factor, factor - 0.5).float()
    weight = torch.zeros(classes, classes, kernel, kernel)
    weight[range(classes), range(classes)] = torch.outer(line, line)
    return weight


def release_names(network):
    """The network's tensors under the release's names, with dense transposed convolutions."""
    names = {"32": "score_fr", "16": "score_pool4", "8": "score_pool3"}
    state = {}
    for key, value in network.state_dict().items():
        parts = key.split(".")
        layer = parts[2] if parts[0] == "backbone" else names[parts[2]]
        state[f"{layer}.{parts[-1]}"] = value
    strides = len(network.spec.strides)
    kernels = [{"upscore": 64}, {"upscore2": 4, "upscore16": 32}, {"upscore2": 4, "upscore_pool4": 4, "upscore8": 16}]
    for name, kernel in kernels[strides - 1].items():
        state[f"{name}.weight"] = dense(21, kernel)
    return state


@pytest.mark.parametrize("variant", list(TENSORS))
@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "wrapped"])
def test_a_file_of_wkentaros_shape_loads(variant, wrapped, tmp_path):
    network = randomized(variant)
    state = release_names(network)
    assert len(state) == TENSORS[variant]
    torch.save({"model_state_dict": state, "epoch": 3, "arch": "FCN"} if wrapped else state, tmp_path / "a.pth")
    read, card = import_file(tmp_path / "a.pth", variant)
    x = torch.randn(1, 3, 33, 40)
    with torch.no_grad():
        assert torch.equal(read(x), network(x))
    assert card.classes[:2] == ("background", "aeroplane")
    assert (card.channel_order, card.range, card.std) == ("bgr", (0.0, 1.0), (1.0, 1.0, 1.0))
    assert card.mean == (122.67892, 116.66877, 104.00699)


def test_two_heads_and_two_backbone_load_by_the_releases_suffixes(tmp_path):
    sift = randomized("siftflow-fcn32s")
    state = {}
    for key, value in sift.state_dict().items():
        parts = key.split(".")
        layer = parts[2] if parts[0] == "backbone" else f"score_fr_{parts[1][:3]}"  # sem and geo
        state[f"{layer}.{parts[-1]}"] = value
    torch.save(state, tmp_path / "sift.pth")
    read, card = import_file(tmp_path / "sift.pth", "siftflow-fcn32s")
    assert all(torch.equal(a, b) for a, b in zip(read.state_dict().values(), sift.state_dict().values(), strict=True))
    assert list(card.heads) == ["semantic", "geometric"]
    late = randomized("nyud-fcn32s-color-hha")
    state = {}
    for key, value in late.state_dict().items():
        parts = key.split(".")
        layer = parts[3] + parts[1] if parts[0] == "backbone" else "score_fr" + parts[1].removeprefix("score_")
        state[f"{layer}.{parts[-1]}"] = value
    torch.save(state, tmp_path / "late.pth")
    read, _ = import_file(tmp_path / "late.pth", "nyud-fcn32s-color-hha")
    assert all(torch.equal(a, b) for a, b in zip(read.state_dict().values(), late.state_dict().values(), strict=True))


def test_missing_and_unknown_tensors_are_named(tmp_path):
    state = release_names(randomized("voc-fcn8s"))
    torch.save({k: v for k, v in state.items() if k != "conv3_2.bias"}, tmp_path / "a.pth")
    with pytest.raises(fullconv.FullconvError, match=r"'conv3_2.bias' is missing.* 38 tensors: 'conv1_1.weight' \(4, "):
        import_file(tmp_path / "a.pth", "voc-fcn8s")
    torch.save(state, tmp_path / "b.pth")
    with pytest.raises(fullconv.FullconvError, match=r"'score_pool4.weight' \(and 3 more\) are unknown"):
        import_file(tmp_path / "b.pth", "voc-fcn32s")


@pytest.mark.parametrize("name", ["voc-fcn8s", "fcn_resnet50"])
def test_a_file_of_another_family_is_refused_with_its_tensors(name, tmp_path):
    torch.save({"encoder.stem.weight": torch.zeros(4, 3, 3, 3), "out.bias": torch.zeros(21)}, tmp_path / "a.pth")
    with pytest.raises(
        fullconv.FullconvError,
        match=r"It holds 2 tensors: 'encoder\.stem\.weight' \(4, 3, 3, 3\), 'out\.bias' \(21,\)\.$",
    ):
        import_file(tmp_path / "a.pth", name)


def test_the_published_files_have_the_preprocessing_that_torchvision_publishes():
    weights = torchvision.models.segmentation.FCN_ResNet50_Weights.DEFAULT
    network = build("torchvision-fcn_resnet50", num_classes=21)
    card = foreign_card(network, "torchvision-fcn_resnet50", weights.url.rsplit("/", 1)[1])
    preset = weights.transforms()
    assert [card.short_side] == preset.resize_size
    assert (list(card.mean), list(card.std), card.range) == (preset.mean, preset.std, (0.0, 255.0))
    assert foreign_card(network, "torchvision-fcn_resnet50", "own.pth").short_side is None


@pytest.mark.parametrize("variant", RELEASE)
def test_the_internal_range_of_the_release_is_not_that_of_its_images(variant):
    card = foreign_card(narrow(variant), variant, "a.caffemodel")
    assert card.range == (0.0, 1.0)
    assert card.image_range == (None if variant == "nyud-fcn32s-color-d" else (0.0, 255.0))
    for dtype, top in (("uint8", 255), ("uint16", 255), ("float32", 255)):
        assert range_warning(np.full((2, 2, card.in_channels), top, dtype), card) is None
    deep = range_warning(np.full((2, 2, card.in_channels), 4000, np.uint16), card)
    if variant != "nyud-fcn32s-color-d":
        assert "values from 0 to 255" in deep.message
        assert "0 to 1;" not in deep.message


def test_upsampling_that_was_trained_or_mixes_classes_is_refused(tmp_path):
    state = release_names(randomized("voc-fcn8s"))
    mixed = state["upscore2.weight"].clone()
    mixed[0, 1] = 1
    torch.save({**state, "upscore2.weight": mixed}, tmp_path / "a.pth")
    with pytest.raises(fullconv.FullconvError, match=r"'upscore2.weight' mixes classes"):
        import_file(tmp_path / "a.pth", "voc-fcn8s")
    torch.save({**state, "upscore8.weight": state["upscore8.weight"] * 1.1}, tmp_path / "b.pth")
    with pytest.raises(fullconv.FullconvError, match=r"'upscore8.weight' was trained"):
        import_file(tmp_path / "b.pth", "voc-fcn8s")


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(fullconv.FullconvError, match="Did you mean 'fcn_resnet50'"):
        import_file(tmp_path / "a.pth", "fcn_resnet5")


@pytest.mark.parametrize("variant", RELEASE)
def test_what_is_written_under_the_releases_names_is_read_as_the_same_net(variant, tmp_path):
    network = narrow(variant, 1 / 16)
    tensors = to_caffe_state_dict(network)
    torch.save(tensors, tmp_path / "a.pth")
    read, card = import_file(tmp_path / "a.pth", variant)
    assert (len(card.mean), card.channel_order) == (
        network.in_channels,
        "rgb" if variant == "nyud-fcn32s-hha" else "bgr",
    )
    assert {k: v.shape for k, v in to_caffe_state_dict(read).items()} == {k: v.shape for k, v in tensors.items()}
    for key, value in network.state_dict().items():
        assert torch.equal(read.state_dict()[key], value), key


def test_a_net_of_another_family_has_no_names_there():
    with pytest.raises(fullconv.FullconvError, match="fcn32s is no net of the Caffe release"):
        to_caffe_state_dict(fullconv.build("fcn32s", backbone="tiny", num_classes=2))


def torchvisions(depth: int, aux: bool) -> nn.Module:
    torch.manual_seed(0)
    make = getattr(torchvision.models.segmentation, f"fcn_resnet{depth}")
    return enliven(make(weights=None, weights_backbone=None, aux_loss=aux))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("depth", "aux", "tensors"), [(50, True, 334), (50, False, 326), (101, True, 640), (101, False, 632)]
)
def test_torchvisions_files_are_read_and_equal_it_at_odd_sizes(depth, aux, tensors, tmp_path):
    theirs = torchvisions(depth, aux)
    assert len(theirs.state_dict()) == tensors
    torch.save(theirs.state_dict(), tmp_path / "a.pth")
    ours, card = import_file(tmp_path / "a.pth", f"fcn_resnet{depth}")
    assert card.variant == f"torchvision-fcn_resnet{depth}"
    with torch.inference_mode():
        for size in ((1, 1), (33, 65), (97, 130), (225, 161)):
            x = random_images(1, 3, *size)
            expected = theirs(x)["out"]
            torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_fcn_os8_with_torchvisions_weights_equals_it_at_multiples_of_8(tmp_path):
    theirs = torchvisions(50, True)
    torch.save(theirs.state_dict(), tmp_path / "a.pth")
    ours, card = import_file(tmp_path / "a.pth", "fcn-os8")
    assert card.network["phase"] == 3.5
    segmenter = fullconv.Segmenter(ours, card, device="cpu", precision="fp32")
    segmenter.save(tmp_path / "a.safetensors")
    again = fullconv.load(tmp_path / "a.safetensors").network  # the phase belongs to the weights and travels with them
    built = fullconv.build("fcn-os8", backbone="resnet50", num_classes=21)
    built.load_state_dict(ours.state_dict())
    x = random_images(1, 3, 64, 72)
    with torch.inference_mode():
        expected = theirs(x)["out"]
        for network in (ours, again):
            torch.testing.assert_close(network(x), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
        # Built here, scores lie where the layers put them: 3.5 pixels up and left of where torchvision draws them. Both
        # maps are linear between their knots, so the mean of 2x2 pixels is torchvision's map at half pixels.
        corner = built(x)[..., :-4, :-4]
        mean = F.avg_pool2d(expected, 2, stride=1)[..., 3:, 3:]
        knots = torch.arange(64 - 4) % 8 != 0, torch.arange(72 - 4) % 8 != 0
        inside = [keep & (torch.arange(len(keep)) >= 8) & (torch.arange(len(keep)) < len(keep) - 8) for keep in knots]
        corner, mean = (m[..., inside[0], :][..., inside[1]] for m in (corner, mean))
        torch.testing.assert_close(corner, mean, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("variant", ["voc-fcn8s", "siftflow-fcn8s", "nyud-fcn32s-color", "pascalcontext-fcn8s"])
def test_caffes_preprocessing_can_be_turned_back_to_the_very_bytes(variant):
    card = foreign_card(narrow(variant, 1 / 64), variant, "x")
    image = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
    x = normalize(torch.from_numpy(image)[None], card)
    mean = torch.tensor(card.mean).flip(0).reshape(1, 3, 1, 1)  # the network's order is BGR
    assert np.array_equal((x + mean).round()[0].flip(0).permute(1, 2, 0).numpy().astype(np.uint8), image)
    factor, _ = normalization(card)
    assert set(np.asarray(factor).ravel().tolist()) == {1.0}  # no division by a standard deviation


@pytest.mark.parametrize("new", [True, False], ids=["layer", "layers"])
def test_a_caffemodel_loads_in_both_blob_layouts(new, tmp_path):
    network = randomized("voc-fcn16s")
    (tmp_path / "a.caffemodel").write_bytes(caffemodel(release_names(network), new))
    read, _ = import_file(tmp_path / "a.caffemodel", "voc-fcn16s")
    for key, value in network.state_dict().items():
        assert torch.equal(read.state_dict()[key], value), key


@pytest.mark.parametrize("cut", [1, 10, 1000, -5, -1])
def test_a_cut_caffemodel_is_named(cut, tmp_path):
    whole = caffemodel(release_names(randomized("voc-fcn32s")))
    (tmp_path / "a.caffemodel").write_bytes(whole[:cut])
    with pytest.raises(fullconv.FullconvError, match=r"a\.caffemodel: (damaged|holds no layer)"):
        read_caffemodel(tmp_path / "a.caffemodel")


def test_a_caffemodel_whose_blob_lies_about_its_size_is_named(tmp_path):
    lie = field(7, 2, field(1, 2, varint(2**40))) + field(5, 2, struct.pack("<f", 1))
    (tmp_path / "a.caffemodel").write_bytes(field(100, 2, field(1, 2, b"conv1_1") + field(7, 2, lie)))
    with pytest.raises(fullconv.FullconvError, match=r"damaged, or no .caffemodel"):
        read_caffemodel(tmp_path / "a.caffemodel")
