"""Slow, silent, broken and hostile clients: a good request gets its response in time throughout."""

from __future__ import annotations

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
from PIL import Image
from serving import RunningService, bomb, draw_image, png

from synthetic.images import chunk, encode

IMAGE = png(draw_image())
MAX_SECONDS = 2.0
POST = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"


class Probe:
    """A thread that sends good requests, and measures how long they take."""

    def __init__(self, service: RunningService) -> None:
        self.address = service.address
        self.expected = service.client.post("/v1/predict", content=IMAGE).content
        self.seconds: list[float] = []
        self.wrong: list[str] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._end.is_set():
            start = time.monotonic()
            try:
                answer = httpx.post(f"{self.address}/v1/predict", content=IMAGE, timeout=30)
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
        while len(self.seconds) < 3 and time.monotonic() < deadline:  # the attack was short
            time.sleep(0.01)
        self._end.set()
        self._thread.join(60)
        assert self.wrong == []
        assert len(self.seconds) >= 3
        assert max(self.seconds) < MAX_SECONDS, sorted(self.seconds)[-5:]


@contextmanager
def connections(service: RunningService, count: int) -> Iterator[list[socket.socket]]:
    found: list[socket.socket] = []
    try:
        for _ in range(count):
            found.append(socket.create_connection(("127.0.0.1", service.port), 20))
        yield found
    finally:
        for one in found:
            one.close()


def silence(service: RunningService, count: int, seconds: float) -> None:
    with connections(service, count):
        time.sleep(seconds)


def trickle(service: RunningService, count: int, seconds: float) -> None:
    """Headers and bodies byte by byte."""
    with connections(service, count) as clients:
        end, place = time.monotonic() + seconds, 0
        request = POST + b"Content-Length: 100000\r\n\r\n" + IMAGE
        for client in clients[::2]:
            client.sendall(request[:200])
        while time.monotonic() < end:
            for number, client in enumerate(clients):
                with suppress(OSError):  # the service may have closed it
                    client.sendall(request[place : place + 1] if number % 2 else b"x")
            place += 1
            time.sleep(0.05)


def half_closed(service: RunningService, count: int, seconds: float) -> None:
    """Clients that close in the middle of a request, and clients that reset before the response."""
    whole = POST + f"Content-Length: {len(IMAGE)}\r\n\r\n".encode() + IMAGE
    for number in range(count):
        with socket.create_connection(("127.0.0.1", service.port), 20) as client:
            with suppress(OSError):
                client.sendall(whole if number % 3 == 2 else whole[: 100 + 50 * (number % 3)])
                client.shutdown(socket.SHUT_WR)
            if number % 3 == 2:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset
        time.sleep(seconds / count)


def never_reading(service: RunningService, count: int, seconds: float) -> None:
    """Clients that request much and read nothing."""
    body = png(np.zeros((400, 600, 3), np.uint8))
    request = POST.replace(b"predict", b"predict?answer=npz") + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
    with connections(service, count) as clients:
        for client in clients:
            client.sendall(request)
        time.sleep(seconds)


def heavy(service: RunningService, count: int, seconds: float) -> None:
    """Bodies of a gigabyte, with and without a length."""
    for number in range(count):
        with socket.create_connection(("127.0.0.1", service.port), 20) as client, suppress(OSError):
            has_length = number % 2 == 0
            client.sendall(
                POST + (b"Content-Length: 1000000000\r\n\r\n" if has_length else b"Transfer-Encoding: chunked\r\n\r\n")
            )
            block, end = bytes(2**20), time.monotonic() + seconds
            for _ in range(1000):
                client.sendall(block if has_length else b"100000\r\n" + block + b"\r\n")
                if time.monotonic() > end:
                    break


def bombs(service: RunningService, count: int, seconds: float) -> None:
    """Small files that state a large size, or decode to one."""
    big = encode(Image.fromarray(np.zeros((10_001, 10_000), np.uint8)), compress_level=1)
    fax = encode(Image.new("1", (11_000, 11_000)), "TIFF", compression="group4")
    thin = [png(np.zeros(size, np.uint8)) for size in ((1, 1, 3), (1, 100_000, 3), (100_000, 1, 3))]
    packed = zlib.compress(bytes(10**8))  # 97 kB
    stuffed = [IMAGE[:33] + chunk(kind, b"a\0\0" + packed) + IMAGE[33:] for kind in (b"zTXt", b"iCCP")]
    bodies = [big, fax, bomb(2**31 - 1, 2**31 - 1), bomb(10**6, 150), bomb(0, 0), *stuffed, *thin]
    expected = {413, 422, 200}
    for number in range(count):
        answer = httpx.post(f"{service.address}/v1/predict", content=bodies[number % len(bodies)], timeout=60)
        assert answer.status_code in expected, answer.text
        time.sleep(seconds / count)


def fuzz(service: RunningService, count: int, seconds: float) -> None:
    """Invalid headers."""
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


ATTACKS: list[tuple[Callable[[RunningService, int, float], None], int, int]] = [
    (silence, 40, 500), (trickle, 10, 100), (half_closed, 12, 200), (never_reading, 4, 12), (heavy, 2, 8), (bombs, 10, 70),
    (fuzz, 40, 600),
]  # fmt: skip
"""With the number of repetitions in the short and in the long version."""


@pytest.mark.parametrize("seconds", [1.0, pytest.param(20.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("attack", "short", "long"), ATTACKS, ids=[attack.__name__ for attack, _, _ in ATTACKS])
def test_a_good_request_gets_its_response_in_time_during_an_attack(service, attack, short, long, seconds):
    with Probe(service):
        attack(service, short if seconds == 1 else long, seconds)
    assert service.client.get("/readyz").status_code == 200
    assert "Traceback" not in service.text
    assert service.metric("fullconv_copy_restarts_total") == 0


@pytest.mark.slow
def test_clients_without_complete_headers_are_disconnected(service):
    from fullconv.serve.connection import HEADER_TIMEOUT_S

    with connections(service, 20) as clients:
        for client in clients[::2]:
            client.sendall(b"POST /v1/pre")
        end = time.monotonic() + HEADER_TIMEOUT_S + 5
        for client in clients:
            client.settimeout(max(0.1, end - time.monotonic()))
            assert client.recv(100) == b""
