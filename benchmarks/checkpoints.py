"""What keeping a run safe costs: writing and reading checkpoints beside torch.save, and the checks of every step.

Peer: `torch.save` of the same state into one file, which is not synced, not checked and a pickle, as training scripts do
it; and the same with fsync and rename, so that the hash's share can be seen. Ours: temporary name, SHA-256 over all
tensors and values, fsync, rename, fsync of the folder.

The checks of a step: copying the buffers before the forward pass, and checking that every gradient is finite.

    python benchmarks/checkpoints.py [--backbone resnet18] [--rounds 7] [--crop 96 128]
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import torch
from harness import alternate, keep, summarize

import fullconv
from fullconv.card import Card
from fullconv.checkpoint import read_checkpoint, write_checkpoint
from fullconv.data import Batch
from fullconv.losses import PixelLoss
from fullconv.recipe import Recipe
from fullconv.training.loop import CHECKPOINT_SHARE
from fullconv.training.state import TrainState, new_state
from fullconv.training.step import TrainStep, finite_gradients


def state_after_a_step(backbone: str, classes: int, crop: tuple[int, int]) -> tuple[TrainState, TrainStep, Batch]:
    """Return the state after a step on random images, the step, and the batch."""
    torch.manual_seed(0)
    network = fullconv.build("fcn8s", backbone=backbone, num_classes=classes).to(memory_format=torch.channels_last)
    card = Card(variant="fcn8s", backbone=backbone, classes=tuple(f"class{k}" for k in range(classes)))
    recipe = Recipe(weights="none", lr=1e-4, weight_decay=0.02)
    train_step = TrainStep(recipe, card, {"": PixelLoss()}, torch.device("cpu"), "fp32")
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, *crop, 3), dtype=torch.uint8, generator=generator)
    masks = torch.randint(0, classes, (2, *crop), dtype=torch.uint8, generator=generator)
    batch = Batch(images, {"": masks}, ["a", "b"], 0)
    state = new_state(network, recipe)
    train_step.step(state, [batch], 1000)
    return state, train_step, batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--classes", type=int, default=11)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--crop", type=int, nargs=2, default=(96, 128))
    options = parser.parse_args()
    state, train_step, batch = state_after_a_step(options.backbone, options.classes, tuple(options.crop))
    tensors, scalars = state.tensors(), state.scalars()

    with tempfile.TemporaryDirectory() as place:
        theirs, ours = Path(place) / "torch", Path(place) / "ours"
        for folder in (theirs, ours):
            folder.mkdir()

        def saved(durable: bool) -> None:
            with (theirs / "part").open("wb") as file:
                torch.save({"tensors": tensors, "scalars": scalars}, file)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            (theirs / "part").replace(theirs / "last")

        def checks() -> None:
            saved_buffers = [buffer.clone() for buffer in state.network.buffers()]
            assert saved_buffers
            assert finite_gradients(state.network)

        seconds = alternate(
            {
                "torch.save": lambda: saved(False),
                "torch.save, fsync": lambda: saved(True),
                "write_checkpoint": lambda: write_checkpoint(ours, tensors, scalars),
                "torch.load": lambda: torch.load(theirs / "last", weights_only=True),
                "read_checkpoint": lambda: read_checkpoint(ours),
                "step": lambda: train_step.step(state, [batch], 1000),
                "checks of a step": checks,
            },
            options.rounds,
        )
        size = (ours / "last").stat().st_size
    summary = summarize(seconds)
    for name, row in summary.items():
        print(f"{name:18} {row['median_s']:.4f} s ({row['quartile_1_s']:.4f} to {row['quartile_3_s']:.4f})")
    median = {name: row["median_s"] for name, row in summary.items()}
    figures = {
        "bytes": size,
        "write, times torch.save with fsync": median["write_checkpoint"] / median["torch.save, fsync"],
        "read, times torch.load": median["read_checkpoint"] / median["torch.load"],
        "checks, share of a step": median["checks of a step"] / median["step"],
        "least seconds between checkpoints at ends of epochs": median["write_checkpoint"] / CHECKPOINT_SHARE,
    }
    for name, value in figures.items():
        print(f"{name}: {value:.4g}")
    settings = {key: value for key, value in vars(options).items() if key != "rounds"}
    kept = keep(f"checkpoints_{options.backbone}", {"settings": settings, "seconds": summary, "figures": figures})
    print(f"kept in {kept.name}")


if __name__ == "__main__":
    main()
