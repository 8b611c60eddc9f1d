"""Optimizer groups, learning rate schedules, the moving average."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from runs import small_network as small
from runs import small_recipe as recipe

from fullconv.nn import VARIANTS
from fullconv.nn.caffe.convert import _to_caffe
from fullconv.recipe import parse_recipe
from fullconv.training.config import read_recipe
from fullconv.training.optimizer import (
    ModelEma,
    lr_at,
    make_optimizer,
    optimizer_tensors,
    parameter_groups,
    restore_optimizer,
    set_lr,
)
from networks import narrow


@pytest.mark.parametrize(
    "settings",
    [{}, {"backbone_lr": 0.1, "bias_lr": 2.0}, {"bias_decay": True}, {"optimizer": "sgd"}, {"head.upsampling": "learned"}],
)  # fmt: skip
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


RELEASED = [name for name, row in VARIANTS.items() if row.caffe is not None and name != "voc-fcn-googlenet"]


@pytest.mark.parametrize("variant", RELEASED)
def test_multipliers_of_each_layer_are_those_of_the_release(variant):
    """Of weights 1 and 1; of biases 2 and 0, but 1 and 1 in CaffeNet's layers, which have no multipliers; upsampling is fixed."""
    found = parse_recipe(read_recipe(variant).table)
    network = narrow(variant)
    groups = parameter_groups(network, found)
    by_name = {name: (group["lr_scale"], group["weight_decay"] / 5e-4) for group in groups for name in group["names"]}
    caffe = {_to_caffe(name, variant): pair for name, pair in by_name.items()}
    layers = {name.rpartition(".")[0] for name in caffe}
    assert any(layer.startswith("conv1") for layer in layers)
    assert any(layer.startswith("score_fr") for layer in layers)
    for layer in layers:
        assert not layer.startswith("upscore")
        plain = variant == "voc-fcn-alexnet" and not layer.startswith("score")
        assert caffe[f"{layer}.weight"] == (1, 1), layer
        assert caffe[f"{layer}.bias"] == ((1, 1) if plain else (2, 0)), layer


def test_frozen_parameters_are_in_no_group():
    network = small()
    network.backbone.requires_grad_(False)
    names = [name for group in parameter_groups(network, recipe()) for name in group["names"]]
    assert names
    assert all(name.startswith("head.") for name in names)
    names = [name for group in parameter_groups(small(), recipe(backbone_lr=0.0)) for name in group["names"]]
    assert all(name.startswith("head.") for name in names)


def test_papers_rule_for_biases():
    groups = parameter_groups(small(norm="none"), recipe(bias_lr=2.0))
    assert {(group["lr_scale"], group["weight_decay"]) for group in groups} == {(1.0, 0.1), (2.0, 0.0)}


@given(steps=st.integers(1, 2000), warmup=st.floats(0, 0.99), schedule=st.sampled_from(["poly", "cosine", "constant"]))
def test_schedules_warm_up_and_decay(steps, warmup, schedule):
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


def test_poly_and_cosine_values():
    r = recipe(warmup=0.0, schedule="poly")
    assert lr_at(25, 100, r) == pytest.approx(0.01 * 0.75**0.9)
    assert lr_at(25, 100, recipe(warmup=0.0, schedule="cosine")) == pytest.approx(0.005 * (1 + math.cos(math.pi / 4)))


def test_groups_scale_the_learning_rate():
    optimizer = make_optimizer(small(), recipe(backbone_lr=0.1, bias_lr=2.0))
    set_lr(optimizer, 0.5)
    assert {round(group["lr"], 9) for group in optimizer.param_groups} == {0.05, 0.1, 0.5, 1.0}


def test_ema_is_the_recursion():
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


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_restored_optimizer_is_bit_exact(optimizer, layout):
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
