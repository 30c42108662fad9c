"""The proxy role: a listener of its own, for what no ASGI server can carry."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Iterable, Sequence

from starlette.routing import BaseRoute

from hawker.apps.proxy.front import Front
from hawker.apps.proxy.interception import Interception
from hawker.apps.proxy.room import Room
from hawker.apps.proxy.rules import Rules
from hawker.apps.proxy.swarm import Swarm
from hawker.apps.proxy.versions import Origins
from hawker.apps.proxy.wire import MAX_HEAD, Dialer
from hawker.apps.serve.listeners import AT_ONCE, lengthen_queue
from hawker.apps.web.access import LOCAL_USER, Access, as_bearer, check_allowed
from hawker.apps.web.content import swarm_content
from hawker.apps.web.metrics import Metric, counter, counters, gauge
from hawker.apps.web.prefetch import Prefetching
from hawker.apps.web.role import Role
from hawker.core.contracts import Caller, Directions, RoleContext
from hawker.core.errors import ConfigError, Unavailable
from hawker.core.outgoing import OriginClient, origin_tls
from hawker.core.tls import server_context

# A client that does not finish its handshake by then is cut.
HANDSHAKE = 10.0
# Clients for whom there is no room are told so, but for more than these at once.
TURNED_AWAY = 64
# Clients that are still served get so long when the process stops.
GRACE = 2.0


class ProxyRole(Role):
    """A forward proxy on `proxy.port`."""

    name = "proxy"

    def __init__(self, context: RoleContext) -> None:
        super().__init__()
        settings = context.settings
        self._context = context
        self._access = Access(settings, context.plugins, context.open, context.revoked)
        self._rules = Rules(settings.proxy.rules)
        self._front: Front | None = None
        self.listening = ""

    def routes(self) -> Sequence[BaseRoute]:
        return []

    async def follow(self, directions: Directions) -> None:
        self._access.refuse(directions.revoked)

    def metrics(self) -> Iterable[Metric]:
        yield from super().metrics()
        if self._front is not None:
            yield counters(
                "hawker_proxy_requests",
                "Requests to the forward proxy, by what was done with them.",
                "action",
                self._front.handled,
            )
            yield counter(
                "hawker_proxy_validations",
                "Questions to origins which version of a URL's content they have.",
                self._front.origins.asked,
            )
            yield gauge(
                "hawker_proxy_connections",
                "Connections of the forward proxy's clients, and more of theirs to origins.",
                self._front.room.taken,
            )
            yield counter(
                "hawker_proxy_refused",
                "Connections and requests for which the forward proxy had no room.",
                self._front.room.refused,
            )

    @contextlib.asynccontextmanager
    async def resources(self) -> AsyncIterator[None]:
        settings, services = self._context.settings, self._context.plugins.services
        context = await asyncio.to_thread(origin_tls, settings.egress.ca)
        interception = await asyncio.to_thread(Interception, settings.proxy)
        name = f"hawker-{secrets.token_hex(4)}"
        async with contextlib.AsyncExitStack() as stack:
            content = await stack.enter_async_context(swarm_content(self._context, self.name))
            client = OriginClient(services, context)
            stack.push_async_callback(client.close)
            origins = Origins(client)
            prefetching = await stack.enter_async_context(Prefetching(content))
            self._front = front = Front(
                name,
                self._rules,
                Dialer(services.egress, context),
                Swarm(content, origins, prefetching, name),
                origins,
                interception,
                self._admit,
                Room.of_process(),
            )
            async with _Connections(front) as connections:
                server = await self._listen(connections)
                try:
                    yield
                finally:
                    self.listening = ""
                    server.close()

    async def _listen(self, connections: _Connections) -> asyncio.Server:
        listen, proxy = self._context.settings.listen, self._context.settings.proxy
        port = proxy.port
        if port < 0:
            port = listen.port + 1 if listen.port else 0
        secured = await asyncio.to_thread(server_context, self._context.settings.tls)
        try:
            server = await asyncio.start_server(
                connections.accept,
                listen.host,
                port,
                limit=MAX_HEAD,
                backlog=AT_ONCE,
                ssl=secured,
                ssl_handshake_timeout=HANDSHAKE if secured else None,
            )
        except OSError as exc:
            raise ConfigError(
                f"the proxy cannot listen on {listen.host}:{port}: {exc.strerror}",
                hint="set proxy.port to a free one, or 0",
            ) from exc
        lengthen_queue(server)
        host, bound = server.sockets[0].getsockname()[:2]
        scheme = "https" if self._context.settings.tls.certificate else "http"
        self.listening = f"{scheme}://{f'[{host}]' if ':' in host else host}:{bound}"
        return server

    async def _admit(self, shown: str) -> Caller:
        """Who a client of the proxy is, by its `Proxy-Authorization`: a token of the cluster as
        `Bearer`, or as the password of any user.

        Raises:
            Unauthenticated, Forbidden: it needs one, or a better one.
        """
        if self._context.open:
            return LOCAL_USER
        field = (b"authorization", as_bearer(shown).encode("latin-1", "replace"))
        caller = await self._access.caller({"type": "http", "headers": [field]})
        return check_allowed(caller, "content", "")


class _Connections:
    """Every connection that is open, each a task."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._open: set[asyncio.Task[None]] = set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """For `asyncio.start_server`, which runs it as a task."""
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            await self._accept(reader, writer)
        finally:
            self._open.discard(task)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        room = self._front.room
        try:
            room.take()
        except Unavailable as full:
            if len(self._open) > room.limit + TURNED_AWAY:
                writer.transport.abort()
            else:
                await self._front.turn_away(reader, writer, full)
            return
        try:
            await self._front.serve(reader, writer)
        finally:
            room.leave()

    async def __aenter__(self) -> _Connections:
        return self

    async def __aexit__(self, *failure: object) -> None:
        if self._open:
            await asyncio.wait(self._open, timeout=GRACE)
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
