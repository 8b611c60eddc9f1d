"""Block connections to the outside, in the process of the tests and, by PYTHONPATH, in every Python that they start.

Each attempt is refused and logged in the file $FULLCONV_TEST_SOCKETS; tests/conftest.py then fails the test.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from contextlib import suppress
from typing import Any

_OWN_NAMES = {"", "localhost", "localhost.localdomain", "ip6-localhost", "testserver"}


def _own_addresses() -> set[str]:
    """Return the addresses of this machine, which processes of Ray and torchrun use."""
    found = set()
    with suppress(OSError):
        _OWN_NAMES.add(socket.gethostname())
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(socket.gethostname(), None)}
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # a datagram socket's connect sends nothing
        found.add(probe.getsockname()[0])
    return found


def _inside(host: Any) -> bool:
    name = host.decode(errors="replace") if isinstance(host, bytes) else str(host or "")
    if name in _OWN_NAMES or name in _OWN_ADDRESSES:
        return True
    try:
        address = ipaddress.ip_address(name.split("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _outside(event: str, arguments: tuple[Any, ...]) -> str | None:
    """Return the address of a call to the outside, or None."""
    if event == "socket.getaddrinfo":
        host = arguments[0]
        with suppress(ValueError):  # an address needs no lookup
            ipaddress.ip_address(str(host).split("%")[0])
            return None
        return None if _inside(host) else str(host)
    if event not in ("socket.connect", "socket.sendto"):
        return None
    kind, address = arguments
    if not isinstance(address, tuple) or kind.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    silent = event == "socket.connect" and kind.type & 0xF == socket.SOCK_DGRAM  # Ray finds its own address so
    return None if silent or _inside(address[0]) else f"{address[0]}:{address[1]}"


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event.startswith("socket.") and (where := _outside(event, arguments)) is not None:
        if log := os.environ.get("FULLCONV_TEST_SOCKETS"):
            with open(log, "a", encoding="utf-8") as file:  # noqa: PTH123
                file.write(f"{event} {where} by {' '.join(sys.argv[:4])}\n")
        raise ConnectionRefusedError(f"tests must not connect to the outside: {where}")


_OWN_ADDRESSES = _own_addresses()
sys.addaudithook(_hook)
