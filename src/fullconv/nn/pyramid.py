"""timm's encoders as backbones: built, checked by running them, or refused in one sentence."""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fullconv.errors import NetworkError, WeightsError, nearest
from fullconv.nn import zoo
from fullconv.nn.padding import make_same_padding_static
from fullconv.nn.weights import read_weights

TESTED = {
    "tiny": 0.4,
    "mobilenetv3_large_100": 3.0,
    "efficientnet_b0": 4.0,
    "googlenet": 5.6,
    "resnet18": 11.2,
    "resnet34": 21.3,
    "resnet50": 23.5,
    "convnext_tiny": 27.8,
    "resnet101": 42.5,
    "alexnet": 57.0,
    "vgg16": 134.3,
    "vgg16_bn": 134.3,
}
"""Backbones that the tests build and train, by millions of parameters."""


class PyramidBackbone(nn.Module):
    """A timm encoder in its ``features_only`` form.

    Args:
        body: timm's feature extractor; returns a list of maps.
        strides: The strides to hand on.
    """

    def __init__(self, body: nn.Module, strides: Sequence[int]) -> None:
        super().__init__()
        self.body = body
        info: Any = body.feature_info
        position = {int(reduction): index for index, reduction in enumerate(info.reduction())}
        wanted = {stride: position[stride] for stride in sorted(strides)}
        self.channels = {stride: int(info.channels()[index]) for stride, index in wanted.items()}
        self.positions = _let_go_of_others(body, wanted)

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        """Map (N, C, H, W) to features by stride."""
        maps = self.body(x)
        return {stride: maps[index] for stride, index in self.positions.items()}


def _let_go_of_others(body: nn.Module, wanted: dict[int, int]) -> dict[int, int]:
    """Have timm's extractor hold no map but those that are handed on, and return where these lie in its list then.

    It collects one of each stage, the largest first; dilated ResNets took a third more memory for maps that nobody read.

    Args:
        body: The extractor; one that collects in another way than timm's own classes do is left alone.
        wanted: Place in the list by stride.
    """
    for name in ("return_layers", "_stage_out_idx"):  # names of layers, or numbers of stages, in the order of the list
        collected = getattr(body, name, None)
        hooked = getattr(body, "feature_hooks", None) is not None
        if isinstance(collected, dict) and len(collected) > max(wanted.values()) and not hooked:
            kept = [key for place, key in enumerate(collected) if place in wanted.values()]
            setattr(body, name, {key: collected[key] for key in kept})
            order = sorted(wanted.values())
            return {stride: order.index(place) for stride, place in wanted.items()}
    return wanted


def _width_settings(name: str, width: float) -> dict[str, Any]:
    """Return the keywords that make a timm model narrower, where its family has them."""
    if width == 1:
        return {}
    family = name.split(".")[0]
    if re.fullmatch(r"resnet\d+", family):
        return {"channels": tuple(max(8, round(c * width)) for c in (64, 128, 256, 512))}
    if re.fullmatch(r"convnext_(atto|femto|pico|nano|tiny|small)", family):
        return {"dims": tuple(max(8, round(c * width)) for c in (96, 192, 384, 768))}
    raise NetworkError(f"width is not offered for {name}; use a resnet, a vgg, a convnext or tiny.")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep timm's prints out of our output."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


_REFUSALS = (RuntimeError, TypeError, ValueError, AssertionError, AttributeError, KeyError, NotImplementedError)
"""What timm's families raise where they cannot be what is asked."""


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__


def check_name(name: str) -> None:
    """Raise NetworkError, naming the nearest, unless timm has a model of a name.

    Raises:
        NetworkError: There is no such model.
    """
    plain = name.split(".")[0]
    if not zoo.is_model(plain):
        known = [*zoo.all_models(), "tiny", "alexnet", "googlenet"]
        raise NetworkError(f"there is no backbone '{name}'.{nearest(plain, known)} `fullconv models` lists them.")


def _create(name: str, in_channels: int, file: Path | None, settings: dict[str, Any]) -> nn.Module:
    """Let timm make an encoder, with the weights of a file where there is one."""
    common = {"features_only": True, "in_chans": in_channels, **settings}
    if file is None:
        with _quiet():
            return zoo.create(name, pretrained=False, **common)
    source = {"state_dict": read_weights(file), "file": None, "hf_hub_id": None, "url": ""}
    with _quiet(), _missing_keys() as missing:
        body = zoo.create(name, pretrained=True, pretrained_cfg_overlay=source, **common)
    for module in body.modules():  # timm keeps the whole file in the model otherwise
        if isinstance(config := getattr(module, "pretrained_cfg", None), dict):
            config.pop("state_dict", None)
    for key in missing:
        if _holds(body, key):
            raise ValueError(f"'{key}' is missing")
    return body


