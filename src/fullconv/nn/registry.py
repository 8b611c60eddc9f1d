"""The variants: rows of a table, read by `fullconv.nn.build`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from fullconv.errors import NetworkError, nearest


@dataclass(frozen=True)
class CaffeSpec:
    """How a net of the Caffe release is made (`fullconv.nn.heads`)."""

    backbone: Literal["vgg", "caffenet", "googlenet"] = "vgg"
    kernel: int = 64
    """Of the last transposed convolution."""
    scales: Mapping[int, float] = field(default_factory=dict)
    """Fixed factors on the features before they are scored, by stride: what makes an at-once net trainable."""
    late_fusion: bool = False
    """Two trunks whose scores are averaged."""


@dataclass(frozen=True)
class Variant:
    """A row of the table of variants."""

    strides: tuple[int, ...]
    """Strides of the scores that are summed, fine to coarse."""
    description: str
    output_stride: int = 32
    """Below 32 the backbone is dilated."""
    head: Literal["skip", "fcn", "caffe"] = "skip"
    upsample_mode: Literal["stride", "size"] = "stride"
    """How scores grow to the picture: by a fixed factor and phase, or by its size, half-pixel (torchvision)."""
    size_divisor: int = 32
    """Pictures are padded right and bottom with their mean to a multiple of this, the coarsest stride."""
    min_size: int = 64
    """And to at least this, so that no inner map is one cell wide: bf16 convolutions of oneDNN go wrong there."""
    backbone: str | None = None
    """The only backbone of a published net."""
    num_classes: int | Mapping[str, int] | None = None
    """The published number, by head where there are several."""
    in_channels: int = 3
    caffe: CaffeSpec | None = None
    """What only the nets of the Caffe release have."""


VARIANTS: dict[str, Variant] = {
    "fcn32s": Variant((32,), "scores at stride 32 (Long et al. 2015)"),
    "fcn16s": Variant((16, 32), "scores at strides 32 and 16, summed (Long et al. 2015)"),
    "fcn8s": Variant((8, 16, 32), "scores at strides 32, 16 and 8, summed (Long et al. 2015)"),
    "fcn4s": Variant((4, 8, 16, 32), "scores at strides 32, 16, 8 and 4, summed: one skip more than the paper"),
    "fcn-os16": Variant((16,), "dilated to stride 16, torchvision's head", 16, "fcn", size_divisor=16),
    "fcn-os8": Variant((8,), "dilated to stride 8, torchvision's head", 8, "fcn", size_divisor=8),
    "torchvision-fcn_resnet50": Variant(
        (8,), "torchvision's fcn_resnet50, equal to it at every size", 8, "fcn", "size", 1, 1, "resnet50", 21
    ),
    "torchvision-fcn_resnet101": Variant(
        (8,), "torchvision's fcn_resnet101, equal to it at every size", 8, "fcn", "size", 1, 1, "resnet101", 21
    ),
}


def _caffe(
    name: str,
    about: str,
    strides: tuple[int, ...],
    num_classes: int | Mapping[str, int],
    in_channels: int = 3,
    release: CaffeSpec | None = None,
) -> dict[str, Variant]:
    """Return a row of the release: pictures are not padded, scores grow by transposed convolution with zeros around."""
    kernel = 2 * min(strides)
    return {name: Variant(
        strides, about, head="caffe", size_divisor=1, min_size=1, num_classes=num_classes, in_channels=in_channels,
        caffe=release or CaffeSpec(kernel=kernel),
    )}  # fmt: skip


_STRIDES = {"32s": (32,), "16s": (16, 32), "8s": (8, 16, 32)}
_SIFT = {"semantic": 33, "geometric": 3}

for _size, _strides in _STRIDES.items():
    VARIANTS |= _caffe(f"voc-fcn{_size}", f"FCN-{_size} on VGG-16, PASCAL VOC, as released", _strides, 21)
    VARIANTS |= _caffe(
        f"siftflow-fcn{_size}",
        f"FCN-{_size} on VGG-16 with a semantic and a geometric head, as released",
        _strides,
        _SIFT,
    )
    VARIANTS |= _caffe(
        f"pascalcontext-fcn{_size}", f"FCN-{_size} on VGG-16, PASCAL-Context 59 + background, as released", _strides, 60
    )
VARIANTS |= _caffe(
    "voc-fcn8s-atonce", "FCN-8s trained in one go: pool4 x 0.01, pool3 x 0.0001, as released", (8, 16, 32), 21,
    release=CaffeSpec(kernel=16, scales={16: 0.01, 8: 0.0001}),
)  # fmt: skip
VARIANTS |= _caffe(
    "voc-fcn-alexnet", "FCN-32s on CaffeNet, as released", (32,), 21, release=CaffeSpec("caffenet", kernel=63)
)
VARIANTS |= _caffe(
    "voc-fcn-googlenet", "FCN-32s on GoogLeNet as the paper describes it; it was never released", (32,), 21,
    release=CaffeSpec("googlenet", kernel=63),
)  # fmt: skip
VARIANTS |= _caffe("nyud-fcn32s-color", "FCN-32s on VGG-16, NYUDv2 colour, as released", (32,), 40)
VARIANTS |= _caffe("nyud-fcn32s-hha", "FCN-32s on VGG-16, NYUDv2 HHA-coded depth, as released", (32,), 40)
VARIANTS |= _caffe(
    "nyud-fcn32s-color-d", "FCN-32s on VGG-16, colour and depth as a fourth channel, as released", (32,), 40, 4
)
VARIANTS |= _caffe(
    "nyud-fcn32s-color-hha", "FCN-32s, late fusion of a colour and an HHA trunk, as released", (32,), 40, 6,
    CaffeSpec(late_fusion=True),
)  # fmt: skip


def get_variant(variant: str) -> Variant:
    """Return the row of a variant.

    Raises:
        NetworkError: There is none of this name; the message names the nearest.
    """
    if variant not in VARIANTS:
        raise NetworkError(
            f"there is no variant '{variant}'.{nearest(str(variant), VARIANTS)} `fullconv models` lists them."
        )
    return VARIANTS[variant]
