"""Pretrained weights: published classifiers from the user's cache or the net, and files of any origin, never unpickled."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import urllib.error
import urllib.request
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from fullconv import modelfile
from fullconv.errors import WeightsError
from fullconv.nn import timm_models
from fullconv.nn.heads import Head
from fullconv.nn.installed import LITE_MEAN, LITE_STD, PACKAGES, convert
from fullconv.storage import atomic_path, cache_folder


@dataclass(frozen=True)
class PretrainedCfg:
    """Published weights."""

    url: str
    filename: str
    """Name in our cache."""
    license: str
    installed: Path | None = None
    """The file of an installed package that holds them."""


def pretrained_cfg(backbone: str) -> PretrainedCfg:
    """Return where the ImageNet weights of a backbone are published."""
    if backbone in ("alexnet", "googlenet"):
        from torchvision.models import AlexNet_Weights, GoogLeNet_Weights

        entry = AlexNet_Weights.IMAGENET1K_V1 if backbone == "alexnet" else GoogLeNet_Weights.IMAGENET1K_V1
        return PretrainedCfg(entry.url, entry.url.rsplit("/", 1)[1], "bsd-3-clause")
    tag, config = timm_models.pretrained(backbone) or ("", None)
    if config is None or not (config.hf_hub_id or config.url):
        raise WeightsError(f"there are no published ImageNet weights for {backbone}: use --weights none.")
    name = backbone if "." in backbone or not tag else f"{backbone}.{tag}"
    if config.hf_hub_id:
        url, ending = f"https://huggingface.co/{config.hf_hub_id}/resolve/main/model.safetensors", ".safetensors"
    else:
        url = str(config.url)
        ending = Path(url.split("?")[0]).suffix or ".pth"
    published = PretrainedCfg(url, f"{name}{ending}", config.license or "not stated")
    package = PACKAGES.get(backbone)
    if package is None or _cached(published).is_file() or (installed := package.path()) is None:
        return published
    return PretrainedCfg(package.origin, f"{backbone}.{package.sha256[:8]}.safetensors", package.license, installed)


def _cached(published: PretrainedCfg) -> Path:
    return cache_folder() / "weights" / published.filename


def pretrained_statistics(backbone: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return mean and std, in 0..1, with which timm's weights of a backbone were trained; None for other backbones."""
    if backbone.split(".")[0] in PACKAGES:
        return LITE_MEAN, LITE_STD
    found = None if backbone in ("alexnet", "googlenet") else timm_models.pretrained(backbone)
    return None if found is None else (tuple(found[1].mean), tuple(found[1].std))


def is_cached(backbone: str) -> bool:
    """Return whether the published weights of a backbone are cached, or installed by a package."""
    published = pretrained_cfg(backbone)
    return published.installed is not None or _cached(published).is_file()


def resolve_weights(backbone: str, weights: str | Path) -> Path:
    """Return the file of a backbone's weights: published ones from the cache, an installed package, or the net."""
    if str(weights) != "imagenet":
        path = Path(weights)
        if not path.is_file():
            raise WeightsError(f'{path}: there is no such weights file. Give a file, "imagenet" or "none".')
        return path
    published = pretrained_cfg(backbone)
    target = _cached(published)
    if target.is_file():
        return target
    if published.installed is None:
        return download(published, target)
    convert(backbone, published.installed, target)
    return target


def download(published: PretrainedCfg, target: Path, instead: str = ", or use --weights none") -> Path:
    """Download a published file, printing first what, how large and under which license."""
    by_hand = f"Put {published.url} at {target}{instead}."
    if os.environ.get("FULLCONV_OFFLINE", "") not in ("", "0"):
        raise WeightsError(
            f"the weights {published.filename} are not cached and FULLCONV_OFFLINE forbids downloads. {by_hand}"
        )
    try:
        with urllib.request.urlopen(published.url, timeout=30) as response:
            size = int(response.headers.get("Content-Length") or 0)
            amount = f"{size / 1e6:.0f} MB" if size else "size not stated"
            print(f"Downloading {published.url} ({amount}, license: {published.license}) to {target}", file=sys.stderr)
            target.parent.mkdir(parents=True, exist_ok=True)
            digest, count = hashlib.sha256(), 0
            with atomic_path(target) as temporary, temporary.open("wb") as file:
                while block := response.read(1 << 20):
                    file.write(block)
                    digest.update(block)
                    count += len(block)
                if size and count != size:
                    raise OSError(f"the connection ended after {count} of {size} bytes")
                named = re.search(r"-([0-9a-f]{8,})\.\w+$", target.name)
                if named and not digest.hexdigest().startswith(named.group(1)):
                    raise OSError("its hash is not the one in its name")
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise WeightsError(f"the weights {published.filename} cannot be downloaded ({reason}). {by_hand}") from error
    return target


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read tensors by name from `.safetensors` or a PyTorch file (also wrapped), running no code from it."""
    if path.suffix == ".safetensors":
        return modelfile.read_tensors(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own text on pickles; the message below says what is wrong
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling foreign bytes can raise anything; what matters is that nothing ran
        found = re.search(r"GLOBAL (\S+)", str(error))
        holds = f"it asks for {found[1]}" if found else "it is no file of torch.save, or damaged"
        raise WeightsError(
            f"{path}: cannot be read as weights without running code from it ({holds}). Save the model's state_dict alone."
        ) from None
    for key in ("model_state_dict", "state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = dict(content) if isinstance(content, Mapping) else {}
    if not tensors or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in tensors.items()):
        raise WeightsError(f"{path}: holds no table of tensors by name.")
    return tensors


def load_state_dict(
    module: nn.Module, file: Path, names: Mapping[str, str], what: str, stored: Mapping[str, Tensor] | None = None
) -> None:
    """Load a classifier's file into a backbone: rename prefixes, view to shape, skip what the backbone lacks."""
    tensors = {}
    for key, value in (read_weights(file) if stored is None else stored).items():
        prefix, _, last = key.rpartition(".")
        tensors[f"{names.get(prefix, prefix)}.{last}"] = value
    own = module.state_dict()
    for key, value in own.items():
        if key.endswith("num_batches_tracked"):
            tensors.setdefault(key, value)
        if key not in tensors:
            raise WeightsError(f"{file}: not the weights of {what}: '{key}' is missing.")
        if tensors[key].numel() != value.numel():
            raise WeightsError(
                f"{file}: not the weights of {what}: '{key}' is {tuple(tensors[key].shape)}, not {tuple(value.shape)}."
            )
        if value.is_floating_point() and not tensors[key].isfinite().all():
            raise WeightsError(f"{file}: '{key}' holds NaN or infinite numbers, so it is of no use.")
    module.load_state_dict({key: tensors[key].reshape(value.shape) for key, value in own.items()})


