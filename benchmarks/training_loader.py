"""Training images per second, from files: `fullconv train`'s loop beside a plain PyTorch script with torchvision's v2 transforms.

Plain: a `Dataset` that opens PNGs with Pillow, v2 transforms on `tv_tensors` (random scale, crop with padding, mirror,
`ColorJitter`, `Normalize`), a `DataLoader` with two workers, the same network in float32, AdamW, `F.cross_entropy`.
Ours: the batches and the step of `fullconv train` with the default recipe: the same scales, crops and color changes.
Both read the same synthetic images of 360x480, each in a process of its own; a round is some steps of each, in turn.

    python benchmarks/training_loader.py [--rounds 5] [--steps 8] [--pictures 96] [--backbone resnet18]
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from harness import alternate, elsewhere, keep, summarize
from PIL import Image

import fullconv
from fullconv.card import IMAGENET_MEAN, IMAGENET_STD, Card
from fullconv.cli.synthetic import draw
from fullconv.data import PRESETS, TrainingBatches, open_dataset
from fullconv.losses import PixelLoss
from fullconv.recipe import Recipe
from fullconv.system import retain_freed
from fullconv.training.autotune import pick_amp_dtype
from fullconv.training.state import new_state
from fullconv.training.step import TrainStep

SIZE, CROP, CLASSES, BATCH = (360, 480), (288, 384), 4, 8
KEPT = ExitStack()
"""Lasts as long as the process."""


def make(root: Path, count: int) -> None:
    """Write images and masks: the demo's scenes with sensor noise."""
    for part in ("images/train", "masks/train"):
        (root / part).mkdir(parents=True)
    for index in range(count):
        rng = np.random.default_rng([11, index])
        scene, labels = draw(rng, SIZE)
        noisy = (scene + rng.normal(0, 3, scene.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(root / "images/train" / f"{index:03}.png")
        Image.fromarray(labels).save(root / "masks/train" / f"{index:03}.png")
    (root / "classes.txt").write_text("".join(f"class{k}\n" for k in range(CLASSES)), encoding="utf-8")


class PlainImages(torch.utils.data.Dataset):
    """Images and masks as a usual script reads them."""

    def __init__(self, root: str) -> None:
        from torchvision.transforms import v2

        settings = PRESETS["street"]
        self.images, self.masks = (sorted(Path(root, part).iterdir()) for part in ("images/train", "masks/train"))
        self.transform = v2.Compose([
            v2.ScaleJitter(SIZE, settings.scale),
            v2.RandomCrop(CROP, pad_if_needed=True, fill={torch.Tensor: 0, "others": 0}),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(settings.brightness, settings.contrast, settings.saturation, settings.hue),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int):
        from torchvision import tv_tensors
        from torchvision.transforms import v2

        with Image.open(self.images[index]) as file, Image.open(self.masks[index]) as mask:
            image = tv_tensors.Image(v2.functional.pil_to_tensor(file))
            return self.transform(image, tv_tensors.Mask(np.asarray(mask)[None].copy()))


def plain_loop(root: str, backbone: str, steps: int):
    """Return some steps of a plain script, and its precision."""
    torch.manual_seed(0)
    network = fullconv.build("fcn8s", backbone=backbone, num_classes=CLASSES).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    loader = torch.utils.data.DataLoader(
        PlainImages(root), BATCH, shuffle=True, num_workers=2, drop_last=True, persistent_workers=True
    )

    def endless():
        while True:
            yield from loader

    batches = endless()

    def run() -> None:
        for _, (images, masks) in zip(range(steps), batches, strict=False):
            optimizer.zero_grad()
            F.cross_entropy(network(images), masks[:, 0].long(), ignore_index=255).backward()
            optimizer.step()

    return run, "fp32"


def our_loop(root: str, backbone: str, steps: int):
    """Return as many steps of ours, and the precision that was measured to be faster."""
    KEPT.enter_context(retain_freed())
    torch.manual_seed(0)
    dataset = open_dataset(root)
    network = fullconv.build("fcn8s", backbone=backbone, num_classes=CLASSES).to(memory_format=torch.channels_last)
    card = Card(variant="fcn8s", backbone=backbone, classes=dataset.labels[""].classes)
    recipe = Recipe(weights="none", backbone=backbone, lr=2e-3, weight_decay=0.02)
    loading = TrainingBatches(dataset, batch_size=BATCH, crop=CROP)
    train_step = TrainStep(recipe, card, {"": PixelLoss()}, torch.device("cpu"), "fp32")
    train_step.precision = pick_amp_dtype(network, train_step, loading.full_batch(0))
    state = new_state(network, recipe)
    batches = loading.batches()

    def run() -> None:
        for _, batch in zip(range(steps), batches, strict=False):
            train_step.step(state, [batch], 1000)

    return run, train_step.precision


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--pictures", type=int, default=96)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        make(Path(temporary), options.pictures)
        arguments = (temporary, options.backbone, options.steps)
        with elsewhere(plain_loop, *arguments) as (plain, _), elsewhere(our_loop, *arguments) as (ours, precision):
            seconds = alternate({"plain fp32": plain, "fullconv": ours}, options.rounds, warm_up=2)
    summary = summarize(seconds)
    for name, row in summary.items():
        rates = [BATCH * options.steps / row[key] for key in ("median_s", "quartile_3_s", "quartile_1_s")]
        print(f"{name:12} {rates[0]:.2f} images/s ({rates[1]:.2f} to {rates[2]:.2f})")
    ratio = summary["plain fp32"]["median_s"] / summary["fullconv"]["median_s"]
    print(f"ratio {ratio:.2f}, ours in {precision}")
    settings = {"batch": BATCH, "crop": CROP, **vars(options)}
    path = keep("training_loader", {"settings": settings, "precision": precision, "seconds": summary, "ratio": ratio})
    print(f"kept in {path.name}")


if __name__ == "__main__":
    main()
