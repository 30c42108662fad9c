"""HTTP/3 on aioquic's own server; hypercorn gives each stream's ASGI side (`HTTPStream`).

hypercorn 0.18's `QuicProtocol` is not used: one request that is answered before its body has come
ends the listener for everybody, one app that does not read stops all clients, nothing holds a
sender up or tells an app that its client has gone, and each datagram makes a task for its timer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from typing import Any

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import QuicServer
from aioquic.h3.connection import H3_ALPN, ErrorCode, H3Connection
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection, QuicConnectionState
from aioquic.quic.events import (
    ConnectionTerminated,
    ProtocolNegotiated,
    QuicEvent,
    StopSendingReceived,
    StreamReset,
)
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.protocol.events import (
    Body,
    Data,
    EndBody,
    EndData,
    InformationalResponse,
    Request,
    Response,
    StreamClosed,
)
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.typing import ConnectionState
from hypercorn.utils import filter_pseudo_headers, parse_socket_addr

from hawker.apps.serve.listeners import Files
from hawker.apps.serve.requests import AppTasks, Inbox, StreamTasks, is_proper
from hawker.core.tls import follow

log = logging.getLogger(__name__)

# Bytes of an answer that are sent and not acknowledged, or wait to be sent.
UNSENT = 512 * 1024
PART = 64 * 1024
# aioquic widens a stream's room as bytes come, whether or not anybody reads them: where so many
# wait the stream is refused.
UNREAD = 16 * 1024 * 1024
MAX_CONNECTIONS = 4096
MAX_RUNNING = 1024
STALL = 60.0
# What was sent to a client that vanished is kept until then: QUIC hears nothing of its end.
IDLE = 30.0
RECEIVE_BUFFER = 4 * 1024 * 1024


class Http3Server:
    """All QUIC connections of one UDP socket, while `running` is entered."""

    def __init__(self, app: Any, config: Config, context: WorkerContext) -> None:
        self.app = app
        self.config = config
        self.context = context
        self.connections: set[Http3Connection] = set()
        self._group = asyncio.TaskGroup()

    @contextlib.asynccontextmanager
    async def running(self, sock: socket.socket, files: Files, grace: float) -> AsyncIterator[None]:
        """Serve while inside; then running answers have `grace` seconds to end."""
        configuration = QuicConfiguration(
            alpn_protocols=H3_ALPN, is_client=False, idle_timeout=IDLE
        )
        configuration.load_cert_chain(files.certificate, files.key)
        follow(configuration, lambda known: known.load_cert_chain(files.certificate, files.key))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        failure: Exception | None = None
        async with self._group:
            transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: QuicServer(configuration=configuration, create_protocol=self._connected),
                sock=sock,
            )
            try:
                yield
            except Exception as exc:
                # The group would wrap it, and nobody would know it by its class any more.
                failure = exc
            finally:
                await self._end(grace)
                transport.close()
        if failure is not None:
            raise failure

    def _connected(self, quic: QuicConnection, stream_handler: Any = None) -> Http3Connection:
        connection = Http3Connection(quic, self)
        if len(self.connections) >= MAX_CONNECTIONS:
            connection.close(ErrorCode.H3_EXCESSIVE_LOAD)
            return connection
        self.connections.add(connection)
        self._group.create_task(self._run(connection))
        return connection

    async def _run(self, connection: Http3Connection) -> None:
        try:
            await connection.run()
        except Exception:
            log.exception("an HTTP/3 connection failed")
        finally:
            self.connections.discard(connection)
            connection.let_go()

    async def _end(self, grace: float) -> None:
        deadline = asyncio.get_running_loop().time() + grace
        for connection in list(self.connections):
            left = deadline - asyncio.get_running_loop().time()
            await connection.end(max(0.0, left))


class Http3Connection(QuicConnectionProtocol):
    """One client's connection and its streams."""

    def __init__(self, quic: QuicConnection, server: Http3Server) -> None:
        super().__init__(quic)
        self._server = server
        self._http: H3Connection | None = None
        self._events: asyncio.Queue[QuicEvent] = asyncio.Queue()
        self._streams: dict[int, HTTPStream] = {}
        self._inboxes: dict[int, Inbox] = {}
        # Streams on which nothing may be sent any more.
        self._ended: set[int] = set()
        self._moved = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks = AppTasks(asyncio.get_running_loop())
        self._state = ConnectionState({})

    # ------------------------------------------------------------------ from the client

    def quic_event_received(self, event: QuicEvent) -> None:
        match event:
            case ProtocolNegotiated():
                self._http = H3Connection(self._quic)
            case StopSendingReceived() | StreamReset():
                # From now on aioquic takes no bytes for it.
                self._ended.add(event.stream_id)
            case ConnectionTerminated():
                self._ended.update(self._streams)
        self._events.put_nowait(event)

    def datagram_received(self, data: bytes | str, addr: Any) -> None:
        super().datagram_received(data, addr)
        # What was acknowledged makes room, and no event tells.
        self._moved.set()
        over = self._quic.get_timer()
        if self._quic._state is QuicConnectionState.DRAINING and over is not None:
            # The client closed it, and what still comes needs no answer (RFC 9000 section 10.2.2).
            # aioquic would keep it, and all that its apps hold, for three probe timeouts: minutes
            # where a client has not acknowledged anything for a while.
            self._quic.handle_timer(over)
            self._process_events()

    async def run(self) -> None:
        """Until the connection is over and its apps have ended."""
        async with self._tasks:
            while True:
                event = await self._events.get()
                if isinstance(event, StopSendingReceived | StreamReset):
                    await self._gone(event.stream_id)
                if self._http is not None:
                    for item in self._http.handle_event(event):
                        await self._take(item)
                    self.transmit()
                if isinstance(event, ConnectionTerminated):
                    break
            for stream in list(self._streams):
                await self._gone(stream)

    async def _take(self, event: H3Event) -> None:
        if isinstance(event, HeadersReceived):
            if event.stream_id not in self._streams:
                await self._begin(event)
            # Else they are trailers, which no app of ours reads.
        elif isinstance(event, DataReceived):
            await self._body(event.stream_id, event.data)
        else:
            return
        stream = self._streams.get(event.stream_id)
        if event.stream_ended and stream is not None:
            await stream.handle(EndBody(stream_id=event.stream_id))

    async def _begin(self, event: HeadersReceived) -> None:
        if self._server.context.terminated.is_set():
            self._reset(event.stream_id, ErrorCode.H3_REQUEST_REJECTED)
            return
        if self._tasks.running > MAX_RUNNING:
            self.close(ErrorCode.H3_EXCESSIVE_LOAD)
            return
        fields = dict(event.headers)
        if not is_proper(event.headers):
            connect = fields.get(b":method") == b"CONNECT"
            self._refuse(event.stream_id, b"501" if connect else b"400")
            return
        inbox = self._inboxes[event.stream_id] = Inbox(None, None)
        client = self._quic.get_peer_address()
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        tasks: Any = StreamTasks(self._tasks, inbox)
        stream = self._streams[event.stream_id] = HTTPStream(
            self._server.app,
            self._server.config,
            self._server.context,
            tasks,
            True,
            None if client is None else (client[0], client[1]),
            None if sock is None else parse_socket_addr(sock.family, sock.getsockname()),
            self.stream_send,
            event.stream_id,
        )
        self._idle.clear()
        await stream.handle(
            Request(
                stream_id=event.stream_id,
                headers=filter_pseudo_headers(event.headers),
                http_version="3",
                method=fields[b":method"].decode(),
                raw_path=fields[b":path"],
                state=self._state,
            )
        )

    async def _body(self, stream_id: int, data: bytes) -> None:
        stream, inbox = self._streams.get(stream_id), self._inboxes.get(stream_id)
        if stream is None or inbox is None or not data:
            return
        await stream.handle(Body(stream_id=stream_id, data=data))
        if inbox.unread > UNREAD:
            log.warning("an HTTP/3 request was refused: %d bytes were not read", inbox.unread)
            self._quic.stop_stream(stream_id, ErrorCode.H3_EXCESSIVE_LOAD)
            self._reset(stream_id, ErrorCode.H3_EXCESSIVE_LOAD)
            await self._gone(stream_id)

    async def _gone(self, stream_id: int) -> None:
        """The client wants this answer no more."""
        self._ended.add(stream_id)
        self._moved.set()
        stream = self._forget(stream_id)
        if stream is not None:
            await stream.handle(StreamClosed(stream_id=stream_id))

    def _forget(self, stream_id: int) -> HTTPStream | None:
        self._inboxes.pop(stream_id, None)
        stream = self._streams.pop(stream_id, None)
        if not self._streams:
            self._idle.set()
        return stream

    # ------------------------------------------------------------------ to the client

    async def stream_send(self, event: Any) -> None:
        """What a stream's app sends; nothing where the client has gone."""
        stream_id = event.stream_id
        if isinstance(event, StreamClosed):
            if self._forget(stream_id) is not None and stream_id not in self._ended:
                # Its app ended before the answer did: the client must not wait for the rest.
                self._reset(stream_id, ErrorCode.H3_INTERNAL_ERROR)
            self._ended.discard(stream_id)
            return
        if stream_id in self._ended or stream_id not in self._streams or self._http is None:
            return
        match event:
            case Response() | InformationalResponse():
                headers = [
                    (b":status", b"%d" % event.status_code),
                    *event.headers,
                    *self._server.config.response_headers("h3"),
                ]
                self._http.send_headers(stream_id, headers)
            case Body() | Data():
                await self._send_body(stream_id, event.data)
            case EndBody() | EndData():
                self._http.send_data(stream_id, b"", True)
                self._ended.add(stream_id)
        self.transmit()

    async def _send_body(self, stream_id: int, data: bytes) -> None:
        assert self._http is not None
        for start in range(0, len(data), PART):
            if not await self._has_room(stream_id):
                return
            self._http.send_data(stream_id, data[start : start + PART], False)
            self.transmit()

    async def _has_room(self, stream_id: int) -> bool:
        """Wait until the client has taken enough; False where it is gone, or takes nothing."""
        unsent = self._unsent(stream_id)
        while stream_id not in self._ended:
            if unsent <= UNSENT:
                return True
            self._moved.clear()
            try:
                async with asyncio.timeout(STALL):
                    await self._moved.wait()
            except TimeoutError:
                if self._unsent(stream_id) >= unsent:
                    self._reset(stream_id, ErrorCode.H3_REQUEST_CANCELLED)
                    await self._gone(stream_id)
            unsent = self._unsent(stream_id)
        return False

    def _unsent(self, stream_id: int) -> int:
        """aioquic tells nobody how much it holds, so this looks inside it."""
        stream = self._quic._streams.get(stream_id)
        return 0 if stream is None else stream.sender._buffer_stop - stream.sender._buffer_start

    def _refuse(self, stream_id: int, status: bytes) -> None:
        if self._http is not None:
            headers = [(b":status", status), (b"content-length", b"0")]
            self._http.send_headers(stream_id, headers, end_stream=True)
            self.transmit()

    def _reset(self, stream_id: int, code: ErrorCode) -> None:
        self._quic.reset_stream(stream_id, code)
        self.transmit()

    def let_go(self) -> None:
        """Forget what was still to be sent: aioquic's connection refers to itself, so that all of
        that, half a mebibyte a stream, would stay until somebody looks for garbage."""
        self._quic._streams.clear()
        self._quic._streams_queue.clear()

    async def end(self, grace: float) -> None:
        """Close once its answers have ended, or `grace` seconds are over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._idle.wait()
        self.close(ErrorCode.H3_NO_ERROR)
        self._events.put_nowait(ConnectionTerminated(ErrorCode.H3_NO_ERROR, None, ""))
