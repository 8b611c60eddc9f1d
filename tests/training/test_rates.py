"""Sum and mean: a learning rate that belongs to the other one is refused with its converted value."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import SMALL

from fullconv.errors import RecipeError
from fullconv.modelfile import read_tensors
from fullconv.recipe import parse_recipe
from fullconv.training import train
from fullconv.training.config import check_lr, default_lr, sum_to_mean_factor
from synthetic.shapes import make_shapes

PAPER = {"optimizer": "sgd", "momentum": 0.99, "reduction": "sum", "crop": "whole"}


def facts(size=(375, 500), void=0, count=3) -> SimpleNamespace:
    """Statistics of pictures of one size, a share of whose pixels is void."""
    pixels = size[0] * size[1] * count - void
    return SimpleNamespace(sizes=[size] * count, pixels=np.array([pixels // 2, pixels - pixels // 2]), void=void)


def check(statistics, **settings) -> None:
    check_lr(parse_recipe({"weights": "none", **settings}), statistics)


@pytest.mark.parametrize("lr", [1e-10, 1e-12, 1e-14])
def test_the_rates_of_the_release_go_with_the_sum_only(lr):
    check(facts(), **PAPER, lr=lr)
    with pytest.raises(
        RecipeError, match=rf"lr = {lr:g} is a rate for the sum .* --lr {lr * 187500:.2g} with the mean"
    ):
        check(facts(), **{**PAPER, "reduction": "mean"}, lr=lr)


@pytest.mark.parametrize(("lr", "momentum"), [(1e-4, 0.9), (1e-3, 0.9), (0.01, 0.0), (1e-4, 0.99)])
def test_the_rates_of_a_mean_are_refused_with_the_sum(lr, momentum):
    settings = {**PAPER, "momentum": momentum, "lr": lr}
    check(facts(), **{**settings, "reduction": "mean"})
    with pytest.raises(RecipeError, match=rf"lr = {lr:g} is a rate for the mean .* adds up the 187500 of an image"):
        check(facts(), **settings)


def test_the_papers_figure_is_1_9e_minus_5():
    with pytest.raises(RecipeError, match=r"--lr 1\.9e-05 with the mean"):
        check(facts(), **{**PAPER, "reduction": "mean"}, lr=1e-10)


@given(lr=st.floats(1e-4, 0.1), side=st.integers(64, 3000), momentum=st.floats(0.9, 0.99))
def test_a_converted_rate_is_never_refused_again(lr, side, momentum):
    statistics = facts((side, side))
    settings = {**PAPER, "momentum": momentum}
    try:
        check(statistics, **settings, lr=lr)
    except RecipeError as error:
        converted = float(re.search(r"--lr (\S+) with the sum", str(error))[1])
        if lr / (1 - momentum) < 0.95:  # the limit itself may be rounded over
            check(statistics, **settings, lr=converted)
        assert converted * side * side == pytest.approx(lr, rel=0.06)


def test_only_valid_pixels_that_a_step_sees_count():
    recipe = parse_recipe({**PAPER, "weights": "none"})
    assert sum_to_mean_factor(recipe, facts((10, 20), void=300)) == pytest.approx(100)
    assert sum_to_mean_factor(recipe.model_copy(update={"crop": (5, 40)}), facts((10, 20))) == 100
    assert sum_to_mean_factor(recipe.model_copy(update={"scale": 2.0}), facts((10, 20))) == 800
    assert sum_to_mean_factor(recipe.model_copy(update={"loss": "dice"}), facts()) == 1


def test_adamw_takes_no_rate_of_the_paper_whatever_the_loss():
    for reduction in ("mean", "sum"):
        with pytest.raises(RecipeError, match=r"lr = 1e-10 is too small for adamw.*--lr 0\.002"):
            check(facts(), lr=1e-10, reduction=reduction)
        check(facts(), lr=1e-3, reduction=reduction)


def test_the_default_rate_follows_the_reduction():
    recipe = parse_recipe({**PAPER, "weights": "none"})
    assert default_lr(recipe, facts((100, 100))) == 5e-6
    assert default_lr(recipe.model_copy(update={"reduction": "mean"}), facts()) == 0.05
    check_lr(recipe.model_copy(update={"lr": default_lr(recipe, facts()), "momentum": 0.9}), facts())


def test_the_same_step_by_sum_and_by_mean(tmp_path):
    shapes = make_shapes(tmp_path / "data", images=4, size=(40, 48), void=False)
    plain = {**SMALL, "optimizer": "sgd", "momentum": 0.0, "crop": "whole", "augment": "none", "batch_size": 2,
             "steps": 1, "class_weights": "none", "weight_decay": 0, "schedule": "constant", "warmup": 0, "ema": 0}  # fmt: skip
    train(shapes, tmp_path / "mean", **plain, lr=0.1)
    train(shapes, tmp_path / "sum", **plain, lr=0.1 / (40 * 48), reduction="sum")
    ours, theirs = (read_tensors(tmp_path / run / "checkpoints" / "last") for run in ("mean", "sum"))
    weights = [name for name in ours if name.startswith("network.") and name.endswith("weight")]
    assert len(weights) > 10
    for name in weights:
        np.testing.assert_allclose(ours[name].numpy(), theirs[name].numpy(), rtol=1e-5, atol=1e-6)


def test_a_refused_rate_leaves_no_folder(tmp_path):
    shapes = make_shapes(tmp_path / "data", images=4, size=(40, 48))
    with pytest.raises(RecipeError, match=r"is a rate for the mean over pixels, but reduction = sum"):
        train(shapes, tmp_path / "run", **SMALL, optimizer="sgd", reduction="sum", lr=0.01)
    assert not (tmp_path / "run").exists()
