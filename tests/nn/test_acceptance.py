"""What a correct FCN family must satisfy, by an independent reader of the papers and the release.

Properties that other files hold already are not repeated: crops of the released nets, at-once against staged, late
fusion (`test_published.py`); bilinear kernels (`test_upsampling.py`); losses, void and Caffe's rule
(`test_losses.py`); the worked example of the scores and the bounds by resampled truth (`test_metrics.py`); groups of
biases and fixed upsampling under weight decay (`training/test_optimizer.py`); the tutorials (`test_examples.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import fullconv
from fullconv.hub import foreign_card, import_file
from fullconv.losses import PixelLoss, ratio
from fullconv.nn.caffe.backbones import build_caffe_backbone
from fullconv.nn.caffe.convert import to_caffe_state_dict
from fullconv.nn.heads import CaffeSkipHead, Features, final_crop
from fullconv.nn.registry import VARIANTS, CaffeSpec
from fullconv.preprocess import normalization, normalize
from networks import enliven, linearize, pictures

RELEASE = [name for name, row in VARIANTS.items() if row.caffe is not None]
SHAPES = ("voc-fcn32s", "voc-fcn16s", "voc-fcn8s", "voc-fcn-alexnet", "voc-fcn-googlenet")
"""One net of each shape: all others differ from these in classes, heads, channels or factors."""
SWEEP = (*range(1, 71), 224, 225, 250, 375, 500, 513)


def build(variant: str, width: float = 1 / 16, seed: int = 0, **settings) -> nn.Module:
    """A narrow net whose score layers are not 0."""
    torch.manual_seed(seed)
    network = fullconv.build(variant, width=width, **settings)
    for module in network.head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.1)
            nn.init.normal_(module.bias, std=0.1)
    return network


def heads(value) -> dict[str, Tensor]:
    return value if isinstance(value, dict) else {"": value}


# --- 1: a label for every pixel, whatever the size ---------------------------------------------------------------


def sweep() -> Iterator[tuple[int, int, int]]:
    """Batch, height and width: every number of the sweep as height and as width, small beside large."""
    for place, n in enumerate(SWEEP):
        other = SWEEP[(7 * place + 3) % 70]
        yield 1 + place % 2, n, other
        yield 1, other, n


@pytest.mark.parametrize("variant", SHAPES)
def test_a_net_of_each_shape_keeps_the_size_of_a_picture_of_any_size(variant):
    network = build(variant, 1 / 64, num_classes=2)
    with torch.inference_mode():
        for batch, height, width in list(sweep())[::4]:
            assert network(torch.randn(batch, 3, height, width)).shape == (batch, 2, height, width)


@pytest.mark.slow
@pytest.mark.parametrize("variant", RELEASE)
def test_every_published_net_keeps_the_size_of_a_picture_of_any_size(variant):
    network = build(variant, 1 / 64)
    counts = network.num_classes if isinstance(network.num_classes, dict) else {"": network.num_classes}
    with torch.inference_mode():
        for batch, height, width in sweep():
            logits = heads(network(torch.randn(batch, network.in_channels, height, width)))
            assert {head: tuple(value.shape) for head, value in logits.items()} == {
                head: (batch, count, height, width) for head, count in counts.items()
            }


# --- 2: score layers that start at 0 -----------------------------------------------------------------------------


def test_the_trunk_begins_to_learn_at_the_second_step():
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


# --- 3 and 5: crops and sizes from the layers --------------------------------------------------------------------


def coordinates(trunk: nn.Module) -> dict[str, tuple[float, float]]:
    """(scale, shift) of each layer's cells: c' = c / s + (p - (k - 1) d / 2) / s, as Caffe's coord_map composes them."""
    scale, shift, found = 1.0, 0.0, {}
    for name, layer in trunk.layers.items():
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
    trunk = build_caffe_backbone(CaffeSpec("vgg"), 3, (8, 16, 32), 1 / 64)
    trunk.layers["conv1_1"].padding = (pad, pad)
    trunk.layers["fc6"].dilation = (dilation, dilation)
    features = Features(trunk, 3).geometry
    head = CaffeSkipHead(features, trunk.channels, 2, {})
    fused = head.grow["8"].trace_geometry(head.grow["16"].trace_geometry(features[32], features[16]), features[8])
    found = head.crop["16"].offset, head.crop["8"].offset, final_crop(fused, 8, 16)
    place = coordinates(trunk)
    at16 = grown(place["fc7"], 4, 2)
    at8 = grown(at16, 4, 2)
    by_coordinates = (place["pool4"][1] - at16[1], place["pool3"][1] - at8[1], grown(at8, 16, 8)[1])
    assert found == by_coordinates == crops


