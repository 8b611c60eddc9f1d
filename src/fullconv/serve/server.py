"""The life of a service: load, listen, answer until a signal comes, answer what was accepted, end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from types import FrameType

import uvicorn

from fullconv.errors import RunError
from fullconv.serve.app import Service, make_app
from fullconv.serve.connection import Connection
from fullconv.serve.logging import Journal
from fullconv.serve.metrics import Measures
from fullconv.serve.middleware import Gate
from fullconv.serve.pool import Pool
from fullconv.serve.settings import Settings, check_models

LAST_CALL = 0.5
"""Seconds after a signal in which new requests are still taken, to be refused in words."""
KEEP_ALIVE = 20
FILES_WANTED = 16_384


def run(settings: Settings) -> int:
    """Serve until a signal ends it; returns the signal's number.

    Raises:
        FullconvError: A model cannot be loaded, or the address cannot be used.
    """
    check_models(settings.models)
    allow_many_files()
    listening = listen(settings.host, settings.port)
    journal = Journal()
    try:
        return asyncio.run(_serve(settings, listening, journal))
    finally:
        listening.close()
        journal.close()


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        RunError: The address is not this machine's, or taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(2048)
        except BaseException:
            listening.close()
            raise
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RunError(f"{host}:{port} cannot be listened on ({reason}). Choose another --port or --host.") from error
    return listening


def allow_many_files() -> None:
    """Raise the number of open files, as each connection is one."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, FILES_WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def address_of(listening: socket.socket) -> str:
    """Return the address that a browser understands."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _serve(settings: Settings, listening: socket.socket, journal: Journal) -> int:
    measures = Measures()
    pools = {name: Pool(name, settings, measures, journal) for name in settings.models}
    try:
        for pool in pools.values():  # one after the other: each may try engines, and measures them
            await pool.start()
        for pool in pools.values():
            pool.complete()
        service = Service(settings, pools, measures)
        gate = Gate(make_app(service), settings, measures, journal)
        config = uvicorn.Config(
            gate, http=Connection, ws="none", lifespan="off", log_config=None, access_log=False, server_header=False,
            proxy_headers=False, timeout_keep_alive=KEEP_ALIVE, h11_max_incomplete_event_size=16_384,
            timeout_graceful_shutdown=5,
        )  # fmt: skip
        server = Server(config, service, gate)
        journal.say(f"Serving {', '.join(pools)} at {address_of(listening)}. Ctrl-C stops.")
        journal.write("serving", address=address_of(listening), models=list(pools), token=settings.token is not None)
        await server.serve(sockets=[listening])
        journal.write("stopped", signal=server.signal)
        return server.signal
    finally:
        await asyncio.gather(*(pool.stop() for pool in pools.values()))


class Server(uvicorn.Server):
    """uvicorn's server, which on a signal goes on until all that it has accepted is answered.

    Args:
        config: Of uvicorn.
        service: Told to refuse new pictures.
        gate: Knows what is not answered yet.
    """

    def __init__(self, config: uvicorn.Config, service: Service, gate: Gate) -> None:
        super().__init__(config)
        self.service, self.gate = service, gate
        self.signal = 0
        self._last_call = 0.0

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take signals while the server runs."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; a second signal stops at once."""
        if self.signal:
            self.should_exit = self.force_exit = True
            return
        self.signal = sig
        self.service.stopping = True

    async def on_tick(self, counter: int) -> bool:
        """Stop once all is answered; what takes longer than the time limit has its refusal by then."""
        if self.signal and not self.should_exit:
            now = asyncio.get_running_loop().time()
            self._last_call = self._last_call or now + LAST_CALL
            late = now > self._last_call + self.service.settings.timeout + 5
            self.should_exit = now >= self._last_call and (self.gate.in_flight == 0 or late)
        return bool(await super().on_tick(counter))
