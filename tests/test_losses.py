"""Pixel losses against loops over pixels, torch's own, and the laws of accumulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fullconv.errors import RecipeError
from fullconv.losses import PixelLoss, parse_loss, ratio

K = 4
WEIGHTS = (0.5, 2.0, 0.0, 1.25)
CASES = {
    "plain": PixelLoss(),
    "weighted": PixelLoss(class_weights=WEIGHTS),
    "focal": PixelLoss("focal", focal_gamma=2.0),
    "weighted focal": PixelLoss("focal", class_weights=WEIGHTS, focal_gamma=0.7),
    "caffe": PixelLoss(reduction="sum"),
    "dice": PixelLoss("dice"),
    "weighted dice": PixelLoss("dice", class_weights=WEIGHTS),
    "sum": PixelLoss("0.3 * cross_entropy + focal + 2 * dice", class_weights=WEIGHTS),
}
SUMS_OVER_PIXELS = ["plain", "weighted", "focal", "weighted focal", "caffe"]


def batch(n=3, h=5, w=6, seed=0, dtype=torch.float64, void=0.2):
    random = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, K, h, w, generator=random, dtype=torch.float64)
    target = torch.randint(0, K, (n, h, w), generator=random, dtype=torch.uint8)
    target[torch.rand(n, h, w, generator=random) < void] = 255
    return logits.to(dtype).requires_grad_(), target


def mean(loss, logits, target):
    """The loss of a batch that is a whole step."""
    return ratio(*loss.sums(logits, target))


def naive_cross_entropy(logits, target, weights, gamma=0.0):
    """Loop over pixels; the numerator and the denominator of a mean."""
    above = below = 0.0
    for n, y, x in np.ndindex(*target.shape):
        label = int(target[n, y, x])
        if label == 255:
            continue
        scores = logits[n, :, y, x].tolist()
        p = math.exp(scores[label]) / sum(math.exp(score) for score in scores)
        above += weights[label] * (1 - p) ** gamma * -math.log(p)
        below += weights[label]
    return above, below


def naive_dice(logits, target, weights):
    p = torch.softmax(logits.detach(), dim=1).permute(1, 0, 2, 3)
    losses = []
    for k in range(K):
        true = target == k
        if true.any():
            both = 2 * p[k][true].sum() / (p[k][target != 255].sum() + true.sum())
            losses.append((weights[k], 1 - float(both)))
    return sum(w * loss for w, loss in losses) / sum(w for w, _ in losses)


# values


@pytest.mark.parametrize(("name", "gamma"), [("plain", 0), ("weighted", 0), ("focal", 2.0), ("weighted focal", 0.7)])
def test_the_sums_are_those_of_a_loop_over_pixels(name, gamma):
    logits, target = batch()
    expected = naive_cross_entropy(logits, target, WEIGHTS if "weighted" in name else (1,) * K, gamma)
    numerator, denominator = CASES[name].sums(logits, target)
    np.testing.assert_allclose([numerator.item(), denominator.item()], expected, rtol=1e-12)


@pytest.mark.parametrize(("name", "weights"), [("dice", (1,) * K), ("weighted dice", WEIGHTS)])
def test_dice_is_that_of_a_loop_over_classes(name, weights):
    logits, target = batch()
    np.testing.assert_allclose(
        mean(CASES[name], logits, target).item(), naive_dice(logits, target, weights), rtol=1e-12
    )


def test_dice_runs_over_the_classes_in_the_ground_truth_only():
    logits, target = batch()
    target[target == 1] = 3
    np.testing.assert_allclose(
        mean(CASES["dice"], logits, target).item(), naive_dice(logits, target, (1,) * K), rtol=1e-12
    )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_value_and_gradient_are_those_of_torch(layout, weights):
    logits, target = batch(dtype=torch.float32)
    ours, theirs = (logits.detach().contiguous(memory_format=layout).requires_grad_() for _ in range(2))
    loss = mean(PixelLoss(class_weights=weights), ours, target)
    table = None if weights is None else torch.tensor(weights)
    expected = F.cross_entropy(theirs, target.long(), table, ignore_index=255)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    (gradient,), (right,) = torch.autograd.grad(loss, ours), torch.autograd.grad(expected, theirs)
    torch.testing.assert_close(gradient, right, rtol=1e-5, atol=1e-8)
    assert gradient.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("name", CASES)
def test_bf16_logits_are_computed_in_float32_and_only_the_gradient_is_rounded(name):
    logits, target = batch(dtype=torch.bfloat16)
    same = logits.detach().float().requires_grad_()
    loss, expected = mean(CASES[name], logits, target), mean(CASES[name], same, target)
    assert loss.dtype == torch.float32
    assert loss.item() == expected.item()
    loss.backward()
    expected.backward()
    assert logits.grad.dtype == torch.bfloat16
    torch.testing.assert_close(logits.grad.float(), same.grad, rtol=2**-7, atol=1e-6)


def test_the_gradient_of_bf16_logits_is_not_scaled_by_a_rounded_factor():
    logits, target = batch(n=1, h=40, w=40, dtype=torch.bfloat16, void=0)
    factor = 170.5 / 512  # in the middle between two bf16 numbers
    one, scaled = (torch.autograd.grad(f * mean(CASES["plain"], logits, target), logits)[0] for f in (1, factor))
    applied = scaled.double().abs().sum() / one.double().abs().sum()
    np.testing.assert_allclose(applied.item(), factor, rtol=5e-4)


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_is_that_of_finite_differences(name):
    logits, target = batch(n=2, h=1, w=3)
    assert torch.autograd.gradcheck(lambda x: mean(CASES[name], x, target), (logits,))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_stays_finite_where_a_pixel_is_certain(gamma):
    logits = torch.tensor([500.0, 0, 0, 0]).view(1, K, 1, 1).requires_grad_()
    for label in (0, 1):
        loss = mean(PixelLoss("focal", focal_gamma=gamma), logits, torch.full((1, 1, 1), label))
        (gradient,) = torch.autograd.grad(loss, logits)
        assert torch.isfinite(gradient).all()
        np.testing.assert_allclose(loss.item(), 500.0 * label)


def test_focal_with_gamma_0_is_cross_entropy():
    logits, target = batch()
    assert mean(PixelLoss("focal", focal_gamma=0), logits, target).item() == mean(CASES["plain"], logits, target).item()


def test_logits_of_zero_cost_the_logarithm_of_the_number_of_classes():
    logits, target = torch.zeros(2, K, 3, 3), torch.zeros(2, 3, 3, dtype=torch.uint8)
    np.testing.assert_allclose(mean(CASES["plain"], logits, target).item(), math.log(K), rtol=1e-6)
    np.testing.assert_allclose(mean(CASES["caffe"], logits, target).item(), 9 * math.log(K), rtol=1e-6)


def test_the_sum_is_divided_by_images_as_in_caffe():
    logits, target = batch()
    expected = F.cross_entropy(logits, target.long(), ignore_index=255, reduction="sum") / 3
    np.testing.assert_allclose(mean(CASES["caffe"], logits, target).item(), expected.item(), rtol=1e-12)


def test_a_sum_rate_and_a_mean_rate_times_pixels_make_the_same_step():
    logits, target = batch(n=1)
    by_sum, by_mean = (torch.autograd.grad(mean(CASES[name], logits, target), logits)[0] for name in ("caffe", "plain"))
    torch.testing.assert_close(by_sum, by_mean * (target != 255).sum())


def test_a_sum_of_losses_adds_values_and_gradients():
    logits, target = batch()
    loss = mean(PixelLoss("0.5 * dice + cross_entropy"), logits, target)
    parts = 0.5 * mean(CASES["dice"], logits, target) + mean(CASES["plain"], logits, target)
    torch.testing.assert_close(loss, parts)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits)[0] for value in (loss, parts)))


# from coarse scores


def grown(scores, factor=3, size=(14, 11), phase=1.25):
    """Matrices of a bilinear growth, written as weights max(0, 1 - |t - phase| / factor) with replicated borders."""

    def side(cells, full):
        at = (torch.arange(full, dtype=torch.float64)[:, None] - phase) / factor
        return (1 - (at.clamp(0, cells - 1) - torch.arange(cells)).abs()).clamp(min=0)

    return side(scores.shape[-2], size[0]), side(scores.shape[-1], size[1])


def coarse(dtype=torch.float64, seed=5):
    random = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(2, K, 5, 4, generator=random, dtype=torch.float64)
    target = torch.randint(0, K, (2, 14, 11), generator=random, dtype=torch.uint8)
    target[torch.rand(2, 14, 11, generator=random) < 0.2] = 255
    return scores.to(dtype).requires_grad_(), target


@pytest.mark.parametrize("strip", [1, 3 * K * 11, 1 << 18])
@pytest.mark.parametrize("name", CASES)
def test_coarse_scores_cost_what_their_full_logits_cost(name, strip, monkeypatch):
    monkeypatch.setattr("fullconv.losses.CHUNK_LOGITS", strip)
    scores, target = coarse()
    rows, columns = grown(scores)
    logits = torch.einsum("yh,nkhw,xw->nkyx", rows, scores, columns)
    ours, expected = CASES[name].sums(scores, target, (rows, columns)), CASES[name].sums(logits, target)
    assert ours.denominator == expected.denominator
    np.testing.assert_allclose(ours.numerator.item(), expected.numerator.item(), rtol=1e-12)
    gradients = [torch.autograd.grad(3 * sums.numerator, scores)[0] for sums in (ours, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_coarse_scores_in_bf16_are_grown_in_float32(layout):
    scores, target = coarse(torch.bfloat16)
    scores = scores.detach().contiguous(memory_format=layout).requires_grad_()
    exact = scores.detach().double().requires_grad_()
    loss, expected = (CASES["weighted"].sums(s, target, grown(scores)).numerator for s in (scores, exact))
    assert loss.dtype == torch.float32
    np.testing.assert_allclose(loss.item(), expected.item(), rtol=1e-5)
    (gradient,), (expected,) = torch.autograd.grad(loss, scores), torch.autograd.grad(expected, exact)
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(gradient.double(), expected, rtol=2**-7, atol=1e-5)


def test_coarse_scores_need_matrices_and_labels_that_fit():
    scores, target = coarse()
    rows, columns = grown(scores)
    with pytest.raises(ValueError, match=r"rows \(H, h\) and columns \(W, w\) are \(11, 4\) and \(14, 5\)"):
        CASES["plain"].sums(scores, target, (columns, rows))
    with pytest.raises(ValueError, match="target"):
        CASES["plain"].sums(scores, target[:, :5], (rows, columns))


# laws


@pytest.mark.parametrize("name", CASES)
def test_what_stands_under_void_changes_nothing(name):
    logits, target = batch()
    other = torch.where(target[:, None] == 255, 77 * torch.randn_like(logits), logits).detach().requires_grad_()
    losses = [mean(CASES[name], x, target) for x in (logits, other)]
    assert losses[0].item() == losses[1].item()
    gradients = [torch.autograd.grad(loss, x)[0] for loss, x in zip(losses, (logits, other), strict=True)]
    assert torch.equal(*gradients)
    assert not gradients[0].movedim(1, -1)[target == 255].any()
    assert gradients[0].any()


@pytest.mark.parametrize("name", CASES)
def test_a_batch_of_nothing_but_void_costs_0_and_teaches_nothing(name):
    logits, target = batch(void=2)
    loss = mean(CASES[name], logits, target)
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()
    numerator, denominator = CASES[name].sums(logits, target)
    assert numerator.item() == 0
    assert denominator.item() == (3 if name == "caffe" else 0)


@pytest.mark.parametrize("name", CASES)
def test_pixels_in_another_arrangement_cost_the_same(name):
    logits, target = batch(n=2)
    flat = logits.permute(0, 2, 3, 1).reshape(2, -1, K).permute(0, 2, 1)[..., None]
    torch.testing.assert_close(mean(CASES[name], flat, target.view(2, -1, 1)), mean(CASES[name], logits, target))


@settings(max_examples=20)
@given(name=st.sampled_from(SUMS_OVER_PIXELS), cuts=st.lists(st.integers(0, 6), max_size=4), seed=st.integers(0, 99))
def test_any_split_into_batches_makes_the_step_of_the_whole(name, cuts, seed):
    loss = CASES[name]
    logits, target = batch(n=6, h=2, w=3, seed=seed, void=0.5)
    target[0] = 255
    (whole,) = torch.autograd.grad(mean(loss, logits, target), logits)
    edges = [0, *sorted(cuts), 6]
    parts = [slice(a, b) for a, b in itertools.pairwise(edges) if a < b]
    total = sum(loss.denominator(target[part]) for part in parts)
    sums = [loss.sums(logits[part], target[part]) for part in parts]
    step = sum(ratio(part.numerator, total) for part in sums)
    torch.testing.assert_close(step, mean(loss, logits, target))
    torch.testing.assert_close(torch.autograd.grad(step, logits)[0], whole)
    assert sum(part.denominator for part in sums) == total


def test_dice_of_a_step_is_the_mean_over_its_batches_weighted_by_their_pixels():
    loss = CASES["dice"]
    logits, target = batch(n=2)
    target[1, :3] = 255
    sums = [loss.sums(logits[n : n + 1], target[n : n + 1]) for n in range(2)]
    pixels = [(target[n] != 255).sum() for n in range(2)]
    expected = sum(p * mean(loss, logits[n : n + 1], target[n : n + 1]) for n, p in enumerate(pixels)) / sum(pixels)
    torch.testing.assert_close(sum(s.numerator for s in sums) / sum(s.denominator for s in sums), expected)


@pytest.mark.parametrize("name", ["plain", "weighted", "dice"])
def test_labels_of_either_type_and_graphs_used_twice_give_the_same(name):
    logits, target = batch()
    loss = mean(CASES[name], logits, target.long())
    first, second = (torch.autograd.grad(loss, logits, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert loss.item() == mean(CASES[name], logits, target).item()


def test_many_pixels_are_counted_exactly():
    target = torch.zeros(1, 4097, 4097, dtype=torch.uint8)  # 2**24 is where float32 loses one
    assert CASES["plain"].denominator(target).item() == 4097**2


def test_a_loss_without_gradient_can_be_asked_for():
    logits, target = batch()
    with torch.inference_mode():
        loss = mean(CASES["sum"], logits.detach(), target)
    assert loss.item() == mean(CASES["sum"], logits, target).item()


# message


def test_a_sum_is_read_with_its_factors():
    assert parse_loss("cross_entropy") == ((1.0, "cross_entropy"),)
    assert parse_loss(" 0.5*dice+1e+1 * focal ") == ((0.5, "dice"), (10.0, "focal"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cross_entrpy", r"no loss 'cross_entrpy', only cross_entropy, focal, dice.*Did you mean 'cross_entropy'\?"),
        ("cross_entropy + ", r"there is no loss ''"),
        ("cross_entropy + dise", r"Did you mean 'dice'\?"),
        ("dice * 2", r"there is no loss '2'"),
        ("x * dice", r"the factor 'x' is not a number above 0"),
        ("0 * dice", r"the factor '0' is not a number above 0"),
        ("-1 * dice", r"the factor '-1' is not a number above 0"),
        ("nan * dice", r"the factor 'nan' is not a number above 0"),
        ("dice + dice", r"dice is named twice"),
    ],
)
def test_a_loss_that_cannot_be_is_explained(text, message):
    with pytest.raises(RecipeError, match=message):
        PixelLoss(text)


def test_weights_gamma_and_reduction_that_cannot_be_are_explained():
    with pytest.raises(RecipeError, match=r"class_weights\[1\] = -1\.0 is invalid"):
        PixelLoss(class_weights=[1, -1])
    with pytest.raises(RecipeError, match=r"class_weights\[0\] = inf is invalid"):
        PixelLoss(class_weights=[math.inf])
    with pytest.raises(RecipeError, match=r"class_weights are all 0"):
        PixelLoss(class_weights=[0, 0])
    with pytest.raises(RecipeError, match=r"focal_gamma = nan is invalid"):
        PixelLoss("focal", focal_gamma=math.nan)
    with pytest.raises(RecipeError, match=r"no reduction 'summ', only mean and sum\. Did you mean 'sum'"):
        PixelLoss(reduction="summ")


def test_shapes_and_weights_that_do_not_fit_are_refused():
    logits, target = batch()
    with pytest.raises(ValueError, match=r"not \(3, 4, 5, 6\) and \(3, 6, 5\)"):
        mean(CASES["plain"], logits, target.transpose(1, 2))
    with pytest.raises(ValueError, match=r"logits are \(N, K, H, W\)"):
        mean(CASES["plain"], logits.permute(0, 2, 3, 1).reshape(-1, K), target.flatten())
    with pytest.raises(RecipeError, match=r"class_weights has 2 numbers for 4 classes"):
        mean(PixelLoss(class_weights=[1, 1]), logits, target)