def test_a_padding_for_which_no_crop_is_whole_is_refused():
    trunk = build_caffe_backbone(CaffeSpec("vgg"), 3, (16, 32), 1 / 64)
    trunk.layers["pool5"] = nn.MaxPool2d(3, 2, ceil_mode=True)  # its cells lie half a cell of pool4 further
    with pytest.raises(fullconv.FullconvError, match=r"they are 5\.5 cells of 16 pixels apart, no whole number"):
        CaffeSkipHead(Features(trunk, 3).geometry, trunk.channels, 2, {})


def cells(trunk: nn.Module, n: int, last: str) -> int:
    """Size of a layer's map for a picture of n pixels, by the arithmetic of Caffe's layers (pools round up)."""
    for name, layer in trunk.layers.items():
        if isinstance(layer, (nn.Conv2d, nn.MaxPool2d)):
            k, s, p = (v if isinstance(v, int) else v[0] for v in (layer.kernel_size, layer.stride, layer.padding))
            span = n + 2 * p - k
            n = (math.ceil(span / s) if isinstance(layer, nn.MaxPool2d) else span // s) + 1
        if name == last:
            return n
    raise AssertionError(last)


def test_every_crop_is_legal_for_every_picture():
    trunk = build_caffe_backbone(CaffeSpec("vgg"), 3, (8, 16, 32), 1 / 64)
    for n in range(1, 5001):
        c = cells(trunk, n, "fc7")
        assert c == math.ceil((n + 198) / 32) - 6
        assert cells(trunk, n, "pool4") >= 5 + (2 * c + 2)  # upscore2
        assert cells(trunk, n, "pool3") >= 9 + (4 * c + 6)  # upscore_pool4
        assert 32 * c + 32 >= 19 + n
        assert 32 * c + 48 >= 27 + n
        assert 32 * c + 56 >= 31 + n
    alexnet = build_caffe_backbone(CaffeSpec("caffenet"), 3, (32,), 1 / 64)
    assert all(31 + 32 * cells(alexnet, n, "fc7") >= 18 + n for n in range(1, 3001))


@pytest.mark.parametrize(("pad", "sees"), [(96, False), (97, True)])
def test_97_is_the_smallest_padding_with_which_fc6_sees_a_single_pixel(pad, sees):
    trunk = build_caffe_backbone(CaffeSpec("vgg"), 3, (32,), 1 / 64)
    trunk.layers["conv1_1"].padding = (pad, pad)
    if sees:
        assert trunk(torch.zeros(1, 3, 1, 1))[32].shape[-2:] == (1, 1)
    else:
        with pytest.raises(RuntimeError, match="greater than actual input size"):
            trunk(torch.zeros(1, 3, 1, 1))


TABLE = {  # n: pool3, pool4, coarse, upscore2, upscore_pool4, then the last map of 32s, 16s and 8s
    1: (25, 13, 1, 4, 10, 64, 80, 88), 33: (29, 15, 2, 6, 14, 96, 112, 120), 224: (53, 27, 8, 18, 38, 288, 304, 312),
    375: (72, 36, 12, 26, 54, 416, 432, 440), 500: (88, 44, 16, 34, 70, 544, 560, 568),
    513: (89, 45, 17, 36, 74, 576, 592, 600),
}  # fmt: skip


@pytest.mark.parametrize("n", list(TABLE))
def test_the_maps_on_the_way_have_the_sizes_of_the_release(n):
    pool3, pool4, coarse, upscore2, upscore4, *last = TABLE[n]
    with torch.inference_mode():
        x = torch.randn(1, 3, n, 1)
        network = build("voc-fcn8s", 1 / 64)
        maps = network.backbone(x)
        assert [maps[stride].shape[-2] for stride in (8, 16, 32)] == [pool3, pool4, coarse]
        for variant, cells_, kernel, stride, size in zip(
            ("voc-fcn32s", "voc-fcn16s", "voc-fcn8s"), (coarse, upscore2, upscore4), (64, 32, 16), (32, 16, 8), last,
            strict=True,
        ):  # fmt: skip
            scores = build(variant, 1 / 64).scores(x)
            assert scores.shape[-2] == cells_
            assert VARIANTS[variant].caffe.kernel == kernel
            assert F.conv_transpose2d(scores[:, :1], torch.zeros(1, 1, kernel, kernel), stride=stride).shape[-2] == size


# --- 4: alignment ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variant", ["voc-fcn32s", "voc-fcn8s-atonce", "voc-fcn16s", "voc-fcn-alexnet", "voc-fcn-googlenet"]
)
def test_each_path_of_a_published_net_answers_a_ramp_with_the_coordinate(variant):
    network = linearize(build(variant, 1 / 64, num_classes=1))
    score = network.head.score
    reach = math.ceil(max(-network.geometry.x.rf_start, network.geometry.x.rf_end)) + 64
    ramp = torch.arange(2 * reach + 96, dtype=torch.float64)
    ones = torch.ones(1, 3, 8, len(ramp), dtype=torch.float64)
    for alone in score:
        for stride, layer in score.items():
            nn.init.constant_(layer.weight, float(stride == alone))
        with torch.inference_mode():
            # Zeros around the picture are no pixels of the ramp; what remains of them cancels in the quotient's interior.
            answer = network(ones * ramp) / network(ones)
        error = (answer - ramp)[0, 0, 4, reach:-reach]
        assert float(error.abs().max()) < 1e-4, alone


