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

from fullconv.card import Card
from fullconv.errors import ModelFileError, RunError
from fullconv.modelfile import read_header, read_model, read_tensors, weights_sha256, write_model, write_tensors
from fullconv.storage import sync_folder

STATE_KEY = "state"
HASH_KEY = "sha256"
WEIGHTS_KEY = "weights_sha256"


def write_checkpoint(folder: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write a checkpoint; the one before is kept as ``previous``.

    At every moment at least one of the two names shows a whole checkpoint, so a kill loses at most the newest.

    Raises:
        OutputError: It cannot be written; the earlier ones are untouched.
    """
    last, fresh = folder / "last", folder / ".fresh"
    write_state(fresh, tensors, state)
    if last.exists():
        last.replace(folder / "previous")
    fresh.replace(last)
    sync_folder(folder)  # before the weights go that only the one before named
    named = {_best_step(folder / name) for name in ("last", "previous")}
    for path in folder.glob("best-*"):
        if path.name.removeprefix("best-") not in named:
            path.unlink(missing_ok=True)


def _lost_best(folder: Path, state: Mapping[str, Any]) -> str | None:
    """Return why the best weights that a state names cannot be read; None where they can, or where it names none."""
    if state.get("best_step") is None:
        return None
    try:
        read_best(folder, state["best_step"])
    except ModelFileError as error:
        return str(error)
    return None


def write_state(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write the state of a run into one file, with a checksum over all of it.

    Raises:
        OutputError: It cannot be written.
    """
    kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    text = json.dumps(state)
    weights, checksum = _hashes(kept, text)
    write_tensors(path, kept, {STATE_KEY: text, HASH_KEY: checksum, WEIGHTS_KEY: weights})


def _hashes(tensors: Mapping[str, Tensor], state: str) -> tuple[str, str]:
    """Return the hash of the network's weights, and that of everything; each byte is hashed once."""
    prefix = "network."
    weights = weights_sha256({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    others = weights_sha256({name: value for name, value in tensors.items() if not name.startswith(prefix)})
    return weights, hashlib.sha256((weights + others + state).encode()).hexdigest()


def write_best(folder: Path, step: int, card: Card, tensors: Mapping[str, Tensor]) -> None:
    """Write the best weights so far, with the card, as a model file."""
    write_model(best_file(folder, step), card, tensors)


def read_best(folder: Path, step: int) -> dict[str, Tensor]:
    """Read the best weights.

    Raises:
        ModelFileError: The file is missing or damaged.
    """
    return read_model(best_file(folder, step))[1]


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
    """Read the newest checkpoint that is whole, and whose best weights are.

    Where the best weights are lost and no checkpoint is older than they are, the newest is taken without them: they are
    chosen anew from the validations to come.

    Returns:
        Tensors, state, and a sentence where something newer was damaged; None where there is no checkpoint yet.

    Raises:
        RunError: There are checkpoints, and all are damaged.
    """
    said = []
    without_best: tuple[str, dict[str, Tensor], dict[str, Any]] | None = None
    candidates = [folder / name for name in (".fresh", "last", "previous")]
    present = [path for path in candidates if path.exists()]
    for path in present:
        try:
            tensors, state = read_state(path)
        except ModelFileError as error:
            if path.name != ".fresh":  # cut in the middle of writing: expected, and `last` is whole
                said.append(str(error))
            continue
        if lost := _lost_best(folder, state):
            said += [lost] if lost not in said else []
            without_best = without_best or (path.name, tensors, state)
            continue
        note = f"{' '.join(said)} Going on from {path.name}, step {state['step']}." if said else None
        return tensors, state, note
    if without_best is not None:
        name, tensors, state = without_best
        note = (
            f"{' '.join(said)} Going on from {name}, step {state['step']}; the best weights are chosen anew from here on, so"
            " the run may end with others than it would have."
        )
        return tensors, {**state, "best": None, "best_step": None, "waited": 0}, note
    if not [path for path in present if path.name != ".fresh"]:
        return None
    raise RunError(f"{folder}: no checkpoint can be used: {' '.join(said)} Start the run again in a new folder.")


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_state` wrote.

    Raises:
        ModelFileError: The file is missing, foreign, or not what was written.
    """
    _, metadata = read_header(path)
    try:
        state = json.loads(metadata[STATE_KEY])
        wanted, weights = metadata[HASH_KEY], metadata[WEIGHTS_KEY]
    except (KeyError, ValueError) as error:
        raise ModelFileError(f"{path}: damaged: it holds no state of a run.") from error
    tensors = read_tensors(path)
    if _hashes(tensors, metadata[STATE_KEY]) != (weights, wanted) or not isinstance(state, dict):
        raise ModelFileError(f"{path}: damaged: its bytes are not those that were written.")
    return tensors, state
