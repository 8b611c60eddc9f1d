"""A small network of our own that finds rectangles, corrected from a widely read blog post.

The post builds a network of 3x3 convolutions (3-64-128-256-256) with three 2x2 pools, grows its map with two transposed
convolutions, and trains it on one image of 128x128 pixels. What it gets wrong, and what is right:

- Three pools divide the size by 8; two transposed convolutions give back 4. The post's output is 64x64, and the loss
  against a mask of 128x128 raises an error. The factors of the upsampling must multiply to the stride: 2 x 2 x 2 = 8.
- A size that 8 does not divide (127) loses pixels where pools round down. Here they round up, and the result is cut to
  the size of the image. The cut begins at 0, because pool and transposed convolution shift by half a pixel each, in
  opposite directions: `fullconv.geometry` computes it, and prints "offset 0" below.
- Skips are named as a part of such networks, but the post has none. Here maps of equal stride and width are added.
- The image is random numbers that have nothing to do with the mask, so the network can only learn it by heart.
  Here the rectangle is visible, every image has another one, and the score is counted on images it has not seen.
- Values from 0 to 255 go in as they are. Here they become numbers around 0.
- Fully connected layers are not removed from a network to make it fully convolutional; they become convolutions
  (`vgg_fcn8s.py`). This network never had any.

Run it: python examples/small_network.py
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import Tensor, nn

import fullconv
from fullconv.losses import PixelLoss, ratio
from fullconv.metrics import confusion_matrix, iou

CLASSES = ("ground", "rectangle")
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)  # of values that were divided by 255


class SmallNetwork(nn.Module):
    """Map images (N, 3, H, W) to logits (N, K, H, W), any H, W >= 1."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 128, 3, padding=1)
        self.conv3, self.conv4 = nn.Conv2d(128, 256, 3, padding=1), nn.Conv2d(256, 256, 3, padding=1)
        self.pool = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.grow3 = nn.ConvTranspose2d(256, 128, 2, 2)
        self.grow2 = nn.ConvTranspose2d(128, 64, 2, 2)
        self.grow1 = nn.ConvTranspose2d(64, 64, 2, 2)
        self.score = nn.Conv2d(64, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        pool1 = self.pool(self.conv1(x).relu())  # (N, 64, H/2, W/2)
        pool2 = self.pool(self.conv2(pool1).relu())  # (N, 128, H/4, W/4)
        pool3 = self.pool(self.conv3(pool2).relu())  # (N, 256, H/8, W/8)
        coarse = self.conv4(pool3).relu()
        at4 = (cut(self.grow3(coarse), pool2) + pool2).relu()
        at2 = (cut(self.grow2(at4), pool1) + pool1).relu()
        return self.score(cut(self.grow1(at2), x).relu())


def cut(fine: Tensor, like: Tensor) -> Tensor:
    """Cut a map to the size of another one."""
    return fine[..., : like.shape[-2], : like.shape[-1]]


def rectangle(rng: np.random.Generator, size: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """Make an image (H, W, 3) uint8 of a rectangle on noisy ground, and its mask (H, W) uint8."""
    (top, left), (height, width) = rng.integers(0, size // 2, 2), rng.integers(size // 5, size // 2, 2)
    mask = np.zeros((size, size), np.uint8)
    mask[top : top + height, left : left + width] = 1
    ground, paint = rng.uniform(20, 100, 3), rng.uniform(150, 235, 3)
    image = np.where(mask[..., None] == 1, paint, ground) + rng.normal(0, 15, (size, size, 3))
    return image.clip(0, 255).astype(np.uint8), mask


def as_input(images: np.ndarray) -> Tensor:
    """Turn images (N, H, W, 3) uint8 into the network's input (N, 3, H, W)."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (x - MEAN[0]) / STD[0]


def train(network: nn.Module, images: np.ndarray, masks: np.ndarray, epochs: int, batch_size: int = 2) -> list[float]:
    """Train with Adam; return the mean loss of every epoch."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    loss_of, losses = PixelLoss("cross_entropy"), []
    for epoch in range(1, epochs + 1):
        network.train()
        total = 0.0
        for start in range(0, len(images), batch_size):
            logits = network(as_input(images[start : start + batch_size]))
            loss = ratio(*loss_of.sums(logits, torch.from_numpy(masks[start : start + batch_size])))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        losses.append(total / -(-len(images) // batch_size))
        print(f"epoch {epoch} of {epochs}: loss {losses[-1]:.4f}")
    return losses


def main(count: int = 16, epochs: int = 5, plot: str | None = None) -> dict[str, object]:
    """Train on some images, score on others; return what was printed."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    drawn = [rectangle(rng) for _ in range(count + 8)]
    images, masks = (np.stack(part) for part in zip(*drawn, strict=True))
    network = SmallNetwork(len(CLASSES))
    print(f"{tuple(as_input(images[:1]).shape)} -> {tuple(network(as_input(images[:1])).shape)}")
    losses = train(network, images[:count], masks[:count], epochs)

    segmenter = fullconv.Segmenter.from_network(network, classes=CLASSES, mean=MEAN, std=STD)
    geometry = segmenter.network.geometry
    print(f"offset {geometry.y.offset}, stride {segmenter.network.stride}, sees {geometry.receptive_field} pixels")
    unseen = [segmenter.predict(image).label_map for image in images[count:]]
    confusion = confusion_matrix(masks[count:], np.stack(unseen), len(CLASSES))
    score = float(iou(confusion)[1])
    print(f"IoU of the rectangles in 8 images it has not seen: {score:.3f}")

    odd = images[-1][:127, :93]
    whole, tiled = segmenter.predict(odd).label_map, segmenter.predict(odd, tile=32).label_map
    print(f"127x93 -> {whole.shape[0]}x{whole.shape[1]}; tiles give the same labels: {bool((whole == tiled).all())}")
    if plot:
        fullconv.show(images[-1], masks[-1], segmenter.predict(images[-1])).savefig(plot)
    return {"losses": losses, "iou": score, "shape": whole.shape, "same": bool((whole == tiled).all())}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--plot", metavar="FILE.png", help="image, mask and prediction side by side (matplotlib)")
    main(**vars(parser.parse_args()))
