"""Networks as section 8 and 9 of the interface and section 8 of the acceptance properties state them."""

from __future__ import annotations

import itertools

import pytest

torch = pytest.importorskip("torch")

import fullconv  # noqa: E402

SKIPS = ("fcn32s", "fcn16s", "fcn8s", "fcn4s")
SIZES = [(n, n) for n in (1, 2, 31, 32, 33, 97)] + [(1, 97), (97, 2), (33, 31), (2, 1), (224, 161)]
K = 7

_built: dict[tuple, torch.nn.Module] = {}


def network_of(variant: str, backbone: str = "tiny", channels: int = 3):
    """A network with the bilinear weights it is born with and otherwise random ones."""
    key = variant, backbone, channels
    if key not in _built:
        torch.manual_seed(0)
        net = fullconv.build(variant, backbone=backbone, num_classes=K, in_channels=channels, weights=None)
        for parameter in score_parameters(net):
            torch.nn.init.normal_(parameter, std=0.1)
        _built[key] = net
    return _built[key]


def score_parameters(net) -> list:
    """Weights and biases of the layers that give class scores."""
    layers = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d) and m.out_channels == K]
    assert layers
    return [p for layer in layers for p in (layer.weight, layer.bias) if p is not None]


def image(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("variant", SKIPS)
def test_output_has_the_size_of_the_input_and_is_exactly_upsample_of_scores(variant):
    net = network_of(variant)
    assert isinstance(net, torch.nn.Module)
    assert not net.training
    for batch, (h, w) in zip(itertools.cycle((1, 2)), SIZES, strict=False):
        x = image(batch, 3, h, w)
        scores = net.scores(x)
        assert scores.shape[:2] == (batch, K)
        assert scores.shape[2] * net.score_stride >= h
        assert scores.shape[3] * net.score_stride >= w
        whole = net(x)
        assert whole.shape == (batch, K, h, w), (h, w)
        assert whole.dtype == torch.float32
        assert torch.equal(whole, net.upsample(scores, size=(h, w))), (h, w)


@pytest.mark.slow
@pytest.mark.parametrize("variant", SKIPS)
def test_output_has_the_size_of_the_input_for_all_sizes_from_1_to_70(variant):
    net = network_of(variant)
    for n in range(1, 71):
        assert net(image(1, 3, n, 71 - n)).shape == (1, K, n, 71 - n)


@pytest.mark.parametrize("variant", ["fcn-os8", "fcn-os16", "fcn8s"])
def test_resnet18_networks_keep_the_size_and_compose(variant):
    net = network_of(variant, "resnet18")
    for h, w in ((1, 1), (2, 33), (31, 97), (64, 32)):
        x = image(1, 3, h, w)
        whole = net(x)
        assert whole.shape == (1, K, h, w)
        assert torch.equal(whole, net.upsample(net.scores(x), size=(h, w)))
    assert net.score_stride == {"fcn-os8": 8, "fcn-os16": 16, "fcn8s": 8}[variant]


@pytest.mark.parametrize("variant", SKIPS)
def test_one_image_gives_the_same_alone_and_in_a_batch(variant):
    net = network_of(variant)
    x = image(3, 3, 50, 66)
    torch.testing.assert_close(net(x)[1:2], net(x[1:2]), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("variant", "stride"), [("fcn32s", 32), ("fcn16s", 16), ("fcn8s", 8), ("fcn4s", 4)])
def test_score_stride_is_the_finest_the_name_says(variant, stride):
    net = network_of(variant)
    assert net.score_stride == stride
    assert isinstance(net.stride, int)
    assert net.stride == 32
    assert isinstance(net.receptive_field, int)


def test_receptive_field_is_what_one_nan_pixel_shows():
    net = network_of("fcn32s")
    field, stride = net.receptive_field, net.stride
    width = -(-(2 * field + 4 * stride) // stride) * stride
    middle, cells = width // 2, 0
    for p in range(stride):  # each cell sees `field` pixels, so over a period of the grid the pairs are `field`
        x = torch.zeros(1, 3, 64, width)
        x[0, 0, 32, middle + p] = torch.nan
        seen = net.scores(x)[0, 0].isnan().any(dim=0)
        assert not seen[0]
        assert not seen[-1]
        cells += int(seen.sum())
    assert cells == field


@pytest.mark.parametrize("variant", ["fcn32s", "fcn8s"])
def test_nothing_beyond_the_halo_changes_a_tile(variant):
    net = network_of(variant)
    left, top, right, bottom = net.halo
    assert all(isinstance(side, int) and side >= 0 for side in net.halo)
    stride = net.stride
    core = 2 * stride
    up = -(-max(left, top) // stride) * stride
    size = up + core + max(right, bottom)
    size = -(-size // stride) * stride + stride
    x = image(1, 3, size, size)
    other = x.clone()
    other[:, :, : up - top] = 5.0
    other[:, :, :, : up - left] = 5.0
    other[:, :, up + core + bottom :] = 5.0
    other[:, :, :, up + core + right :] = 5.0
    cells = slice(up // net.score_stride, (up + core) // net.score_stride)
    a, b = (net.scores(v)[:, :, cells, cells] for v in (x, other))
    assert a.numel()
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_other_numbers_of_channels_build_and_run(channels):
    net = network_of("fcn8s", "tiny", channels)
    assert net(image(1, channels, 20, 40)).shape == (1, K, 20, 40)


def test_encoders_that_see_the_whole_image_have_no_halo():
    net = fullconv.build("fcn8s", backbone="efficientnet_b0", num_classes=K, in_channels=3, weights=None)
    assert net.halo is None
    assert net.receptive_field is None
    assert net(image(1, 3, 33, 40)).shape == (1, K, 33, 40)


def test_vgg16_has_the_paper_s_field_and_scores_pool3_pool4_and_fc7():
    with torch.device("meta"):
        net = fullconv.build("fcn8s", backbone="vgg16", num_classes=21, in_channels=3, weights=None)
    assert net.receptive_field == 404
    assert net.stride == 32
    assert sorted(m.in_channels for m in net.modules() if getattr(m, "out_channels", 0) == 21) == [256, 512, 4096]


@pytest.mark.slow
def test_vgg16_in_full_has_the_paper_s_field_and_keeps_the_size():
    net = fullconv.build("fcn8s", backbone="vgg16", num_classes=21, in_channels=3, weights=None)
    assert (net.receptive_field, net.stride) == (404, 32)
    scored = [m.in_channels for m in net.modules() if isinstance(m, torch.nn.Conv2d) and m.out_channels == 21]
    assert sorted(scored) == [256, 512, 4096]
    assert net(image(1, 3, 33, 40)).shape == (1, 21, 33, 40)


def test_the_number_of_classes_must_be_given():
    with pytest.raises(Exception, match="num_classes"):
        fullconv.build("fcn8s", backbone="tiny", in_channels=3, weights=None)
