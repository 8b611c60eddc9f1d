"""Discs that are full, read-only or damaged: noticed, never loaded in silence, and gone on from what is whole."""

from __future__ import annotations

import ctypes
import errno
import multiprocessing
import os
import re
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import SMALL, identity

from fullconv.checkpoint import read_best, read_checkpoint
from fullconv.errors import ModelFileError, OutputError, RunError
from fullconv.training import train
from model_files import flipped

pytestmark = pytest.mark.skipif(os.name != "posix", reason="limits and rights as POSIX has them")

SETTINGS: dict[str, Any] = {**SMALL, "epochs": 2, "seed": 2, "width": 0.25}


@pytest.fixture(scope="module")
def often(shapes, tmp_path_factory) -> Path:
    """A finished run with a checkpoint after every step; not to be changed."""
    run = tmp_path_factory.mktemp("runs") / "often"
    train(shapes, run, **{**SETTINGS, "checkpoint_every": 0.0})
    return run


def copied(run: Path, to: Path) -> Path:
    shutil.copytree(run, to)
    (to / "status.json").unlink()
    return to


# --- damaged files ---------------------------------------------------------------------------------------------------


def flips(size: int, header: int, count: int) -> Iterator[tuple[int, int]]:
    """Places (byte, bit) all over a file, a quarter of them in its header."""
    rng = np.random.default_rng(5)
    for number in range(count):
        yield int(rng.integers(0, header if number % 4 == 0 else size)), int(rng.integers(0, 8))


