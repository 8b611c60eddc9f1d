"""Optimiser groups, schedules, the moving average, and steps whose sums are exact."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from runs import SMALL

from fullconv.data import open_dataset
from fullconv.data.loader import Batch
from fullconv.losses import PixelLoss
from fullconv.nn import build
from fullconv.preprocess import normalize
from fullconv.recipe import Recipe, parse_recipe
from fullconv.training.console import Console
from fullconv.training.optimizer import (
    ModelEma,
    lr_at,
    make_optimizer,
    optimizer_tensors,
    parameter_groups,
    restore_optimizer,
    set_lr,
)
from fullconv.training.setup import build_card, build_criteria, build_model, build_train_loader
from fullconv.training.state import new_state
from fullconv.training.step import TrainStep, set_training_mode


def recipe(**settings) -> Recipe:
    return parse_recipe({"loss": "cross_entropy", "lr": 0.01, "weight_decay": 0.1, **SMALL, **settings})


def small(**settings):
    torch.manual_seed(0)
    return build("fcn8s", backbone="tiny", num_classes=3, **settings).train()


# --- groups ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"backbone_lr": 0.1, "bias_lr": 2.0},
        {"bias_decay": True},
        {"optimizer": "sgd"},
        {"head.upsampling": "learned"},
    ],
)
def test_every_trainable_tensor_is_in_exactly_one_group(settings):
    r = recipe(**settings)
    network = small(head=r.head)
    groups = parameter_groups(network, r)
    names = [name for group in groups for name in group["names"]]
    assert sorted(names) == sorted(name for name, _ in network.named_parameters())
    for group in groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            assert parameter is network.get_parameter(name)
            plain = parameter.ndim == 1 and not r.bias_decay
            assert group["weight_decay"] == (0.0 if plain else 0.1), name
            wanted = (r.backbone_lr or 1.0) if name.startswith("backbone.") else 1.0
            assert group["lr_scale"] == wanted * (r.bias_lr if name.endswith("bias") else 1.0), name


def test_what_is_frozen_or_has_no_learning_rate_is_in_no_group():
    network = small()
    network.backbone.requires_grad_(False)
    names = [name for group in parameter_groups(network, recipe()) for name in group["names"]]
    assert names
    assert all(name.startswith("head.") for name in names)
    names = [name for group in parameter_groups(small(), recipe(backbone_lr=0.0)) for name in group["names"]]
    assert all(name.startswith("head.") for name in names)


def test_the_papers_rule_for_biases_is_two_settings_away():
    groups = parameter_groups(small(norm="none"), recipe(bias_lr=2.0))
    assert {(group["lr_scale"], group["weight_decay"]) for group in groups} == {(1.0, 0.1), (2.0, 0.0)}


# --- schedules -------------------------------------------------------------------------------------------------------


@given(steps=st.integers(1, 2000), warmup=st.floats(0, 0.99), schedule=st.sampled_from(["poly", "cosine", "constant"]))
def test_a_schedule_rises_to_the_rate_and_never_above_and_falls_to_almost_nothing(steps, warmup, schedule):
    r = recipe(warmup=warmup, schedule=schedule)
    rates = [lr_at(step, steps, r) for step in range(steps)]
    warm = round(warmup * steps)
    assert all(0 < rate <= 0.01 + 1e-15 for rate in rates)
    assert rates[:warm] == sorted(rates[:warm])
    assert rates[warm:] == sorted(rates[warm:], reverse=True)
    if warm:
        assert rates[warm - 1] == pytest.approx(0.01)
    if warm < steps:
        assert rates[warm] == pytest.approx(0.01)
    if schedule != "constant" and steps - warm > 100:
        assert rates[-1] < 0.02 * 0.01


def test_poly_is_torchvisions():
    r = recipe(warmup=0.0, schedule="poly")
    assert lr_at(25, 100, r) == pytest.approx(0.01 * 0.75**0.9)
    assert lr_at(25, 100, recipe(warmup=0.0, schedule="cosine")) == pytest.approx(0.005 * (1 + math.cos(math.pi / 4)))


def test_groups_get_their_share_of_the_learning_rate():
    optimizer = make_optimizer(small(), recipe(backbone_lr=0.1, bias_lr=2.0))
    set_lr(optimizer, 0.5)
    assert {round(group["lr"], 9) for group in optimizer.param_groups} == {0.05, 0.1, 0.5, 1.0}


# --- moving average --------------------------------------------------------------------------------------------------


def test_the_moving_average_is_the_recursion():
    network = small()
    ema = ModelEma(network, 0.9)
    name = "head.score.8.weight"
    wanted = network.state_dict()[name].double().clone()
    for step in range(200):
        with torch.no_grad():
            network.head.score["8"].weight.add_(0.01 * (step % 7))
        network.backbone.stages[0][1].num_batches_tracked += 1
        ema.update(network, step)
        share = 1 - min(0.9, (1 + step) / (10 + step))
        wanted += share * (network.state_dict()[name].double() - wanted)
    torch.testing.assert_close(ema.tensors[name].double(), wanted, rtol=1e-5, atol=1e-6)
    assert int(ema.tensors["backbone.stages.0.1.num_batches_tracked"]) == 200
    assert ema.tensors.keys() == network.state_dict().keys()


# --- state -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_restored_optimiser_makes_the_same_bits(optimizer, layout):
    r = recipe(optimizer=optimizer)
    network = small(width=2.0).to(memory_format=layout)
    one = make_optimizer(network, r)

    def go(net, optim):
        optim.zero_grad()
        net(torch.ones(2, 3, 64, 64).to(memory_format=layout)).square().mean().backward()
        optim.step()

    for _ in range(2):
        go(network, one)
    saved = {name: value.clone().contiguous() for name, value in optimizer_tensors(one).items()}  # as a file gives them
    again = copy.deepcopy(network)
    two = make_optimizer(again, r)
    restore_optimizer(two, saved)
    for _ in range(2):
        go(network, one)
        go(again, two)
    for (name, a), b in zip(network.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b), name


# --- steps -----------------------------------------------------------------------------------------------------------


def stepper(data: Path, r: Recipe):
    """A stepper, its state, and the first batches of a run."""
    dataset = open_dataset(data)
    statistics = dataset.statistics("train")
    torch.manual_seed(r.seed)
    network = build_model(r, dataset, 3, torch.device("cpu"), Console(quiet=True))
    card = build_card(r, network, dataset, statistics, "")
    losses, _ = build_criteria(r, dataset)
    batches = build_train_loader(r, dataset, statistics)
    return TrainStep(r, card, losses, torch.device("cpu"), "fp32"), new_state(network, r), batches


def split(batch: Batch, parts: list[list[int]]) -> list[Batch]:
    return [
        Batch(batch.images[part], {head: mask[part] for head, mask in batch.masks.items()}, batch.stems, batch.step)
        for part in parts
    ]


@pytest.mark.parametrize("loss", ["cross_entropy", "cross_entropy + 0.5 * focal"])
@pytest.mark.parametrize("weights", ["none", "inverse_log"])
def test_accumulated_gradients_are_those_of_one_big_batch(shapes, loss, weights):
    r = recipe(norm="none", loss=loss, class_weights=weights, batch_size=4, optimizer="sgd", momentum=0.0, warmup=0.0)
    results = []
    for parts in ([[0, 1, 2, 3]], [[0], [1, 2], [3]]):
        made, state, batches = stepper(shapes, r)
        batch = next(batches.batches(0, 1))
        batch.masks["labels" if "labels" in batch.masks else next(iter(batch.masks))][1, :20] = 255  # uneven void
        value = made.step(state, split(batch, parts), 10)
        results.append((value, {k: v.clone() for k, v in state.network.state_dict().items()}))
    (whole, one), (summed, other) = results
    assert summed == pytest.approx(whole, abs=1e-6)
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=0, atol=1e-6)


def test_a_batch_of_void_alone_is_finite_and_changes_nothing_but_by_decay(shapes):
    made, state, batches = stepper(shapes, recipe(norm="none", weight_decay=0.0))
    before = {name: p.clone() for name, p in state.network.named_parameters()}
    batch = next(batches.batches(0, 1))
    for mask in batch.masks.values():
        mask.fill_(255)
    assert made.step(state, [batch], 10) == 0
    for name, parameter in state.network.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_clipping_limits_the_norm_of_the_gradient(shapes):
    for clip in (None, 1e-3):
        made, state, batches = stepper(shapes, recipe(clip=clip))
        made.step(state, [next(batches.batches(0, 1))], 10)
        norm = torch.stack([p.grad.norm() for p in state.network.parameters()]).norm()
        assert (float(norm) <= 1.001e-3) == (clip is not None)


@pytest.mark.parametrize("freeze", ["backbone", "norm"])
def test_what_is_frozen_stays(shapes, freeze):
    made, state, batches = stepper(shapes, recipe(freeze=freeze))
    before = {name: value.clone() for name, value in state.network.state_dict().items()}
    for step, batch in enumerate(batches.batches(0, 3)):
        made.step(state, [batch], 10)
        assert state.step == step + 1
    changed = {name for name, value in state.network.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name.startswith("head.") for name in changed)
    if freeze == "backbone":
        assert not any(name.startswith("backbone.") for name in changed)
    else:
        assert not any("running" in name for name in changed)
        assert any(name.startswith("backbone.") for name in changed)


def test_fixed_upsampling_is_not_trained_and_learned_is_by_option(shapes):
    made, state, _ = stepper(shapes, recipe())
    assert not any(".grow." in name for name, _ in state.network.named_parameters())
    made, state, batches = stepper(shapes, recipe(**{"head.upsampling": "learned"}))
    before = state.network.head.grow["8"].weight.clone()
    made.step(state, [next(batches.batches(0, 1))], 10)
    assert not torch.equal(state.network.head.grow["8"].weight, before)


def test_dropout_draws_the_same_whatever_was_drawn_before(shapes):
    r = recipe(backbone="vgg16", width=1 / 16)
    values = []
    for disturbance in (0, 3):
        made, state, batches = stepper(shapes, r)
        torch.rand(disturbance)
        values.append(made.step(state, [next(batches.batches(0, 1))], 10))
    assert values[0] == values[1]


def test_training_mode_respects_what_is_frozen():
    network = small()
    set_training_mode(network, recipe(freeze="norm"))
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    assert not any(m.training for m in norms)
    assert network.training
    set_training_mode(network, recipe(freeze="backbone"))
    assert not network.backbone.training


def test_the_sum_of_losses_over_pictures_is_caffes_rule(shapes):
    """Divided by the number of pictures, not by that of valid pixels."""
    made, state, batches = stepper(shapes, recipe(reduction="sum", norm="none", class_weights="none"))
    batch = next(batches.batches(0, 1))
    (mask,) = batch.masks.values()
    with torch.no_grad():
        logits = state.network.train()(normalize(batch.images, made.card))
        wanted = torch.nn.functional.cross_entropy(logits, mask.long(), ignore_index=255, reduction="sum") / 2
    assert made.step(state, [batch], 10) == pytest.approx(float(wanted), rel=1e-5)
    assert isinstance(made.criteria[next(iter(made.criteria))], PixelLoss)