# --- 6: parameters -----------------------------------------------------------------------------------------------

COUNTS = {  # learnable, and with the fixed transposed convolutions as Caffe and its ports store them (dense)
    "voc-fcn32s": (134_346_581, 136_152_917), "voc-fcn16s": (134_357_354, 134_815_994),
    "voc-fcn8s": (134_362_751, 134_489_759), "voc-fcn8s-atonce": (134_362_751, 134_489_759),
    "siftflow-fcn32s": (134_408_036, 138_905_444), "siftflow-fcn16s": (134_426_504, 135_568_424),
    "siftflow-fcn8s": (134_435_756, 134_751_980), "nyud-fcn32s-color": (134_424_424, 140_978_024),
    "nyud-fcn32s-hha": (134_424_424, 140_978_024), "nyud-fcn32s-color-d": (134_425_000, 140_978_600),
    "nyud-fcn32s-color-hha": (268_848_848, 275_402_448), "pascalcontext-fcn32s": (134_506_364, 149_251_964),
    "pascalcontext-fcn16s": (134_537_144, 138_281_144), "pascalcontext-fcn8s": (134_552_564, 135_589_364),
    "voc-fcn-alexnet": (56_954_261, 58_704_590),
}  # fmt: skip
GROUPED = {"voc-fcn32s": 134_432_597, "voc-fcn16s": 134_379_194, "voc-fcn8s": 134_368_799}


def test_every_released_net_is_counted():
    assert set(RELEASE) - set(COUNTS) == {"voc-fcn-googlenet"}  # never released; the paper says 6M


@pytest.mark.parametrize("variant", list(COUNTS))
def test_parameters_are_as_many_as_in_the_release_with_and_without_its_fixed_ones(variant):
    with torch.device("meta"):
        network = fullconv.build(variant)
    learnable = sum(p.numel() for p in network.parameters() if p.requires_grad)
    tensors = to_caffe_state_dict(network)
    fixed = {key: value for key, value in tensors.items() if key.startswith("upscore")}
    assert (learnable, sum(t.numel() for t in tensors.values())) == COUNTS[variant]
    if variant in GROUPED:
        assert learnable + sum(t.shape[0] * t.shape[2] * t.shape[3] for t in fixed.values()) == GROUPED[variant]


@pytest.mark.slow
def test_googlenets_six_million():
    assert round(sum(p.numel() for p in fullconv.build("voc-fcn-googlenet").parameters()) / 1e6) == 6


