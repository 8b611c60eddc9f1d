"""Twenty steps of every published net on made pictures: the loss begins at ln K and falls."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fullconv.data import Dataset, open_dataset
from fullconv.labels import VOID
from fullconv.nn import VARIANTS
from fullconv.recipe import parse_recipe
from fullconv.training.config import resolve_defaults
from fullconv.training.console import Console
from fullconv.training.setup import build_card, build_criteria, build_model, build_train_loader
from fullconv.training.state import new_state
from fullconv.training.step import TrainStep
from synthetic.shapes import draw, save_image, save_mask

FAST = ("voc-fcn8s-atonce", "siftflow-fcn16s", "nyud-fcn32s-color-hha", "voc-fcn-alexnet")
PUBLISHED = [name for name, row in VARIANTS.items() if row.caffe is not None or row.upsample_mode == "size"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Six pictures with masks of two heads, and further bands in two folders; data.toml is each test's own."""
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
    """Open the pictures as a net wants them: its bands, its heads."""
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
def test_twenty_steps_lower_the_loss(variant, pictures):
    dataset = data_for(variant, pictures)
    statistics = dataset.statistics("train")
    recipe = parse_recipe({
        "variant": variant, "weights": "none", "width": 1 / 16, "crop": "whole", "batch_size": 2, "augment": "none",
        "class_weights": "none", "lr": 1e-3, "schedule": "constant", "warmup": 0, "ema": 0, "workers": 0, "steps": 20,
    })  # fmt: skip
    recipe = resolve_defaults(recipe, dataset, statistics)
    torch.manual_seed(0)
    device = torch.device("cpu")
    network = build_model(recipe, dataset, statistics.channels, device, Console(quiet=True))
    losses, _ = build_criteria(recipe, dataset)
    train_step = TrainStep(recipe, build_card(recipe, network, dataset, statistics, ""), losses, device, "fp32")
    state = new_state(network, recipe)
    fixed = {name: value.clone() for name, value in network.state_dict().items() if ".grow." in name}
    (batch,) = build_train_loader(recipe, dataset, statistics).batches(0, 1)
    seen = [train_step.step(state, [batch], 20) for _ in range(20)]  # on the same two pictures, so that losses compare
    if VARIANTS[variant].caffe is not None:  # zero score layers say the same of every class
        assert seen[0] == pytest.approx(sum(math.log(len(labels.classes)) for labels in dataset.labels.values()))
        assert not any(parameter.requires_grad for name, parameter in network.named_parameters() if ".grow." in name)
    assert np.mean(seen[-3:]) < 0.8 * seen[0], seen
    assert all(torch.equal(network.state_dict()[name], value) for name, value in fixed.items())
