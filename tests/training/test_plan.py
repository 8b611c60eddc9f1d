"""What is decided before the first step: steps, validations, defaults, and what may change later."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fullconv.errors import RunError
from fullconv.nn import build
from fullconv.profiling import duration
from fullconv.recipe import Recipe, parse_recipe
from fullconv.tracking import EpochRecord
from fullconv.training.autotune import plan_schedule
from fullconv.training.config import (
    RunConfig,
    Schedule,
    check_same_config,
    default_workers,
    merge_overrides,
    read_config,
    resolve_defaults,
    resume_config,
)
from fullconv.training.console import Console, format_bytes
from fullconv.training.environment import diff_env
from fullconv.training.loop import evenly_spaced
from fullconv.training.setup import describe_run

MEASURED = Schedule(
    steps=500, steps_per_epoch=50, precision="bf16", threads=2, seconds_per_step=0.1, validate_every=1,
    validation_pictures=20,
)  # fmt: skip
seconds = st.floats(1e-3, 20)


@given(minutes=st.floats(0.2, 600), per_epoch=st.integers(50, 5000), step=seconds, picture=seconds,
       pictures=st.integers(0, 5000))  # fmt: skip
def test_a_run_by_time_keeps_to_its_time_and_validates_in_a_fifth_of_it(minutes, per_epoch, step, picture, pictures):
    left = 60 * minutes
    steps, every, count = plan_schedule(
        epochs=None, seconds_left=left, steps_per_epoch=per_epoch, step_seconds=step, image_seconds=picture,
        images=pictures, validate_every=None,
    )  # fmt: skip
    assert steps >= 1
    assert every >= 1
    assert 0 <= count <= pictures
    validations = steps // (every * per_epoch)
    spent = steps * step + validations * count * picture
    assert spent <= left * 1.001 or steps == 1
    if count > 1:
        assert validations * count * picture <= 0.2001 * spent
    if steps > 20 and count > 1:
        assert steps * step + (validations + 1) * count * picture >= 0.7 * left  # and uses it


@given(epochs=st.integers(1, 500), per_epoch=st.integers(50, 500), step=seconds, picture=seconds,
       pictures=st.integers(0, 3000))  # fmt: skip
def test_a_run_by_epochs_has_its_epochs(epochs, per_epoch, step, picture, pictures):
    steps, every, count = plan_schedule(
        epochs=epochs, seconds_left=None, steps_per_epoch=per_epoch, step_seconds=step, image_seconds=picture,
        images=pictures, validate_every=None,
    )  # fmt: skip
    assert steps == epochs * per_epoch
    assert 1 <= every <= max(1, epochs // 20)
    if count > 1:
        assert count * picture <= 0.25001 * every * per_epoch * step


def test_the_users_word_on_validations_holds():
    steps, every, _ = plan_schedule(
        epochs=10,
        seconds_left=None,
        steps_per_epoch=50,
        step_seconds=1.0,
        image_seconds=9.0,
        images=9,
        validate_every=3,
    )
    assert (steps, every) == (500, 3)


@given(st.integers(0, 50), st.integers(1, 60))
def test_a_subset_is_evenly_spread_and_has_no_picture_twice(total, count):
    chosen = evenly_spaced(list(range(total)), count)  # type: ignore[type-var]
    assert len(chosen) == min(total, count)
    assert chosen == sorted(set(chosen))


# --- defaults --------------------------------------------------------------------------------------------------------


def resolved(sizes=((360, 480),), pixels=((50, 50),), **settings) -> Recipe:
    """What is decided for pictures of some sizes, with the pixels of each class of each head."""
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
def test_dice_comes_beside_cross_entropy_where_a_class_is_rare(pixels, settings, loss):
    assert resolved(pixels=pixels, **settings).loss == loss


def test_what_is_left_open_is_chosen_by_data_and_start():
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
def test_crops_and_batches_are_within_reason_for_any_pictures(sizes, scale):
    r = resolved(sizes, scale=scale)
    assert all(32 <= side <= 384 and side % 32 == 0 for side in r.crop)
    assert 8 <= r.batch_size <= 16


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_plan_is_read_as_it_was_written(tmp_path):
    plan = RunConfig(
        resolved(class_weights=[1, 2.5], head={"fc": False}), MEASURED, {"data": "x", "versions": {"torch": "2"}}
    )
    plan.write(tmp_path / "recipe.toml")
    assert read_config(tmp_path / "recipe.toml") == plan


def test_settings_lie_over_a_recipe_file_and_measures_hold_where_they_still_can(tmp_path):
    plan = RunConfig(resolved(epochs=10), MEASURED, {})
    same, measured, changed = merge_overrides(plan, {"seed": 4, "workers": 3})
    assert (same.seed, measured, set(changed)) == (4, MEASURED, {"seed", "workers"})
    other, measured, changed = merge_overrides(plan, {"minutes": 5})
    assert (other.minutes, other.epochs, measured) == (5, None, None)
    assert set(changed) == {"minutes", "epochs"}
    assert merge_overrides(None, {"lr": 1})[0].lr == 1
    inner, measured, _ = merge_overrides(plan, {"head.fc": False})
    assert (inner.head.fc, measured) == (False, None)


def test_going_on_keeps_the_run_and_lengthens_it_by_whole_epochs(tmp_path):
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
    ("file", "given", "words"),
    [
        ({"epochs": 2}, {}, r"this run has epochs = 40, but some\.toml has 2\. Omit --recipe"),
        ({"head": {"fc": False}}, {}, r"this run has head\.fc = True, but some\.toml has False"),
        ({"epochs": 40, "crop": (64, 96), "loss": "auto", "lr": None, "workers": 3}, {}, None),
        ({"epochs": 2}, {"epochs": 40}, None),
        ({"epochs": 2}, {"minutes": 9.0}, None),
        ({"loss": "focal"}, {}, r"this run has loss = cross_entropy, but some\.toml has focal"),
    ],
)
def test_a_recipe_that_is_named_again_says_what_the_run_has(tmp_path, file, given, words):
    run = RunConfig(parse_recipe({"epochs": 40, "crop": (64, 96), "loss": "cross_entropy", "lr": 0.01}), MEASURED, {})
    named = RunConfig(parse_recipe(file), None, {})
    if words is None:
        check_same_config(run, named, given, tmp_path, "some.toml")
    else:
        with pytest.raises(RunError, match=words):
            check_same_config(run, named, given, tmp_path, "some.toml")


def test_differences_of_versions_and_machines_are_named():
    before = {"data": "a", "fingerprint": "1" * 64, "versions": {"torch": "2.4", "timm": "1"}, "git": "abc"}
    now = {"data": "b", "fingerprint": "2", "versions": {"torch": "2.5", "timm": "1"}}
    assert diff_env(before, now) == [
        "the data differ (fingerprint 111111111111, here 2)", "torch was 2.4, is 2.5", "git was abc, is absent"
    ]  # fmt: skip


# --- words -----------------------------------------------------------------------------------------------------------


def test_durations_and_amounts_read_as_people_write_them():
    assert [duration(s) for s in (0.4, 59.4, 60, 3599, 3600, 90_000)] == [
        "0 s", "59 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "25 h 0 min"
    ]  # fmt: skip
    assert format_bytes(12e6) == "12 MB"


def test_the_speed_that_is_shown_leaves_out_the_validation(capsys, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    console = Console(batch_size=4)
    console.start(0, 50)
    for step in range(1, 11):
        clock[0] += 0.1
        console.step(step, 50, 1.0)
    clock[0] += 30
    console.validation_progress(5, 5)
    val = {"mean_iou": 0.5}
    line = {"epoch": 1, "step": 10, "train_loss": 1.0, "lr": 0.1, "seconds": 31.0, "val": val}
    console.on_epoch(EpochRecord(line, 0.5, True, ("a warning",)))
    assert "val mIoU 0.5000 (best), 40 images/s, 31 s\na warning\n" in capsys.readouterr().err


def test_a_recipe_file_says_what_auto_came_to_and_is_read_again(tmp_path):
    plan = RunConfig(Recipe(), None, {"data": "x"}, {"sampling": "rare", "class_weights": {"only": [0.5, 2.0]}})
    plan.write(tmp_path / "recipe.toml")
    text = (tmp_path / "recipe.toml").read_text(encoding="utf-8")
    assert 'sampling = "rare"' in text.partition("[decided]")[2]
    assert "only = [0.5, 2.0]" in text
    assert read_config(tmp_path / "recipe.toml").recipe == Recipe()


@pytest.mark.parametrize(("steps", "told"), [(49, True), (50, False)])
def test_minutes_that_leave_no_time_for_an_epoch_are_told(steps, told):
    network = build("fcn32s", backbone="tiny", width=0.25, num_classes=2)
    recipe = parse_recipe({"backbone": "tiny", "weights": "none", "crop": "32x32", "batch_size": 2, "lr": 0.1})
    words = "0.1 minutes are too short for an epoch of 50 steps: "
    for minutes, expected in ((0.1, told), (None, False)):
        said = describe_run(
            network, recipe.model_copy(update={"minutes": minutes}), replace(MEASURED, steps=steps), torch.device("cpu")
        )
        assert any(sentence.startswith(words) for sentence in said) == expected
