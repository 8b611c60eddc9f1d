"""Steps: exact sums, frozen parts, and twenty steps of every published network."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import small_recipe as recipe

from fullconv.data import Dataset, open_dataset
from fullconv.data.loader import Batch
from fullconv.labels import VOID
from fullconv.losses import PixelLoss
from fullconv.nn import VARIANTS
from fullconv.preprocess import normalize
from fullconv.recipe import Recipe, parse_recipe
from fullconv.training.config import resolve_defaults
from fullconv.training.console import Console
from fullconv.training.setup import build_card, build_criteria, build_model, build_train_loader
from fullconv.training.state import new_state
from fullconv.training.step import TrainStep
from synthetic.shapes import draw, save_image, save_mask


def build_step(data: Path, r: Recipe):
    """A stepper, its state, and the first batches of a run."""
    dataset = open_dataset(data)
    statistics = dataset.statistics("train")
    torch.manual_seed(r.seed)
    network, _ = build_model(r, dataset, 3, torch.device("cpu"), Console(quiet=True))
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
        train_step, state, batches = build_step(shapes, r)
        batch = next(batches.batches(0, 1))
        next(iter(batch.masks.values()))[1, :20] = 255  # uneven void
        value = train_step.step(state, split(batch, parts), 10)
        results.append((value, {k: v.clone() for k, v in state.network.state_dict().items()}))
    (whole, one), (summed, other) = results
    assert summed == pytest.approx(whole, abs=1e-6)
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=0, atol=1e-6)


def test_batch_of_void_only_has_zero_loss_and_gradient(shapes):
    train_step, state, batches = build_step(shapes, recipe(norm="none", weight_decay=0.0))
    before = {name: p.clone() for name, p in state.network.named_parameters()}
    batch = next(batches.batches(0, 1))
    for mask in batch.masks.values():
        mask.fill_(255)
    assert train_step.step(state, [batch], 10) == 0
    for name, parameter in state.network.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_clipping_limits_the_norm_of_the_gradient(shapes):
    for clip in (None, 1e-3):
        train_step, state, batches = build_step(shapes, recipe(clip=clip))
        train_step.step(state, [next(batches.batches(0, 1))], 10)
        norm = torch.stack([p.grad.norm() for p in state.network.parameters()]).norm()
        assert (float(norm) <= 1.001e-3) == (clip is not None)


@pytest.mark.parametrize("freeze", ["backbone", "norm"])
def test_frozen_parts_stay(shapes, freeze):
    train_step, state, batches = build_step(shapes, recipe(freeze=freeze))
    before = {name: value.clone() for name, value in state.network.state_dict().items()}
    for step, batch in enumerate(batches.batches(0, 3)):
        train_step.step(state, [batch], 10)
        assert state.step == step + 1
    changed = {name for name, value in state.network.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name.startswith("head.") for name in changed)
    if freeze == "backbone":
        assert not any(name.startswith("backbone.") for name in changed)
        assert not state.network.backbone.training
    else:
        norms = [module for module in state.network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        assert norms
        assert not any(module.training for module in norms)
        assert state.network.training
        assert not any("running" in name for name in changed)
        assert any(name.startswith("backbone.") for name in changed)


def test_fixed_upsampling_is_not_trained_and_learned_is_by_option(shapes):
    train_step, state, _ = build_step(shapes, recipe())
    assert not any(".grow." in name for name, _ in state.network.named_parameters())
    train_step, state, batches = build_step(shapes, recipe(**{"head.upsampling": "learned"}))
    before = state.network.head.grow["8"].weight.clone()
    train_step.step(state, [next(batches.batches(0, 1))], 10)
    assert not torch.equal(state.network.head.grow["8"].weight, before)


def test_dropout_is_seeded_per_step(shapes):
    r = recipe(backbone="vgg16", width=1 / 16)
    values = []
    for disturbance in (0, 3):
        train_step, state, batches = build_step(shapes, r)
        torch.rand(disturbance)
        values.append(train_step.step(state, [next(batches.batches(0, 1))], 10))
    assert values[0] == values[1]


def test_reduction_sum_divides_by_images(shapes):
    """Divided by the number of images, not by that of valid pixels."""
    train_step, state, batches = build_step(shapes, recipe(reduction="sum", norm="none", class_weights="none"))
    batch = next(batches.batches(0, 1))
    (mask,) = batch.masks.values()
    with torch.no_grad():
        logits = state.network.train()(normalize(batch.images, train_step.card))
        wanted = torch.nn.functional.cross_entropy(logits, mask.long(), ignore_index=255, reduction="sum") / 2
    assert train_step.step(state, [batch], 10) == pytest.approx(float(wanted), rel=1e-5)
    assert isinstance(train_step.criteria[next(iter(train_step.criteria))], PixelLoss)


FAST = ("voc-fcn8s-atonce", "siftflow-fcn16s", "nyud-fcn32s-color-hha", "voc-fcn-alexnet")


PUBLISHED = [name for name, row in VARIANTS.items() if row.caffe is not None or row.upsample_mode == "size"]


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Six images with masks of two heads, and further bands in two folders; data.toml is each test's own."""
    root = tmp_path_factory.mktemp("published")
    rng = np.random.default_rng(2)
    for number in range(6):
        image, mask = draw(rng, (40, 52), 3)
        save_image(image, root / "images" / f"p{number}.png")
        save_image(image[..., ::-1] // 2, root / "hha" / f"p{number}.png")
        save_image(image[..., :1] // 3, root / "depth" / f"p{number}.png")
        save_mask(mask, root / "labels" / f"p{number}.png")
        save_mask(np.where(mask == VOID, VOID, mask > 0).astype(np.uint8), root / "solid" / f"p{number}.png")
    return root


def data_for(variant: str, root: Path) -> Dataset:
    """Open the images as a net wants them: its bands, its heads."""
    more = {4: "depth", 6: "hha"}.get(VARIANTS[variant].in_channels)
    lines = [f'bands_from = "{more}"'] if more else []
    if isinstance(VARIANTS[variant].num_classes, int):
        lines += ['masks = "labels"', 'classes = ["a", "b", "c"]']
    else:
        lines += ['[heads.semantic]\nmasks = "labels"\nclasses = ["a", "b", "c"]',
                  '[heads.geometric]\nmasks = "solid"\nclasses = ["flat", "solid"]']  # fmt: skip
    (root / "data.toml").write_text("\n".join(lines), encoding="utf-8")
    return open_dataset(root)


@pytest.mark.parametrize(
    "variant", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in PUBLISHED]
)
def test_twenty_steps_lower_the_loss(variant, images):
    dataset = data_for(variant, images)
    statistics = dataset.statistics("train")
    recipe = parse_recipe({
        "variant": variant, "weights": "none", "width": 1 / 16, "crop": "whole", "batch_size": 2, "augment": "none",
        "class_weights": "none", "lr": 1e-3, "schedule": "constant", "warmup": 0, "ema": 0, "workers": 0, "steps": 20,
    })  # fmt: skip
    recipe = resolve_defaults(recipe, dataset, statistics)
    torch.manual_seed(0)
    device = torch.device("cpu")
    network, _ = build_model(recipe, dataset, statistics.channels, device, Console(quiet=True))
    losses, _ = build_criteria(recipe, dataset)
    train_step = TrainStep(recipe, build_card(recipe, network, dataset, statistics, ""), losses, device, "fp32")
    state = new_state(network, recipe)
    fixed = {name: value.clone() for name, value in network.state_dict().items() if ".grow." in name}
    (batch,) = build_train_loader(recipe, dataset, statistics).batches(0, 1)
    seen = [train_step.step(state, [batch], 20) for _ in range(20)]  # on the same two images, so that losses compare
    if VARIANTS[variant].caffe is not None:  # zero score layers say the same of every class
        assert seen[0] == pytest.approx(sum(math.log(len(labels.classes)) for labels in dataset.labels.values()))
        assert not any(parameter.requires_grad for name, parameter in network.named_parameters() if ".grow." in name)
    assert np.mean(seen[-3:]) < 0.8 * seen[0], seen
    assert all(torch.equal(network.state_dict()[name], value) for name, value in fixed.items())
