"""HTTP/1.1 on hypercorn's protocol, less what would hide an answer that broke off, and what two
servers in a row may read in two ways."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from http import HTTPStatus
from typing import Any

import h11
from hypercorn.events import Closed, RawData
from hypercorn.protocol.events import Request, Response
from hypercorn.protocol.h11 import STREAM_ID, H2ProtocolAssumedError, H11Protocol
from hypercorn.protocol.http_stream import HTTPStream

REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
# So much may come of later requests before the connection is read no further, and nobody sees
# whether the client is still there.
AHEAD = 64 * 1024
# The head of an answer with so little behind it leaves together with that.
SMALL = 64 * 1024
PREFACE = b"PRI * HTTP/2.0\r\n\r\n"


class Aborted(Closed):
    """The connection must end so that nobody takes it for the end of an answer."""


class Requests(h11.Connection):
    """What a client sends. h11 takes some requests whose end its client may see elsewhere, and
    bytes that follow the last request for an error in that one."""

    gone = False
    """The client has left: what it asked before is not begun any more."""

    _first = True
    _refused: h11.RemoteProtocolError | None = None

    @property
    def broken(self) -> bool:
        """Where the next request begins is not known."""
        return self._refused is not None or self.their_state is h11.ERROR

    def next_event(self) -> Any:
        if self._refused is not None:
            raise self._refused
        if self.gone or self.their_state is h11.MUST_CLOSE:
            # The client said that it asks no more; whatever comes is not looked at.
            return h11.NEED_DATA
        event = super().next_event()
        if event is h11.PAUSED and len(self.trailing_data[0]) <= AHEAD:
            return h11.NEED_DATA
        if isinstance(event, h11.Request):
            first, self._first = self._first, False
            if not (first and is_preface(event)):
                self._check(event)
        return event

    def _check(self, request: h11.Request) -> None:
        names = {name for name, _ in request.headers}
        coded = b"transfer-encoding" in names
        if not request.http_version.startswith(b"1."):
            self._refuse("this is HTTP/1.1", 505)
        elif request.method == b"CONNECT":
            self._refuse("this is no tunnel", 501)
        elif coded and (b"content-length" in names or request.http_version == b"1.0"):
            # RFC 9112 6.1: what is chunked for us may have another end for others.
            self._refuse("the body has two ends", 400)

    def _refuse(self, why: str, status: int) -> None:
        self._refused = h11.RemoteProtocolError(why, error_status_hint=status)
        raise self._refused


class Http1(H11Protocol):
    """One connection."""

    _framed = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        limit = self.config.h11_max_incomplete_size
        self.connection: Requests = Requests(h11.SERVER, max_incomplete_event_size=limit)
        self._taking = asyncio.Lock()
        self._write, self.send = self.send, self._send_joined
        self._held: bytes | None = None
        self._is_head = False

    @property
    def unread(self) -> bool:
        """The client is still sending what nobody will read."""
        sending = self.connection.their_state is h11.SEND_BODY
        more = sending or self.connection.broken or bool(self.connection.trailing_data[0])
        return self.stream is None and more

    async def handle(self, event: Any) -> None:
        if isinstance(event, Closed):
            self.connection.gone = True
            await super().handle(event)
        else:
            async with self._taking:
                await super().handle(event)

    async def _go_on(self) -> None:
        """With what came before its turn."""
        async with self._taking:
            await self._handle_events()

    async def stream_send(self, event: Any) -> None:
        if isinstance(event, Response):
            has_length = any(name.lower() == b"content-length" for name, _ in event.headers)
            version = getattr(self.connection, "their_http_version", b"1.1")
            self._framed = has_length or version != b"1.0"
            if self.connection.their_state is h11.SEND_BODY:
                # Nobody waits for the rest of the body: the connection is closed behind this
                # answer, and whoever is not told sends the next request in vain.
                event = replace(event, headers=[*event.headers, (b"connection", b"close")])
        await super().stream_send(event)

    async def _send_h11_event(self, event: Any) -> None:
        if isinstance(event, h11.Response | h11.InformationalResponse) and not event.reason:
            # Some clients see no status where no reason follows it.
            reason = REASONS.get(event.status_code, b"")
            # Replacing it would look at every header field once more.
            object.__setattr__(event, "reason", reason)
        self._is_head = isinstance(event, h11.Response) and _is_small(event)
        await super()._send_h11_event(event)

    async def _send_joined(self, event: Any) -> None:
        """Hand on what is to be sent, the head of a small answer together with what follows it at
        once: each part costs a call of the kernel, here and at the client."""
        held, self._held = self._held, None
        if isinstance(event, RawData):
            if self._is_head:
                self._is_head, self._held = False, event.data
                asyncio.get_running_loop().call_soon(self._release)
                return
            event = event if held is None else RawData(held + event.data)
        elif held is not None:
            await self._write(RawData(held))
        await self._write(event)

    def _release(self) -> None:
        """Nothing has followed."""
        if self._held is not None:
            self.task_group.spawn(self._send_joined, RawData(b""))

    async def _maybe_recycle(self) -> None:
        # Without a length and chunks the end of the connection is the end of the body.
        broken = self.connection.our_state in (h11.SEND_BODY, h11.ERROR)
        if broken and not self._framed:
            await self.send(Aborted())
        await super()._maybe_recycle()
        waits = self.connection.our_state is h11.IDLE and self.connection.trailing_data[0]
        if waits and not self._taking.locked():
            self.task_group.spawn(self._go_on)

    async def _check_protocol(self, event: h11.Request) -> None:
        """HTTP/2 by prior knowledge only: RFC 9113 took the upgrade away, and proxies are fooled
        by it."""
        if is_preface(event):
            raise H2ProtocolAssumedError(PREFACE + self.connection.trailing_data[0])

    async def _create_stream(self, request: h11.Request) -> None:
        """No upgrade at all: hypercorn's to WebSocket leaves connections that were refused it
        open, and no role of ours has any."""
        self.stream = HTTPStream(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
        )
        await self.stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=[field for field in request.headers if field[0] != b"upgrade"],
                http_version=request.http_version.decode(),
                method=request.method.decode("ascii").upper(),
                raw_path=request.target,
                state=self.connection_state,
            )
        )
        self.keep_alive_requests += 1
        await self.context.mark_request()


def _is_small(response: h11.Response) -> bool:
    for name, value in response.headers:
        if name == b"content-length":
            return len(value) < 9 and int(value) <= SMALL
    return False


def is_preface(request: h11.Request) -> bool:
    """Whether this is how a connection of HTTP/2 begins."""
    begins = (request.method, request.target, request.http_version) == (b"PRI", b"*", b"2.0")
    return begins and not list(request.headers)