def test_truncated_checkpoint_is_detected(often, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(often / "checkpoints", folder)
    whole = (folder / "last").read_bytes()
    for cut in [0, 1, 7, 8, 100, *np.linspace(200, len(whole) - 1, 15).astype(int).tolist()]:
        (folder / "last").write_bytes(whole[:cut])
        found = read_checkpoint(folder)
        assert found is not None
        assert found[1]["step"] == 99, cut
        assert re.search(r"last: .* Resuming from previous, step 99\.", found[2] or ""), cut


@pytest.mark.parametrize("name", ["last", "best"])
@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_flipped_bits_are_detected(often, tmp_path, name, count):
    folder = tmp_path / "checkpoints"
    shutil.copytree(often / "checkpoints", folder)
    path = folder / "last" if name == "last" else next(folder.glob("best-*"))
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for place, bit in flips(len(whole), header, count):
        path.write_bytes(flipped(whole, place, 1 << bit))
        if name == "last":
            found = read_checkpoint(folder)
            assert found is not None
            assert (found[1]["step"], "last: " in (found[2] or "")) == (99, True), (place, bit)
        else:
            with pytest.raises(ModelFileError, match=rf"{path.name}: "):
                read_best(folder, int(path.name[5:]))
    print(f"{name}: {count} of {count} flipped bits noticed")


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_run_resumes_from_the_previous_checkpoint_with_the_same_bits(shapes, often, tmp_path, capsys, damage):
    run = copied(often, tmp_path / "run")
    last = run / "checkpoints" / "last"
    data = bytearray(last.read_bytes())
    data[-500] ^= 1
    last.write_bytes(bytes(data) if damage == "flipped" else bytes(data[:-500]))
    if damage == "gone":
        last.unlink()
    train(shapes, run, resume=True, **SETTINGS)
    stderr = capsys.readouterr().err
    assert ("Resuming from previous, step 99." in stderr) == (damage != "gone")
    assert "Resuming at step 100 of 100." in stderr
    assert identity(run) == identity(often)


def test_lost_best_weights_are_recomputed_from_the_previous_checkpoint(shapes, often, tmp_path, capsys):
    run = copied(often, tmp_path / "run")
    before, best = sorted((run / "checkpoints").glob("best-*"))
    assert (before.name, best.name) == ("best-00000050", "best-00000100")
    best.write_bytes(best.read_bytes()[:-1])
    train(shapes, run, resume=True, **SETTINGS)
    assert re.search(r"best-00000100: damaged.* Resuming from previous, step 99\.", capsys.readouterr().err)
    assert identity(run) == identity(often)


def test_best_weights_lost_for_good_are_reported_and_selected_again(shapes, often, tmp_path, capsys):
    run = copied(often, tmp_path / "run")
    for best in (run / "checkpoints").glob("best-*"):
        best.write_bytes(best.read_bytes()[:-1])
    train(shapes, run, resume=True, **SETTINGS)
    stderr = capsys.readouterr().err
    assert re.search(
        r"best-00000100: damaged.*Resuming from last, step 100; the best weights are selected again", stderr
    )
    assert identity(run)[1:] == identity(often)[1:]


def test_all_checkpoints_damaged_is_an_error(shapes, often, tmp_path):
    run = copied(often, tmp_path / "run")
    for name in ("last", "previous"):
        (run / "checkpoints" / name).write_bytes(b"\0" * 1000)
    with pytest.raises(RunError, match=r"no checkpoint can be used: .*last: .*previous: .*Start the run again"):
        train(shapes, run, resume=True, **SETTINGS)
    assert (run / "checkpoints" / "last").read_bytes() == b"\0" * 1000


# --- full and read-only ----------------------------------------------------------------------------------------------


def _without_privileges() -> None:
    """Let rights hold for root, too: give up CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0
    for place in (0, 1):
        data[place] &= ~0b110
    assert libc.capset(header, data) == 0


def _train(data: str, run: str, outputs: str, settings: dict[str, Any]) -> None:
    sys.stderr = Path(outputs).open("w", buffering=1)  # noqa: SIM115
    if os.getuid() == 0:
        _without_privileges()
    try:
        train(data, run, **settings)
    except OutputError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


def stopped_by(data: Path, run: Path, strike: Any) -> tuple[int | None, str]:
    """Begin a run, do something to it after its first checkpoints, and return its exit code and message."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fullconv.training"])
    outputs = run.with_name("stderr")
    settings = {**SETTINGS, "checkpoint_every": 0.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        process = context.Process(target=_train, args=(str(data), str(run), str(outputs), settings))
        process.start()
    try:
        end = time.monotonic() + 120
        while not (run / "checkpoints" / "previous").exists():
            assert process.is_alive(), outputs.read_text()
            assert time.monotonic() < end
            time.sleep(0.002)
        strike(process)
        process.join(timeout=120)
    finally:
        process.kill()
        process.join()
    return process.exitcode, outputs.read_text()


LOST_STEP = r"Step \d+ is lost; the checkpoint before it is intact. Free disk space .*, then rerun the same command with --resume"


@pytest.mark.slow
def test_full_disk_stops_the_run_which_then_resumes(shapes, often, tmp_path):
    run = tmp_path / "run"

    def no_room(process) -> None:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (20_000, 20_000))

    code, stderr = stopped_by(shapes, run, no_room)
    assert code == 2
    assert re.search(rf"cannot be written \(File too large\)\. {LOST_STEP}", stderr)
    assert not list(run.rglob("*.part"))
    train(shapes, run, resume=True)
    assert identity(run) == identity(often)


def test_full_disk_before_the_first_checkpoint(shapes, often, tmp_path, monkeypatch):
    real, run = os.fsync, tmp_path / "run"

    def full(handle: int) -> None:
        if os.fstat(handle).st_size > 20_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        OutputError, match=r"No space left on device\)\. Step \d+ is lost; there is no checkpoint. Free disk space"
    ):
        train(shapes, run, **SETTINGS)
    monkeypatch.undo()
    train(shapes, run, resume=True)
    assert identity(run) == identity(often)


@pytest.mark.slow
def test_read_only_folder_stops_the_run(shapes, often, tmp_path):
    run = tmp_path / "run"
    code, stderr = stopped_by(shapes, run, lambda process: (run / "checkpoints").chmod(0o555))
    (run / "checkpoints").chmod(0o755)
    assert code == 2
    assert re.search(rf"cannot be written \(Permission denied\)\. {LOST_STEP}", stderr)
    train(shapes, run, resume=True)
    assert identity(run) == identity(often)


def test_folder_that_cannot_be_created(shapes):
    with pytest.raises(OutputError, match=r"/proc/run: cannot be created .*Choose another -o"):
        train(shapes, "/proc/run", **SETTINGS)
