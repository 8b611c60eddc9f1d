"""FCN-32s on ResNet-34, corrected from a widely read article.

The article takes a ResNet-34 to stride 32, scores it with a 1x1 convolution, and grows the scores by three transposed
convolutions (2x, 2x, 8x). What it gets wrong, and what is right:

- "Exactly the same size" holds for multiples of 32 only: the article's network makes 256 of 225 and 64 of 33. Here the
  image is padded to a multiple of 32, and the result cut to the image: 225 gives 225.
- It replaces `conv1` by a new layer, which throws the pretrained stem away. Here the encoder stays as it is.
- It puts ReLUs on the scores and between the transposed convolutions, which cuts off all evidence against a class. Scores
  need their sign; there is no ReLU behind the score layer here.
- Its transposed convolutions start from random numbers and mix all classes. The paper's are bilinear, one class at a time.
- What comes out are logits, not probabilities, and it needs one upsampling (32x), not three: that is what "32s" says.
- `pretrained=True` is gone from torchvision; it is `weights=ResNet34_Weights.DEFAULT` now (None here: no download).
- Batch norms are torchvision's, not the paper's; and FCN-16s and 8s were trained in stages, after 32s.

One thing is easy to miss. Cell i of ResNet's last map is centred on pixel 32 i, not on pixel 32 i + 15.5 as in VGG,
because its convolutions of odd size are padded evenly. Interpolation "to the size of the image" takes it for the latter
and shifts every label by 15.5 pixels. `fullconv.geometry` computes where the cells lie.

Run it: python examples/resnet_fcn32s.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import fullconv
from fullconv.geometry import Geometry, trace
from fullconv.nn.upsample import Upsample


class ResNetFCN32s(nn.Module):
    """Map images (N, 3, H, W) to logits (N, K, H, W), any H, W >= 1."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        classifier = torchvision.models.resnet34(weights=None)
        self.encoder = nn.Sequential(*list(classifier.children())[:-2])  # without average pool and fc
        self.score = nn.Conv2d(512, num_classes, 1)
        geometry: Geometry = trace(self.encoder, torch.zeros(1, 3, 64, 96))
        self.upsample = Upsample(num_classes, factor=int(geometry.y.jump), phase=geometry.y.offset)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        features = self.encoder(F.pad(x, (0, -width % 32, 0, -height % 32)))  # (N, 512, H/32, W/32)
        return self.upsample.to_size(self.score(features), height, width)


def ours(network: ResNetFCN32s, num_classes: int) -> nn.Module:
    """Build the same network by its name, with the same weights."""
    same = fullconv.build("fcn32s", backbone="resnet34", num_classes=num_classes)
    theirs = [value for name, value in network.state_dict().items() if not name.startswith("upsample")]
    same.load_state_dict(dict(zip(same.state_dict(), theirs, strict=True)))
    return same


def main(batch: int = 8, num_classes: int = 21) -> dict[str, object]:
    """Print sizes in and out, and how the network agrees with `fullconv.build`."""
    torch.manual_seed(0)
    network = ResNetFCN32s(num_classes).eval()
    print(f"cell 0 of the scores lies on pixel {float(network.upsample.phase):g}, cell 1 on pixel 32")
    same = ours(network, num_classes)
    shapes, difference = {}, 0.0
    for size, count in ((224, batch), (225, 1)):
        x = torch.randn(count, 3, size, size)
        with torch.inference_mode():
            logits = network(x)
            difference = max(difference, float((logits - same(x)).abs().max()))
        shapes[size] = tuple(logits.shape)
        print(f"{tuple(x.shape)} -> {tuple(logits.shape)}")
    print(f'largest difference to fullconv.build("fcn32s", backbone="resnet34"): {difference:.1g}')
    return {"shapes": shapes, "difference": difference, "phase": float(network.upsample.phase)}


if __name__ == "__main__":
    main()
