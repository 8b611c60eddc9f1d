"""Clients that are slow, silent, broken or hostile: a good request is answered in time throughout."""

from __future__ import annotations

import io
import random
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import httpx
import numpy as np
import pytest
from bombs import bomb
from PIL import Image
from serving import Running, picture, png

PICTURE = png(picture())
IN_TIME = 2.0
POST = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"


class Probe:
    """A thread that asks as everybody should, again and again, and keeps how long it took."""

    def __init__(self, service: Running) -> None:
        self.address = service.address
        self.expected = service.client.post("/v1/predict", content=PICTURE).content
        self.seconds: list[float] = []
        self.wrong: list[str] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._end.is_set():
            start = time.monotonic()
            try:
                answer = httpx.post(f"{self.address}/v1/predict", content=PICTURE, timeout=30)
                if answer.content != self.expected:
                    self.wrong.append(f"{answer.status_code}: {answer.text[:200]}")
            except httpx.HTTPError as error:
                self.wrong.append(repr(error))
            self.seconds.append(time.monotonic() - start)
            self._end.wait(0.05)

    def __enter__(self) -> Probe:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        deadline = time.monotonic() + 30
        while len(self.seconds) < 3 and time.monotonic() < deadline:  # what went on beside was over soon
            time.sleep(0.01)
        self._end.set()
        self._thread.join(60)
        assert self.wrong == []
        assert len(self.seconds) >= 3
        assert max(self.seconds) < IN_TIME, sorted(self.seconds)[-5:]


@contextmanager
def connections(service: Running, count: int) -> Iterator[list[socket.socket]]:
    found: list[socket.socket] = []
    try:
        for _ in range(count):
            found.append(socket.create_connection(("127.0.0.1", service.port), 20))
        yield found
    finally:
        for one in found:
            one.close()


def silence(service: Running, count: int, seconds: float) -> None:
    with connections(service, count):
        time.sleep(seconds)


def trickle(service: Running, count: int, seconds: float) -> None:
    """Heads and bodies byte by byte."""
    with connections(service, count) as clients:
        end, place = time.monotonic() + seconds, 0
        request = POST + b"Content-Length: 100000\r\n\r\n" + PICTURE
        for client in clients[::2]:
            client.sendall(request[:200])
        while time.monotonic() < end:
            for number, client in enumerate(clients):
                with suppress(OSError):  # the service may have had enough
                    client.sendall(request[place : place + 1] if number % 2 else b"x")
            place += 1
            time.sleep(0.05)


def half_closed(service: Running, count: int, seconds: float) -> None:
    """Those who end before their request does, and those who hang up on the answer."""
    whole = POST + f"Content-Length: {len(PICTURE)}\r\n\r\n".encode() + PICTURE
    for number in range(count):
        with socket.create_connection(("127.0.0.1", service.port), 20) as client:
            with suppress(OSError):
                client.sendall(whole if number % 3 == 2 else whole[: 100 + 50 * (number % 3)])
                client.shutdown(socket.SHUT_WR)
            if number % 3 == 2:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset
        time.sleep(seconds / count)


def deaf(service: Running, count: int, seconds: float) -> None:
    """Those who ask for much and read nothing."""
    body = png(np.zeros((400, 600, 3), np.uint8))
    request = POST.replace(b"predict", b"predict?answer=npz") + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
    with connections(service, count) as clients:
        for client in clients:
            client.sendall(request)
        time.sleep(seconds)


def heavy(service: Running, count: int, seconds: float) -> None:
    """Bodies of a gigabyte, told and untold."""
    for number in range(count):
        with socket.create_connection(("127.0.0.1", service.port), 20) as client, suppress(OSError):
            told = number % 2 == 0
            client.sendall(
                POST + (b"Content-Length: 1000000000\r\n\r\n" if told else b"Transfer-Encoding: chunked\r\n\r\n")
            )
            block, end = bytes(2**20), time.monotonic() + seconds
            for _ in range(1000):
                client.sendall(block if told else b"100000\r\n" + block + b"\r\n")
                if time.monotonic() > end:
                    break


def with_chunk(kind: bytes, data: bytes) -> bytes:
    """A picture with one chunk more behind its header."""
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return PICTURE[:33] + chunk + PICTURE[33:]


