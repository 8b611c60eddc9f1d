"""A network with its preprocessing as one graph for other runtimes: images of any size as stored in, scores out.

Translating it to ONNX takes seconds, reading does not, so translated networks are cached.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from fullconv._version import __version__
from fullconv.card import Card
from fullconv.engines._optional import import_optional, versions
from fullconv.engines.engine import BLANK, CHECKSUM_KEY, INPUT, add_checksum, output_names, verify_trailing_checksum
from fullconv.engines.openvino import CACHE_BYTES
from fullconv.errors import NetworkError, OutputError, first_line
from fullconv.nn import ModuleWrapper, Network, Scores
from fullconv.preprocess import normalization
from fullconv.storage import DiskCache

LOG = logging.getLogger("fullconv.engines")
"""Limit of all cached networks; the least recently used are deleted first."""
EXAMPLE_SIZE = (97, 139)
"""Of the image with which a network is captured; nothing in the graph depends on it."""
_PURPOSE = "turning the network into a graph"


class ExportModule(nn.Module):
    """Images (N, H, W, C) as stored to the scores of a network: `TorchEngine` without branches."""

    def __init__(self, network: Network, card: Card, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.network: nn.Module = network
        self.dtype = dtype
        self.factor: Tensor
        self.shift: Tensor
        factor, shift = normalization(card)
        order = [2, 1, 0, *range(3, card.in_channels)] if card.channel_order == "bgr" else None
        self.register_buffer("factor", torch.from_numpy(factor), persistent=False)
        self.register_buffer("shift", torch.from_numpy(shift), persistent=False)
        self.register_buffer("order", None if order is None else torch.tensor(order), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the scores of each head, (N, K, h, w) float32."""
        x = images.to(torch.float32) * self.factor + self.shift
        if self.order is not None:
            x = x.index_select(3, cast(Tensor, self.order))
        found = self.score(x.permute(0, 3, 1, 2).to(self.dtype))
        maps = found.values() if isinstance(found, dict) else (found,)
        return tuple(scores.float() for scores in maps)

    def score(self, x: Tensor) -> Scores:
        """Pad (N, C, H, W) and compute its scores."""
        if isinstance(self.network, ModuleWrapper):
            logits = cast(Tensor, self.network.logits(_padded(x, self.network.pad_to, 1)))
            return logits if self.network.pad_to == 1 else logits[..., : x.shape[-2], : x.shape[-1]]
        network = cast(Network, self.network)
        x = _padded(x, network.spec.size_divisor, network.spec.min_size)
        return cast(Scores, network.head(network.backbone(x)))


def _padded(x: Tensor, divisor: int, least: int) -> Tensor:
    """Pad right and bottom with 0 to multiples of ``divisor``, at least to ``least``."""
    if divisor == 1 and least == 1:
        return x
    # rounded up in a form that stays a formula where the side is a symbol
    height, width = (torch.sym_max((n + divisor - 1) // divisor, least // divisor) * divisor for n in x.shape[-2:])
    return F.pad(x, cast(Any, (0, width - x.shape[-1], 0, height - x.shape[-2])))


def capture(module: nn.Module, channels: int, name: str) -> ExportedProgram:
    """Capture a module from (N, H, W, C) uint8 as a graph for any N, H and W."""
    example = torch.zeros(2, *EXAMPLE_SIZE, channels, dtype=torch.uint8)
    free = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC, 2: Dim.DYNAMIC}
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(
                module, (example,), dynamic_shapes=(free,), prefer_deferred_runtime_asserts_over_guards=True
            )
    except Exception as error:  # torch raises many types here
        raise NetworkError(
            f"{name} cannot be turned into a graph: {first_line(error)[:200]} Use --engine torch."
        ) from error


def to_onnx(program: ExportedProgram, names: list[str]) -> Any:
    """Translate a captured graph to an ``onnx.ModelProto`` with the input "images"."""
    for package in ("onnx", "onnxscript"):
        import_optional(package, _PURPOSE)
    with quiet():
        exported = torch.onnx.export(
            program, (), dynamo=True, input_names=[INPUT], output_names=names, verbose=False, optimize=True
        )
    return cast(Any, exported).model_proto


def cached_onnx(identity: str) -> Path | None:
    """Return the file of a network that was translated before, and mark it as used; None without an undamaged one."""
    path = _cache().get(_key(identity))
    return path if path is not None and verify_trailing_checksum(path) else None


def export_cached(network: Network, card: Card, identity: str | None) -> Any:
    """Return a network with its preprocessing as an ``onnx.ModelProto``, from the cache where it is there.

    ``identity`` is a hash of all that the graph depends on; None where it is unknown, and nothing is cached.
    """
    onnx = import_optional("onnx", _PURPOSE)
    if identity is not None and (path := cached_onnx(identity)) is not None:
        with suppress(Exception):  # a damaged file is written anew; protobuf has its own types of errors
            return onnx.load(path)
    program = capture(ExportModule(network, card).eval(), card.in_channels, network.variant)
    model = to_onnx(program, output_names("scores", card))
    if identity is not None:
        end = onnx.ModelProto()
        end.metadata_props.add(key=CHECKSUM_KEY, value=BLANK)
        # read as one message: the fields of the second are added
        content = add_checksum(model.SerializeToString() + end.SerializeToString())
        try:
            _cache().put(_key(identity), [content])
        except OutputError as error:
            LOG.info("engine: the translated network could not be cached: %s", error)
    return model


def _cache() -> DiskCache:
    return DiskCache("engines", ".onnx", CACHE_BYTES)


def _key(identity: str) -> str:
    """Return the cache key of a network: its identity and the versions of what translated it."""
    by = {name: number for name, number in versions().items() if name in ("torch", "onnx", "onnxscript", "timm")}
    return json.dumps({"model": identity, "by": by, "fullconv": __version__}, sort_keys=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporters' messages about their own internals."""
    loggers = list(map(logging.getLogger, ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "torch._export")))
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
