"""Foreign checkpoints: which of our tensors each of theirs is.

Three kinds: the Caffe release's own files (layer names), wkentaro/pytorch-fcn's (the same names as tensors), and
torchvision's FCNs. Fixed transposed convolutions are checked and dropped, as ours are computed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from fullconv.errors import WeightsError, plural
from fullconv.nn.build import build
from fullconv.nn.caffe.caffemodel import read_blobs
from fullconv.nn.network import Network
from fullconv.nn.pretrained import read_weights
from fullconv.nn.registry import VARIANTS, Variant
from fullconv.nn.upsample import bilinear_kernel

ALIASES = {"fcn_resnet50": "torchvision-fcn_resnet50", "fcn_resnet101": "torchvision-fcn_resnet101"}
"""Short names of `fullconv import --as`."""

SHOWN_TENSORS = 5
"""Tensors of a file that a refusal names."""
_SUFFIXES = {"semantic": "sem", "geometric": "geo"}
"""Head -> ending of the release's layers of that head."""


def convertible() -> list[str]:
    """Return the names that `fullconv import --as` takes."""
    published = [name for name, spec in VARIANTS.items() if spec.caffe is not None]
    return [*ALIASES, *ALIASES.values(), "fcn-os8", *published]


def load_foreign(path: Path, variant: str) -> Network:
    """Build a variant with the weights of a foreign checkpoint."""
    if VARIANTS[variant].caffe is not None:
        return _load_caffe(read_blobs(path) if path.suffix == ".caffemodel" else read_weights(path), variant, path)
    return _load_torchvision(read_weights(path), variant, path)


def _load_torchvision(tensors: Mapping[str, Tensor], variant: str, path: Path) -> Network:
    head = tensors.get("classifier.4.weight")
    if head is None:
        raise WeightsError(f"{path}: no torchvision FCN: 'classifier.4.weight' is missing. {_contents(tensors)}")
    backbone = "resnet101" if "backbone.layer3.22.conv1.weight" in tensors else "resnet50"
    spec = VARIANTS[variant]
    if spec.backbone not in (None, backbone):
        raise WeightsError(f"{path}: these are weights of fcn_{backbone}; use --as fcn_{backbone}.")
    # These weights were trained with scores at half pixels (3.5 at stride 8), and must be read so. By its layers a
    # ResNet's first cell lies on pixel 0, where `fcn-os8` puts it otherwise.
    phase = None if spec.upsample_mode == "size" else 3.5
    network = build(variant, backbone=backbone, num_classes=int(head.shape[0]), phase=phase)
    names = {
        re.sub(r"^classifier\.", "head.", re.sub(r"^backbone\.", "backbone.body.", key)): key
        for key in tensors
        if not key.startswith("aux_classifier.")  # torchvision's second head is for training
    }
    _load(network, tensors, names, _to_torchvision, path)
    return network


def _load_caffe(tensors: Mapping[str, Tensor], variant: str, path: Path) -> Network:
    spec = VARIANTS[variant]
    scores = {key: value for key, value in tensors.items() if re.match(r"score_fr.*\.weight$", key)}
    if not scores:
        raise WeightsError(f"{path}: no net of this family: there is no layer 'score_fr'. {_contents(tensors)}")
    classes: int | dict[str, int]
    if isinstance(spec.num_classes, Mapping):
        classes = {head: int(tensors[f"score_fr_{_SUFFIXES[head]}.weight"].shape[0]) for head in spec.num_classes
                   if f"score_fr_{_SUFFIXES[head]}.weight" in tensors}  # fmt: skip
    else:
        classes = int(next(iter(scores.values())).shape[0])
    width = 1.0  # of the published channels; tests make narrow networks
    stem = next((value for key, value in tensors.items() if re.match(r"conv1(_1)?\w*(\.0)?\.weight$", key)), None)
    if stem is not None:
        width = float(stem.shape[0]) / (96 if stem.shape[-1] == 11 else 64)
    network = build(variant, num_classes=classes or spec.num_classes, width=width)
    names = {}
    for key, value in tensors.items():
        if key.startswith("upscore"):
            _check_bilinear(key, value, path)
        elif not key.startswith("scale_"):
            names[_from_caffe(key, spec)] = key
    _load(network, tensors, names, lambda key: _to_caffe(key, variant), path)
    return network


def to_caffe_state_dict(network: Network) -> dict[str, Tensor]:
    """Return the tensors of a published network under the release's names, the inverse of loading them.

    A file of them is what wkentaro/pytorch-fcn loads and what `fullconv import` takes. The transposed convolutions are
    dense, (K, K, k, k), as they are stored there. The factors of an at-once network are no tensors: it has the names of
    the staged one.
    """
    spec = network.spec
    if spec.caffe is None:
        raise WeightsError(f"{network.variant} is no net of the Caffe release, so its tensors have no names there.")
    tensors = {_to_caffe(key, network.variant): value for key, value in network.state_dict().items()}
    kernels = {1: {"upscore": spec.caffe.kernel}, 2: {"upscore2": 4, "upscore16": 32},
               3: {"upscore2": 4, "upscore_pool4": 4, "upscore8": 16}}[len(spec.strides)]  # fmt: skip
    for head, count in network.classes_by_head.items():
        for layer, size in kernels.items():
            weight = torch.zeros(count, count, size, size)
            weight[range(count), range(count)] = _bilinear_plane(size)
            tensors[f"{layer}_{_SUFFIXES.get(head, head)}.weight" if head else f"{layer}.weight"] = weight
    return tensors


