"""The description of a run before its first step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fullconv.nn import build
from fullconv.recipe import parse_recipe
from fullconv.training.config import (
    Schedule,
)
from fullconv.training.setup import describe_run

MEASURED = Schedule(
    steps=500, steps_per_epoch=50, precision="bf16", threads=2, seconds_per_step=0.1, validate_every=1,
    validation_pictures=20,
)  # fmt: skip


@pytest.mark.parametrize(("steps", "outputs"), [(49, True), (50, False)])
def test_minutes_too_short_for_an_epoch_are_reported(steps, outputs):
    network = build("fcn32s", backbone="tiny", width=0.25, num_classes=2)
    recipe = parse_recipe({"backbone": "tiny", "weights": "none", "crop": "32x32", "batch_size": 2, "lr": 0.1})
    message = "0.1 minutes are too short for an epoch of 50 steps: "
    for minutes, expected in ((0.1, outputs), (None, False)):
        stderr = describe_run(
            network, recipe.model_copy(update={"minutes": minutes}), replace(MEASURED, steps=steps), torch.device("cpu")
        )
        assert any(sentence.startswith(message) for sentence in stderr) == expected
