"""The `http2` transport: all requests to a parent share one connection.

A client of its own on h2: the general one never tells a server that an answer is not wanted any
more, so that a transfer that was given up would hold a parent's upload slot; and its windows and
frames, which cannot be set, cost several times the time for each byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import urlsplit

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.exceptions import H2Error
from h2.settings import SettingCodes
from h2.settings import Settings as H2Settings

from hawker.core.contracts import PieceRequest, Sink, Transport
from hawker.core.errors import Stalled, Unavailable
from hawker.core.settings import Settings, TlsSettings
from hawker.core.tls import ClientTls
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

CONNECT_TIMEOUT = 1.0
READ = 256 * 1024
FRAME = 256 * 1024
WINDOW = 4 * 1024 * 1024
CONNECTION_WINDOW = 64 * 1024 * 1024
IDLE_SECONDS = 30.0


@dataclass
class _Stream:
    """One answer: its head, and the parts of its body that nobody took yet."""

    number: int
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    parts: deque[tuple[bytes, int]] = field(default_factory=deque)
    ended: bool = False
    failure: str = ""
    # How many events came of it.
    seen: int = 0


class _Connection:
    """Read by whoever waits: one at a time reads for all, and no task stays behind."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.used_at = self._heard_at = time.monotonic()
        self.failure = ""
        self._reader, self._writer = reader, writer
        self._http = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self._http.local_settings = H2Settings(
            client=True,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.INITIAL_WINDOW_SIZE: WINDOW,
                SettingCodes.MAX_FRAME_SIZE: FRAME,
            },
        )
        self._http.max_inbound_frame_size = FRAME
        self._http.initiate_connection()
        self._http.increment_flow_control_window(CONNECTION_WINDOW)
        self._flush()
        self._streams: dict[int, _Stream] = {}
        self._reading = asyncio.Lock()

    @property
    def usable(self) -> bool:
        """Another request may be sent on it."""
        idle = time.monotonic() - self.used_at > IDLE_SECONDS and not self._streams
        return not (self.failure or self._reader.at_eof() or idle)

    def ask(self, request: PieceRequest, host: str, path: str, *, secure: bool) -> _Stream:
        """Send a request; raises Unavailable where the connection takes no more."""
        fields = [
            (":method", "GET"),
            (":scheme", "https" if secure else "http"),
            (":authority", host),
            (":path", path),
            ("accept-encoding", ", ".join(request.codecs) or "identity"),
            *((name.lower(), value) for name, value in request.headers.items()),
        ]
        try:
            number = self._http.get_next_available_stream_id()
            self._http.send_headers(number, fields, end_stream=True)
        except H2Error as exc:
            self.failure = self.failure or str(exc)
            raise Unavailable(f"{host} takes no more requests: {exc}") from exc
        stream = self._streams[number] = _Stream(number)
        self._flush()
        return stream

    async def answered(self, stream: _Stream) -> None:
        """Until the head of an answer is here; raises Unavailable where none comes."""
        while not (stream.status or stream.failure or self.failure):
            await self._advance(stream)
        if not stream.status:
            raise Unavailable(stream.failure or self.failure)

    async def part(self, stream: _Stream) -> bytes:
        """The next part of a body, empty at its end; gives room for more."""
        while not (stream.parts or stream.ended or stream.failure or self.failure):
            await self._advance(stream)
        if not stream.parts:
            if not stream.ended:
                raise Unavailable(stream.failure or self.failure)
            return b""
        data, size = stream.parts.popleft()
        with contextlib.suppress(H2Error):
            self._http.acknowledge_received_data(size, stream.number)
            self._flush()
        return data

    async def _advance(self, stream: _Stream) -> None:
        """Read once, or wait for whoever is reading."""
        seen = stream.seen
        async with self._reading:
            if stream.seen == seen and not self.failure:
                await self._read()

    async def _read(self) -> None:
        try:
            data = await self._reader.read(READ)
            if not data:
                self.failure = "the connection ended"
                return
            self._heard_at = time.monotonic()
            for event in self._http.receive_data(data):
                self._take(event)
            self._flush()
        except (OSError, H2Error) as exc:
            self.failure = str(exc) or type(exc).__name__

    def _take(self, event: Event) -> None:
        if isinstance(event, ConnectionTerminated):
            self.failure = "it closed the connection"
            return
        stream = self._streams.get(getattr(event, "stream_id", None) or 0)
        if stream is None:
            if isinstance(event, DataReceived):
                # Given up meanwhile; the others' room must not shrink by it.
                self._http.increment_flow_control_window(event.flow_controlled_length)
            return
        stream.seen += 1
        match event:
            case ResponseReceived():
                stream.headers = {str(name): str(value) for name, value in event.headers}
                status = stream.headers.get(":status", "")
                stream.status = int(status) if status.isdecimal() else 599
            case DataReceived():
                stream.parts.append((event.data, event.flow_controlled_length))
            case StreamEnded():
                stream.ended = True
            case StreamReset():
                stream.failure = f"it broke the answer off (error {event.error_code})"

    def forget(self, stream: _Stream) -> None:
        """This answer is over, or not wanted any more."""
        self.used_at = time.monotonic()
        self._streams.pop(stream.number, None)
        size = sum(size for _, size in stream.parts)
        with contextlib.suppress(H2Error):
            if size:
                self._http.increment_flow_control_window(size)
            if not stream.ended and not stream.failure:
                self._http.reset_stream(stream.number, ErrorCodes.CANCEL)
        self._flush()

    def _flush(self) -> None:
        data = self._http.data_to_send()
        if data and not self._writer.is_closing():
            self._writer.write(data)

    def doubt(self, seconds: float) -> None:
        """A stream stalled: use the connection no more where nothing at all came for so long."""
        if time.monotonic() - self._heard_at >= seconds:
            self.failure = self.failure or "it fell silent"

    async def close(self) -> None:
        self.failure = self.failure or "the transport was closed"
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


