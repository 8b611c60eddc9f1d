"""Networks translated for other runtimes, kept in the user's cache folder: translating takes seconds, reading does not."""

from __future__ import annotations

import hashlib
import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

import fullconv
from fullconv.card import Card
from fullconv.engines.graph import ScoreGraph, capture, output_names, to_onnx
from fullconv.engines.runtimes import runtime, versions
from fullconv.engines.seal import BLANK, CHECKSUM_KEY, ends_sealed, seal
from fullconv.errors import OutputError
from fullconv.nn import Network
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