def _holds(body: nn.Module, key: str) -> bool:
    """Say whether a tensor of the classifier is one of the encoder's, whose names timm may have flattened or wrapped."""
    flat = "_" + key.replace(".", "_")
    return any(f"_{own.replace('.', '_')}".endswith(flat) for own in body.state_dict())


@contextlib.contextmanager
def _missing_keys() -> Iterator[list[str]]:
    """Collect the tensors that timm did not find in a file: it only logs them, and leaves them at random."""
    found: list[str] = []

    class Ears(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if match := re.match(r"Missing keys \((.+?)\)", record.getMessage()):
                found.extend(match.group(1).split(", "))

    logger, ears = logging.getLogger("timm.models._builder"), Ears()
    level, spread = logger.level, logger.propagate
    logger.addHandler(ears)
    logger.setLevel(logging.INFO)  # older timm says it at that level
    logger.propagate = False
    try:
        yield found
    finally:
        logger.removeHandler(ears)
        logger.setLevel(level)
        logger.propagate = spread


def _create_or_refuse(name: str, in_channels: int, settings: dict[str, Any]) -> None:
    try:
        _create(name, in_channels, None, settings)
    except _REFUSALS as error:
        raise NetworkError(
            f"{name} cannot serve as a backbone ({_reason(error)}). {_nearest_that_can(name)}"
        ) from error


def build_pyramid(
    name: str, strides: Sequence[int], in_channels: int, file: Path | None, width: float, output_stride: int
) -> PyramidBackbone:
    """Build a timm encoder.

    Raises:
        NetworkError: There is no such model, or it cannot serve; the message names the nearest that can.
        WeightsError: The file holds other weights.
    """
    check_name(name)
    settings: dict[str, Any] = _width_settings(name, width)
    if output_stride != 32:
        settings["output_stride"] = output_stride
    try:
        body = _create(name, in_channels, file, settings)
    except _REFUSALS as error:
        if file is not None:
            _create_or_refuse(name, in_channels, settings)  # a family that cannot serve says so itself
            raise WeightsError(f"{file}: not the weights of {name} ({_reason(error)}).") from error
        raise NetworkError(
            f"{name} cannot serve as a backbone ({_reason(error)}). {_nearest_that_can(name)}"
        ) from error
    left = make_same_padding_static(body)
    if left:
        raise NetworkError(
            f"{name} pads its pool {left[0]} by the picture's size, so tiles could not agree with the whole picture."
            f" {_nearest_that_can(name)}"
        )
    _check_strides(name, body, strides, output_stride)
    return PyramidBackbone(body, strides)


def _check_strides(name: str, body: nn.Module, strides: Sequence[int], output_stride: int) -> None:
    """Raise NetworkError unless the maps have the strides, layout and sizes that they say they have."""
    info: Any = body.feature_info
    reductions = [int(r) for r in info.reduction()]
    absent = [stride for stride in strides if stride not in reductions]
    if absent:
        raise NetworkError(
            f"{name} has no features at stride {absent[0]} (it has {', '.join(map(str, sorted(set(reductions))))})."
            f" {_nearest_that_can(name)}"
        )
    in_channels = next(p for p in body.parameters() if p.ndim == 4).shape[1]
    try:
        with torch.no_grad():
            maps = body.eval()(torch.zeros(1, in_channels * _groups(body), 64, 96))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise NetworkError(
            f"{name} does not take pictures of any size ({_reason(error)}). {_nearest_that_can(name)}"
        ) from error
    for x, stride, channels in zip(maps, reductions, info.channels(), strict=True):
        if stride in strides and tuple(x.shape) != (1, channels, 64 // stride, 96 // stride):
            raise NetworkError(
                f"{name} gives {tuple(x.shape)} at stride {stride} for a 64x96 picture, not"
                f" {(1, channels, 64 // stride, 96 // stride)}. {_nearest_that_can(name)}"
            )


def _groups(body: nn.Module) -> int:
    first = next(m for m in body.modules() if isinstance(m, nn.Conv2d))
    return int(first.groups)


def _nearest_that_can(name: str) -> str:
    """Name the tested backbone whose number of parameters is nearest."""
    with torch.device("meta"), _quiet():
        try:
            size = sum(p.numel() for p in zoo.create(name, pretrained=False, num_classes=0).parameters()) / 1e6
        except Exception:  # any family may refuse the meta device; then a middling size serves as well
            size = 25.0
    close = min(
        (known for known in TESTED if known not in ("tiny", "alexnet", "googlenet")),
        key=lambda k: abs(TESTED[k] - size),
    )
    return f"Use {close}, the nearest in size that can."