class Http2Transport:
    """See the module."""

    def __init__(self, tls: TlsSettings) -> None:
        self._tls = ClientTls(tls)
        self._connections: dict[Address, _Connection] = {}
        self._connecting: dict[Address, asyncio.Lock] = {}

    async def fetch(self, request: PieceRequest, sink: Sink) -> None:
        address = address_of(request.base_url)
        connection = await self._connect(address, request.base_url)
        parts = urlsplit(request.base_url)
        stream = connection.ask(
            request, parts.netloc, parts.path + request.path, secure=address.secure
        )
        try:
            await _receive(connection, stream, request, sink, parts.netloc)
        except TimeoutError as exc:
            connection.doubt(request.stall)
            raise Stalled(f"{parts.netloc} stalled for {request.stall:g} s") from exc
        finally:
            connection.forget(stream)

    async def close(self) -> None:
        connections = list(self._connections.values())
        self._connections.clear()
        for connection in connections:
            await connection.close()

    async def _connect(self, address: Address, base_url: str) -> _Connection:
        lock = self._connecting.setdefault(address, asyncio.Lock())
        async with lock:
            known = self._connections.get(address)
            if known is not None and known.usable:
                return known
            if known is not None:
                del self._connections[address]
                await known.close()
            context = await self._tls.towards(base_url)
            connection = _Connection(*await _open(address, context))
            self._connections[address] = connection
            return connection


async def _open(
    address: Address, context: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if context is not None:
        context.set_alpn_protocols(["h2"])
    where = f"{address.host}:{address.port}"
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            reader, writer = await asyncio.open_connection(
                address.host, address.port, limit=READ * 2, ssl=context
            )
    except (OSError, TimeoutError) as exc:
        raise Unavailable(f"{where} cannot be reached: {exc or 'no answer'}") from exc
    tls: ssl.SSLObject | None = writer.get_extra_info("ssl_object")
    if tls is not None and tls.selected_alpn_protocol() != "h2":
        writer.close()
        raise Unavailable(f"{where} does not speak HTTP/2")
    return reader, writer


async def _receive(
    connection: _Connection, stream: _Stream, request: PieceRequest, sink: Sink, host: str
) -> None:
    async with asyncio.timeout(request.stall):
        await connection.answered(stream)
    if stream.status != 200:
        problem = b""
        async with contextlib.aclosing(_parts(connection, stream, request.stall)) as parts:
            async for part in parts:
                problem += part
                if len(problem) > MAX_PROBLEM:
                    break
        raise refusal(stream.status, problem, host)
    body = Body(request, sink, host, stream.headers)
    async with contextlib.aclosing(_parts(connection, stream, request.stall)) as parts:
        async for part in parts:
            await in_thread(partial(body.take, part))
    body.end()


async def _parts(
    connection: _Connection, stream: _Stream, stall: float
) -> AsyncGenerator[bytes, None]:
    """A body in parts of about `CHUNK` bytes; raises TimeoutError after `stall` seconds without
    a byte."""
    waiting: list[bytes] = []
    size = 0
    while True:
        async with asyncio.timeout(stall):
            data = await connection.part(stream)
        if data:
            waiting.append(data)
            size += len(data)
        if waiting and (size >= CHUNK or not data):
            yield b"".join(waiting)
            waiting, size = [], 0
        if not data:
            return


@hookimpl
def hawker_transport(name: str, settings: Settings) -> Transport:
    return Http2Transport(settings.tls)
