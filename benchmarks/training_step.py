"""A training step of the default network against the same network in plain PyTorch, in one run, alternating.

Plain: float32, contiguous, unfused AdamW, `F.cross_entropy` with `ignore_index` on int64 labels, normalization in
float: what a training script usually holds. Ours: the step of `fullconv train`, with the precision that it chooses and
freed memory kept. Both see the same random images and labels, each in a process of its own. With `--dice` both add Dice
to the cross-entropy, as `train` does by itself where a class is rare; the plain one by softmax and one-hot labels.

    python benchmarks/training_step.py [--dice] [--rounds 7] [--batch 8] [--crop 288 384] [--classes 11]
"""

from __future__ import annotations

import argparse
import resource
from contextlib import ExitStack

import torch
import torch.nn.functional as F
from harness import alternate, elsewhere, keep, summarize

import fullconv
from fullconv.card import IMAGENET_MEAN, IMAGENET_STD, Card
from fullconv.data import Batch
from fullconv.losses import PixelLoss
from fullconv.recipe import Recipe
from fullconv.system import retain_freed
from fullconv.training.autotune import pick_amp_dtype
from fullconv.training.state import new_state
from fullconv.training.step import TrainStep

KEPT = ExitStack()
"""Lasts as long as the process."""


def random_batch(size: int, crop: tuple[int, int], classes: int) -> Batch:
    """Return images and labels for both contenders."""
    generator = torch.Generator().manual_seed(0)
    shape = (size, *crop)
    images = torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=generator)
    masks = torch.randint(0, classes, shape, dtype=torch.uint8, generator=generator)
    return Batch(images, {"": masks}, [str(n) for n in range(size)], 0)


def plain_dice(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return 1 - the mean of 2 sum(p y) / (sum(p) + sum(y)) over the classes; no label is void here."""
    one_hot = F.one_hot(target, logits.shape[1]).permute(0, 3, 1, 2).float()
    p = logits.softmax(dim=1)
    shared, summed = (p * one_hot).sum(dim=(0, 2, 3)), (p + one_hot).sum(dim=(0, 2, 3))
    return 1 - (2 * shared / summed).mean()


def plain_step(variant: str, backbone: str, classes: int, size: int, crop: tuple[int, int], dice: bool):
    """Return a plain step, and its precision."""
    torch.manual_seed(0)
    batch = random_batch(size, crop, classes)
    network = fullconv.build(variant, backbone=backbone, num_classes=classes).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, foreach=False, fused=False)
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    images = batch.images.permute(0, 3, 1, 2).contiguous()
    target = batch.masks[""].long()

    def step() -> float:
        x = (images.float() / 255 - mean) / std
        optimizer.zero_grad()
        logits = network(x)
        loss = F.cross_entropy(logits, target, ignore_index=255)
        if dice:
            loss = loss + 2 * plain_dice(logits, target)
        loss.backward()
        optimizer.step()
        return loss.item()

    return measured(step), "fp32"


def our_step(variant: str, backbone: str, classes: int, size: int, crop: tuple[int, int], dice: bool):
    """Return our step, with its precision chosen as `train` does it, and that precision."""
    KEPT.enter_context(retain_freed())
    torch.manual_seed(0)
    batch = random_batch(size, crop, classes)
    network = fullconv.build(variant, backbone=backbone, num_classes=classes)
    network.to(memory_format=torch.channels_last)
    card = Card(variant=variant, backbone=backbone, classes=tuple(f"class{k}" for k in range(classes)))
    recipe = Recipe(weights="none", lr=2e-3, weight_decay=0.02)
    loss = PixelLoss("cross_entropy + 2 * dice" if dice else "cross_entropy")
    train_step = TrainStep(recipe, card, {"": loss}, torch.device("cpu"), "fp32")
    train_step.precision = pick_amp_dtype(network, train_step, batch)
    state = new_state(network, recipe)
    return measured(lambda: train_step.step(state, [batch], 1000)), train_step.precision


def measured(step):
    """Return a step that returns the most memory that its process has had so far, in bytes."""

    def run() -> int:
        step()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="fcn8s")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, nargs=2, default=(288, 384))
    parser.add_argument("--classes", type=int, default=11)
    parser.add_argument("--dice", action="store_true")
    options = parser.parse_args()
    arguments = (options.variant, options.backbone, options.classes, options.batch, tuple(options.crop), options.dice)
    with elsewhere(plain_step, *arguments) as (plain, _), elsewhere(our_step, *arguments) as (ours, precision):
        seconds = alternate({"plain fp32": plain, "fullconv": ours}, options.rounds, warm_up=2)
        memory = {"plain fp32": plain(), "fullconv": ours()}
    summary = summarize(seconds)
    ratio = summary["plain fp32"]["median_s"] / summary["fullconv"]["median_s"]
    for name, row in summary.items():
        print(f"{name:12} {row['median_s']:.3f} s ({row['quartile_1_s']:.3f} to {row['quartile_3_s']:.3f})")
    plain_peak, our_peak = (memory[name] / 1e9 for name in ("plain fp32", "fullconv"))
    print(f"ratio {ratio:.2f}, ours in {precision}; peak memory {plain_peak:.2f} and {our_peak:.2f} GB")
    settings = {key: value for key, value in vars(options).items() if key != "rounds"}
    name = "training_step" if options.variant == "fcn8s" else f"training_step_{options.variant}_{options.backbone}"
    name += "_dice" * options.dice
    figures = {"precision": precision, "seconds": summary, "ratio": ratio, "peak_memory_bytes": memory}
    path = keep(name, {"settings": settings, **figures})
    print(f"kept in {path.name}")


if __name__ == "__main__":
    main()
