"""The model file: one `.safetensors`, whose header carries the card. Reading one executes nothing."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fullconv.card import Card
from fullconv.errors import ModelFileError, OutputError
from fullconv.storage import write_bytes

if TYPE_CHECKING:
    from torch import Tensor

CARD_KEY = "fullconv"
CHECKSUM_KEY = "checksum"
CHECKSUM_MARK = "header-sha256:"
"""Prefix of the header's own checksum of 64 digits, which are zeros while it is computed."""
MAX_HEADER_BYTES = 32 * 2**20
MAX_TENSORS = 100_000
MAX_NESTED = 4 * MAX_TENSORS
"""Limit of tables and lists in a header; a tensor has three. Empty ones take thirty times their text in memory."""
MAX_DIMS = 64
"""Of a tensor, as in PyTorch; the product of millions of sides takes hours."""
_ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip

_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
"""Names of dtypes in torch and in the file."""


def read_header(path: str | Path) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Read and check the header of a safetensors file, before anything of its size is allocated.

    Returns:
        Tensor descriptions by name (``dtype``, ``shape``, ``data_offsets``), and the metadata.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            lead = file.read(8)
            length = struct.unpack("<Q", lead)[0] if len(lead) == 8 else 0
            if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                raise ModelFileError(
                    f"{path}: not a model file: it does not begin as a safetensors file does, or is truncated"
                    f" ({size} bytes). `fullconv import` reads foreign checkpoints."
                )
            text = file.read(length)
        if excess := _excess(text):
            raise _damaged(path, f"its header {excess}")
        header = json.loads(text.decode("utf-8"))
    except ModelFileError:
        raise
    except FileNotFoundError as error:
        raise ModelFileError(f"{path}: there is no such model file.") from error
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, not JSON, or a number of thousands of digits
        raise ModelFileError(f"{path}: damaged: its header is not valid JSON. Copy or train it again.") from error
    metadata = _check_metadata(path, header, lead + text)
    return _check_tensors(path, header, size - 8 - length), metadata


def _damaged(path: Path, reason: str) -> ModelFileError:
    return ModelFileError(f"{path}: damaged: {reason}. Copy or train it again.")


def _excess(text: bytes) -> str | None:
    """Describe how a header exceeds the limits, before it is parsed; None where it does not."""
    if len(text) > MAX_HEADER_BYTES:
        return f"takes {len(text) / 1e6:.0f} MB, more than {MAX_HEADER_BYTES / 1e6:.0f}"
    if text.count(b"{") + text.count(b"[") > MAX_NESTED:
        return f"has more than {MAX_NESTED} tables and lists"
    return None


def card_excess(card: Card) -> str | None:
    """Describe how a card exceeds a model file's header, with a megabyte for its tensors; None where it does not."""
    return _excess(json.dumps(card.to_json(), ensure_ascii=False).encode("utf-8") + bytes(2**20))


def _check_metadata(path: Path, header: Any, raw: bytes) -> dict[str, str]:
    """Remove the metadata from a header, whose bytes are `raw`, and verify the header's checksum.

    Files of other programs and old ones have none. The prefix of the digits identifies a checksum even where its key was
    damaged.
    """
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a table")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _damaged(path, "its metadata is not a table of strings")
    claims = {key: value for key, value in metadata.items() if key == CHECKSUM_KEY or value.startswith(CHECKSUM_MARK)}
    if claims:
        digits = claims.get(CHECKSUM_KEY, "").removeprefix(CHECKSUM_MARK).encode()
        if claims != {CHECKSUM_KEY: _checksum(raw.replace(digits, b"0" * 64, 1))}:
            raise _damaged(path, "its header was changed")
    return metadata


def _checksum(raw: bytes) -> str:
    """Return the checksum of a header's bytes with its length, with zeros in place of the checksum."""
    return CHECKSUM_MARK + hashlib.sha256(raw).hexdigest()


