"""HTTP/1.1 on hypercorn's protocol, less what would hide an answer that broke off."""

from __future__ import annotations

import h11
from hypercorn.events import Closed
from hypercorn.protocol.h11 import H2ProtocolAssumedError, H11Protocol

PREFACE = b"PRI * HTTP/2.0\r\n\r\n"


class Aborted(Closed):
    """The connection must end so that nobody takes it for the end of an answer."""


class Http1(H11Protocol):
    """One connection."""

    @property
    def unread(self) -> bool:
        """The client is still sending what nobody will read."""
        states = (h11.SEND_BODY, h11.ERROR)
        return self.stream is None and self.connection.their_state in states

    async def _maybe_recycle(self) -> None:
        # Without a length and chunks (HTTP/1.0) the end of the connection is the end of the body.
        broken = self.connection.our_state in (h11.SEND_BODY, h11.ERROR)
        if broken:
            await self.send(Aborted())
        await super()._maybe_recycle()

    async def _check_protocol(self, event: h11.Request) -> None:
        """HTTP/2 by prior knowledge only: RFC 9113 took the upgrade away, and proxies are fooled
        by it."""
        if (event.method, event.target, event.http_version) == (b"PRI", b"*", b"2.0"):
            raise H2ProtocolAssumedError(PREFACE + self.connection.trailing_data[0])