def _to_torchvision(key: str) -> str:
    """Translate one of our names into torchvision's."""
    return re.sub(r"^head\.", "classifier.", re.sub(r"^backbone\.body\.", "backbone.", key))


def _to_caffe(key: str, variant: str) -> str:
    """Translate one of our names into the release's."""
    if match := re.fullmatch(r"backbone\.(?:(color|hha)\.)?layers\.(.+)\.(\w+)", key):
        depth = "_bgrd" if variant == "nyud-fcn32s-color-d" and match[2] == "conv1_1" else ""
        return f"{match[2]}{depth}{match[1] or ''}.{match[3]}"
    if match := re.fullmatch(r"head\.score_(\w+)\.(\w+)", key):
        return f"score_fr{match[1]}.{match[2]}"
    match = re.fullmatch(r"head\.(?:(\w+)\.)?score\.(\d+)\.(\w+)", key)
    assert match is not None, key
    layer = {"32": "score_fr", "16": "score_pool4", "8": "score_pool3"}[match[2]]
    head = _SUFFIXES.get(match[1], match[1])
    return f"{layer}_{head}.{match[3]}" if head else f"{layer}.{match[3]}"


def _from_caffe(key: str, spec: Variant) -> str:
    """Translate one of the release's names into ours."""
    layer, _, part = key.rpartition(".")
    if spec.caffe is not None and spec.caffe.late_fusion:
        for modality in ("color", "hha"):
            if layer.endswith(modality):
                plain = layer.removesuffix(modality)
                if plain == "score_fr":
                    return f"head.score_{modality}.{part}"
                return f"backbone.{modality}.layers.{plain}.{part}"
    head = ""
    if isinstance(spec.num_classes, Mapping):
        for name in spec.num_classes:
            if layer.endswith(f"_{_SUFFIXES[name]}"):
                layer, head = layer.removesuffix(f"_{_SUFFIXES[name]}"), f"{name}."
    strides = {"score_fr": 32, "score_pool4": 16, "score_pool3": 8}
    if layer in strides:
        return f"head.{head}score.{strides[layer]}.{part}"
    layer = re.sub(r"^(conv1_1)_bgrd$", r"\1", layer)
    return f"backbone.layers.{layer}.{part}"


def _bilinear_plane(size: int) -> Tensor:
    """Return the bilinear weights (size, size) of the release's transposed convolution, float32."""
    factor = (size + 1) // 2
    kernel = bilinear_kernel(factor, factor - 1 if size % 2 else factor - 0.5)[-size:].float()
    return torch.outer(kernel, kernel)


def _check_bilinear(key: str, value: Tensor, path: Path) -> None:
    """Raise unless a transposed convolution is the fixed bilinear one, dense (K, K, k, k) or grouped (K, 1, k, k).

    Files that were saved before the release's surgery filled them hold zeros: those are as good as fixed.
    """
    if value.ndim != 4 or not value.any():
        return
    if value.shape[1] > 1:
        count = value.shape[0]
        off = value[~torch.eye(count, value.shape[1], dtype=torch.bool)]
        if off.any():
            raise WeightsError(f"{path}: '{key}' mixes classes; only grouped upsampling can be converted.")
        value = value.diagonal(dim1=0, dim2=1).permute(2, 0, 1)[:, None]
    if (value.float() - _bilinear_plane(value.shape[-1])).abs().max() > 1e-4:
        raise WeightsError(f"{path}: '{key}' was trained; networks of the release keep it fixed and bilinear.")


def _load(
    network: Network,
    stored: Mapping[str, Tensor],
    names: Mapping[str, str],
    to_foreign: Callable[[str], str],
    path: Path,
) -> None:
    """Load tensors strictly, viewing fully connected weights as convolutions; name those of the file that do not fit.

    Args:
        network: To fill.
        stored: The file's tensors by its names.
        names: Our name of each, to the file's.
        to_foreign: From our name to that of such files, for those that are missing.
        path: The file.
    """
    own = network.state_dict()
    missing = [to_foreign(key) for key in own if key not in names and not key.endswith("num_batches_tracked")]
    unknown = [theirs for key, theirs in names.items() if key not in own]
    for keys, what in ((missing, "missing"), (unknown, "unknown")):
        if keys:
            more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
            raise WeightsError(
                f"{path}: '{keys[0]}'{more} {'are' if more else 'is'} {what}: the file is of another network."
                f" {_contents(stored)}"
            )
    for key, theirs in names.items():
        if stored[theirs].numel() != own[key].numel():
            raise WeightsError(f"{path}: '{theirs}' is {tuple(stored[theirs].shape)}, not {tuple(own[key].shape)}.")
    state = {
        key: stored[names[key]].reshape(value.shape).to(value.dtype) if key in names else value
        for key, value in own.items()
    }
    network.load_state_dict(state)


def _contents(tensors: Mapping[str, Tensor]) -> str:
    """Return a sentence on what a file holds."""
    shown = ", ".join(f"'{name}' {tuple(value.shape)}" for name, value in list(tensors.items())[:SHOWN_TENSORS])
    return f"It holds {plural(len(tensors), 'tensor')}: {shown}{', ...' if len(tensors) > SHOWN_TENSORS else ''}."
