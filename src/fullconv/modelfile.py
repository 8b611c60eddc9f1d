"""The model file: one `.safetensors`, whose header carries the card. Opening one reads numbers and runs nothing."""

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
"""The header's own checksum: 64 digits after this word. They stand for zeros while it is taken."""
MAX_HEADER_BYTES = 32 * 2**20
MAX_TENSORS = 100_000
MAX_NESTED = 4 * MAX_TENSORS
"""Tables and lists in a header: a tensor has three. Empty ones take thirty times their text in memory."""
MAX_SIDES = 64
"""Of a tensor, as in PyTorch; the product of millions takes hours."""
_ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip

_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
"""Names of types in torch and in the file."""


def read_header(path: str | Path) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Read and check the header of a safetensors file, before anything of its size is allocated.

    Returns:
        Tensor descriptions by name (``dtype``, ``shape``, ``data_offsets``), and the metadata.

    Raises:
        ModelFileError: The file is missing, cut, damaged, or no safetensors file.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            lead = file.read(8)
            length = struct.unpack("<Q", lead)[0] if len(lead) == 8 else 0
            if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                raise ModelFileError(
                    f"{path}: no model file: it does not begin as a safetensors file does, or is cut short"
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
    except (ValueError, RecursionError) as error:  # ValueError: no UTF-8, no JSON, or a number of thousands of digits
        raise ModelFileError(f"{path}: damaged: its header is not valid JSON. Copy or train it again.") from error
    metadata = _check_metadata(path, header, lead + text)
    return _check_tensors(path, header, size - 8 - length), metadata


def _damaged(path: Path, reason: str) -> ModelFileError:
    return ModelFileError(f"{path}: damaged: {reason}. Copy or train it again.")


def _excess(text: bytes) -> str | None:
    """Say what of a header is more than may be read, before it is; None where it is within the limits."""
    if len(text) > MAX_HEADER_BYTES:
        return f"takes {len(text) / 1e6:.0f} MB, more than {MAX_HEADER_BYTES / 1e6:.0f}"
    if text.count(b"{") + text.count(b"[") > MAX_NESTED:
        return f"has more than {MAX_NESTED} tables and lists"
    return None


def card_excess(card: Card) -> str | None:
    """Say what of a card is more than a model file's header holds, beside a megabyte for its tensors; else None."""
    return _excess(json.dumps(card.to_json(), ensure_ascii=False).encode("utf-8") + bytes(2**20))


def _check_metadata(path: Path, header: Any, raw: bytes) -> dict[str, str]:
    """Take the metadata out of a header, whose bytes are `raw`, and compare these with their checksum.

    Files of others, and ours from before there was one, have none. The word in front of the digits says that there is one
    also where the key is what was damaged.
    """
    if not isinstance(header, dict):
        raise _damaged(path, "its header is no table")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _damaged(path, "its metadata is no table of texts")
    claims = {key: value for key, value in metadata.items() if key == CHECKSUM_KEY or value.startswith(CHECKSUM_MARK)}
    if claims:
        digits = claims.get(CHECKSUM_KEY, "").removeprefix(CHECKSUM_MARK).encode()
        if claims != {CHECKSUM_KEY: _checksum(raw.replace(digits, b"0" * 64, 1))}:
            raise _damaged(path, "its header is not the one that was written")
    return metadata


def _checksum(raw: bytes) -> str:
    """Return the checksum of a header's bytes, its length in front, with zeros in the checksum's own place."""
    return CHECKSUM_MARK + hashlib.sha256(raw).hexdigest()


def _check_tensors(path: Path, header: dict[str, Any], data_bytes: int) -> dict[str, dict[str, Any]]:
    """Check names, types, shapes and offsets against the bytes that the file has."""

    def damaged(reason: str) -> ModelFileError:
        return _damaged(path, reason)

    if len(header) > MAX_TENSORS:
        raise damaged(f"it lists {len(header)} tensors, more than {MAX_TENSORS}")
    spans = []
    for name, entry in header.items():
        try:
            start, stop = entry["data_offsets"]
            shape, item = entry["shape"], _ITEM_BYTES[entry["dtype"]]
            if len(shape) > MAX_SIDES or not all(type(side) is int and side >= 0 for side in shape):
                raise TypeError
            count = math.prod(shape)
            fits = all(type(edge) is int for edge in (start, stop)) and stop - start == count * item
        except (KeyError, TypeError, ValueError):
            raise damaged(f"tensor '{name[:80]}' has no sound dtype, shape or place") from None
        if not fits or start < 0:
            raise damaged(f"tensor '{name[:80]}' does not fill its place")
        if stop > data_bytes:
            raise damaged(f"the file is cut: tensor '{name[:80]}' ends {stop - data_bytes} bytes after the file does")
        spans.append((start, stop))
    end = 0
    for start, stop in sorted(spans):
        if start != end:
            raise damaged("its tensors overlap or leave gaps")
        end = stop
    if end != data_bytes:
        raise damaged(f"it has {data_bytes - end} bytes after its last tensor")
    return header


def read_card(path: str | Path) -> Card:
    """Read the card of a model file.

    Raises:
        ModelFileError: The file is damaged or foreign; the message says which.
    """
    _, metadata = read_header(path)
    if CARD_KEY not in metadata:
        raise ModelFileError(
            f"{path}: a safetensors file without a fullconv card: not made by this program."
            " `fullconv import` reads foreign checkpoints."
        )
    return Card.from_json(metadata[CARD_KEY], str(path))


def read_model(path: str | Path, verify: bool = True) -> tuple[Card, dict[str, Tensor]]:
    """Read card and weights of a model file.

    Args:
        path: The file.
        verify: Compare the weights with the card's ``weights_sha256``.

    Raises:
        ModelFileError: The file is damaged or foreign.
    """
    card = read_card(path)
    tensors = read_tensors(path)
    if verify and card.weights_sha256 and weights_sha256(tensors) != card.weights_sha256:
        raise ModelFileError(f"{path}: damaged: its weights are not those that its card names. Copy or train it again.")
    return card, tensors


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file after checking its header.

    Raises:
        ModelFileError: The file is damaged.
    """
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
    """Return the bytes of a contiguous tensor on the CPU, not copied."""
    import torch

    return value.reshape(-1).view(torch.uint8).numpy().data if value.numel() else b""


def write_model(path: str | Path, card: Card, tensors: Mapping[str, Tensor]) -> Card:
    """Write a model file: to a temporary name, to the disc, then renamed. Returns the card with its hash.

    Raises:
        OutputError: It cannot be written.
    """
    kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    card = card.model_copy(update={"weights_sha256": weights_sha256(kept)})
    write_tensors(path, kept, {CARD_KEY: card.to_json()})
    return card


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically and durably.

    Raises:
        OutputError: It cannot be written; nothing is left under the final name that was not there before.
    """
    kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_bytes(path, _safetensors(Path(path), kept, metadata))


def _safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Iterator[Any]:
    """Yield the parts of a safetensors file; the library's own `save` makes one more copy of all tensors in memory.

    The header is sealed by a checksum of its own, so that with one over the tensors each bit of a file is covered.

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
            raise TypeError(f"{name} is {value.dtype}, which no file of ours holds")
        header[name] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    if excess := _excess(text):
        raise OutputError(f"{path}: cannot be written: its header {excess}.")
    raw = struct.pack("<Q", len(text)) + text
    yield raw.replace(blank.encode(), _checksum(raw).encode(), 1)
    for name in order:
        yield _bytes(tensors[name])
