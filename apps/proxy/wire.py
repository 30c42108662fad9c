"""One side of a proxied connection: HTTP/1.1 events over a stream, every wait with an end."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any

import h11

from hawker.core.contracts import Egress
from hawker.core.errors import OriginFailed

READ = 65536
MAX_HEAD = 64 * 1024
CONNECT_TIMEOUT = 10.0
# A side that takes nothing for so long is gone.
STUCK = 120.0
# A connection without a request, and one over which nothing comes in mid-message.
IDLE = 60.0
SILENCE = 600.0


class Wire:
    """A stream and its state; `role` is h11.SERVER towards clients, h11.CLIENT towards origins."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, role: Any
    ) -> None:
        self.reader, self.writer = reader, writer
        self.http = h11.Connection(role, max_incomplete_event_size=MAX_HEAD)

    async def next_event(self, silence: float = SILENCE) -> Any:
        """The next event of the other side; h11.ConnectionClosed at its end.

        Raises:
            h11.RemoteProtocolError: what came is not HTTP.
            TimeoutError: nothing came for `silence` seconds.
            OSError: the connection broke.
        """
        while True:
            event = self.http.next_event()
            if event is not h11.NEED_DATA:
                return event
            async with asyncio.timeout(silence):
                self.http.receive_data(await self.reader.read(READ))

    async def send(self, event: Any) -> None:
        """Send an event; waits for a side that is behind.

        Raises:
            TimeoutError: it takes nothing.
            OSError: the connection broke.
        """
        data = self.http.send(event)
        if data:
            await self.write(data)

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        async with asyncio.timeout(STUCK):
            await self.writer.drain()

    async def departed(self) -> None:
        """Until the other side leaves; for ever where it has begun its next request."""
        try:
            data = await self.reader.read(READ)
        except OSError:
            return
        self.http.receive_data(data)
        if data:
            await asyncio.Event().wait()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError, TimeoutError, ssl.SSLError):
            async with asyncio.timeout(1.0):
                await self.writer.wait_closed()

    def abort(self) -> None:
        """Cut it, so that nobody takes what came for the whole."""
        self.writer.transport.abort()


async def dial(egress: Egress, host: str, port: int, context: ssl.SSLContext | None) -> Wire:
    """A connection to an origin, over TLS with a `context`.

    Raises:
        Forbidden: the egress policy.
        OriginFailed: nobody answers there.
    """
    failure: Exception = OSError("no address")
    for address in await egress.addresses(host, port):
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                reader, writer = await asyncio.open_connection(
                    address, port, ssl=context, server_hostname=host if context else None
                )
            return Wire(reader, writer, h11.CLIENT)
        except (OSError, TimeoutError) as exc:
            failure = exc
    raise OriginFailed(f"{host}:{port} cannot be reached: {failure or 'no answer'}") from failure


async def splice(client: Wire, origin: Wire, early: tuple[bytes, bytes] = (b"", b"")) -> None:
    """Carry bytes both ways until both sides have ended, or one is broken or silent for long.

    `early` is what each side sent already: the client, then the origin.
    """
    async with asyncio.TaskGroup() as group:
        group.create_task(_carry(client, origin, early[0]))
        group.create_task(_carry(origin, client, early[1]))


async def _carry(source: Wire, target: Wire, early: bytes) -> None:
    try:
        if early:
            await target.write(early)
        while True:
            async with asyncio.timeout(SILENCE):
                data = await source.reader.read(READ)
            if not data:
                break
            await target.write(data)
        if target.writer.can_write_eof():
            target.writer.write_eof()
        else:
            # TLS has no half of a close; what is on its way still has to come.
            target.writer.close()
            async with asyncio.timeout(STUCK):
                await target.writer.wait_closed()
    except (OSError, TimeoutError):
        # There is nothing more to say in either direction.
        source.abort()
        target.abort()
