"""That the tests reach nothing outside is itself tested: here and in the processes that tests start."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

OUTSIDE = "192.0.2.1"  # reserved for documentation: nobody is there


def test_a_connection_to_the_outside_is_refused_and_noted(socket_attempts):
    with socket.socket() as tried, pytest.raises(ConnectionRefusedError, match=rf"asked for {OUTSIDE}:80"):
        tried.connect((OUTSIDE, 80))
    with pytest.raises(ConnectionRefusedError, match=r"asked for example\.org"):
        socket.getaddrinfo("example.org", 443)
    with socket.socket(type=socket.SOCK_DGRAM) as tried, pytest.raises(ConnectionRefusedError):
        tried.sendto(b"x", (OUTSIDE, 53))
    assert len(socket_attempts.read_text().splitlines()) == 3
    socket_attempts.unlink()


def test_so_it_is_in_processes_that_tests_start(socket_attempts):
    code = f"import urllib.request; urllib.request.urlopen('http://{OUTSIDE}/')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"something asked for {OUTSIDE}:80" in done.stderr
    assert OUTSIDE in socket_attempts.read_text()
    socket_attempts.unlink()


def test_this_machine_may_talk_to_itself():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as tried:
        tried.connect(server.getsockname())


def test_the_program_knows_no_address_to_tell_anything(tmp_path, monkeypatch, socket_attempts):
    """What is fetched is fetched by a command of the user's, and not where FULLCONV_OFFLINE forbids it."""
    import fullconv

    monkeypatch.setenv("FULLCONV_CACHE", str(tmp_path))
    monkeypatch.setenv("FULLCONV_OFFLINE", "1")
    with pytest.raises(OSError, match="FULLCONV_OFFLINE"):
        fullconv.build("fcn8s", backbone="resnet18", num_classes=2, weights="imagenet")
    assert not socket_attempts.exists()
