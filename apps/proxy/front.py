"""One client's connection: its requests in turn, each decided by the rules."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import h11

from hawker.apps.proxy.interception import Interception
from hawker.apps.proxy.messages import as_mapping, came_through
from hawker.apps.proxy.relay import Relay
from hawker.apps.proxy.room import Room
from hawker.apps.proxy.rules import Decision, Rules
from hawker.apps.proxy.streams import Stream
from hawker.apps.proxy.swarm import Swarm, can_be_asked
from hawker.apps.proxy.versions import Origins
from hawker.apps.proxy.wire import IDLE, Client, Dialer, Wire, splice
from hawker.apps.serve.accepted import serve_accepted
from hawker.apps.web.disconnect import until_disconnected
from hawker.apps.web.dragonfly import ERROR_TYPE, Wishes, error_type, wishes_of
from hawker.apps.web.problems import CONTENT_TYPE
from hawker.core.contracts import Caller
from hawker.core.errors import BadRequest, Forbidden, HawkerError, Unauthenticated, Unavailable
from hawker.core.messages import encode

log = logging.getLogger(__name__)

CHALLENGE = 'Basic realm="hawker"'
HANDSHAKE = 10.0
# A client that is turned away must ask, and take the answer, within this.
TURNED_AWAY = 5.0
# Connections to origins that a client's connection keeps; only HTTP/2 has more at work at once.
KEPT = 4
# Methods that change nothing at an origin (RFC 9110 section 9.2.1).
SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


class Front:
    """Answers the connections of a proxy's clients.

    Attributes:
        name: of this proxy, in `Via`.
        handled: requests by what was done with them.
    """

    def __init__(
        self,
        name: str,
        rules: Rules,
        dialer: Dialer,
        swarm: Swarm,
        origins: Origins,
        interception: Interception,
        admit: Callable[[str], Awaitable[Caller]],
        room: Room,
    ) -> None:
        self.name = name
        self.handled: Counter[str] = Counter()
        self.rules = rules
        self.dialer = dialer
        self.swarm = swarm
        self.origins = origins
        self.interception = interception
        self.admit = admit
        self.room = room

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to its end."""
        client = Wire(reader, writer, h11.SERVER)
        await _Session(self, client, _Requests(self), inside=False).run()

    async def turn_away(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, full: Unavailable
    ) -> None:
        """Tell a client for whom there is no room, once it has asked: an answer before that may be
        lost with the connection."""
        client = Wire(reader, writer, h11.SERVER)
        try:
            async with asyncio.timeout(TURNED_AWAY):
                await client.next_event()
                await _refuse(client, full)
        except (OSError, TimeoutError, h11.ProtocolError):
            client.abort()
        finally:
            await client.close()


