"""The description of a run before its first step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from runs import MEASURED

from fullconv.nn import build
from fullconv.recipe import parse_recipe
from fullconv.training.setup import describe_run


@pytest.mark.parametrize(("steps", "reported"), [(49, True), (50, False)])
def test_minutes_too_short_for_an_epoch_are_reported(steps, reported):
    network = build("fcn32s", backbone="tiny", width=0.25, num_classes=2)
    recipe = parse_recipe({"backbone": "tiny", "weights": "none", "crop": "32x32", "batch_size": 2, "lr": 0.1})
    message = "0.1 minutes are too short for an epoch of 50 steps: "
    for minutes, expected in ((0.1, reported), (None, False)):
        timed = recipe.model_copy(update={"minutes": minutes})
        sentences = describe_run(network, timed, replace(MEASURED, steps=steps), torch.device("cpu"))
        assert any(sentence.startswith(message) for sentence in sentences) == expected
