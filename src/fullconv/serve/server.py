"""The life of a service: load, listen, respond until a signal, finish what was accepted, end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator
from types import FrameType

import uvicorn

from fullconv.errors import RunError
from fullconv.serve.app import Service, make_app
from fullconv.serve.connection import Connection
from fullconv.serve.middleware import RequestMiddleware
from fullconv.serve.monitoring import JsonLog, Metrics
from fullconv.serve.pool import Pool
from fullconv.serve.settings import Settings, check_models
from fullconv.system import handle_signals

STOP_DELAY_S = 0.5
"""Time after a signal in which new requests still get a response: an error."""
KEEP_ALIVE_S = 20
MAX_OPEN_FILES = 16_384


def run(settings: Settings) -> int:
    """Serve until a signal ends the service; returns the signal's number."""
    check_models(settings.models)
    raise_open_file_limit()
    listening = listen(settings.host, settings.port)
    log = JsonLog()
    try:
        return asyncio.run(_serve(settings, listening, log))
    finally:
        listening.close()
        log.close()


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket."""
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
        raise RunError(f"{host}:{port}: cannot listen ({reason}). Choose another --port or --host.") from error
    return listening


def raise_open_file_limit() -> None:
    """Raise the limit of open files, because each connection is one."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


async def _serve(settings: Settings, listening: socket.socket, log: JsonLog) -> int:
    metrics = Metrics()
    pools = {name: Pool(name, settings, metrics, log) for name in settings.models}
    try:
        for pool in pools.values():  # one after the other, because each may benchmark engines
            await pool.start()
        for pool in pools.values():
            pool.start_others()
        service = Service(settings, pools, metrics)
        app = RequestMiddleware(make_app(service), settings, metrics, log)
        config = uvicorn.Config(
            app, http=Connection, ws="none", lifespan="off", log_config=None, access_log=False, server_header=False,
            proxy_headers=False, timeout_keep_alive=KEEP_ALIVE_S, h11_max_incomplete_event_size=16_384,
            timeout_graceful_shutdown=5,
        )  # fmt: skip
        server = Server(config, service, app)
        host, port = listening.getsockname()[:2]
        address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        log.print(f"Serving {', '.join(pools)} at {address}. Ctrl-C stops.")
        log.write("serving", address=address, models=list(pools), token=settings.token is not None)
        await server.serve(sockets=[listening])
        log.write("stopped", signal=server.signal)
        return server.signal
    finally:
        await asyncio.gather(*(pool.stop() for pool in pools.values()))


class Server(uvicorn.Server):
    """uvicorn's server, which after a signal continues until every accepted request has its response."""

    def __init__(self, config: uvicorn.Config, service: Service, app: RequestMiddleware) -> None:
        super().__init__(config)
        self.service, self.app = service, app
        self.signal = 0
        self._stop_at = 0.0

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while the server runs."""
        with handle_signals(self.handle_exit, signal.SIGINT, signal.SIGTERM):
            yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; a second signal stops immediately."""
        if self.signal:
            self.should_exit = self.force_exit = True
            return
        self.signal = sig
        self.service.stopping = True

    async def on_tick(self, counter: int) -> bool:
        """Stop when every request has its response; by its time limit each has at least an error."""
        if self.signal and not self.should_exit:
            now = asyncio.get_running_loop().time()
            self._stop_at = self._stop_at or now + STOP_DELAY_S
            overdue = now > self._stop_at + self.service.settings.timeout + 5
            self.should_exit = now >= self._stop_at and (self.app.in_flight == 0 or overdue)
        return bool(await super().on_tick(counter))