# --- 7: the fixed transposed convolutions ------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["voc-fcn32s", "voc-fcn16s", "voc-fcn8s", "voc-fcn-alexnet"])
def test_upsampling_is_the_stored_convolution_dense_and_by_class_and_bilinear_inside(variant):
    network = build(variant, 1 / 64)
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
    weight = to_caffe_state_dict(build("voc-fcn8s", 1 / 64))["upscore8.weight"][:1, :1].double()
    scores = torch.randn(1, 1, 9, 7, dtype=torch.float64)
    wanted = F.interpolate(scores, scale_factor=8, mode="bilinear", align_corners=False)
    bare = F.conv_transpose2d(scores, weight, stride=8, padding=4)
    torch.testing.assert_close(bare[..., 4:-4, 4:-4], wanted[..., 4:-4, 4:-4], rtol=0, atol=1e-12)
    assert (bare - wanted).abs().max() > 0.1  # the release's fading border
    repeated = F.conv_transpose2d(F.pad(scores, (1, 1, 1, 1), mode="replicate"), weight, stride=8, padding=4)
    torch.testing.assert_close(repeated[..., 8:-8, 8:-8], wanted, rtol=0, atol=1e-12)


def test_the_scores_fade_at_the_border_as_the_release_does():
    """With 1 in every coarse cell: below 1 in 13, 7 and 10 pixels, 0.609 at the first pixel, 0.371 in the corner."""
    network = build("voc-fcn32s", 1 / 64)
    with torch.inference_mode():
        c = [network.scores(torch.zeros(1, 3, n, 1)).shape[-2] for n in (375, 500)]
        ones = network.upsample(torch.ones(1, 21, *c), (375, 500))[0, 0]
    row, column = ones[180], ones[:, 250]
    assert [int((part < 1 - 1e-6).sum()) for part in (row[:250], row[250:], column[:180], column[180:])] == [
        13,
        7,
        13,
        10,
    ]
    assert float(row[0]) == pytest.approx(0.609, abs=5e-4)
    assert float(ones[0, 0]) == pytest.approx(0.371, abs=5e-4)


# --- 9 and 10: a classifier as a convolution ---------------------------------------------------------------------


@pytest.mark.slow
def test_vgg16_made_convolutional_is_its_classifier(tmp_path):
    torch.manual_seed(0)
    theirs = torchvision.models.vgg16(weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / "vgg16.pth")
    trunk = fullconv.build("voc-fcn32s", weights=tmp_path / "vgg16.pth").backbone
    trunk.layers["conv1_1"].padding = (1, 1)  # the classifier's; the release pads by 100
    fc8 = theirs.classifier[6]
    x = pictures(1, 3, 224, 224)
    with torch.inference_mode():
        found = F.conv2d(trunk(x)[32], fc8.weight[..., None, None], fc8.bias)
        wanted = theirs(x)
        assert found.shape == (1, 1000, 1, 1)
        torch.testing.assert_close(found[..., 0, 0], wanted, rtol=0, atol=1e-5)
        # Its numbers are not those of the six crops: each crop sees zeros around itself, the grid sees the picture.
        assert trunk(pictures(1, 3, 256, 288))[32].shape == (1, 4096, 2, 3)
        scrambled = theirs.classifier[0].weight.reshape(4096, 7, 7, 512).permute(0, 3, 1, 2)
        trunk.layers["fc6"].weight.copy_(scrambled)
        wrong = F.conv2d(trunk(x)[32], fc8.weight[..., None, None], fc8.bias)
    assert (wrong[..., 0, 0] - wanted).abs().max() > 1e-3


# --- 11: a finer net from a coarser one --------------------------------------------------------------------------


def test_fcn16s_begins_as_fcn32s_grown_in_two_steps():
    coarse, fine = build("voc-fcn32s"), build("voc-fcn16s", seed=1)
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


# --- 13: files of wkentaro/pytorch-fcn's shape -------------------------------------------------------------------


@pytest.mark.parametrize("variant", RELEASE)
def test_what_is_written_under_the_releases_names_is_read_as_the_same_net(variant, tmp_path):
    network = build(variant, 1 / 16)
    tensors = to_caffe_state_dict(network)
    torch.save(tensors, tmp_path / "a.pth")
    read, _ = import_file(tmp_path / "a.pth", variant)
    assert {k: v.shape for k, v in to_caffe_state_dict(read).items()} == {k: v.shape for k, v in tensors.items()}
    for key, value in network.state_dict().items():
        assert torch.equal(read.state_dict()[key], value), key


