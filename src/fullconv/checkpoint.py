"""Checkpoints: the whole state of a run in one safe file, of which two are kept, beside the best weights so far.

``checkpoints/last`` and ``checkpoints/previous`` are safetensors files: tensors ``network.*``, ``ema.*`` and
``optimizer.<parameter>.<slot>``, and in the header the state's numbers as JSON under ``state`` and a checksum.
``checkpoints/best-<step>`` is a file of weights; one goes when no checkpoint names it any more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fullconv.errors import ModelFileError, RunError
from fullconv.modelfile import read_header, read_tensors, weights_sha256, write_tensors

STATE_KEY = "state"
HASH_KEY = "sha256"


def write_checkpoint(folder: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write a checkpoint; the one before is kept as ``previous``.

    At every moment at least one of the two names shows a whole checkpoint, so a kill loses at most the newest.

    Raises:
        OutputError: It cannot be written; the earlier ones are untouched.
    """
    last, fresh = folder / "last", folder / ".fresh"
    kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    model = {name.removeprefix("network."): t for name, t in kept.items() if name.startswith("network.")}
    text = json.dumps(state)
    metadata = {STATE_KEY: text, HASH_KEY: _checksum(kept, text), "weights_sha256": weights_sha256(model)}
    write_tensors(fresh, kept, metadata)
    if last.exists():
        last.replace(folder / "previous")
    fresh.replace(last)
    named = {_best_step(folder / name) for name in ("last", "previous")}
    for path in folder.glob("best-*"):
        if path.name.removeprefix("best-") not in named:
            path.unlink(missing_ok=True)


def _checksum(tensors: Mapping[str, Tensor], state: str) -> str:
    """Return the hash over tensors and numbers: a flipped bit in either would change how the run goes on."""
    return hashlib.sha256((weights_sha256(tensors) + state).encode()).hexdigest()


def best_file(folder: Path, step: int) -> Path:
    """Return the name of the best weights, which were found at a step."""
    return folder / f"best-{step:08d}"


def _best_step(path: Path) -> str | None:
    try:
        best = json.loads(read_header(path)[1][STATE_KEY]).get("best_step")
    except (ModelFileError, KeyError, ValueError):
        return None
    return None if best is None else f"{best:08d}"


def read_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], str | None] | None:
    """Read the newest checkpoint that is whole.

    Returns:
        Tensors, state, and a sentence where a newer one was damaged; None where there is no checkpoint yet.

    Raises:
        RunError: There are checkpoints, and all are damaged.
    """
    said = []
    candidates = [folder / name for name in (".fresh", "last", "previous")]
    present = [path for path in candidates if path.exists()]
    for path in present:
        try:
            tensors, state = _read(path)
        except ModelFileError as error:
            if path.name != ".fresh":  # cut in the middle of writing: expected, and `last` is whole
                said.append(str(error))
            continue
        note = f"{' '.join(said)} Going on from {path.name}, step {state['step']}." if said else None
        return tensors, state, note
    if not [path for path in present if path.name != ".fresh"]:
        return None
    raise RunError(f"{folder}: no checkpoint can be used: {' '.join(said)} Start the run again in a new folder.")


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    _, metadata = read_header(path)
    try:
        state = json.loads(metadata[STATE_KEY])
        wanted = metadata[HASH_KEY]
    except (KeyError, ValueError) as error:
        raise ModelFileError(f"{path}: damaged: it holds no state of a run.") from error
    tensors = read_tensors(path)
    if _checksum(tensors, metadata[STATE_KEY]) != wanted or not isinstance(state, dict):
        raise ModelFileError(f"{path}: damaged: its bytes are not those that were written.")
    return tensors, state
