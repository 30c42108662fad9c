"""Where a server listens: TCP, its UDP twin for HTTP/3, and a unix socket."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from hawker.core.errors import Unavailable

SOCKET_PROBE = 0.5
# A free TCP port may be taken on UDP; then another one is tried.
PORT_ATTEMPTS = 8
# Clients that wait to be accepted, and those that are at a time.
BACKLOG = 1024
AT_ONCE = 16


@dataclass(frozen=True)
class Files:
    """A certificate chain and its private key, PEM."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Listen:
    """Where to listen; port 0 takes a free one. With `tls` the TCP side speaks TLS only; with
    `http3` HTTP/3 is spoken on UDP at the same port. Connections take at most a `share` of the
    process's descriptors; the rest is for files and for our own connections to others."""

    host: str
    port: int
    unix_socket: Path
    tls: ssl.SSLContext | None = None
    http3: Files | None = None
    share: float = 0.75


@dataclass(frozen=True)
class Bound:
    """Where a server listens: its URL on TCP, and its unix socket."""

    url: str
    port: int
    socket_path: Path


def bound(tcp: socket.socket, listen: Listen) -> Bound:
    """The addresses in use, once they are known."""
    port: int = tcp.getsockname()[1]
    host = f"[{listen.host}]" if ":" in listen.host else listen.host
    scheme = "http" if listen.tls is None else "https"
    return Bound(f"{scheme}://{host}:{port}", port, listen.unix_socket)


def bind(listen: Listen) -> tuple[socket.socket, socket.socket | None]:
    """The TCP socket and, for HTTP/3, the UDP one of the same port.

    Raises:
        Unavailable: the address is taken or cannot be bound.
    """
    for attempt in range(PORT_ATTEMPTS):
        tcp = _bind(listen.host, listen.port, socket.SOCK_STREAM)
        if listen.http3 is None:
            return tcp, None
        try:
            return tcp, _bind(listen.host, tcp.getsockname()[1], socket.SOCK_DGRAM)
        except Unavailable:
            tcp.close()
            if listen.port or attempt + 1 == PORT_ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def lengthen_queue(server: asyncio.Server) -> None:
    """Let more clients wait than are accepted at a time. asyncio has one number for both, and looks
    at none of those it accepts before it has that many: a flood takes every descriptor, whatever
    the limit of connections. Start the server with `AT_ONCE` as its backlog."""
    for listening in server.sockets:
        with listening.dup() as same:
            same.listen(BACKLOG)


def _bind(host: str, port: int, kind: socket.SocketKind) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named TCP, for asyncio sets TCP_NODELAY only on such: else each answer on a kept connection
    # waits 40 ms for the client's delayed acknowledgement.
    protocol = socket.IPPROTO_TCP if kind is socket.SOCK_STREAM else socket.IPPROTO_UDP
    sock = socket.socket(family, kind, protocol)
    try:
        if kind is socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OverflowError as exc:
        sock.close()
        raise Unavailable(
            f"cannot listen on {host}:{port}: no such port", hint="choose a --port up to 65535"
        ) from exc
    except OSError as exc:
        sock.close()
        where = f"{host}:{port}" if kind is socket.SOCK_STREAM else f"{host}:{port} (UDP)"
        hint = "choose another --port" if exc.errno == errno.EADDRINUSE else "check --host"
        raise Unavailable(f"cannot listen on {where}: {exc.strerror}", hint=hint) from exc
    return sock


async def bind_unix(path: Path) -> socket.socket:
    """A unix socket for this user only; one that nobody answers on any more is replaced.

    Raises:
        Unavailable: somebody answers there, or it cannot be bound.
    """
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
