"""Checkpoints: at every moment one that is whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from fullconv import checkpoint
from fullconv.checkpoint import best_file, read_checkpoint, write_checkpoint
from fullconv.errors import OutputError, RunError
from fullconv.modelfile import read_header, weights_sha256


def write(folder: Path, step: int, best: int | None = None) -> None:
    tensors = {
        "network.w": torch.full((3, 2), float(step)),
        "ema.w": torch.zeros(2),
        "optimizer.w.step": torch.tensor(1.0),
    }
    write_checkpoint(folder, tensors, {"step": step, "best_step": best, "loss": [0.1 + 0.2, 1.0]})


def steps(folder: Path) -> int:
    found = read_checkpoint(folder)
    assert found is not None
    return found[1]["step"]


def test_checkpoint_round_trip(tmp_path):
    assert read_checkpoint(tmp_path) is None
    write(tmp_path, 3)
    tensors, state, note = read_checkpoint(tmp_path)
    assert torch.equal(tensors["network.w"], torch.full((3, 2), 3.0))
    assert state["loss"][0] == 0.1 + 0.2
    assert note is None
    expected = weights_sha256({"w": torch.full((3, 2), 3.0)})
    assert read_header(tmp_path / "last")[1]["weights_sha256"] == expected


def test_two_checkpoints_are_kept(tmp_path):
    for step in (1, 2, 3):
        write(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "previous"]
    assert steps(tmp_path) == 3


def test_best_weights_are_kept_while_a_checkpoint_refers_to_them(tmp_path):
    best_file(tmp_path, 1).write_bytes(b"")
    write(tmp_path, 1, best=1)
    best_file(tmp_path, 2).write_bytes(b"")
    write(tmp_path, 2, best=2)
    assert best_file(tmp_path, 1).exists()  # a damaged `last` would go back to it
    write(tmp_path, 3, best=2)
    assert not best_file(tmp_path, 1).exists()
    assert best_file(tmp_path, 2).exists()


@pytest.mark.parametrize("moment", range(1, 9))
def test_interrupted_write_leaves_an_intact_checkpoint(tmp_path, monkeypatch, moment):
    """Every rename and removal is a moment at which a process may die."""

    class DeathError(BaseException):
        pass

    write(tmp_path, 1)
    write(tmp_path, 2)
    count = 0
    for name in ("replace", "unlink"):
        real = getattr(Path, name)

        def dying(self, *a, real=real, **k):
            nonlocal count
            count += 1
            if count == moment:
                raise DeathError
            return real(self, *a, **k)

        monkeypatch.setattr(Path, name, dying)
    died = False
    try:
        write(tmp_path, 3)
    except DeathError:
        died = True
    monkeypatch.undo()
    assert steps(tmp_path) in ((2, 3) if died else (3,))
    write(tmp_path, 4)
    assert steps(tmp_path) == 4


def test_changed_state_is_detected(tmp_path):
    write(tmp_path, 1)
    data = (tmp_path / "last").read_bytes()
    (tmp_path / "last").write_bytes(data.replace(b'\\"step\\": 1', b'\\"step\\": 7'))
    with pytest.raises(RunError, match="no checkpoint can be used"):
        read_checkpoint(tmp_path)


def test_model_file_is_not_a_checkpoint(tmp_path):
    checkpoint.write_tensors(tmp_path / "last", {"w": torch.zeros(1)}, {"fullconv": "{}"})
    with pytest.raises(RunError, match="it holds no state of a run"):
        read_checkpoint(tmp_path)


def test_failed_write_leaves_both_checkpoints(tmp_path, monkeypatch):
    write(tmp_path, 1)
    write(tmp_path, 2)
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write(tmp_path, 3)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == kept


def test_partial_fresh_checkpoint_is_ignored(tmp_path):
    write(tmp_path, 1)
    shutil.copy(tmp_path / "last", tmp_path / ".fresh")
    (tmp_path / ".fresh").write_bytes((tmp_path / ".fresh").read_bytes()[:100])
    _, state, note = read_checkpoint(tmp_path)
    assert (state["step"], note) == (1, None)
