"""FCN-8s on VGG-16, corrected from a widely read lesson.

The lesson scores VGG-16, grows the scores by transposed convolutions, and adds the pools 4 and 3 on the way. What it gets
wrong, and what is right:

- A transposed convolution with kernel 3 and stride 2 makes 15 cells of 7 and 29 of 14: the sums with pool4 (14) and pool3
  (28) cannot be. Kernel 4, stride 2, padding 1 makes 14 of 7, and its bilinear weights lie in the right place.
- Scores of K classes cannot be added to 512 channels. pool4 and pool3 get 1x1 score layers of their own first.
- It uses one transposed convolution for 2x, 2x and 8x. They are three: 4/2, 4/2 and 16/8 (kernel/stride).
- The fully connected layers do not all become 1x1 convolutions: fc6 becomes 7x7, fc7 1x1, and the last one is replaced.
- Shapes are (N, K, H, W) in PyTorch, not (N, H, W, K). So logits cannot be reshaped to (pixels, K) as they are: that mixes
  the classes of some pixels with others' and gives another loss. Permute first; or leave them, as `F.cross_entropy` takes
  (N, K, H, W).
- There is no label for pixels that do not count. Here it is 255.

Run it: python examples/vgg_fcn8s.py
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from fullconv.losses import PixelLoss, ratio
from fullconv.nn.surgery import convolutionalize
from fullconv.nn.upsample import bilinear_kernel

VOID = 255
POOLS = {16: 8, 23: 16, 30: 32}  # layer of torchvision's VGG-16 -> stride of the pool


class VGGFCN8s(nn.Module):
    """Map images (N, 3, H, W) to logits (N, K, H, W), any H, W >= 1.

    Args:
        num_classes: K.
        fc: Whether fc6 and fc7 follow pool5 as convolutions, as in the paper (120 million weights).
    """

    def __init__(self, num_classes: int, fc: bool = False) -> None:
        super().__init__()
        classifier = torchvision.models.vgg16(weights=None)
        self.features = classifier.features
        self.fc = nn.Identity()
        if fc:
            fc6 = convolutionalize(classifier.classifier[0], (7, 7), padding=3)
            fc7 = convolutionalize(classifier.classifier[3], (1, 1))
            self.fc = nn.Sequential(fc6, nn.ReLU(), nn.Dropout(0.5), fc7, nn.ReLU(), nn.Dropout(0.5))
        self.score = nn.Conv2d(4096 if fc else 512, num_classes, 1)
        self.score_pool4 = nn.Conv2d(512, num_classes, 1)
        self.score_pool3 = nn.Conv2d(256, num_classes, 1)
        self.upscore2 = bilinear_upsampling(num_classes, 2)
        self.upscore_pool4 = bilinear_upsampling(num_classes, 2)
        self.upscore8 = bilinear_upsampling(num_classes, 8)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        maps = self.encode(F.pad(x, (0, -width % 32, 0, -height % 32)))
        scores = self.score(self.fc(maps[32]))  # (N, K, H/32, W/32)
        scores = add(self.upscore2(scores), self.score_pool4(maps[16]))  # (N, K, H/16, W/16)
        scores = add(self.upscore_pool4(scores), self.score_pool3(maps[8]))  # (N, K, H/8, W/8)
        return self.upscore8(scores)[..., :height, :width]

    def encode(self, x: Tensor) -> dict[int, Tensor]:
        """Return pool3, pool4 and pool5 by stride."""
        maps = {}
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in POOLS:
                maps[POOLS[index]] = x
        return maps


def add(coarse: Tensor, skip: Tensor) -> Tensor:
    """Add two score maps that must have one shape; broadcasting would hide a mistake."""
    if coarse.shape != skip.shape:
        raise ValueError(f"scores {tuple(coarse.shape)} and {tuple(skip.shape)} cannot be added: their shapes differ.")
    return coarse + skip


def bilinear_upsampling(channels: int, factor: int) -> nn.ConvTranspose2d:
    """Return a transposed convolution that interpolates, each channel by itself, and is not trained."""
    layer = nn.ConvTranspose2d(
        channels, channels, 2 * factor, factor, padding=factor // 2, groups=channels, bias=False
    )  # fmt: skip
    kernel = bilinear_kernel(factor, (factor - 1) / 2).float()
    layer.weight.data[:] = torch.outer(kernel, kernel)
    return layer.requires_grad_(False)


def losses(logits: Tensor, target: Tensor) -> dict[str, float]:
    """Return the cross-entropy of logits (N, K, H, W), computed in four ways, one of them wrong."""
    classes = logits.shape[1]
    flat = logits.permute(0, 2, 3, 1).reshape(-1, classes)  # (pixels, K)
    scrambled = logits.reshape(-1, classes)  # the lesson's
    return {
        "as it is": F.cross_entropy(logits, target, ignore_index=VOID).item(),
        "permuted, then flattened": F.cross_entropy(flat, target.flatten(), ignore_index=VOID).item(),
        "fullconv.losses": ratio(*PixelLoss("cross_entropy").sums(logits, target)).item(),
        "flattened without permuting (wrong)": F.cross_entropy(scrambled, target.flatten(), ignore_index=VOID).item(),
    }


def main(size: int = 224, num_classes: int = 21, fc: bool = False) -> dict[str, object]:
    """Print the shapes of the sums, the sizes in and out, and the loss in four ways."""
    torch.manual_seed(0)
    network = VGGFCN8s(num_classes, fc).eval()
    wrong = nn.ConvTranspose2d(1, 1, 3, 2)(torch.zeros(1, 1, 7, 7)).shape[-1]
    right = bilinear_upsampling(1, 2)(torch.zeros(1, 1, 7, 7)).shape[-1]
    print(f"kernel 3, stride 2: 7 -> {wrong} cells; kernel 4, stride 2, padding 1: 7 -> {right}")
    x = torch.randn(1, 3, size, size + 1)
    target = torch.randint(num_classes, (1, size, size + 1))
    target[:, :10] = VOID
    with torch.inference_mode():
        logits = network(x)
        found = losses(logits, target)
    print(f"{tuple(x.shape)} -> {tuple(logits.shape)}")
    for way, value in found.items():
        print(f"  cross-entropy, {way}: {value:.6f}")
    return {"shape": tuple(logits.shape), "losses": found, "wrong": wrong, "right": right}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--fc", action="store_true", help="with fc6 and fc7 (half a gigabyte more)")
    main(**vars(parser.parse_args()))
