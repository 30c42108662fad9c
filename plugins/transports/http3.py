"""The `http3` transport: QUIC, for links where packets get lost and UDP passes.

On aioquic, whose cost for each byte is some twenty times that of a kernel's TCP: it pays where TCP
cannot fill a lossy or long link, never on a local network.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, ErrorCode, H3Connection
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, QuicEvent, StreamReset

from hawker.core.contracts import PieceRequest, Sink, Transport
from hawker.core.errors import Stalled, Unavailable
from hawker.core.settings import Settings, TlsSettings
from hawker.pluggy_specs import hookimpl
from hawker.plugins.transports.answers import (
    CHUNK,
    MAX_PROBLEM,
    Address,
    Body,
    address_of,
    in_thread,
    refusal,
)

CONNECT_TIMEOUT = 2.0
WINDOW = 4 * 1024 * 1024
IDLE_SECONDS = 30.0

_Item = H3Event | Unavailable


class _Connection(QuicConnectionProtocol):
    """One parent; each request has a queue of what comes for it."""

    def __init__(self, quic: QuicConnection) -> None:
        super().__init__(quic)
        self.failure: Unavailable | None = None
        self._terminated = False
        self._heard_at = time.monotonic()
        self._http = H3Connection(quic)
        self._queues: dict[int, asyncio.Queue[_Item]] = {}

    def quic_event_received(self, event: QuicEvent) -> None:
        match event:
            case ConnectionTerminated():
                self._terminated = True
                reason = event.reason_phrase or f"error {event.error_code}"
                self.failure = Unavailable(f"the connection ended: {reason}")
                for queue in self._queues.values():
                    queue.put_nowait(self.failure)
            case StreamReset(stream_id=number) if number in self._queues:
                self._queues[number].put_nowait(
                    Unavailable(f"it broke the answer off (error {event.error_code})")
                )
        for item in self._http.handle_event(event):
            if isinstance(item, HeadersReceived | DataReceived) and item.stream_id in self._queues:
                self._queues[item.stream_id].put_nowait(item)

    def datagram_received(self, data: bytes | str, addr: Any) -> None:
        self._heard_at = time.monotonic()
        super().datagram_received(data, addr)

    def doubt(self, seconds: float) -> None:
        """A stream stalled: use the connection no more where nothing at all came for so long."""
        if time.monotonic() - self._heard_at >= seconds:
            self.failure = self.failure or Unavailable("the connection fell silent")

    def ask(self, headers: Mapping[str, str]) -> tuple[int, asyncio.Queue[_Item]]:
        """Send a request; its number, and where its answer comes."""
        number = self._quic.get_next_available_stream_id()
        queue = self._queues[number] = asyncio.Queue()
        fields = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        self._http.send_headers(number, fields, end_stream=True)
        self.transmit()
        return number, queue

    def forget(self, number: int, *, ended: bool) -> None:
        """This answer is over, or not wanted any more."""
        self._queues.pop(number, None)
        if not ended and not self._terminated:
            self._quic.stop_stream(number, ErrorCode.H3_REQUEST_CANCELLED)
            self.transmit()

    def leave(self) -> None:
        """Say goodbye and give the socket back."""
        self.close(ErrorCode.H3_NO_ERROR)
        if self._timer is not None:
            # aioquic would wait for the end of its draining on a socket that is closed.
            self._timer.cancel()
        if self._transport is not None:
            self._transport.close()


class Http3Transport:
    """See the module."""

    def __init__(self, tls: TlsSettings) -> None:
        self._tls = tls
        self._connections: dict[Address, _Connection] = {}
        self._connecting: dict[Address, asyncio.Lock] = {}

    async def fetch(self, request: PieceRequest, sink: Sink) -> None:
        address = address_of(request.base_url)
        parts = urlsplit(request.base_url)
        connection = await self._connect(address)
        number, queue = connection.ask(
            {
                ":method": "GET",
                ":scheme": "https",
                ":authority": parts.netloc,
                ":path": parts.path + request.path,
                "accept-encoding": ", ".join(request.codecs) or "identity",
                **{name.lower(): value for name, value in request.headers.items()},
            }
        )
        answer = _Answer(queue, request.stall)
        try:
            await answer.receive(request, sink, parts.netloc)
        except TimeoutError as exc:
            connection.doubt(request.stall)
            raise Stalled(f"{parts.netloc} stalled for {request.stall:g} s") from exc
        finally:
            connection.forget(number, ended=answer.ended)

    async def close(self) -> None:
        connections = list(self._connections.values())
        self._connections.clear()
        for connection in connections:
            connection.leave()

    async def _connect(self, address: Address) -> _Connection:
        async with self._connecting.setdefault(address, asyncio.Lock()):
            known = self._connections.get(address)
            if known is not None and known.failure is None:
                return known
            if known is not None:
                del self._connections[address]
                known.leave()
            connection = await _open(address, self._tls)
            self._connections[address] = connection
            return connection


async def _open(address: Address, tls: TlsSettings) -> _Connection:
    if not address.secure:
        raise Unavailable(f"{address.host}:{address.port} has no TLS, which HTTP/3 needs")
    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=H3_ALPN,
        server_name=address.host,
        idle_timeout=IDLE_SECONDS,
        max_data=4 * WINDOW,
        max_stream_data=WINDOW,
    )
    if tls.ca:
        await asyncio.to_thread(configuration.load_verify_locations, tls.ca)
    loop = asyncio.get_running_loop()
    where = f"{address.host}:{address.port}"
    failure: Any = None
    try:
        found = await loop.getaddrinfo(address.host, address.port, type=2)
        family, _, _, _, target = found[0]
        transport, connection = await loop.create_datagram_endpoint(
            lambda: _Connection(QuicConnection(configuration=configuration)), family=family
        )
    except OSError as exc:
        raise Unavailable(f"{where} cannot be reached: {exc}") from exc
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            connection.connect(target)
            await connection.wait_connected()
    except (ConnectionError, TimeoutError) as exc:
        failure = connection.failure or exc or "no answer"
    finally:
        if not connection._connected:
            connection.leave()
            transport.close()
    if failure is not None:
        raise Unavailable(f"{where} cannot be reached over QUIC: {failure}")
    return connection


class _Answer:
    """What comes for one request."""

    def __init__(self, queue: asyncio.Queue[_Item], stall: float) -> None:
        self.ended = False
        self._queue = queue
        self._stall = stall

    async def receive(self, request: PieceRequest, sink: Sink, host: str) -> None:
        """All of it into the sink; raises TimeoutError after a stall."""
        status, headers = 0, {}
        while status < 200:
            item = await self._next()
            if isinstance(item, HeadersReceived):
                headers = {n.decode("latin-1"): v.decode("latin-1") for n, v in item.headers}
                told = headers.get(":status", "")
                status = int(told) if told.isdecimal() else 599
        async with contextlib.aclosing(self._parts()) as parts:
            if status != 200:
                problem = b""
                async for part in parts:
                    problem += part
                    if len(problem) > MAX_PROBLEM:
                        break
                raise refusal(status, problem, host)
            body = Body(request, sink, host, headers)
            async for part in parts:
                await in_thread(partial(body.take, part))
            body.end()

    async def _next(self) -> H3Event:
        async with asyncio.timeout(self._stall):
            item = await self._queue.get()
        if isinstance(item, Unavailable):
            self.ended = True
            raise item
        self.ended = getattr(item, "stream_ended", False)
        return item

    async def _parts(self) -> AsyncGenerator[bytes, None]:
        """The body in parts of about `CHUNK` bytes."""
        waiting: list[bytes] = []
        size = 0
        while not self.ended:
            item = await self._next()
            if isinstance(item, DataReceived):
                waiting.append(item.data)
                size += len(item.data)
            if size >= CHUNK:
                yield b"".join(waiting)
                waiting, size = [], 0
        if waiting:
            yield b"".join(waiting)


@hookimpl
def hawker_transport(name: str, settings: Settings) -> Transport:
    return Http3Transport(settings.tls)