@pytest.mark.parametrize(("variant", "more"), [
    ("voc-fcn32s", ["upscore"]), ("voc-fcn16s", ["score_pool4", "upscore16", "upscore2"]),
    ("voc-fcn8s", ["score_pool3", "score_pool4", "upscore2", "upscore8", "upscore_pool4"]),
])  # fmt: skip
def test_the_tensors_have_wkentaros_names_and_shapes(variant, more):
    tensors = to_caffe_state_dict(build(variant))
    layers = {key.rsplit(".", 1)[0] for key in tensors}
    convs = [f"conv{block}_{i}" for block, count in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, count + 1)]
    assert layers == {*convs, "fc6", "fc7", "score_fr", *more}
    assert len(tensors) == {1: 33, 3: 36, 5: 39}[len(more)]
    assert all(v.shape[:2] == (21, 21) for k, v in tensors.items() if k.startswith("upscore"))


def test_a_net_of_another_family_has_no_names_there():
    with pytest.raises(fullconv.FullconvError, match="fcn32s is no net of the Caffe release"):
        to_caffe_state_dict(fullconv.build("fcn32s", backbone="tiny", num_classes=2))


# --- 14: torchvision's nets --------------------------------------------------------------------------------------


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
            x = pictures(1, 3, *size)
            wanted = theirs(x)["out"]
            torch.testing.assert_close(ours(x), wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


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
    x = pictures(1, 3, 64, 72)
    with torch.inference_mode():
        wanted = theirs(x)["out"]
        for network in (ours, again):
            torch.testing.assert_close(network(x), wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))
        # Built here, scores lie where the layers put them: 3.5 pixels up and left of where torchvision draws them. Both
        # maps are linear between their knots, so the mean of 2x2 pixels is torchvision's map at half pixels.
        corner = built(x)[..., :-4, :-4]
        mean = F.avg_pool2d(wanted, 2, stride=1)[..., 3:, 3:]
        knots = torch.arange(64 - 4) % 8 != 0, torch.arange(72 - 4) % 8 != 0
        inside = [keep & (torch.arange(len(keep)) >= 8) & (torch.arange(len(keep)) < len(keep) - 8) for keep in knots]
        corner, mean = (m[..., inside[0], :][..., inside[1]] for m in (corner, mean))
        torch.testing.assert_close(corner, mean, rtol=0, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("variant", ["torchvision-fcn_resnet50", "voc-fcn8s"])
def test_a_phase_for_a_net_that_has_its_authors_rule_is_refused(variant):
    with pytest.raises(fullconv.FullconvError, match=r"phase = 3\.5 has no effect in"):
        fullconv.build(variant, phase=3.5)


# --- 21 and 22: preprocessing, modes, heads ----------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["voc-fcn8s", "siftflow-fcn8s", "nyud-fcn32s-color", "pascalcontext-fcn8s"])
def test_caffes_preprocessing_can_be_turned_back_to_the_very_bytes(variant):
    card = foreign_card(build(variant, 1 / 64), variant, "x")
    image = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
    x = normalize(torch.from_numpy(image)[None], card)
    mean = torch.tensor(card.mean).flip(0).reshape(1, 3, 1, 1)  # the network's order is BGR
    assert np.array_equal((x + mean).round()[0].flip(0).permute(1, 2, 0).numpy().astype(np.uint8), image)
    factor, _ = normalization(card)
    assert set(np.asarray(factor).ravel().tolist()) == {1.0}  # no division by a standard deviation


def test_dropout_is_drawn_in_training_only():
    network, x = build("voc-fcn32s"), torch.randn(1, 3, 20, 30)
    with torch.no_grad():
        assert torch.equal(network(x), network(x))
        network.train()
        assert not torch.equal(network(x), network(x))


def test_both_heads_have_the_size_of_the_picture_and_their_losses_add_up():
    network = build("siftflow-fcn16s")
    x = torch.randn(1, 3, 37, 51)
    targets = {"semantic": torch.randint(0, 33, (1, 37, 51)), "geometric": torch.randint(0, 3, (1, 37, 51))}
    logits = network(x)
    assert {head: tuple(value.shape) for head, value in logits.items()} == {
        "semantic": (1, 33, 37, 51),
        "geometric": (1, 3, 37, 51),
    }
    loss = PixelLoss(reduction="sum")
    alone = {head: ratio(*loss.sums(logits[head], targets[head])) for head in targets}
    shared = network.backbone.layers["conv1_1"].weight
    each = [torch.autograd.grad(value, shared, retain_graph=True)[0] for value in alone.values()]
    both = torch.autograd.grad(sum(alone.values()), shared)[0]
    torch.testing.assert_close(both, each[0] + each[1], rtol=1e-4, atol=1e-4 * float(both.abs().max()))
