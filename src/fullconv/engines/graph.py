"""Networks translated for other runtimes, kept in the user's cache folder: translating takes seconds, reading does not.

A network with its preprocessing as one graph for other runtimes: pictures of any size as stored in, scores out.

One capture (`torch.export`) serves them all; ONNX is what the others read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import fullconv
from fullconv.card import Card
from fullconv.engines._optional import runtime, versions
from fullconv.engines.checksum import BLANK, CHECKSUM_KEY, ends_sealed, seal
from fullconv.errors import NetworkError, OutputError, first_line
from fullconv.nn import ModuleWrapper, Network, Scores
from fullconv.preprocess import normalization
from fullconv.storage import cache_folder, write_bytes

LOG = logging.getLogger("fullconv.engines")
KEPT_BYTES = 4 * 2**30
"""Of all that is kept; what was used longest ago goes first."""


def translated(network: Network, card: Card, identity: str | None) -> Any:
    """Return a network with its preprocessing as an ``onnx.ModelProto``, from the cache where it is there.

    Args:
        network: In eval mode, on the CPU.
        card: The preprocessing.
        identity: Hash of all that the graph depends on; None where nobody knows, and nothing is kept.

    Raises:
        NetworkError: No graph can hold it.
        MissingExtraError: onnx or onnxscript are not installed.
    """
    onnx = runtime("onnx", "turning the network into a graph")
    path = None if identity is None else _place(identity)
    if identity is not None and (there := kept(identity)) is not None:
        with suppress(Exception):  # a damaged file is written anew; protobuf has errors of its own kinds
            return onnx.load(there)
    model = to_onnx(
        capture(ScoreGraph(network, card).eval(), card.in_channels, network.variant), output_names("scores", card)
    )
    if path is None:
        return model
    try:
        write_bytes(path, [sealed(model)])
        forget(path.parent, keep=path)
    except OutputError as error:
        LOG.info("engine: the translated network could not be kept: %s", error)
    return model


def sealed(model: Any) -> bytes:
    """Return an ``onnx.ModelProto`` as the bytes of a file that ends with its checksum."""
    end = runtime("onnx", "keeping a network").ModelProto()
    end.metadata_props.add(key=CHECKSUM_KEY, value=BLANK)
    return seal(
        model.SerializeToString() + end.SerializeToString()
    )  # read as one message: the second's fields are added


def kept(identity: str) -> Path | None:
    """Return the file of a network that was translated before, and note that it is used; None where no whole one is there."""
    path = _place(identity)
    if not ends_sealed(path):
        return None
    with suppress(OSError):  # a cache that may only be read
        path.touch()
    return path


def _place(identity: str) -> Path:
    """Return where a network is kept, under a name for it and for what translated it."""
    by = {name: number for name, number in versions().items() if name in ("torch", "onnx", "onnxscript", "timm")}
    key = json.dumps({"model": identity, "by": by, "fullconv": fullconv.__version__}, sort_keys=True)
    return cache_folder() / "engines" / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.onnx"


def forget(folder: Path, keep: Path, limit: int = KEPT_BYTES) -> None:
    """Delete translated networks, those used longest ago first, until a folder keeps to a limit of bytes."""
    found = []
    for path in folder.glob("*.onnx"):
        with suppress(OSError):  # another process was first
            found.append((path.stat().st_mtime, path.stat().st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit:
            return
        if path != keep:
            with suppress(OSError):
                path.unlink()
            total -= size


INPUT = "images"
SCORES = "scores"
EXAMPLE_SIZE = (97, 139)
"""Of the picture that is captured; nothing in the graph depends on it."""


class ScoreGraph(nn.Module):
    """Pictures (N, H, W, C) as stored to the scores of a network: what `TorchEngine` does in fp32, without branches.

    Args:
        network: In eval mode, on the CPU.
        card: The preprocessing.
        dtype: What the network computes in; its weights are of it.
    """

    def __init__(self, network: Network, card: Card, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.network: nn.Module = network
        self.dtype = dtype
        self.factor: Tensor
        self.shift: Tensor
        factor, shift = normalization(card)
        order = [2, 1, 0, *range(3, card.in_channels)] if card.channel_order == "bgr" else None
        self.register_buffer("factor", factor, persistent=False)
        self.register_buffer("shift", shift, persistent=False)
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
            return cast(Tensor, self.network.module(x))
        network = cast(Network, self.network)
        row = network.spec
        if row.size_divisor > 1 or row.min_size > 1:
            height, width = (_padded(n, row.size_divisor, row.min_size) for n in x.shape[-2:])
            x = F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]))
        return cast(Scores, network.head(network.backbone(x)))


def _padded(n: int, multiple: int, minimum: int) -> Any:
    """Return a side rounded up, in a form that stays a formula where the side is one."""
    return torch.sym_max((n + multiple - 1) // multiple, minimum // multiple) * multiple


def head_names(card: Card) -> list[str]:
    """Return the names of the heads, "" for the only one."""
    return [""] if card.heads is None else list(card.heads)


def output_names(word: str, card: Card) -> list[str]:
    """Return the names of a graph's outputs: the word, or one for each head."""
    return [f"{word}_{name}" if name else word for name in head_names(card)]


def by_head(scores: list[Tensor], card: Card) -> Scores:
    """Return scores as a network does: alone, or by the name of their head."""
    return scores[0] if card.heads is None else dict(zip(card.heads, scores, strict=True))


def capture(module: nn.Module, channels: int, name: str) -> ExportedProgram:
    """Capture a module from (N, H, W, C) uint8 as a graph for any N, H and W.

    Args:
        module: In eval mode, on the CPU.
        channels: C.
        name: Of the network, for the message.

    Raises:
        NetworkError: It depends on the picture in a way that no graph can hold.
    """
    example = torch.zeros(2, *EXAMPLE_SIZE, channels, dtype=torch.uint8)
    free = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC, 2: Dim.DYNAMIC}
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(
                module, (example,), dynamic_shapes=(free,), prefer_deferred_runtime_asserts_over_guards=True
            )
    except Exception as error:  # torch raises of many kinds here
        reason = first_line(error)
        raise NetworkError(f"{name} cannot be turned into a graph: {reason[:200]} Use --engine torch.") from error


def to_onnx(program: ExportedProgram, names: list[str]) -> Any:
    """Translate a captured graph; returns an ``onnx.ModelProto`` with the input "images".

    Args:
        program: Of `capture`.
        names: Of the outputs.

    Raises:
        MissingExtraError: onnx or onnxscript are not installed.
    """
    for package in ("onnx", "onnxscript"):
        runtime(package, "turning the network into a graph")
    with quiet():
        made = torch.onnx.export(
            program, (), dynamo=True, input_names=[INPUT], output_names=names, verbose=False, optimize=True
        )
    return cast(Any, made).model_proto


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what exporters say about their own inner life to themselves."""
    loggers = [
        logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "torch._export")
    ]
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


def with_input_type(model: Any, dtype: torch.dtype) -> Any:
    """Return an ``onnx.ModelProto`` whose pictures are of another type; the graph turns them into float32 first.

    Args:
        model: With uint8 pictures.
        dtype: ``torch.uint8`` or ``torch.float32``.
    """
    if dtype == torch.uint8:
        return model
    onnx = runtime("onnx", "turning the network into a graph")
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    changed.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return changed


def metadata(model: Any) -> Mapping[str, str]:
    """Return the texts that an ``onnx.ModelProto`` carries."""
    return {entry.key: entry.value for entry in model.metadata_props}
