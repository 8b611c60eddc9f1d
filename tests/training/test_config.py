"""Defaults, learning rates, and the configuration of a run: written, read, overridden, resumed."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import MEASURED, SMALL

from fullconv.errors import RecipeError, RunError
from fullconv.recipe import Recipe, parse_recipe
from fullconv.training import train
from fullconv.training.config import (
    RunConfig,
    check_lr,
    check_same_config,
    default_lr,
    default_workers,
    diff_env,
    merge_overrides,
    read_config,
    resolve_defaults,
    resume_config,
    sum_to_mean_factor,
)
from synthetic.shapes import make_shapes


def resolved(sizes=((360, 480),), pixels=((50, 50),), **settings) -> Recipe:
    """What is decided for images of some sizes, with the pixels of each class of each head."""
    statistics = [SimpleNamespace(sizes=list(sizes), pixels=np.array(head)) for head in pixels]
    dataset = SimpleNamespace(labels=range(len(pixels)), statistics=lambda split, head: statistics[head])
    return resolve_defaults(parse_recipe(settings), dataset, statistics[0])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pixels", "settings", "loss"),
    [
        ([(50, 50)], {}, "cross_entropy"),
        ([(95, 5)], {}, "cross_entropy"),
        ([(96, 4)], {}, "cross_entropy + 2 * dice"),
        ([(96, 0, 4)], {}, "cross_entropy + 2 * dice"),
        ([(100, 0)], {}, "cross_entropy"),
        ([(0, 0)], {}, "cross_entropy"),
        ([(50, 50), (99, 1)], {}, "cross_entropy + 2 * dice"),
        ([(99, 1)], {"accumulate": 2}, "cross_entropy"),
        ([(99, 1)], {"reduction": "sum"}, "cross_entropy"),
        ([(99, 1)], {"variant": "voc-fcn8s"}, "cross_entropy"),
        ([(99, 1)], {"loss": "focal"}, "focal"),
    ],
)
def test_dice_is_added_where_a_class_is_rare(pixels, settings, loss):
    assert resolved(pixels=pixels, **settings).loss == loss


def test_defaults_follow_data_and_weights():
    r = resolved(weights="none")
    assert (r.crop, r.batch_size, r.lr, r.epochs, r.weight_decay) == ((288, 384), 8, 2e-3, 60, 0.02)
    assert r.workers == default_workers()
    assert resolved().lr == 5e-4
    assert resolved(optimizer="sgd").lr == 0.01
    assert resolved(minutes=3).epochs is None
    assert resolved(lr=0.3, crop="40x50", batch_size=3).model_dump(include={"lr", "crop", "batch_size"}) == {
        "lr": 0.3, "crop": (40, 50), "batch_size": 3
    }  # fmt: skip


@given(st.lists(st.tuples(st.integers(1, 9000), st.integers(1, 9000)), min_size=1, max_size=5), st.floats(0.01, 8))
def test_default_crops_and_batches_are_bounded(sizes, scale):
    r = resolved(sizes, scale=scale)
    assert all(32 <= side <= 384 and side % 32 == 0 for side in r.crop)
    assert 8 <= r.batch_size <= 16


def test_config_round_trip(tmp_path):
    plan = RunConfig(
        resolved(class_weights=[1, 2.5], head={"fc": False}), MEASURED, {"data": "x", "versions": {"torch": "2"}}
    )
    plan.write(tmp_path / "recipe.toml")
    assert read_config(tmp_path / "recipe.toml") == plan


def test_settings_override_a_recipe_file_and_measured_choices_hold_where_they_can(tmp_path):
    plan = RunConfig(resolved(epochs=10), MEASURED, {})
    same, measured = merge_overrides(plan, {"seed": 4, "workers": 3})
    assert (same.seed, measured) == (4, MEASURED)
    other, measured = merge_overrides(plan, {"minutes": 5})
    assert (other.minutes, other.epochs, measured) == (5, None, None)
    assert merge_overrides(None, {"lr": 1})[0].lr == 1
    inner, measured = merge_overrides(plan, {"head.fc": False})
    assert (inner.head.fc, measured) == (False, None)


def test_resume_keeps_the_run_and_lengthens_it_by_epochs(tmp_path):
    plan = RunConfig(resolved(epochs=10), MEASURED, {})
    assert resume_config(plan, {}, tmp_path) == plan
    with pytest.raises(RunError, match=r"epochs = 10, not 12. Omit --epochs to resume it, add --lengthen"):
        resume_config(plan, {"epochs": 12}, tmp_path)
    longer = resume_config(plan, {"epochs": 12, "workers": 1}, tmp_path, lengthen=True)
    assert longer.measured is not None
    assert (longer.measured.steps, longer.measured.epochs, longer.recipe.workers) == (600, 12, 1)
    with pytest.raises(RunError, match=r"this run has epochs = 10, not 9. Omit --epochs"):
        resume_config(plan, {"epochs": 9}, tmp_path, lengthen=True)
    with pytest.raises(RunError, match=r"this run has schedule = poly, not cosine. Omit --set schedule"):
        resume_config(plan, {"schedule": "cosine"}, tmp_path)


@pytest.mark.parametrize(
    ("file", "given", "message"),
    [
        ({"epochs": 2}, {}, r"this run has epochs = 40, but some\.toml has 2\. Omit --recipe"),
        ({"head": {"fc": False}}, {}, r"this run has head\.fc = True, but some\.toml has False"),
        ({"epochs": 40, "crop": (64, 96), "loss": "auto", "lr": None, "workers": 3}, {}, None),
        ({"epochs": 2}, {"epochs": 40}, None),
        ({"epochs": 2}, {"minutes": 9.0}, None),
        ({"loss": "focal"}, {}, r"this run has loss = cross_entropy, but some\.toml has focal"),
    ],
)
def test_recipe_given_on_resume_must_match(tmp_path, file, given, message):
    run = RunConfig(parse_recipe({"epochs": 40, "crop": (64, 96), "loss": "cross_entropy", "lr": 0.01}), MEASURED, {})
    named = RunConfig(parse_recipe(file), None, {})
    if message is None:
        check_same_config(run, named, given, tmp_path, "some.toml")
    else:
        with pytest.raises(RunError, match=message):
            check_same_config(run, named, given, tmp_path, "some.toml")


def test_decided_values_are_written_and_ignored_on_read(tmp_path):
    plan = RunConfig(Recipe(), None, {"data": "x"}, {"sampling": "rare", "class_weights": {"only": [0.5, 2.0]}})
    plan.write(tmp_path / "recipe.toml")
    text = (tmp_path / "recipe.toml").read_text(encoding="utf-8")
    assert 'sampling = "rare"' in text.partition("[decided]")[2]
    assert "only = [0.5, 2.0]" in text
    assert read_config(tmp_path / "recipe.toml").recipe == Recipe()


PAPER = {"optimizer": "sgd", "momentum": 0.99, "reduction": "sum", "crop": "whole"}


def facts(size=(375, 500), void=0, count=3) -> SimpleNamespace:
    """Statistics of images of one size, a share of whose pixels is void."""
    pixels = size[0] * size[1] * count - void
    return SimpleNamespace(sizes=[size] * count, pixels=np.array([pixels // 2, pixels - pixels // 2]), void=void)


def check(statistics, **settings) -> None:
    check_lr(parse_recipe({"weights": "none", **settings}), statistics)


@pytest.mark.parametrize("lr", [1e-10, 1e-12, 1e-14])
def test_the_rates_of_the_release_go_with_the_sum_only(lr):
    check(facts(), **PAPER, lr=lr)
    message = rf"lr = {lr:g} is a rate for the sum .* --lr {lr * 187500:.2g} with the mean"  # 1.9e-05 of 1e-10
    with pytest.raises(RecipeError, match=message):
        check(facts(), **{**PAPER, "reduction": "mean"}, lr=lr)


@pytest.mark.parametrize(("lr", "momentum"), [(1e-4, 0.9), (1e-3, 0.9), (0.01, 0.0), (1e-4, 0.99)])
def test_lr_of_a_mean_is_rejected_with_the_sum(lr, momentum):
    settings = {**PAPER, "momentum": momentum, "lr": lr}
    check(facts(), **{**settings, "reduction": "mean"})
    with pytest.raises(RecipeError, match=rf"lr = {lr:g} is a rate for the mean .* adds up the 187500 of an image"):
        check(facts(), **settings)


@given(lr=st.floats(1e-4, 0.1), side=st.integers(64, 3000), momentum=st.floats(0.9, 0.99))
def test_converted_lr_is_accepted(lr, side, momentum):
    statistics = facts((side, side))
    settings = {**PAPER, "momentum": momentum}
    try:
        check(statistics, **settings, lr=lr)
    except RecipeError as error:
        converted = float(re.search(r"--lr (\S+) with the sum", str(error))[1])
        if lr / (1 - momentum) < 0.95:  # the limit itself may be rounded over
            check(statistics, **settings, lr=converted)
        assert converted * side * side == pytest.approx(lr, rel=0.06)


def test_sum_to_mean_factor_counts_valid_pixels_of_a_step():
    recipe = parse_recipe({**PAPER, "weights": "none"})
    assert sum_to_mean_factor(recipe, facts((10, 20), void=300)) == pytest.approx(100)
    assert sum_to_mean_factor(recipe.model_copy(update={"crop": (5, 40)}), facts((10, 20))) == 100
    assert sum_to_mean_factor(recipe.model_copy(update={"scale": 2.0}), facts((10, 20))) == 800
    assert sum_to_mean_factor(recipe.model_copy(update={"loss": "dice"}), facts()) == 1


def test_adamw_rejects_the_papers_lr():
    for reduction in ("mean", "sum"):
        with pytest.raises(RecipeError, match=r"lr = 1e-10 is too small for adamw.*--lr 0\.002"):
            check(facts(), lr=1e-10, reduction=reduction)
        check(facts(), lr=1e-3, reduction=reduction)


def test_default_lr_follows_the_reduction():
    recipe = parse_recipe({**PAPER, "weights": "none"})
    assert default_lr(recipe, facts((100, 100))) == 5e-6
    assert default_lr(recipe.model_copy(update={"reduction": "mean"}), facts()) == 0.05
    check_lr(recipe.model_copy(update={"lr": default_lr(recipe, facts()), "momentum": 0.9}), facts())


def test_rejected_lr_leaves_no_folder(tmp_path):
    shapes = make_shapes(tmp_path / "data", images=4, size=(40, 48))
    with pytest.raises(RecipeError, match=r"is a rate for the mean over pixels, but reduction = sum"):
        train(shapes, tmp_path / "run", **SMALL, optimizer="sgd", reduction="sum", lr=0.01)
    assert not (tmp_path / "run").exists()


def test_diff_env():
    before = {"data": "a", "fingerprint": "1" * 64, "versions": {"torch": "2.4", "timm": "1"}, "git": "abc"}
    now = {"data": "b", "fingerprint": "2", "versions": {"torch": "2.5", "timm": "1"}}
    assert diff_env(before, now) == [
        "the data differ (fingerprint 111111111111, here 2)", "torch was 2.4, is 2.5", "git was abc, is absent"
    ]  # fmt: skip
