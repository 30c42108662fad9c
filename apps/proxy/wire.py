"""One side of a proxied connection: HTTP/1.1 events over a stream, every wait with an end."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Sequence
from typing import Any, Protocol

import h11

from hawker.core.contracts import Egress, UpstreamProxy
from hawker.core.errors import OriginFailed
from hawker.core.forwarding import authorization, refused, unreachable

READ = 65536
MAX_HEAD = 64 * 1024
CONNECT_TIMEOUT = 10.0
# An upstream proxy tries to connect within this.
TUNNEL_TIMEOUT = 30.0
# A side that takes nothing for so long is gone.
STUCK = 120.0
# A connection without a request, and one over which nothing comes in mid-message.
IDLE = 60.0
SILENCE = 600.0


class Client(Protocol):
    """Whoever asks, as requests are answered.

    Attributes:
        receiving: some of the request is still to come.
        begun: an answer began.
        faulty: what came is no request.
        gone: nothing more will come.
    """

    @property
    def receiving(self) -> bool: ...
    @property
    def begun(self) -> bool: ...
    @property
    def faulty(self) -> bool: ...
    @property
    def gone(self) -> bool: ...

    async def next_event(self, silence: float = SILENCE) -> Any: ...
    async def send(self, event: Any) -> None: ...
    async def departed(self) -> None: ...
    def abort(self) -> None: ...


class Wire:
    """A stream and its state; `role` is h11.SERVER towards clients, h11.CLIENT towards origins.

    Attributes:
        proxy: the upstream proxy that requests on it are for, in absolute form; None where the
            other side is the client or origin itself.
        early: what came already of a tunnel's other end.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        role: Any,
        *,
        proxy: UpstreamProxy | None = None,
        early: bytes = b"",
    ) -> None:
        self.reader, self.writer = reader, writer
        self.proxy, self.early = proxy, early
        self.http = h11.Connection(role, max_incomplete_event_size=MAX_HEAD)

    @property
    def receiving(self) -> bool:
        return self.http.their_state is h11.SEND_BODY

    @property
    def begun(self) -> bool:
        return self.http.our_state not in (h11.IDLE, h11.SEND_RESPONSE)

    @property
    def faulty(self) -> bool:
        return self.http.their_state is h11.ERROR

    @property
    def gone(self) -> bool:
        return self.reader.at_eof()

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


class Dialer:
    """Connects to origins, whose TLS is verified by `context`."""

    def __init__(self, egress: Egress, context: ssl.SSLContext) -> None:
        self._egress = egress
        self._context = context

    async def to_origin(self, scheme: str, host: str, port: int) -> Wire:
        """A connection for requests to an origin, or to the upstream proxy that passes them on.

        Raises:
            Forbidden: the egress policy.
            OriginFailed: nobody answers there.
        """
        proxy = await self._egress.proxy(host, port)
        secured = scheme == "https"
        if proxy is None:
            return await self._direct(host, port, self._context if secured else None)
        if secured:
            return await self._through(proxy, host, port, self._context)
        return await self._to_proxy(proxy)

    async def tunnel(self, host: str, port: int) -> Wire:
        """A connection for whatever a client sends; raises as `to_origin`."""
        proxy = await self._egress.proxy(host, port)
        if proxy is None:
            return await self._direct(host, port, None)
        return await self._through(proxy, host, port, None)

    async def _direct(self, host: str, port: int, context: ssl.SSLContext | None) -> Wire:
        addresses = await self._egress.addresses(host, port)
        try:
            reader, writer = await _connected(addresses, port, host, context)
        except (OSError, TimeoutError) as exc:
            raise OriginFailed(f"{host}:{port} cannot be reached: {exc or 'no answer'}") from exc
        return Wire(reader, writer, h11.CLIENT)

    async def _to_proxy(self, proxy: UpstreamProxy) -> Wire:
        addresses = await self._egress.proxy_addresses()
        context = self._context if proxy.scheme == "https" else None
        try:
            reader, writer = await _connected(addresses, proxy.port, proxy.host, context)
        except (OSError, TimeoutError) as exc:
            raise unreachable(proxy, exc) from exc
        return Wire(reader, writer, h11.CLIENT, proxy=proxy)

    async def _through(
        self, proxy: UpstreamProxy, host: str, port: int, context: ssl.SSLContext | None
    ) -> Wire:
        """A connection to an origin by CONNECT (RFC 9110 section 9.3.6)."""
        wire = await self._to_proxy(proxy)
        name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            async with asyncio.timeout(TUNNEL_TIMEOUT):
                early = await _connect(wire, proxy, name)
                if context is not None:
                    await wire.writer.start_tls(context, server_hostname=host)
        except (OSError, TimeoutError, h11.ProtocolError) as exc:
            wire.abort()
            why = exc or "no answer"
            raise OriginFailed(
                f"{name} cannot be reached through the upstream proxy {proxy.name}: {why}"
            ) from exc
        except BaseException:
            wire.abort()
            raise
        return Wire(wire.reader, wire.writer, h11.CLIENT, early=early)


async def _connect(wire: Wire, proxy: UpstreamProxy, name: str) -> bytes:
    """Ask for a tunnel; returns what came behind the answer."""
    fields = [("host", name)]
    if shown := authorization(proxy):
        fields.append(("proxy-authorization", shown))
    await wire.send(h11.Request(method="CONNECT", target=name, headers=fields))
    await wire.send(h11.EndOfMessage())
    event = await wire.next_event()
    while isinstance(event, h11.InformationalResponse):
        event = await wire.next_event()
    if not isinstance(event, h11.Response):
        raise ConnectionResetError("it closed the connection")
    if not 200 <= event.status_code < 300:
        answer = f"{event.status_code} {event.reason.decode('latin-1')}".rstrip()
        raise refused(proxy, name, answer)
    return bytes(wire.http.trailing_data[0])


async def _connected(
    addresses: Sequence[str], port: int, host: str, context: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the first address that answers; raises OSError, TimeoutError."""
    failure: Exception = OSError("no address")
    for address in addresses:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                return await asyncio.open_connection(
                    address, port, ssl=context, server_hostname=host if context else None
                )
        except (OSError, TimeoutError) as exc:
            failure = exc
    raise failure


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
