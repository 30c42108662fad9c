"""Serving an ASGI app: HTTP/1.1 and HTTP/2 on TCP and a unix socket, HTTP/3 on UDP.

hypercorn's own `serve` is not used: it does not tell the ports it bound, and on Python 3.12 and
later it never returns while a response is streaming.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import time
from collections.abc import AsyncIterator
from typing import Any

from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.utils import wrap_app

from hawker.apps.serve.connection import Connection
from hawker.apps.serve.listeners import (
    AT_ONCE,
    Bound,
    Listen,
    bind,
    bind_unix,
    bound,
    lengthen_queue,
)

log = logging.getLogger(__name__)

# Running answers may take this long to end when the server stops; then they are cut.
GRACE = 5.0
# A client that does not finish its handshake by then is cut.
HANDSHAKE = 10.0
CUT = 1.0
# A client need not answer the end of TLS, and many that are idle do not.
FAREWELL = 0.5


@contextlib.asynccontextmanager
async def serving(app: Any, listen: Listen) -> AsyncIterator[Bound]:
    """Serve while inside; the app's lifespan is the caller's business.

    Raises:
        Unavailable: an address is taken or cannot be bound.
    """
    context = WorkerContext(None)
    wrapped = wrap_app(app, 0, "asgi")
    async with contextlib.AsyncExitStack() as stack:
        tcp, udp = bind(listen)
        stack.enter_context(tcp)
        where = bound(tcp, listen)
        config = configuration(where.port if udp is not None else None)
        if udp is not None:
            await stack.enter_async_context(_http3(wrapped, config, context, listen, udp))
        unix = stack.enter_context(await bind_unix(listen.unix_socket))
        clients = _Clients(wrapped, config, context, listen.share)
        servers = [
            await asyncio.start_server(
                clients.connected,
                sock=tcp,
                backlog=AT_ONCE,
                ssl=listen.tls,
                ssl_handshake_timeout=None if listen.tls is None else HANDSHAKE,
                ssl_shutdown_timeout=None if listen.tls is None else FAREWELL,
            ),
            await asyncio.start_server(clients.connected, sock=unix, backlog=AT_ONCE),
        ]
        for server in servers:
            lengthen_queue(server)
        try:
            yield where
        finally:
            for server in servers:
                server.close()
            await context.terminated.set()
            await clients.end()
            listen.unix_socket.unlink(missing_ok=True)


class _Config(Config):
    """hypercorn's; the fields that every answer has are made once a second."""

    _made: tuple[int, list[tuple[bytes, bytes]]] = (0, [])

    def response_headers(self, protocol: str) -> list[tuple[bytes, bytes]]:
        now = int(time.time())
        if self._made[0] != now:
            self._made = now, super().response_headers(protocol)
        return self._made[1]


class _Clients:
    """The connections there are; each is a task that `end` waits for."""

    def __init__(self, app: Any, config: Config, context: WorkerContext, share: float) -> None:
        self._app = app
        self._config = config
        self._context = context
        self._connections: dict[asyncio.Task[Any], Connection] = {}
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._limit = max(64, int(soft * share))

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client until it is gone."""
        if len(self._connections) >= self._limit:
            log.warning("a connection was refused: %d are open", len(self._connections))
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        connection = Connection(self._app, loop, self._config, self._context, {}, reader, writer)
        self._connections[task] = connection
        try:
            await connection
        except asyncio.CancelledError:
            # Only our own shutdown cancels a connection, and it waits for the task's end.
            log.debug("a connection was cut at shutdown")
        except Exception:
            log.exception("a connection failed")
        finally:
            del self._connections[task]

    async def end(self) -> None:
        """Tell clients to go, let running answers end, then cut what is left."""
        for connection in list(self._connections.values()):
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(CUT):
                    await connection.say_goodbye()
        if self._connections:
            await asyncio.wait(self._connections, timeout=GRACE)
        for task in list(self._connections):
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections, timeout=CUT)


@contextlib.asynccontextmanager
async def _http3(
    app: Any, config: Config, context: WorkerContext, listen: Listen, udp: Any
) -> AsyncIterator[None]:
    # Loaded where it is asked for: aioquic is an extra.
    from hawker.apps.serve.http3 import Http3Server

    assert listen.http3 is not None
    with udp:
        async with Http3Server(app, config, context).running(udp, listen.http3, GRACE):
            yield


def configuration(http3: int | None) -> Config:
    """hypercorn's limits; the port of HTTP/3 is told to those who come by TCP."""
    config = _Config()
    config.accesslog = None
    config.errorlog = None
    # The stock limit ends connections, and the streams on them, after 1 000 requests.
    config.keep_alive_max_requests = 2**31
    config.keep_alive_timeout = 60
    config.h2_max_concurrent_streams = 256
    config.include_server_header = False
    if http3 is not None:
        config.alt_svc_headers = [f'h3=":{http3}"; ma=3600']
    return config
