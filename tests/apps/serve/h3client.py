"""An HTTP/3 client on aioquic that sees every event, and takes no more than it is told to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, QuicEvent, StreamReset

from tests.apps.serve.servers import PATIENCE, Place

Seen = H3Event | StreamReset | ConnectionTerminated


class H3Client(QuicConnectionProtocol):
    """One connection."""

    def __init__(self, quic: QuicConnection) -> None:
        super().__init__(quic)
        self.http = H3Connection(self._quic)
        self.received = 0
        self.deaf = False
        self._seen: asyncio.Queue[Seen] = asyncio.Queue()

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, StreamReset | ConnectionTerminated):
            self._seen.put_nowait(event)
        for item in self.http.handle_event(event):
            if isinstance(item, DataReceived):
                self.received += len(item.data)
            self._seen.put_nowait(item)

    def datagram_received(self, data: bytes | str, addr: Any) -> None:
        if not self.deaf:
            super().datagram_received(data, addr)

    def request(
        self,
        path: str,
        *,
        method: str = "GET",
        end: bool = True,
        fields: Mapping[str, str] | None = None,
    ) -> int:
        """Begin a stream; returns its number."""
        stream = self._quic.get_next_available_stream_id()
        headers = [
            *((b":method", method.encode()), (b":scheme", b"https")),
            *((b":authority", b"localhost"), (b":path", path.encode("latin-1"))),
            *((name.encode(), value.encode()) for name, value in (fields or {}).items()),
        ]
        self.http.send_headers(stream, headers, end_stream=end)
        self.transmit()
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        self.http.send_data(stream, data, end)
        self.transmit()

    def cancel(self, stream: int) -> None:
        """Want the answer no more."""
        self._quic.stop_stream(stream, 0x10C)
        self.transmit()

    async def wait(self, wanted: Callable[[Seen], bool]) -> Seen:
        """The next event of this kind; raises TimeoutError."""
        async with asyncio.timeout(PATIENCE):
            while not wanted(event := await self._seen.get()):
                if isinstance(event, ConnectionTerminated):
                    raise EOFError(f"the server closed the connection: {event}")
            return event

    async def status(self, stream: int) -> str:
        """The status of a stream's answer."""
        event = await self.wait(lambda e: isinstance(e, HeadersReceived) and e.stream_id == stream)
        assert isinstance(event, HeadersReceived)
        return dict(event.headers)[b":status"].decode()


@contextlib.asynccontextmanager
async def h3_client(place: Place) -> AsyncIterator[H3Client]:
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=H3_ALPN, server_name="localhost"
    )
    assert place.ca is not None
    configuration.load_verify_locations(str(place.ca))
    quic = QuicConnection(configuration=configuration)
    # aioquic's own `connect` leaves its socket open where nobody answers.
    transport, client = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: H3Client(quic), local_addr=("127.0.0.1", 0)
    )
    try:
        async with asyncio.timeout(PATIENCE):
            client.connect(("127.0.0.1", place.port))
            await client.wait_connected()
        yield client
    finally:
        client.close()
        transport.close()
