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


def test_a_checkpoint_comes_back_with_every_bit(tmp_path):
    assert read_checkpoint(tmp_path) is None
    write(tmp_path, 3)
    tensors, state, note = read_checkpoint(tmp_path)
    assert torch.equal(tensors["network.w"], torch.full((3, 2), 3.0))
    assert state["loss"][0] == 0.1 + 0.2
    assert note is None
    wanted = weights_sha256({"w": torch.full((3, 2), 3.0)})
    assert read_header(tmp_path / "last")[1]["weights_sha256"] == wanted


def test_two_are_kept(tmp_path):
    for step in (1, 2, 3):
        write(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "previous"]
    assert steps(tmp_path) == 3


def test_the_best_weights_live_as_long_as_a_checkpoint_names_them(tmp_path):
    best_file(tmp_path, 1).write_bytes(b"")
    write(tmp_path, 1, best=1)
    best_file(tmp_path, 2).write_bytes(b"")
    write(tmp_path, 2, best=2)
    assert best_file(tmp_path, 1).exists()  # a damaged `last` would go back to it
    write(tmp_path, 3, best=2)
    assert not best_file(tmp_path, 1).exists()
    assert best_file(tmp_path, 2).exists()


@pytest.mark.parametrize("moment", range(1, 9))
def test_whenever_writing_stops_a_whole_checkpoint_is_found(tmp_path, monkeypatch, moment):
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


def test_a_damaged_one_falls_back_and_says_so(tmp_path):
    write(tmp_path, 1)
    write(tmp_path, 2)
    (tmp_path / "last").write_bytes((tmp_path / "last").read_bytes()[:-5])
    _, state, note = read_checkpoint(tmp_path)
    assert state["step"] == 1
    assert "last: damaged" in note
    assert note.endswith("Resuming from previous, step 1.")


def test_a_flipped_bit_is_noticed(tmp_path):
    write(tmp_path, 1)
    data = bytearray((tmp_path / "last").read_bytes())
    data[-1] ^= 1
    (tmp_path / "last").write_bytes(bytes(data))
    with pytest.raises(RunError, match=r"no checkpoint can be used: .*its bytes are not those that were written"):
        read_checkpoint(tmp_path)


def test_a_flipped_digit_of_the_state_is_noticed(tmp_path):
    write(tmp_path, 1)
    data = (tmp_path / "last").read_bytes()
    (tmp_path / "last").write_bytes(data.replace(b'\\"step\\": 1', b'\\"step\\": 7'))
    with pytest.raises(RunError, match="no checkpoint can be used"):
        read_checkpoint(tmp_path)


def test_a_model_file_in_the_place_of_a_checkpoint_is_told_apart(tmp_path):
    checkpoint.write_tensors(tmp_path / "last", {"w": torch.zeros(1)}, {"fullconv": "{}"})
    with pytest.raises(RunError, match="it holds no state of a run"):
        read_checkpoint(tmp_path)


def test_a_write_that_fails_leaves_both(tmp_path, monkeypatch):
    write(tmp_path, 1)
    write(tmp_path, 2)
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write(tmp_path, 3)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == kept


def test_a_half_written_fresh_one_is_passed_over_in_silence(tmp_path):
    write(tmp_path, 1)
    shutil.copy(tmp_path / "last", tmp_path / ".fresh")
    (tmp_path / ".fresh").write_bytes((tmp_path / ".fresh").read_bytes()[:100])
    _, state, note = read_checkpoint(tmp_path)
    assert (state["step"], note) == (1, None)