class _Requests:
    """Answers requests, of which those within an intercepted tunnel are for the origin `base`, and
    of whoever opened it by what was `shown` then: that may end, or be revoked, while it is open."""

    def __init__(self, front: Front, base: str = "", shown: str = "") -> None:
        self._front = front
        self._base = base
        self._shown = shown
        # Who used each: an origin may take a connection for somebody's (RFC 4559), and whoever
        # stands before us may send several people's requests on one of theirs.
        self._idle: list[tuple[Caller, Relay]] = []
        self._relays = 0

    async def admit(self, fields: Mapping[str, str]) -> Caller:
        """Who asks; raises Unauthenticated, Forbidden."""
        front = self._front
        shown = self._shown if self._base else fields.get("proxy-authorization", "")
        caller = await front.admit(shown)
        if came_through(fields, front.name):
            front.handled["loop"] += 1
            raise Forbidden("the request comes back to this proxy again and again")
        return caller

    async def answer(self, client: Client, request: h11.Request, caller: Caller) -> None:
        """Answer a request, but for CONNECT.

        Raises:
            HawkerError: what is wrong with it, or why there is no answer.
        """
        front, fields = self._front, as_mapping(request.headers)
        method, target = request.method.decode(), request.target.decode("latin-1")
        url = self._base + target if self._base and target.startswith("/") else _absolute(target)
        wishes = wishes_of(fields)
        decision = front.rules.decide(method, url, fields).wished(method, wishes.swarm)
        if decision.action == "block":
            front.handled["block"] += 1
            raise Forbidden(f"a rule blocks {_origin(url)}", hint="see proxy.rules")
        if decision.action == "swarm":
            if await self._from_the_swarm(client, fields, decision, caller, wishes):
                front.handled["swarm"] += 1
                return
            log.info("%s is asked itself", _origin(url))
        front.handled["direct"] += 1
        relay = self._relay(caller)
        try:
            await relay.exchange(client, request, decision.url)
        finally:
            if len(self._idle) < KEPT:
                self._idle.append((caller, relay))
            else:
                await self._dismiss(relay)
            if method not in SAFE:
                # RFC 9111 section 4.4: whatever it was answered.
                front.origins.forget(decision.url)

    async def close(self) -> None:
        """Close the connections to origins that are kept."""
        while self._idle:
            await self._dismiss(self._idle.pop()[1])

    def _relay(self, caller: Caller) -> Relay:
        """One of the caller's that is idle, or a new one; the first has its room by that of the
        client.

        Raises:
            Unavailable: there is no room for one more.
        """
        for number, (whose, relay) in enumerate(self._idle):
            if whose == caller:
                del self._idle[number]
                return relay
        if self._relays:
            self._front.room.take()
        self._relays += 1
        return Relay(self._front.dialer, self._front.name)

    async def _dismiss(self, relay: Relay) -> None:
        self._relays -= 1
        if self._relays:
            self._front.room.leave()
        await relay.close()

    async def _from_the_swarm(
        self,
        client: Client,
        fields: Mapping[str, str],
        decision: Decision,
        caller: Caller,
        wishes: Wishes,
    ) -> bool:
        """Answer out of the swarm while the client waits for it; whether that was done."""
        if not can_be_asked(fields):
            return False
        # A request without a body still has an end to be read.
        while client.receiving:
            await client.next_event(IDLE)
        answered: bool | None = None

        async def answer() -> None:
            nonlocal answered
            swarm = self._front.swarm
            answered = await swarm.answer(client, fields, decision, caller.tenant, wishes)

        async def left() -> Mapping[str, str]:
            await client.departed()
            return {"type": "http.disconnect"}

        await until_disconnected(left, answer())
        if answered is None:
            raise ConnectionResetError("the client left")
        return answered


