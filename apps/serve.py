"""Serving an ASGI app with hypercorn: the one module that knows the server.

HTTP/1.1 and HTTP/2 on TCP (with TLS by ALPN, else by prior knowledge) and on a unix socket.
hypercorn's own `serve` is not used: it does not tell the ports it bound, and on Python 3.12 and
later it never returns while a response is streaming. Its connections (`TCPServer`) are, nearly
unchanged.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Event, Updated
from hypercorn.utils import wrap_app

from hawker.core.errors import Unavailable

log = logging.getLogger(__name__)

BACKLOG = 1024
# Running answers may take this long to end when the server stops; then they are cut.
GRACE = 1.0
# A client that does not finish its handshake by then is cut.
HANDSHAKE = 10.0
CUT = 1.0
SOCKET_PROBE = 0.5


@dataclass(frozen=True)
class Listen:
    """Where to listen; port 0 takes a free one. With `tls` the TCP side speaks TLS only."""

    host: str
    port: int
    unix_socket: Path
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True)
class Bound:
    """Where a server listens: its URL on TCP, and its unix socket."""

    url: str
    port: int
    socket_path: Path


class _Connection(TCPServer):
    """Ends with its client. hypercorn's own starts the idle timer once more when the last stream of
    a lost connection ends, and then stays for the whole `keep_alive_timeout`."""

    async def protocol_send(self, event: Event) -> None:
        lost = self.reader.at_eof() or self.writer.is_closing()
        if lost and isinstance(event, Updated) and event.idle:
            await self.idle_task.stop()
        else:
            await super().protocol_send(event)


@contextlib.asynccontextmanager
async def serving(app: Any, listen: Listen) -> AsyncIterator[Bound]:
    """Serve while inside; the app's lifespan is the caller's business.

    Raises:
        Unavailable: an address is taken or cannot be bound.
    """
    config = _configuration()
    context = WorkerContext(None)
    wrapped = wrap_app(app, 0, "asgi")
    connections: set[asyncio.Task[Any]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            loop = asyncio.get_running_loop()
            await _Connection(wrapped, loop, config, context, {}, reader, writer)
        except asyncio.CancelledError:
            # Only our own shutdown cancels a connection, and it waits for the task's end.
            log.debug("a connection was cut at shutdown")
        except Exception:
            log.exception("a connection failed")
        finally:
            connections.discard(task)

    async with contextlib.AsyncExitStack() as stack:
        tcp = stack.enter_context(_bind_tcp(listen.host, listen.port))
        unix = stack.enter_context(await _bind_unix(listen.unix_socket))
        handshake = HANDSHAKE if listen.tls is not None else None
        servers = [
            await asyncio.start_server(
                connected,
                sock=tcp,
                backlog=BACKLOG,
                ssl=listen.tls,
                ssl_handshake_timeout=handshake,
            ),
            await asyncio.start_server(connected, sock=unix, backlog=BACKLOG),
        ]
        try:
            yield _bound(tcp, listen)
        finally:
            for server in servers:
                server.close()
            await context.terminated.set()
            await _end(connections)
            listen.unix_socket.unlink(missing_ok=True)


def _configuration() -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = None
    # The stock limit ends connections, and the streams on them, after 1 000 requests.
    config.keep_alive_max_requests = 2**31
    config.keep_alive_timeout = 60
    config.h2_max_concurrent_streams = 256
    config.include_server_header = False
    return config


def _bound(tcp: socket.socket, listen: Listen) -> Bound:
    port: int = tcp.getsockname()[1]
    host = f"[{listen.host}]" if ":" in listen.host else listen.host
    scheme = "http" if listen.tls is None else "https"
    return Bound(f"{scheme}://{host}:{port}", port, listen.unix_socket)


async def _end(connections: set[asyncio.Task[Any]]) -> None:
    """Let running answers end, then cut what is left."""
    if connections:
        await asyncio.wait(connections, timeout=GRACE)
    for task in list(connections):
        task.cancel()
    if connections:
        await asyncio.wait(connections, timeout=CUT)


def _bind_tcp(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named TCP, for asyncio sets TCP_NODELAY only on such: else each answer on a kept connection
    # waits 40 ms for the client's delayed acknowledgement.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OverflowError as exc:
        sock.close()
        raise Unavailable(
            f"cannot listen on {host}:{port}: no such port", hint="choose a --port up to 65535"
        ) from exc
    except OSError as exc:
        sock.close()
        hint = "choose another --port" if exc.errno == errno.EADDRINUSE else "check --host"
        raise Unavailable(f"cannot listen on {host}:{port}: {exc.strerror}", hint=hint) from exc
    return sock


async def _bind_unix(path: Path) -> socket.socket:
    """A unix socket for this user only; one that nobody answers on any more is replaced."""
    if await _answers(path):
        raise Unavailable(f"another process listens on {path}", hint="choose another --data")
    return _replace_socket(path)


def _replace_socket(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            path.unlink()
        previous = os.umask(0o177)
        try:
            sock.bind(str(path))
        finally:
            os.umask(previous)
    except OSError as exc:
        sock.close()
        reason = exc.strerror or str(exc)
        raise Unavailable(
            f"cannot listen on {path}: {reason}", hint="set listen.unix_socket to a shorter path"
        ) from exc
    return sock


async def _answers(path: Path) -> bool:
    try:
        async with asyncio.timeout(SOCKET_PROBE):
            _, writer = await asyncio.open_unix_connection(str(path))
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
