"""The probabilities of one pixel: the smallest fully convolutional network, corrected from a beginner's snippet.

The snippet is a 3x3 convolution, a ReLU and a 1x1 convolution, run on an image of 4x4 pixels. Its code works; its words
go too far, and this is what is right:

- Size is not kept "by padding" in such networks, nor are they made of convolutions alone. They make their maps smaller by
  strides and pools (32 times in the paper's networks) and bring them back by upsampling. Padding keeps the size here only
  because nothing has a stride; the price is that a pixel's answer depends on 3x3 pixels.
- What a network returns are logits: any numbers. The softmax over the channels makes probabilities of them.
- A real network must take an image of 4x4 pixels, too. `fullconv.build` networks do.

Run it: python examples/pixel_probabilities.py
"""

from __future__ import annotations

import torch
from torch import nn

import fullconv
from fullconv.geometry import chain

CLASSES = ("background", "object")


def main(width: int = 64) -> dict[str, object]:
    """Print shapes, receptive fields and the probabilities of pixel (0, 0)."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, len(CLASSES), 1)]
    image = torch.randn(1, 3, 4, 4)  # (N, C, H, W)

    with torch.inference_mode():
        logits = nn.Sequential(*layers)(image)  # (1, K, 4, 4)
    probabilities = logits.softmax(dim=1)[0, :, 0, 0]  # over channels: the classes of one pixel
    print(f"{tuple(image.shape)} -> {tuple(logits.shape)}; a pixel sees {chain(layers).receptive_field}x3 pixels")
    for name, probability in zip(CLASSES, probabilities.tolist(), strict=True):
        print(f"  pixel (0, 0) is {name}: {probability:.3f}")
    print(f"  together: {float(probabilities.sum()):.6f}")

    network = fullconv.build("fcn8s", backbone="tiny", num_classes=len(CLASSES))
    with torch.inference_mode():
        real = network(image)
    print(f"fcn8s: {tuple(image.shape)} -> {tuple(real.shape)}; a score sees {network.receptive_field} pixels each way")
    return {
        "logits": tuple(logits.shape),
        "probabilities": probabilities.tolist(),
        "receptive_field": chain(layers).receptive_field,
        "fcn8s": tuple(real.shape),
    }


if __name__ == "__main__":
    main()
