"""Connections to the outside fail, in the process of the tests and in those that they start."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

OUTSIDE = "192.0.2.1"  # reserved for documentation


def test_a_connection_to_the_outside_is_refused_and_logged(socket_attempts):
    with (
        socket.socket() as tried,
        pytest.raises(ConnectionRefusedError, match=rf"connect to the outside: {OUTSIDE}:80"),
    ):
        tried.connect((OUTSIDE, 80))
    with pytest.raises(ConnectionRefusedError, match=r"outside: example\.org"):
        socket.getaddrinfo("example.org", 443)
    with socket.socket(type=socket.SOCK_DGRAM) as tried, pytest.raises(ConnectionRefusedError):
        tried.sendto(b"x", (OUTSIDE, 53))
    assert len(socket_attempts.read_text().splitlines()) == 3
    socket_attempts.unlink()


def test_processes_that_tests_start_are_offline_too(socket_attempts):
    code = f"import urllib.request; urllib.request.urlopen('http://{OUTSIDE}/')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"outside: {OUTSIDE}:80" in done.stderr
    assert OUTSIDE in socket_attempts.read_text()
    socket_attempts.unlink()


def test_connections_within_the_machine_work():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as tried:
        tried.connect(server.getsockname())


def test_offline_forbids_downloads(tmp_path, monkeypatch, socket_attempts):
    import fullconv

    monkeypatch.setenv("FULLCONV_CACHE", str(tmp_path))
    monkeypatch.setenv("FULLCONV_OFFLINE", "1")
    with pytest.raises(OSError, match="FULLCONV_OFFLINE"):
        fullconv.build("fcn8s", backbone="resnet18", num_classes=2, weights="imagenet")
    assert not socket_attempts.exists()
