"""The variants: rows of a table, read by `fullconv.nn.build`. A new variant is a new row; a new kind of head is a class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fullconv.errors import NetworkError, nearest
from fullconv.nn.heads import NO_OPTIONS, CaffeSkipHead, FCNHead, Head, HeadOptions, LateFusionHead, SkipHead


@dataclass(frozen=True)
class CaffeSpec:
    """What only the networks of the Caffe release have."""

    backbone: Literal["vgg", "caffenet", "googlenet"] = "vgg"
    kernel: int = 64
    """Of the last transposed convolution."""
    late_fusion: bool = False
    """Two backbones whose scores are averaged."""


@dataclass(frozen=True)
class Variant:
    """A row of the table of variants."""

    strides: tuple[int, ...]
    """Strides of the features that the head reads, fine to coarse; the scores have the finest."""
    description: str
    output_stride: int = 32
    """Below 32 the backbone is dilated."""
    head: type[Head] = SkipHead
    head_options: HeadOptions = NO_OPTIONS
    upsample_mode: Literal["stride", "size"] = "stride"
    """Upsample scores to the image by a fixed factor and phase, or by its size, half-pixel (torchvision)."""
    size_divisor: int = 32
    """Images are padded right and bottom with their mean to a multiple of this, the coarsest stride."""
    min_size: int = 64
    """And to at least this size, so that no inner map is one cell wide: oneDNN's bf16 convolutions return garbage there."""
    backbone: str | None = None
    """The only backbone of a published network."""
    num_classes: int | Mapping[str, int] | None = None
    """The published number, by head if there are several."""
    in_channels: int = 3
    caffe: CaffeSpec | None = None

    @property
    def own_backbone(self) -> str | None:
        """The backbone of a network that has no choice."""
        return self.backbone if self.caffe is None else self.caffe.backbone


def _torchvision(backbone: str) -> Variant:
    return Variant(
        (8,), f"torchvision's fcn_{backbone}, equal to it at every size", output_stride=8, head=FCNHead,
        upsample_mode="size", size_divisor=1, min_size=1, backbone=backbone, num_classes=21,
    )  # fmt: skip


def _caffe(
    description: str,
    strides: tuple[int, ...],
    num_classes: int | Mapping[str, int],
    in_channels: int = 3,
    head: type[Head] = CaffeSkipHead,
    caffe: CaffeSpec | None = None,
    head_options: HeadOptions = NO_OPTIONS,
) -> Variant:
    """Return a row of the release: images are not padded; transposed convolutions upsample, with zeros around the map."""
    return Variant(
        strides, description, head=head, head_options=head_options, size_divisor=1, min_size=1, num_classes=num_classes,
        in_channels=in_channels, caffe=caffe or CaffeSpec(kernel=2 * min(strides)),
    )  # fmt: skip


_SIFT_FLOW = {"semantic": 33, "geometric": 3}

VARIANTS: dict[str, Variant] = {
    "fcn32s": Variant((32,), "scores at stride 32 (Long et al. 2015)"),
    "fcn16s": Variant((16, 32), "scores at strides 32 and 16, summed (Long et al. 2015)"),
    "fcn8s": Variant((8, 16, 32), "scores at strides 32, 16 and 8, summed (Long et al. 2015)"),
    "fcn4s": Variant((4, 8, 16, 32), "scores at strides 32, 16, 8 and 4, summed: one skip more than the paper"),
    "fcn-os16": Variant(
        (16,), "dilated to stride 16, torchvision's head", output_stride=16, head=FCNHead, size_divisor=16
    ),
    "fcn-os8": Variant((8,), "dilated to stride 8, torchvision's head", output_stride=8, head=FCNHead, size_divisor=8),
    "torchvision-fcn_resnet50": _torchvision("resnet50"),
    "torchvision-fcn_resnet101": _torchvision("resnet101"),
}

for _size, _strides in {"32s": (32,), "16s": (16, 32), "8s": (8, 16, 32)}.items():
    VARIANTS |= {
        f"voc-fcn{_size}": _caffe(f"FCN-{_size} on VGG-16, PASCAL VOC, as released", _strides, 21),
        f"siftflow-fcn{_size}": _caffe(
            f"FCN-{_size} on VGG-16 with a semantic and a geometric head, as released", _strides, _SIFT_FLOW
        ),
        f"pascalcontext-fcn{_size}": _caffe(
            f"FCN-{_size} on VGG-16, PASCAL-Context 59 + background, as released", _strides, 60
        ),
    }
VARIANTS |= {
    "voc-fcn8s-atonce": _caffe(
        "FCN-8s trained in one go: pool4 x 0.01, pool3 x 0.0001, as released", (8, 16, 32), 21,
        head_options=HeadOptions(scales={16: 0.01, 8: 0.0001}),
    ),
    "voc-fcn-alexnet": _caffe(
        "FCN-32s on CaffeNet, as released", (32,), 21, caffe=CaffeSpec("caffenet", kernel=63)
    ),
    "voc-fcn-googlenet": _caffe(
        "FCN-32s on GoogLeNet as the paper describes it; it was never released", (32,), 21,
        caffe=CaffeSpec("googlenet", kernel=63),
    ),
    "nyud-fcn32s-color": _caffe("FCN-32s on VGG-16, NYUDv2 color, as released", (32,), 40),
    "nyud-fcn32s-hha": _caffe("FCN-32s on VGG-16, NYUDv2 HHA-coded depth, as released", (32,), 40),
    "nyud-fcn32s-color-d": _caffe(
        "FCN-32s on VGG-16, color and depth as a fourth channel, as released", (32,), 40, in_channels=4
    ),
    "nyud-fcn32s-color-hha": _caffe(
        "FCN-32s, late fusion of a color and an HHA backbone, as released", (32,), 40, in_channels=6,
        head=LateFusionHead, caffe=CaffeSpec(late_fusion=True),
    ),
}  # fmt: skip


def get_variant(name: str) -> Variant:
    """Return the row of a variant.

    Raises:
        NetworkError: There is no variant of this name; the message names the nearest.
    """
    if name not in VARIANTS:
        raise NetworkError(f"there is no variant '{name}'.{nearest(str(name), VARIANTS)} `fullconv models` lists them.")
    return VARIANTS[name]