def load_partial(module: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """Copy the tensors that fit by name and shape; return the names of the others, which keep their values."""
    own = module.state_dict()
    fitting = {k: v for k, v in tensors.items() if k in own and own[k].shape == v.shape}
    module.load_state_dict(fitting, strict=False)
    return [key for key in own if key not in fitting]


@dataclass(frozen=True)
class ClassRows:
    """Where the scores of a head's classes came from, when a model's weights were loaded by class name."""

    head: str
    """"" is the only one."""
    kept: tuple[str, ...]
    """Classes with the index that they had."""
    moved: tuple[tuple[str, int, int], ...]
    """Classes with another index: name, index in the file, and own."""
    new: tuple[str, ...]
    """Classes that the file does not have."""

    def __str__(self) -> str:
        if not self.moved and not self.new:
            return f"{f'head {self.head}: ' if self.head else ''}all {len(self.kept)} carried over"
        parts = [f"carried over: {', '.join(self.kept)}"] if self.kept else []
        if self.moved:
            parts.append(f"carried over from another index: {', '.join(f'{n} ({i} to {j})' for n, i, j in self.moved)}")
        parts += [f"newly initialized: {', '.join(self.new)}"] if self.new else []
        return f"{f'head {self.head}: ' if self.head else ''}{'; '.join(parts)}"


def load_by_class(
    network: nn.Module,
    tensors: Mapping[str, Tensor],
    stored: Mapping[str, Sequence[str]],
    classes: Mapping[str, Sequence[str]],
) -> tuple[list[str], list[ClassRows]]:
    """Copy the tensors that fit by name and shape, and the rows of a head's classes by class name.

    A head takes those of the head of its name, else of the head with the most of its classes.

    Args:
        network: A `Network`.
        tensors: Weights of another one.
        stored: Its classes by head; "" is the only one.
        classes: The network's classes by head.

    Returns:
        Names of the tensors that keep their values, and where the classes of each head came from.
    """
    own, loaded, rows = network.state_dict(), dict[str, Tensor](), []
    for head, names in classes.items():
        source = head if head in stored else max(stored, key=lambda key: len(set(stored[key]) & set(names)))
        there = {name: index for index, name in enumerate(stored[source])}
        pairs = [(index, there[name]) for index, name in enumerate(names) if name in there]
        prefix, before = (f"head.{key}." if key else "head." for key in (head, source))
        module = cast(Head, network.get_submodule(prefix[:-1]))
        found = False
        for key in (key for key in own if key.startswith(prefix)):
            layer, value = key.removeprefix(prefix), tensors.get(before + key.removeprefix(prefix))
            if value is None:
                continue
            if not layer.startswith(tuple(f"{name}." for name in module.class_layers)):
                loaded |= {key: value} if value.shape == own[key].shape else {}
            elif value.shape[1:] == own[key].shape[1:] and len(value) == len(there) and pairs:
                loaded[key], found = own[key].clone(), True
                loaded[key][[i for i, _ in pairs]] = value[[j for _, j in pairs]].to(own[key])
        carried = pairs if found else []
        kept = tuple(names[i] for i, j in carried if i == j)
        moved = tuple((names[i], j, i) for i, j in carried if i != j)
        taken = {i for i, _ in carried}
        rows.append(ClassRows(head, kept, moved, tuple(name for i, name in enumerate(names) if i not in taken)))
    others = {key: value for key, value in tensors.items() if key in own and not key.startswith("head.")}
    loaded |= {key: value for key, value in others.items() if value.shape == own[key].shape}
    network.load_state_dict(loaded, strict=False)
    return [key for key in own if key not in loaded], rows