def _check_tensors(path: Path, header: dict[str, Any], data_bytes: int) -> dict[str, dict[str, Any]]:
    """Check names, dtypes, shapes and offsets against the size of the file."""
    if len(header) > MAX_TENSORS:
        raise _damaged(path, f"it lists {len(header)} tensors, more than {MAX_TENSORS}")
    spans = []
    for name, entry in header.items():
        try:
            start, stop = entry["data_offsets"]
            shape, item = entry["shape"], _ITEM_BYTES[entry["dtype"]]
            if len(shape) > MAX_DIMS or not all(type(side) is int and side >= 0 for side in shape):
                raise TypeError
            count = math.prod(shape)
            fits = all(type(edge) is int for edge in (start, stop)) and stop - start == count * item
        except (KeyError, TypeError, ValueError):
            raise _damaged(path, f"tensor '{name[:80]}' has no valid dtype, shape or offsets") from None
        if not fits or start < 0:
            raise _damaged(path, f"tensor '{name[:80]}' does not match its size")
        if stop > data_bytes:
            raise _damaged(
                path, f"the file is truncated: tensor '{name[:80]}' ends {stop - data_bytes} bytes after its end"
            )
        spans.append((start, stop))
    end = 0
    for start, stop in sorted(spans):
        if start != end:
            raise _damaged(path, "its tensors overlap or leave gaps")
        end = stop
    if end != data_bytes:
        raise _damaged(path, f"it has {data_bytes - end} bytes after its last tensor")
    return header


def read_card(path: str | Path) -> Card:
    """Read the card of a model file."""
    _, metadata = read_header(path)
    if CARD_KEY not in metadata:
        raise ModelFileError(
            f"{path}: a safetensors file without a fullconv card: not written by this program."
            " `fullconv import` reads foreign checkpoints."
        )
    return Card.from_json(metadata[CARD_KEY], str(path))


def is_model_file(path: str | Path) -> bool:
    """Return whether a file is one of this program's models, by its header; False where there is none."""
    return Path(path).suffix == ".safetensors" and Path(path).is_file() and CARD_KEY in read_header(path)[1]


def read_model(path: str | Path, verify: bool = True) -> tuple[Card, dict[str, Tensor]]:
    """Read card and weights of a model file, after comparing both where ``verify``."""
    card = read_card(path)
    tensors = read_tensors(path)
    if verify:
        verify_weights(path, card, tensors)
    return card, tensors


def verify_weights(path: str | Path, card: Card, tensors: Mapping[str, Tensor]) -> None:
    """Raise ModelFileError if weights are not those of their card."""
    if card.weights_sha256 and weights_sha256(tensors) != card.weights_sha256:
        raise ModelFileError(f"{path}: damaged: its weights do not match its card. Copy or train it again.")


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file after checking its header."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    read_header(path)
    try:
        return dict(load_file(str(path)))
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelFileError(f"{path}: damaged: {error}. Copy or train it again.") from error


def weights_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return the hash over tensors sorted by name: name, dtype, shape, bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(name.encode())
        digest.update(str(value.dtype).removeprefix("torch.").encode())
        digest.update(str(tuple(value.shape)).encode())
        digest.update(_bytes(value))
    return digest.hexdigest()


def _bytes(value: Tensor) -> Any:
    """Return the bytes of a contiguous CPU tensor without a copy."""
    import torch

    return value.reshape(-1).view(torch.uint8).numpy().data if value.numel() else b""


def write_model(path: str | Path, card: Card, tensors: Mapping[str, Tensor]) -> Card:
    """Write a model file atomically; returns the card with its hash."""
    card = card.model_copy(update={"weights_sha256": weights_sha256(tensors)})
    write_tensors(path, tensors, {CARD_KEY: card.to_json()})
    return card


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically and durably."""
    kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_bytes(path, _safetensors(Path(path), kept, metadata))


def _safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Iterator[Any]:
    """Yield the parts of a safetensors file; the library's own `save` copies all tensors in memory once more.

    The header has a checksum of its own; with the one over the tensors it covers each bit of a file.

    Source: the format's description, https://github.com/huggingface/safetensors.
    """
    blank = CHECKSUM_MARK + "0" * 64
    header: dict[str, Any] = {"__metadata__": {CHECKSUM_KEY: blank, **metadata}}
    end = 0
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # so that all are aligned
    for name in order:
        value = tensors[name]
        start, end = end, end + value.numel() * value.element_size()
        dtype = _DTYPES.get(str(value.dtype).removeprefix("torch."))
        if dtype is None:
            raise TypeError(f"{name} is {value.dtype}, which a model file cannot store")
        header[name] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    if excess := _excess(text):
        raise OutputError(f"{path}: cannot be written: its header {excess}.")
    raw = struct.pack("<Q", len(text)) + text
    yield raw.replace(blank.encode(), _checksum(raw).encode(), 1)
    for name in order:
        yield _bytes(tensors[name])
