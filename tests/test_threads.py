"""How long threads wait for one another: libgomp itself says by what it goes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fullconv.threads import SPIN_COUNT, short_waits

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="PyTorch is built with GNU's OpenMP on Linux")


def told(program: str, **environment: str) -> str:
    """Return what the OpenMP of a new process says of itself as PyTorch loads it."""
    bare = {name: value for name, value in os.environ.items() if name not in (SPIN_COUNT, "OMP_WAIT_POLICY")}
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=bare | {"OMP_DISPLAY_ENV": "VERBOSE", "OMP_NUM_THREADS": "2"} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stderr


def test_the_threads_of_a_program_that_uses_the_package_sleep_soon_and_nothing_is_left_behind():
    program = "import os, fullconv; fullconv.build; assert not any(name.startswith('GOMP') for name in os.environ)"
    assert "GOMP_SPINCOUNT = '10000'" in told(program)


@pytest.mark.slow
def test_so_do_those_of_a_command():
    command = ["bench", "fcn32s", "--backbone", "tiny", "--size", "64x64", "--precision", "fp32", "--no-memory"]
    assert "GOMP_SPINCOUNT = '10000'" in told(f"from fullconv.cli.program import main; main({command})")


def test_what_the_user_has_set_is_left_alone(monkeypatch):
    monkeypatch.delenv(SPIN_COUNT, raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    with short_waits():
        assert SPIN_COUNT not in os.environ
    monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setenv(SPIN_COUNT, "5")
    with short_waits():
        assert os.environ[SPIN_COUNT] == "5"
    assert os.environ[SPIN_COUNT] == "5"


def test_outside_nothing_is_changed(monkeypatch):
    monkeypatch.delenv(SPIN_COUNT, raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    with short_waits():
        assert os.environ[SPIN_COUNT] == "10000"
    assert SPIN_COUNT not in os.environ
