"""HTTP/2 inside an intercepted tunnel: each of its streams is a client of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import h11

from hawker.apps.proxy.messages import end_to_end
from hawker.apps.proxy.wire import SILENCE

# Methods whose requests have a body, if at all, only where they say so (RFC 9110 section 9.3).
_BODILESS = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE"})


class Stream:
    """The events of one request, which came by ASGI, as `wire.Client` wants them."""

    def __init__(self, receive: Callable[[], Awaitable[Mapping[str, Any]]], send: Any) -> None:
        self.receiving = True
        self.begun = False
        self.faulty = False
        self.gone = False
        self._receive = receive
        self._send = send
        self._first: Mapping[str, Any] | None = None
        self._aborted = False

    async def request(self, scope: Mapping[str, Any]) -> h11.Request:
        """The request's head, as one of HTTP/1.1 would have it: cookies in one field (RFC 9113
        section 8.2.3), and a body that is framed."""
        fields = end_to_end(scope["headers"])
        names = {name for name, _ in fields}
        cookies = [value for name, value in fields if name == b"cookie"]
        fields = [(name, value) for name, value in fields if name != b"cookie"]
        if cookies:
            fields.append((b"cookie", b"; ".join(cookies)))
        method = scope["method"].encode()
        if b"content-length" not in names and (method not in _BODILESS or await self._has_body()):
            fields.append((b"transfer-encoding", b"chunked"))
        query: bytes = scope["query_string"]
        target: bytes = scope["raw_path"] + (b"?" + query if query else b"")
        return h11.Request(method=method, target=target, headers=fields, http_version=b"2.0")

    async def next_event(self, silence: float = SILENCE) -> Any:
        """The next event of the request's body.

        Raises:
            h11.RemoteProtocolError: its client left.
            TimeoutError: nothing came for `silence` seconds.
        """
        message = await self._next(silence)
        if message["type"] == "http.disconnect":
            raise h11.RemoteProtocolError("the client left")
        if message.get("body"):
            # Its end is told by itself.
            if not message.get("more_body"):
                self._first = {"type": "http.request", "body": b"", "more_body": False}
            return h11.Data(data=message["body"])
        if message.get("more_body"):
            return await self.next_event(silence)
        self.receiving = False
        return h11.EndOfMessage()

    async def send(self, event: Any) -> None:
        """Send an event of the answer."""
        if self._aborted:
            raise ConnectionResetError("the stream was cut")
        if isinstance(event, h11.Response):
            self.begun = True
            head = [(n.lower(), v) for n, v in end_to_end(event.headers.raw_items())]
            start = {"status": event.status_code, "headers": head}
            await self._send({"type": "http.response.start", **start})
        elif isinstance(event, h11.Data):
            part = {"body": bytes(event.data), "more_body": True}
            await self._send({"type": "http.response.body", **part})
        elif isinstance(event, h11.EndOfMessage):
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def departed(self) -> None:
        """Until the client leaves."""
        while not self.gone:
            await self._next(None)

    def abort(self) -> None:
        """Nothing more is sent: the server resets a stream whose answer has no end."""
        self._aborted = True

    async def _has_body(self) -> bool:
        self._first = await self._next(SILENCE)
        return bool(self._first.get("body") or self._first.get("more_body"))

    async def _next(self, silence: float | None) -> Mapping[str, Any]:
        if self._first is not None:
            message, self._first = self._first, None
            return message
        async with asyncio.timeout(silence):
            message = await self._receive()
        if message["type"] == "http.disconnect":
            self.gone = self.faulty = True
        return message
