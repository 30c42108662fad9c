"""A TCP connection: hypercorn's `TCPServer` with our protocols, and bounds on slow clients."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import termios
from collections.abc import Iterator, Mapping
from typing import Any

from cryptography import x509
from hypercorn.asyncio.tcp_server import MAX_RECV, TCPServer
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H2ProtocolAssumedError
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr

from hawker.apps.serve.departure import departed, queued
from hawker.apps.serve.http1 import Aborted, Http1
from hawker.apps.serve.http2 import Http2
from hawker.apps.serve.requests import AppTasks
from hawker.apps.web.access import LOCAL
from hawker.apps.web.departure import DEPARTED

# A new connection must show its first request by then.
FIRST_REQUEST = 10.0
# A client that takes nothing of what is sent for so long is not there any more.
STALL = 60.0
# An answer that did not wait for its request's body: so much of that is read and thrown away before
# the connection is closed, for closing it at once may destroy the answer on its way.
LINGER_BYTES = 8 * 1024 * 1024
LINGER_SECONDS = 2.0
PART = 64 * 1024
TLS_VERSIONS = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}


class _Protocols:
    """The protocol that a connection speaks; cleartext HTTP/2 shows itself by its preface."""

    def __init__(self, alpn: str | None, *arguments: Any) -> None:
        self._arguments = arguments
        self.protocol: Http1 | Http2 = (Http2 if alpn == "h2" else Http1)(*arguments)

    async def initiate(self) -> None:
        await self.protocol.initiate()

    async def handle(self, event: Event) -> None:
        try:
            await self.protocol.handle(event)
        except H2ProtocolAssumedError as preface:
            self.protocol = Http2(*self._arguments)
            await self.protocol.initiate()
            await self.protocol.handle(RawData(preface.data))


class Connection(TCPServer):
    """One client on TCP or the unix socket; awaited until it is over."""

    protocol: Any

    async def run(self) -> None:
        """As hypercorn's own, with our protocols and apps."""
        self._lingering = False
        self._timer: asyncio.TimerHandle | None = None
        self._close_in(FIRST_REQUEST)
        sock = self.writer.get_extra_info("socket")
        tls: ssl.SSLObject | None = self.writer.get_extra_info("ssl_object")
        try:
            client = parse_socket_addr(sock.family, sock.getpeername())
            server = parse_socket_addr(sock.family, sock.getsockname())
            extensions: dict[str, Any] = {} if tls is None else {"tls": _described(tls)}
            if sock.family == socket.AF_UNIX:
                extensions[LOCAL] = {}
            else:
                extensions[DEPARTED] = {"wait": self._departed}
            alpn = None if tls is None else tls.selected_alpn_protocol()
            async with AppTasks(self.loop, extensions) as tasks:
                self.protocol = _Protocols(
                    alpn,
                    *(self.app, self.config, self.context, tasks, ConnectionState(self.state)),
                    *(tls is not None, client, server, self.protocol_send),
                )
                await self.protocol.initiate()
                await self._read_data()
        except OSError:
            pass
        finally:
            self._stop_timer()
            # A client need not answer the end of TLS, and is no fault of ours then.
            with contextlib.suppress(TimeoutError):
                await self._close()

    async def say_goodbye(self) -> None:
        """The server stops: no client may open more streams, and whoever has none is let go."""
        protocol = getattr(self, "protocol", None)
        if protocol is not None and isinstance(protocol.protocol, Http2):
            await protocol.protocol.say_goodbye()
        if self._timer is not None:
            self.writer.close()

    # ------------------------------------------------------------------ reading

    async def _read_data(self) -> None:
        thrown_away = 0
        while not self.reader.at_eof():
            try:
                data = await self.reader.read(MAX_RECV)
            except OSError:
                break
            if self._lingering:
                thrown_away += len(data)
                if thrown_away > LINGER_BYTES:
                    break
            else:
                await self.protocol.handle(RawData(data))
        await self.protocol.handle(Closed())

    def _close_in(self, seconds: float) -> None:
        """Close in so many seconds, unless a request comes. hypercorn has a task for that, and
        starts it again while the connection is being closed."""
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self.writer.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ------------------------------------------------------------------ writing

    async def protocol_send(self, event: Event) -> None:
        match event:
            case RawData():
                await self._write(event.data)
            case Aborted():
                self._reset()
            case Closed() if self._is_unread():
                await self._linger()
            case Updated(idle=True) if self.context.terminated.is_set():
                self.writer.close()
            case Updated(idle=True):
                self._close_in(self.config.keep_alive_timeout)
            case Updated(idle=False):
                self._stop_timer()
            case _:
                await super().protocol_send(event)

    async def _write(self, data: bytes) -> None:
        if not data:
            # The end of an answer that had a length.
            return
        async with self.send_lock:
            if self.writer.is_closing():
                return
            try:
                for part in self._parts(data):
                    self.writer.write(part)
                    await self._drain()
            except (OSError, RuntimeError):
                await self.protocol.handle(Closed())

    def _parts(self, data: bytes) -> Iterator[bytes | memoryview]:
        """TLS encrypts at once what it is given, and keeps all of it for a client that is slow."""
        if self.writer.get_extra_info("ssl_object") is None:
            yield data
            return
        view = memoryview(data)
        for start in range(0, len(view), PART):
            yield view[start : start + PART]

    async def _drain(self) -> None:
        """Raises ConnectionResetError where the client takes nothing for `STALL` seconds."""
        if not self.writer.transport.get_write_buffer_size() and not self.writer.is_closing():
            # The kernel has all of it: there is nothing to wait for.
            return
        left = 0
        while True:
            try:
                async with asyncio.timeout(STALL):
                    await self.writer.drain()
                return
            except TimeoutError:
                now = self._unsent()
                if left and now >= left:
                    self._reset()
                    raise ConnectionResetError("the client takes nothing") from None
                left = now

    async def _departed(self) -> None:
        """Until what was written has left; other streams of HTTP/2 would be waited for, too."""
        if isinstance(self.protocol.protocol, Http1) and not self.writer.is_closing():
            await departed(self.writer.get_extra_info("socket"))

    def _unsent(self) -> int:
        """Bytes that the client has not acknowledged. The kernel's are counted, too: it takes more
        only once a third of its own, which may be megabytes, have gone."""
        sock = self.writer.get_extra_info("socket")
        return self.writer.transport.get_write_buffer_size() + queued(sock, termios.TIOCOUTQ)

    def _reset(self) -> None:
        """End by a reset: closed otherwise, what was sent would look complete."""
        sock = self.writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def _is_unread(self) -> bool:
        protocol = self.protocol.protocol
        return isinstance(protocol, Http1) and protocol.unread and not self.reader.at_eof()

    async def _linger(self) -> None:
        """End our side; the reading goes on for a while, and forgets."""
        self._lingering = True
        with contextlib.suppress(NotImplementedError, OSError, RuntimeError):
            self.writer.write_eof()
        self._close_in(LINGER_SECONDS)


def _described(tls: ssl.SSLObject) -> Mapping[str, Any]:
    """The `tls` extension of ASGI 3: what the client showed."""
    der = tls.getpeercert(binary_form=True)
    chain, name = [], None
    if der:
        chain = [ssl.DER_cert_to_PEM_cert(der)]
        name = x509.load_der_x509_certificate(der).subject.rfc4514_string()
    return {
        "server_cert": None,
        "client_cert_chain": chain,
        "client_cert_name": name,
        "client_cert_error": None,
        "tls_version": TLS_VERSIONS.get(tls.version() or ""),
        "cipher_suite": None,
    }
