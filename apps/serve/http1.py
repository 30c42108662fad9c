"""HTTP/1.1 on hypercorn's protocol, less what would hide an answer that broke off."""

from __future__ import annotations

from typing import Any

import h11
from hypercorn.events import Closed
from hypercorn.protocol.events import Response
from hypercorn.protocol.h11 import H2ProtocolAssumedError, H11Protocol

PREFACE = b"PRI * HTTP/2.0\r\n\r\n"


class Aborted(Closed):
    """The connection must end so that nobody takes it for the end of an answer."""


class Http1(H11Protocol):
    """One connection."""

    _framed = True

    @property
    def unread(self) -> bool:
        """The client is still sending what nobody will read."""
        states = (h11.SEND_BODY, h11.ERROR)
        return self.stream is None and self.connection.their_state in states

    async def stream_send(self, event: Any) -> None:
        if isinstance(event, Response):
            has_length = any(name.lower() == b"content-length" for name, _ in event.headers)
            version = getattr(self.connection, "their_http_version", b"1.1")
            self._framed = has_length or version != b"1.0"
        await super().stream_send(event)

    async def _maybe_recycle(self) -> None:
        # Without a length and chunks the end of the connection is the end of the body.
        broken = self.connection.our_state in (h11.SEND_BODY, h11.ERROR)
        if broken and not self._framed:
            await self.send(Aborted())
        await super()._maybe_recycle()

    async def _check_protocol(self, event: h11.Request) -> None:
        """HTTP/2 by prior knowledge only: RFC 9113 took the upgrade away, and proxies are fooled
        by it."""
        if (event.method, event.target, event.http_version) == (b"PRI", b"*", b"2.0"):
            raise H2ProtocolAssumedError(PREFACE + self.connection.trailing_data[0])
