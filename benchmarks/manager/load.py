"""A process of members that keep alive: bare connections, with one long poll after the other."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any
from urllib.parse import urlsplit

import msgspec

from hawker.core.membership import Keepalive, Kept

CONNECTING = 32
PROBES = 4
PROBE_EVERY = 0.2
_KEPT = msgspec.json.Decoder(Kept)


class Poller(asyncio.Protocol):
    """A member on one connection. What it measures goes into `load`: seconds over the wait where
    nothing was new, and the moment at which something was."""

    def __init__(self, load: Load, number: int, kind: str, host: str, token: str) -> None:
        self._load = load
        self._head = (
            f"PUT /manager/api/v1/clusters/{load.cluster}/members/{host} HTTP/1.1\r\n"
            f"host: x\r\nauthorization: Bearer {token}\r\n"
            "content-type: application/json\r\ncontent-length: "
        ).encode()
        address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        self._said = Keepalive(
            kind=kind,  # type: ignore[arg-type]
            url=f"http://{address}:4000",
            addresses=[address],
            hostname=f"host-{number}",
            idc="fra1",
            version="0.1.0",
        )
        self._buffer = b""
        self._wait = 0.0
        self._sent = 0.0
        self._revision = ""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask("", 0.0)

    def _ask(self, known: str, wait: float) -> None:
        said = msgspec.structs.replace(self._said, known=known, wait=wait)
        body = msgspec.json.encode(said)
        assert self._transport is not None
        self._wait, self._sent = wait, time.monotonic()
        self._transport.write(b"%s%d\r\n\r\n%s" % (self._head, len(body), body))

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        if len(rest) < length:
            return
        self._buffer = b""
        if not head.startswith(b"HTTP/1.1 200"):
            self._load.failures[f"{head!r} {rest[:300]!r}"] += 1
            return
        self._answered(now, _KEPT.decode(rest))

    def _answered(self, now: float, told: Kept) -> None:
        load, took = self._load, now - self._sent
        news = told.revision != self._revision
        if not self._wait:
            load.first.append(took)
        elif news:
            load.news.append((told.configuration.readers or told.configuration.upload_slots, now))
        else:
            load.over.append((now, took - self._wait))
        self._revision = told.revision
        self._ask(told.revision, load.wait)

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.failures["connection lost"] += 1


class Load:
    def __init__(self, cluster: str, wait: float) -> None:
        self.cluster = cluster
        self.wait = wait
        self.first: list[float] = []
        self.over: list[tuple[float, float]] = []
        self.news: list[tuple[int | None, float]] = []
        self.immediate: list[tuple[float, float]] = []
        self.failures: dict[str, int] = defaultdict(int)


async def keep_alive(
    pipe: Connection,
    url: str,
    cluster: str,
    members: Sequence[tuple[int, str, str, str]],
    wait: float,
    rate: float,
) -> None:
    """Connect `rate` members a second; then send what was measured since whenever asked for it."""
    load, loop, parts = Load(cluster, wait), asyncio.get_running_loop(), urlsplit(url)
    gate = asyncio.Semaphore(CONNECTING)
    assert parts.hostname is not None and parts.port is not None
    address = parts.hostname, parts.port

    async def connect(member: tuple[int, str, str, str]) -> None:
        async with gate:
            await loop.create_connection(lambda: Poller(load, *member), *address)

    async with asyncio.TaskGroup() as group:
        began = loop.time()
        async with asyncio.TaskGroup() as opening:
            for at, member in enumerate(members):
                await asyncio.sleep(max(0.0, began + at / rate - loop.time()))
                opening.create_task(connect(member))
        probes = [group.create_task(_probe(load, url, member)) for member in members[:PROBES]]
        pipe.send("ready")
        while await asyncio.to_thread(pipe.recv) == "tell":
            names = ("first", "over", "news", "immediate", "failures")
            told: dict[str, Any] = {name: getattr(load, name) for name in names}
            pipe.send({name: dict(v) if name == "failures" else v for name, v in told.items()})
            load.first, load.over, load.news, load.immediate = [], [], [], []
        for probe in probes:
            probe.cancel()


async def _probe(load: Load, url: str, member: tuple[int, str, str, str]) -> None:
    """Keepalives on a connection of their own that are to be answered at once."""
    number, kind, host, token = member
    poller = Poller(load, number, kind, host, token)
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    body = msgspec.json.encode(poller._said)
    request = b"%s%d\r\n\r\n%s" % (poller._head, len(body), body)
    try:
        while True:
            began = time.monotonic()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            await reader.readexactly(length)
            now = time.monotonic()
            load.immediate.append((now, now - began))
            await asyncio.sleep(PROBE_EVERY)
    finally:
        writer.close()
