"""Interpolation without torch: the same logits, labels and rows as `Network.upsample`, and the layout in a file."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from fullconv import interpolation
from fullconv.interpolation import ScoreLayout, argmax, hflip, mean_logits, softmax
from fullconv.nn import ModuleWrapper, build
from fullconv.tiling import first_required, rows_available, upsample_rows

VARIANTS = ("fcn32s", "fcn8s", "fcn-os8", "torchvision-fcn_resnet50", "voc-fcn16s")


@pytest.fixture(scope="module", params=VARIANTS)
def network(request):
    backbone = "tiny" if request.param in ("fcn32s", "fcn8s") else None
    return build(request.param, backbone=backbone, num_classes=3, width=0.25)


def scores_of(network, size: tuple[int, int]) -> np.ndarray:
    stride, padded = network.score_stride, network.padded_size(*size)
    shape = (1, 3, *(-(-side // stride) + 2 * (network.border == "zero") for side in padded))
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("working", [None, (90, 61)])
def test_upsampling_agrees_with_torch(network, working):
    size = (120, 83)
    scores = scores_of(network, working or size)
    expected = network.upsample(torch.from_numpy(scores), size, None, working)[0].numpy()
    got = ScoreLayout.of(network).upsample(scores, size, None, working)[0]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=2e-6 * np.abs(expected).max())
    assert np.array_equal(argmax(got), argmax(torch.from_numpy(expected)))


@pytest.mark.parametrize("rows", [(0, 1), (17, 40), (119, 120)])
def test_rows_have_the_bits_of_the_whole_also_from_the_scores_they_need(network, rows):
    size, layout = (120, 83), ScoreLayout.of(network)
    scores = scores_of(network, size)
    whole = layout.upsample(scores, size)
    assert np.array_equal(layout.upsample(scores, size, rows), whole[..., rows[0] : rows[1], :])
    total = scores.shape[-2]
    first = first_required(layout, rows[0], size[0], total)
    assert first == first_required(network, rows[0], size[0], total)
    known = next(n for n in range(1, total + 1) if n == total or rows_available(layout, n, size[0], total) >= rows[1])
    part = scores[:, :, first:known]
    got = layout.upsample(part, size, rows, None, first, total)
    expected = upsample_rows(network, torch.from_numpy(part), first, total, size, rows).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_a_layout_survives_the_metadata_of_a_file(network):
    layout = ScoreLayout.of(network)
    assert ScoreLayout.from_dict(json.loads(json.dumps(layout.to_dict()))) == layout
    assert layout.padded_size(50, 70) == network.padded_size(50, 70)
    assert layout.halo == network.halo


@pytest.mark.parametrize(
    "change",
    [{"upsample_mode": "cubic"}, {"axes": [["0", "0", "0", "0"]] * 2}, {"stride": 0}, {"halo": 3}, {"axes": []}],
)
def test_a_damaged_layout_is_refused(change):
    data = ScoreLayout.of(build("fcn32s", backbone="tiny", num_classes=2)).to_dict()
    with pytest.raises((KeyError, TypeError, ValueError)):
        ScoreLayout.from_dict({**data, **change})


def test_scores_of_a_wrapped_module_are_its_logits():
    layout = ScoreLayout.of(ModuleWrapper(torch.nn.Conv2d(3, 2, 3, padding=1), 3, 2))
    scores = np.random.default_rng(0).standard_normal((1, 2, 9, 8)).astype(np.float32)
    assert np.array_equal(layout.upsample(scores, (9, 8), (3, 5)), scores[..., 3:5, :])
    assert layout.upsample(scores, (18, 16), None, (9, 8)).shape == (1, 2, 18, 16)


def test_softmax_mean_and_mirror_image_are_those_of_tensors():
    views = [np.random.default_rng(seed).standard_normal((4, 5, 6)).astype(np.float32) for seed in range(2)]
    tensors = [torch.from_numpy(view) for view in views]
    np.testing.assert_allclose(softmax(views[0]), softmax(tensors[0]), atol=1e-6)
    np.testing.assert_allclose(mean_logits(views), mean_logits(tensors), atol=1e-6)
    assert np.array_equal(hflip(views[0]), hflip(tensors[0]).numpy())
    assert np.isfinite(mean_logits([np.array([[0.0], [-200.0]], np.float32)] * 2)).all()


@pytest.mark.parametrize("classes", [1, 2, 21, 255])
def test_argmax_takes_the_first_of_equal_logits_whatever_the_chunks(classes, monkeypatch):
    rng = np.random.default_rng(classes)
    logits = rng.integers(-3, 4, (classes, 13, 17)).astype(np.float32)  # few values, so many ties
    logits[:, 0, :5] = -np.inf
    logits[rng.integers(0, classes), 1, 2] = np.inf
    logits[:, 2] *= np.float32(1e38)
    for pixels in (1, 40, 2**16):
        monkeypatch.setattr(interpolation, "ARGMAX_PIXELS", pixels)
        np.testing.assert_array_equal(argmax(torch.from_numpy(logits)), logits.argmax(0))
        np.testing.assert_array_equal(argmax(logits), logits.argmax(0))
    turned = torch.from_numpy(logits).permute(0, 2, 1)  # not contiguous
    np.testing.assert_array_equal(argmax(turned), logits.argmax(0).T)
    np.testing.assert_array_equal(argmax(torch.from_numpy(logits).double()), logits.argmax(0))
