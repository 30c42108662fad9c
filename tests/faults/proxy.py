"""A TCP proxy in front of a daemon, whose link can be cut, stalled and slowed down."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

CHUNK = 1 << 16
BURST_SECONDS = 0.01


class Bucket:
    """Holds bytes back to a rate, in bytes per second (0: none), for all who share it."""

    def __init__(self, rate: float = 0.0) -> None:
        self.rate = rate
        self._free_at = 0.0

    async def take(self, size: int) -> None:
        """Wait until so many bytes may pass."""
        if self.rate:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - BURST_SECONDS) + size / self.rate
            if self._free_at > now:
                await asyncio.sleep(self._free_at - now)


class Links:
    """An event loop in a thread of its own, for the proxies of one run."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self._links: list[Link] = []

    def add(self, target: int, downlink_of: Callable[[int], Bucket] | None = None) -> Link:
        """A proxy in front of this port of this machine.

        `downlink_of` finds the bucket of whoever connects from a local port, which holds back all
        that this client takes through any link.
        """
        link = Link(target, downlink_of)
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
    """One proxy; `bucket` holds back all that leaves its daemon."""

    def __init__(self, target: int, downlink_of: Callable[[int], Bucket] | None) -> None:
        self.port = 0
        self.passed = 0
        self.bucket = Bucket()
        self._downlink_of = downlink_of
        self._target = target
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
        buckets = [self.bucket]
        if self._downlink_of is not None:
            buckets.append(self._downlink_of(writer.get_extra_info("peername")[1]))
            # A slow link holds little, so that its rate is that of the bytes which arrive.
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * CHUNK)
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
                group.create_task(self._pump(reader, inner, []))
                group.create_task(self._pump(inner_reader, writer, buckets))
        finally:
            self._writers -= {writer, inner}
            writer.transport.abort()
            inner.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, buckets: list[Bucket]
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                await asyncio.sleep(self._stalled_until - time.monotonic())
                if buckets:
                    self.passed += len(data)
                for bucket in buckets:
                    await bucket.take(len(data))
                writer.write(data)
                await writer.drain()
        # One direction's end is taken as that of both: HTTP/1.1 does not half-close.
        writer.close()
