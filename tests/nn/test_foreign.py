"""Checkpoints of others: files of their shapes are made here, and read as the networks that they hold."""

import struct

import pytest
import torch
from caffe_files import caffemodel, field, varint

import fullconv
from fullconv.hub import foreign_card, import_file
from fullconv.nn.caffe.caffemodel import read_caffemodel
from fullconv.nn.registry import VARIANTS
from fullconv.nn.upsample import bilinear_kernel

NARROW = 1 / 16
TENSORS = {"voc-fcn32s": 33, "voc-fcn16s": 36, "voc-fcn8s": 39, "voc-fcn8s-atonce": 39}


def randomized(variant, **settings):
    torch.manual_seed(1)
    network = fullconv.build(variant, width=NARROW, **settings)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.1)
    return network


def dense(classes, kernel):
    factor = kernel // 2
    line = bilinear_kernel(factor, factor - 0.5).float()
    weight = torch.zeros(classes, classes, kernel, kernel)
    weight[range(classes), range(classes)] = torch.outer(line, line)
    return weight


def release_names(network, suffix=""):
    """The network's tensors under the release's names, with dense transposed convolutions."""
    names = {"32": "score_fr", "16": "score_pool4", "8": "score_pool3"}
    state = {}
    for key, value in network.state_dict().items():
        parts = key.split(".")
        layer = parts[2] if parts[0] == "backbone" else names[parts[2]]
        state[f"{layer}.{parts[-1]}"] = value
    strides = len(network.spec.strides)
    growing = {
        1: {"upscore": 64},
        2: {"upscore2": 4, "upscore16": 32},
        3: {"upscore2": 4, "upscore_pool4": 4, "upscore8": 16},
    }
    for name, kernel in growing[strides].items():
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


@pytest.mark.parametrize("new", [True, False], ids=["layer", "layers"])
def test_a_caffemodel_loads_in_both_blob_layouts(new, tmp_path):
    network = randomized("voc-fcn16s")
    (tmp_path / "a.caffemodel").write_bytes(caffemodel(release_names(network), new))
    read, _ = import_file(tmp_path / "a.caffemodel", "voc-fcn16s")
    for key, value in network.state_dict().items():
        assert torch.equal(read.state_dict()[key], value), key


def test_two_heads_and_two_trunks_load_by_the_releases_suffixes(tmp_path):
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
    with pytest.raises(fullconv.FullconvError, match=r"'backbone.layers.conv3_2.bias' is missing"):
        import_file(tmp_path / "a.pth", "voc-fcn8s")
    torch.save(state, tmp_path / "b.pth")
    with pytest.raises(fullconv.FullconvError, match=r"'head.score.16.weight' \(and 3 more\) are unknown"):
        import_file(tmp_path / "b.pth", "voc-fcn32s")


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


def test_a_file_that_would_run_code_is_refused(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (print, ("boom",))

    torch.save({"conv1_1.weight": Bomb()}, tmp_path / "a.pth")
    with pytest.raises(fullconv.FullconvError, match="without running code"):
        import_file(tmp_path / "a.pth", "voc-fcn8s")


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


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(fullconv.FullconvError, match="Did you mean 'fcn_resnet50'"):
        import_file(tmp_path / "a.pth", "fcn_resnet5")


@pytest.mark.parametrize("variant", [name for name, row in VARIANTS.items() if row.caffe is not None])
def test_every_published_net_has_a_card_with_its_own_preprocessing(variant):
    network = fullconv.build(variant, width=NARROW)
    card = foreign_card(network, variant, "x")
    assert len(card.mean) == network.in_channels
    assert card.channel_order == ("rgb" if variant == "nyud-fcn32s-hha" else "bgr")


def test_bgr_pictures_enter_the_network_blue_first_less_the_mean():
    from fullconv.preprocess import normalize

    card = foreign_card(fullconv.build("voc-fcn32s", width=NARROW), "voc-fcn32s", "x")
    x = normalize(torch.tensor([10, 20, 30], dtype=torch.uint8).reshape(1, 1, 1, 3), card)
    torch.testing.assert_close(x.flatten(), torch.tensor([30 - 104.00699, 20 - 116.66877, 10 - 122.67892]))
