"""A request passed on to its origin as it is, and its answer back, both as they come."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import h11

from hawker.apps.proxy.messages import as_mapping, end_to_end, is_ours, upgrade_in, with_via
from hawker.apps.proxy.wire import Client, Dialer, Wire, splice
from hawker.core.contracts import UpstreamProxy
from hawker.core.errors import BadRequest, OriginFailed
from hawker.core.forwarding import authorization, own_answer
from hawker.core.ids import DEFAULT_PORTS, origin_of

# Methods whose request may be sent again where nobody knows whether it arrived.
REPEATABLE = frozenset({b"GET", b"HEAD", b"OPTIONS"})


class Relay:
    """Towards origins, for one client connection: the last one's connection is kept."""

    def __init__(self, dialer: Dialer, name: str) -> None:
        self._dialer = dialer
        self._name = name
        self._kept: tuple[tuple[str, str | None, int | None], Wire] | None = None

    async def exchange(self, client: Client, request: h11.Request, url: str) -> None:
        """Pass a request on to the origin of `url`, and its answer back.

        The client's connection is cut where the answer breaks off.

        Raises:
            BadRequest: the URL is none of HTTP's.
            Forbidden: the egress policy.
            OriginFailed: there is no answer.
        """
        head = self._onward(request, url)
        framed = {b"content-length", b"transfer-encoding"} & {name for name, _ in head.headers}
        repeatable = head.method in REPEATABLE and not framed
        for _ in range(2):
            origin, fresh = await self._connection(url)
            try:
                failure = await self._converse(client, origin, head)
            except BaseException:
                origin.abort()
                raise
            if failure is None:
                await self._keep(url, origin)
                return
            origin.abort()
            if isinstance(failure, OriginFailed):
                raise failure
            # A kept connection may have been closed meanwhile.
            if fresh or not repeatable:
                break
        raise OriginFailed(f"{urlsplit(url).netloc} gave no answer: {failure}")

    async def close(self) -> None:
        if self._kept is not None:
            wire, self._kept = self._kept[1], None
            await wire.close()

    def _onward(self, request: h11.Request, url: str) -> h11.Request:
        parts = urlsplit(url)
        if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
            raise BadRequest(f"{url!r} is no URL that a proxy can ask for")
        asked = upgrade_in(request.headers)
        # HTTP/2 in the clear would be more requests, which no rule ever sees.
        upgrade = b"" if b"h2c" in asked.lower() else asked
        fields = end_to_end(request.headers.raw_items(), upgrade=upgrade)
        body = [(n, v) for n, v in request.headers if n == b"transfer-encoding"]
        # RFC 9112 section 6.3: of two ends of a body only one is true.
        dropped = {b"host", b"http2-settings"} | ({b"content-length"} if body else set())
        fields = [(n, v) for n, v in fields if n.lower() not in dropped and not is_ours(n)]
        host = parts.netloc.rpartition("@")[2].encode("latin-1")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        fields = with_via([(b"Host", host), *fields], request.http_version, self._name)
        return h11.Request(
            method=request.method,
            target=target.encode("latin-1"),
            headers=[*fields, *body],
        )

    async def _connection(self, url: str) -> tuple[Wire, bool]:
        origin = origin_of(url)
        if self._kept is not None:
            (known, wire), self._kept = self._kept, None
            if known == origin and not wire.reader.at_eof():
                return wire, False
            await wire.close()
        scheme, host, port = origin
        assert host is not None and port is not None
        return await self._dialer.to_origin(scheme, host, port), True

    async def _keep(self, url: str, wire: Wire) -> None:
        http = wire.http
        if http.our_state is h11.DONE and http.their_state is h11.DONE:
            http.start_next_cycle()
            self._kept = origin_of(url), wire
        else:
            await wire.close()

    async def _converse(
        self, client: Client, origin: Wire, head: h11.Request
    ) -> str | OriginFailed | None:
        """Both directions at once: an answer may begin, and end, before the request does. Returns
        why no answer began, None where one did."""
        try:
            await origin.send(head if origin.proxy is None else _for_proxy(head, origin.proxy))
        except (OSError, TimeoutError) as exc:
            return str(exc) or "it was closed"
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(_send_body(client, origin))
            try:
                host = dict(head.headers)[b"host"].decode("latin-1")
                outcome = await _answer(client, origin, self._name, host)
            finally:
                sending.cancel()
        if isinstance(outcome, h11.InformationalResponse):
            if not isinstance(client, Wire):
                return "it speaks another protocol"
            # Nobody else listens to the client any more.
            await _switch(client, origin, outcome)
            return None
        return outcome


async def _send_body(client: Client, origin: Wire) -> None:
    """The request's body; then, and before, a client that leaves ends the exchange."""
    try:
        if not client.receiving:
            # Its end was read before.
            await origin.send(h11.EndOfMessage())
        while client.receiving:
            await origin.send(await client.next_event())
        await client.departed()
    except (OSError, TimeoutError, h11.ProtocolError):
        if not client.faulty and not client.gone:
            # The origin takes no more: it may have answered before it had all of the body.
            return
    client.abort()
    origin.abort()


def _for_proxy(head: h11.Request, proxy: UpstreamProxy) -> h11.Request:
    """The request as the upstream proxy is asked it."""
    host = dict(head.headers)[b"host"]
    fields = list(head.headers.raw_items())
    if shown := authorization(proxy):
        fields.append((b"proxy-authorization", shown.encode()))
    return h11.Request(method=head.method, target=b"http://" + host + head.target, headers=fields)


async def _answer(
    client: Client, origin: Wire, name: str, asked: str
) -> str | OriginFailed | h11.InformationalResponse | None:
    """The answer of the origin `asked`, as it comes, to the client; why none began, or what
    announces another protocol, else None."""
    began = False
    try:
        while True:
            event = await origin.next_event()
            if isinstance(event, h11.InformationalResponse) and event.status_code == 101:
                return event
            if isinstance(event, h11.Response) and origin.proxy is not None:
                told = as_mapping(event.headers)
                own = own_answer(origin.proxy, asked, event.status_code, told)
                if own is not None:
                    return own
            if isinstance(event, h11.InformationalResponse | h11.Response):
                fields = end_to_end(event.headers.raw_items())
                fields = with_via(fields, b"1.1", name)
                kind = type(event)
                began = began or kind is h11.Response
                answer = kind(status_code=event.status_code, headers=fields, reason=event.reason)
                await client.send(answer)
            elif isinstance(event, h11.ConnectionClosed):
                return "it closed the connection"
            else:
                await client.send(event)
            if isinstance(event, h11.EndOfMessage):
                return None
    except (OSError, TimeoutError, h11.ProtocolError) as exc:
        if not began:
            return str(exc) or type(exc).__name__
        # What came is not the whole.
        client.abort()
        return None


async def _switch(client: Wire, origin: Wire, event: h11.InformationalResponse) -> None:
    """The connection is another protocol's from here on."""
    fields = end_to_end(event.headers.raw_items(), upgrade=upgrade_in(event.headers))
    await client.send(
        h11.InformationalResponse(status_code=101, headers=fields, reason=event.reason)
    )
    early = bytes(client.http.trailing_data[0]), bytes(origin.http.trailing_data[0])
    await splice(client, origin, early)
