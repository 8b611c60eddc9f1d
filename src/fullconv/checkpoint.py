"""Checkpoints: the whole state of a run in one safe file, of which two are kept, beside the best weights.

``checkpoints/last`` and ``checkpoints/previous`` are safetensors files: tensors ``network.*``, ``ema.*`` and
``optimizer.<parameter>.<slot>``; in the header the other values as JSON under ``state``, and a checksum.
``checkpoints/best-<step>`` is a model file; it is deleted when no checkpoint refers to it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fullconv.errors import ModelFileError, RunError
from fullconv.modelfile import read_header, read_model, read_tensors, weights_sha256, write_tensors
from fullconv.storage import sync_folder

STATE_KEY = "state"
HASH_KEY = "sha256"
WEIGHTS_KEY = "weights_sha256"


def write_checkpoint(folder: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write a checkpoint; the one before is kept as ``previous``, so that at every moment one of the two is intact."""
    last, fresh = folder / "last", folder / ".fresh"
    write_state(fresh, tensors, state)
    if last.exists():
        last.replace(folder / "previous")
    fresh.replace(last)
    sync_folder(folder)  # before deleting weights that only the replaced one refers to
    used = set()
    for name in ("last", "previous"):
        try:
            used.add(json.loads(read_header(folder / name)[1][STATE_KEY]).get("best_step"))
        except (ModelFileError, KeyError, ValueError):
            continue
    for path in folder.glob("best-*"):
        if path not in {best_file(folder, step) for step in used if step is not None}:
            path.unlink(missing_ok=True)


def write_state(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write the state of a run into one file, with a checksum over all of it."""
    cpu = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    text = json.dumps(state)
    weights, checksum = _hashes(cpu, text)
    write_tensors(path, cpu, {STATE_KEY: text, HASH_KEY: checksum, WEIGHTS_KEY: weights})


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_state` wrote."""
    _, metadata = read_header(path)
    try:
        state = json.loads(metadata[STATE_KEY])
        checksum, weights = metadata[HASH_KEY], metadata[WEIGHTS_KEY]
    except (KeyError, ValueError) as error:
        raise ModelFileError(f"{path}: damaged: it holds no state of a run.") from error
    tensors = read_tensors(path)
    if _hashes(tensors, metadata[STATE_KEY]) != (weights, checksum) or not isinstance(state, dict):
        raise ModelFileError(f"{path}: damaged: its bytes are not those that were written.")
    return tensors, state


def _hashes(tensors: Mapping[str, Tensor], state: str) -> tuple[str, str]:
    """Return the hash of the network's weights, and that of everything; each byte is hashed once."""
    prefix = "network."
    weights = weights_sha256({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    others = weights_sha256({name: value for name, value in tensors.items() if not name.startswith(prefix)})
    return weights, hashlib.sha256((weights + others + state).encode()).hexdigest()


def read_best(folder: Path, step: int) -> dict[str, Tensor]:
    """Read the best weights."""
    return read_model(best_file(folder, step))[1]


def best_file(folder: Path, step: int) -> Path:
    """Return the path of the best weights of a step."""
    return folder / f"best-{step:08d}"


def read_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], str | None] | None:
    """Read the newest checkpoint that is intact with its best weights; return a sentence, too, if a newer one was damaged.

    If there is none, the newest intact one is read without best weights, which later validations select again.
    """
    problems: list[str] = []
    without_best: tuple[str, dict[str, Tensor], dict[str, Any]] | None = None
    present = [path for name in (".fresh", "last", "previous") if (path := folder / name).exists()]
    for path in present:
        try:
            tensors, state = read_state(path)
        except ModelFileError as error:
            if path.name != ".fresh":  # cut during writing: expected, and `last` is intact
                problems.append(str(error))
            continue
        try:
            if state.get("best_step") is not None:
                read_best(folder, state["best_step"])
        except ModelFileError as error:
            problems += [str(error)] if str(error) not in problems else []
            without_best = without_best or (path.name, tensors, state)
            continue
        note = f"{' '.join(problems)} Resuming from {path.name}, step {state['step']}." if problems else None
        return tensors, state, note
    if without_best is not None:
        name, tensors, state = without_best
        note = (
            f"{' '.join(problems)} Resuming from {name}, step {state['step']}; the best weights are selected again from here"
            " on, so the run may end with others than it would have."
        )
        return tensors, {**state, "best": None, "best_step": None, "waited": 0}, note
    if not [path for path in present if path.name != ".fresh"]:
        return None
    raise RunError(f"{folder}: no checkpoint can be used: {' '.join(problems)} Start the run again in a new folder.")