class _Session:
    """A client's connection of HTTP/1.1, its requests in turn."""

    def __init__(self, front: Front, client: Wire, requests: _Requests, *, inside: bool) -> None:
        self._front = front
        self._client = client
        self._requests = requests
        self._inside = inside

    async def run(self) -> None:
        try:
            while await self._next():
                pass
        except (OSError, TimeoutError):
            self._client.abort()
        finally:
            await self._requests.close()
            await self._client.close()

    async def _next(self) -> bool:
        """Answer a request; whether there may be another."""
        http = self._client.http
        try:
            # Over the whole head, however slowly it comes.
            async with asyncio.timeout(IDLE):
                event = await self._client.next_event()
            if not isinstance(event, h11.Request):
                return False
            await self._handle(event)
        except HawkerError as exc:
            await _refuse(self._client, exc)
        except h11.RemoteProtocolError as exc:
            await _refuse(self._client, BadRequest(f"this is not HTTP/1.1: {exc}"))
        if http.our_state is h11.DONE and http.their_state is h11.DONE:
            http.start_next_cycle()
            return True
        return False

    async def _handle(self, request: h11.Request) -> None:
        fields = as_mapping(request.headers)
        caller = await self._requests.admit(fields)
        if request.method == b"CONNECT" and not self._inside:
            shown = fields.get("proxy-authorization", "")
            await self._connect(request.target.decode("latin-1"), shown)
        else:
            await self._requests.answer(self._client, request, caller)

    async def _connect(self, target: str, shown: str) -> None:
        front = self._front
        host, port = _authority(target)
        if front.rules.blocks(host, port):
            front.handled["block"] += 1
            raise Forbidden(f"a rule blocks {host}:{port}", hint="see proxy.rules")
        if front.interception.covers(host):
            front.handled["intercept"] += 1
            await self._intercept(host, port, shown)
            return
        origin = await front.dialer.tunnel(host, port)
        front.handled["tunnel"] += 1
        try:
            await self._connected()
            early = bytes(self._client.http.trailing_data[0])
            await splice(self._client, origin, (early, origin.early))
        finally:
            await origin.close()

    async def _connected(self) -> None:
        await self._client.send(h11.Response(status_code=200, headers=[], reason=b"Connected"))

    async def _intercept(self, host: str, port: int, shown: str) -> None:
        """Answer within the tunnel in the place of its origin."""
        context = await self._front.interception.context(host)
        await self._connected()
        if self._client.http.trailing_data[0]:
            # It did not wait for the answer; its first bytes cannot be given back.
            self._client.abort()
            return
        reader, writer = self._client.reader, self._client.writer
        try:
            async with asyncio.timeout(HANDSHAKE):
                await writer.start_tls(context)
        except (OSError, TimeoutError) as exc:
            # ssl.SSLError is one: a client that does not take our authority ends here.
            log.info("no TLS with a client for %s: %s", host, exc or "it was silent")
            self._client.abort()
            return
        base = f"https://{host}" if port == 443 else f"https://{host}:{port}"
        requests = _Requests(self._front, base, shown)
        if writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2":
            try:
                await serve_accepted(partial(_serve_stream, requests), reader, writer)
            finally:
                await requests.close()
            return
        inner = Wire(reader, writer, h11.SERVER)
        await _Session(self._front, inner, requests, inside=True).run()


async def _serve_stream(requests: _Requests, scope: Any, receive: Any, send: Any) -> None:
    """One request of HTTP/2, as an ASGI app."""
    if scope["type"] != "http":
        return
    client = Stream(receive, send)
    try:
        request = await client.request(scope)
        caller = await requests.admit(as_mapping(request.headers))
        await requests.answer(client, request, caller)
    except HawkerError as exc:
        await _refuse(client, exc)
    except h11.ProtocolError as exc:
        await _refuse(client, BadRequest(f"this is no request: {exc}"))
    except (OSError, TimeoutError) as exc:
        log.debug("a stream ended: %s", exc)


async def _refuse(client: Client, error: HawkerError) -> None:
    """An answer of the proxy's own, if none began; the connection ends behind it."""
    if client.begun:
        client.abort()
        return
    problem = error.problem()
    headers = [("content-type", CONTENT_TYPE), ("connection", "close")]
    headers.append((ERROR_TYPE, error_type(error)))
    if isinstance(error, Unauthenticated):
        problem.status = 407
        headers.append(("proxy-authenticate", CHALLENGE))
    if error.retry_after is not None:
        headers.append(("retry-after", str(max(1, math.ceil(error.retry_after)))))
    body = encode(problem)
    headers.append(("content-length", str(len(body))))
    with contextlib.suppress(h11.LocalProtocolError):
        reason = HTTPStatus(problem.status).phrase.encode()
        await client.send(h11.Response(status_code=problem.status, headers=headers, reason=reason))
        await client.send(h11.Data(data=body))
        await client.send(h11.EndOfMessage())


def _absolute(target: str) -> str:
    """The URL that a proxy is asked for (RFC 9112 section 3.2.2)."""
    try:
        parts = urlsplit(target)
        usable = parts.scheme.lower() in ("http", "https") and bool(parts.hostname)
        parts.port  # noqa: B018
    except ValueError:
        usable = False
    if not usable:
        raise BadRequest(
            f"{target[:200]!r} is no absolute URL", hint="this is a proxy, and no web server"
        )
    return target


def _authority(target: str) -> tuple[str, int]:
    """Host and port of a CONNECT."""
    try:
        parts: Any = urlsplit(f"//{target}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or port is None or parts.path or parts.username is not None:
        raise BadRequest(f"{target[:200]!r} is no host and port")
    return host, port


def _origin(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]
