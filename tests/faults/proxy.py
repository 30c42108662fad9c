"""A TCP proxy in front of a daemon, whose link can be cut, stalled and slowed down."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Coroutine
from typing import Any

CHUNK = 1 << 16
BURST_SECONDS = 0.01


class Links:
    """An event loop in a thread of its own, for the proxies of one run."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self._links: list[Link] = []

    def add(self, target: int, rate: float = 0.0) -> Link:
        """A proxy in front of this port of this machine; `rate` in bytes per second, 0: none."""
        link = Link(target, rate)
        self.run(link.open())
        self._links.append(link)
        return link

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something on the loop, and wait for it."""
        asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def close(self) -> None:
        for link in self._links:
            self.run(link.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class Link:
    """One proxy; `rate` is that of all its connections together, from the daemon outwards."""

    def __init__(self, target: int, rate: float) -> None:
        self.port = 0
        self.rate = rate
        self.passed = 0
        self._target = target
        self._free_at = 0.0
        self._stalled_until = 0.0
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=CHUNK)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        await self.cut()

    async def cut(self) -> None:
        """Reset every connection; new ones may come."""
        for writer in list(self._writers):
            writer.transport.abort()

    def stall(self, seconds: float) -> None:
        """Let nothing pass for so long; connections stay open."""
        self._stalled_until = time.monotonic() + seconds

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._small_buffers(writer)
        try:
            inner_reader, inner = await asyncio.open_connection(
                "127.0.0.1", self._target, limit=CHUNK
            )
        except OSError:
            # The daemon is away: so is whoever asked.
            writer.transport.abort()
            return
        self._writers |= {writer, inner}
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, inner, limited=False))
                group.create_task(self._pump(inner_reader, writer, limited=True))
        finally:
            self._writers -= {writer, inner}
            writer.transport.abort()
            inner.transport.abort()

    def _small_buffers(self, writer: asyncio.StreamWriter) -> None:
        """A link holds little, so that its rate is that of the bytes which arrive."""
        sock = writer.get_extra_info("socket")
        if self.rate:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * CHUNK)
        writer.transport.set_write_buffer_limits(high=CHUNK)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, limited: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                if limited:
                    self.passed += len(data)
                    await self._hold_back(len(data))
                writer.write(data)
                await writer.drain()
        # One direction's end is taken as that of both: HTTP/1.1 does not half-close.
        writer.transport.abort() if writer.is_closing() else writer.close()

    async def _hold_back(self, size: int) -> None:
        now = time.monotonic()
        while (rest := self._stalled_until - now) > 0:
            await asyncio.sleep(rest)
            now = time.monotonic()
        if self.rate:
            self._free_at = max(self._free_at, now - BURST_SECONDS) + size / self.rate
            if self._free_at > now:
                await asyncio.sleep(self._free_at - now)