def bombs(service: Running, count: int, seconds: float) -> None:
    """Small files that say that they are large, or are."""
    big = io.BytesIO()
    Image.fromarray(np.zeros((20_000, 20_000), np.uint8)).save(big, format="PNG", compress_level=1)
    fax = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(fax, format="TIFF", compression="group4")
    thin = [png(np.zeros(size, np.uint8)) for size in ((1, 1, 3), (1, 100_000, 3), (100_000, 1, 3))]
    packed = zlib.compress(bytes(10**8))  # 97 kB
    stuffed = [with_chunk(b"zTXt", b"a\0\0" + packed), with_chunk(b"iCCP", b"a\0\0" + packed)]
    bodies = [big.getvalue(), fax.getvalue(), bomb(2**31 - 1, 2**31 - 1), bomb(10**6, 150), bomb(0, 0), *stuffed, *thin]
    expected = {413, 422, 200}
    for number in range(count):
        answer = httpx.post(f"{service.address}/v1/predict", content=bodies[number % len(bodies)], timeout=60)
        assert answer.status_code in expected, answer.text
        time.sleep(seconds / count)


def fuzz(service: Running, count: int, seconds: float) -> None:
    """Heads that are none."""
    chance = random.Random(7)
    lines = [
        b"POST /v1/predict HTTP/1.1", b"GET /%00%ff/../.. HTTP/1.1", b"Host: localhost", b"Content-Length: -1",
        b"Content-Length: 5", b"Transfer-Encoding: chunked, gzip", b"Content-Length: 99999999999999999999",
        b"Expect: 100-continue", b"Accept: ,;q=x,*/*;q=nan", b"Content-Type: multipart/form-data; boundary=\xff",
        b"X: " + b"a" * 20_000, b"Upgrade: websocket\r\nConnection: upgrade", b"\0",
        b"Authorization: \xe9", b"Origin: null", b"X-Request-ID: \xff\xfe", b": x", b"GET / HTTP/0.9", b"PRI * HTTP/2.0",
    ]  # fmt: skip
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", service.port), 20) as client:
            client.settimeout(0.05)
            head = b"\r\n".join([b"POST /v1/predict HTTP/1.1", *chance.sample(lines, 4)])
            head = head if chance.random() < 0.6 else chance.randbytes(300)
            with suppress(OSError):
                client.sendall(head + b"\r\n\r\n" + chance.randbytes(chance.randrange(40)))
                assert not client.recv(65536).startswith(b"HTTP/1.1 5")
        time.sleep(seconds / count)


MEASURES: list[tuple[Callable[[Running, int, float], None], int, int]] = [
    (silence, 40, 500), (trickle, 10, 100), (half_closed, 12, 200), (deaf, 4, 24), (heavy, 2, 8), (bombs, 10, 70),
    (fuzz, 40, 600),
]  # fmt: skip
"""What is done, how often in the short and in the long version."""


@pytest.mark.parametrize(("measure", "short", "long"), MEASURES, ids=[m[0].__name__ for m in MEASURES])
def test_a_good_request_is_answered_in_time_meanwhile(service, measure, short, long):
    with Probe(service):
        measure(service, short, 1.0)
    assert service.client.get("/readyz").status_code == 200
    assert "Traceback" not in service.text


@pytest.mark.slow
@pytest.mark.parametrize(("measure", "short", "long"), MEASURES, ids=[m[0].__name__ for m in MEASURES])
def test_a_good_request_is_answered_in_time_for_longer(service, measure, short, long):
    with Probe(service):
        measure(service, long, 20.0)
    assert "Traceback" not in service.text
    restarts = service.metric("fullconv_copy_restarts_total")
    assert restarts == 0


@pytest.mark.slow
def test_silent_and_slow_heads_are_let_go(service):
    from fullconv.serve.connection import HEAD_SECONDS

    with connections(service, 20) as clients:
        for client in clients[::2]:
            client.sendall(b"POST /v1/pre")
        end = time.monotonic() + HEAD_SECONDS + 5
        for client in clients:
            client.settimeout(max(0.1, end - time.monotonic()))
            assert client.recv(100) == b""
