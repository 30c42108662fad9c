"""Requests as their apps see them: what a client sends waits until its app reads it.

hypercorn's own queue between a connection and an app holds ten messages, whatever their size, and
whoever puts the next one waits: on HTTP/2 and HTTP/3 for all streams of the connection, on HTTP/1.1
for ever where the app answered without reading.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from hypercorn.asyncio.task_group import TaskGroup, _handle

# HTTP/1.1 alone: how much of a body may wait in memory before its connection is read no further.
UNREAD = 256 * 1024
# RFC 9110 5.6.2 and RFC 3986: what a request line of HTTP/1.1 could hold.
_METHOD = re.compile(rb"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}\Z")
_PATH = re.compile(rb"^(?:/[\x21-\x7e]*|\*)\Z")

Taken = Callable[[int], Awaitable[None]]


class Inbox:
    """The ASGI messages of one request. `limit` bytes may wait before `put` does; `taken` hears how
    many bytes of body were read, or will never be."""

    def __init__(self, limit: int | None, taken: Taken | None) -> None:
        self._limit = limit
        self._taken = taken
        self._events: deque[Any] = deque()
        self._unread = 0
        self._over = False
        self._gone: Any = None
        self._ready = asyncio.Event()
        self._room = asyncio.Event()

    @property
    def unread(self) -> int:
        """Bytes of body that wait."""
        return self._unread

    @property
    def gone(self) -> bool:
        """Nobody waits for the answer any more."""
        return self._gone is not None

    async def put(self, event: Any) -> None:
        if event["type"].endswith(".disconnect"):
            self._gone = event
            self._ready.set()
            self._room.set()
            return
        size = len(event.get("body", b""))
        if self._over:
            await self._tell(size)
            return
        self._events.append(event)
        self._unread += size
        self._ready.set()
        while self._limit is not None and self._unread > self._limit:
            if self._over or self._gone is not None:
                return
            self._room.clear()
            await self._room.wait()

    async def get(self) -> Any:
        """The next message; that the client has gone, as often as it is asked."""
        while not self._events:
            if self._gone is not None:
                return self._gone
            self._ready.clear()
            await self._ready.wait()
        event = self._events.popleft()
        size = len(event.get("body", b""))
        self._unread -= size
        self._room.set()
        await self._tell(size)
        return event

    async def close(self) -> None:
        """The app has ended: whatever else comes is thrown away."""
        self._over = True
        size, self._unread = self._unread, 0
        self._events.clear()
        self._room.set()
        await self._tell(size)

    async def _tell(self, size: int) -> None:
        if size and self._taken is not None:
            await self._taken(size)


class AppTasks(TaskGroup):
    """The apps of one connection, each with an `Inbox`, and with `extensions` in their scope."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, extensions: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(loop)
        self.running = 0
        self._extensions = extensions or {}

    async def spawn_app(self, app: Any, config: Any, scope: Any, send: Any) -> Any:
        """As HTTP/1.1 wants it."""
        return self.spawn_with(Inbox(UNREAD, None), app, config, scope, send)

    def spawn_with(self, inbox: Inbox, app: Any, config: Any, scope: Any, send: Any) -> Any:
        """Start an app that reads from this inbox; returns where its messages are put."""
        scope["extensions"].update(self._extensions)
        self.spawn(self._run, inbox, app, config, scope, send)
        return inbox.put

    async def _run(self, inbox: Inbox, app: Any, config: Any, scope: Any, send: Any) -> None:
        self.running += 1

        async def answer(message: Any) -> None:
            if message is None:
                await inbox.close()
            elif inbox.gone:
                # Sending takes no time now; an app that goes on must not keep all others waiting.
                await asyncio.sleep(0)
            await send(message)

        def sync_spawn(*call: Any) -> Any:
            return self._loop.run_in_executor(None, *call)

        def call_soon(call: Any, *arguments: Any) -> Any:
            return asyncio.run_coroutine_threadsafe(call(*arguments), self._loop).result()

        try:
            await _handle(app, config, scope, inbox.get, answer, sync_spawn, call_soon)
        finally:
            self.running -= 1


class StreamTasks:
    """What one stream of a multiplexed connection starts its app by: its inbox never waits, for
    others share the connection; the protocol's own flow control bounds it."""

    def __init__(self, tasks: AppTasks, inbox: Inbox) -> None:
        self._tasks = tasks
        self._inbox = inbox
        self.spawn = tasks.spawn

    async def spawn_app(self, app: Any, config: Any, scope: Any, send: Any) -> Any:
        return self._tasks.spawn_with(self._inbox, app, config, scope, send)


def is_proper(headers: Any) -> bool:
    """Whether the pseudo-header fields of a request could stand in a request line of HTTP/1.1.

    HTTP/2 and HTTP/3 carry any bytes there; what is no path would break the app's server, or become
    another request behind it. CONNECT is known for tunnels and WebSocket, and we have neither.
    """
    fields = {name: value for name, value in headers if name.startswith(b":")}
    method = fields.get(b":method", b"")
    if method == b"CONNECT":
        return False
    return bool(_METHOD.match(method) and _PATH.match(fields.get(b":path", b"")))
