"""Many clients at once, clients that do not read, and clients that leave, against a real daemon.

    python -m tests.outside.storms

h2load asks for stored content and for `/healthy` on many streams; hundreds of clients ask for 64
MiB and take nothing, or 1 KB each second; a thousand downloads are broken off. Each storm comes
twice over every protocol, in clear text and over TLS. Meanwhile curl gets content, right to the
byte and not much later than alone.

For each stream the daemon's memory grows by at most what is read at once of its content, 1 MiB,
and what waits to be sent of that: the same again where Python 3.11 copies it for a socket, 160 KiB
on HTTP/2; and by 30 MB for all. When a storm is over its descriptors are back, and its memory but
for 96 MiB that it keeps for the next one; what the second storm leaves is no more than what the
first did, and 30 MB. Exits with 1 where a row is wrong, with 2 where a program is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import re
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from h2.settings import SettingCodes

from hawker.core.pieces import KIB, MIB
from tests.apps.serve.h3client import h3_client
from tests.apps.serve.servers import Place, h2_client
from tests.e2e.conftest import Cluster, Daemon
from tests.e2e.test_mutual_tls import authority, issue
from tests.outside.beginning import demand, directory

NEEDED = {"h2load": "nghttp2-client", "curl": "curl"}
PATIENCE = 300.0
SMALL, LARGE = MIB, 64 * MIB
# Bytes of memory that a storm may cost, for each stream and besides; that stay after it; that the
# same storm may add when it comes again.
PER_STREAM, BESIDES = 2 * MIB + 128 * KIB, 30_000_000
STAYS = 96 * MIB
ADDED = 30_000_000
# How much later than alone curl may have its mebibyte: behind hundreds of streams that are read as
# fast as they come, and behind those that are not read.
LATER, HARDLY_LATER = 10.0, 3.0
SETTLED = 30.0
WINDOW = 2**31 - 1


class Process:
    """What /proc says of the daemon."""

    def __init__(self, daemon: Daemon) -> None:
        self._proc = Path(f"/proc/{daemon.process.pid}")

    @property
    def memory(self) -> int:
        [line] = re.findall(r"VmRSS:\s+(\d+) kB", (self._proc / "status").read_text())
        return int(line) * 1024

    @property
    def descriptors(self) -> int:
        return len(os.listdir(self._proc / "fd"))


@dataclass
class Server:
    """A daemon and what it has stored."""

    name: str
    daemon: Daemon
    ca: Path | None
    small: bytes

    @property
    def place(self) -> Place:
        return Place(int(self.daemon.port), self.ca)

    def curl(self) -> float:
        """Seconds in which curl has the small content."""
        began = time.monotonic()
        flags = () if self.ca is None else ("--cacert", str(self.ca))
        command = (
            "curl",
            "-sSf",
            "--max-time",
            "60",
            *flags,
            f"{self.daemon.url}{content('small')}",
        )
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode == 0, f"curl: {done.stderr.decode()}"
        assert done.stdout == self.small, "curl got something else"
        return time.monotonic() - began


def content(name: str) -> str:
    return f"/peer/v1/content?url=http://storm.test/{name}"


Play = Callable[[Server], Coroutine[Any, Any, None]]


@dataclass
class Storm:
    """What clients do, on how many streams at once; `later` is what it may cost curl."""

    name: str
    protocol: str
    streams: int
    play: Play
    later: float = HARDLY_LATER


# ------------------------------------------------------------------ clients that load


def h2load(path: str, *flags: str) -> Play:
    async def play(server: Server) -> None:
        command = ("h2load", "-n", "2000", "-c", "20", *flags, f"{server.daemon.url}{path}")
        process = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=-1)
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate()
        told = out.decode()
        assert process.returncode == 0, f"{told}{err.decode()}"
        assert "2000 succeeded, 0 failed, 0 errored, 0 timeout" in told, told[-800:]
        assert "status codes: 2000 2xx, 0 3xx, 0 4xx, 0 5xx" in told, told[-800:]

    return play


# ------------------------------------------------------------------ clients that do not read


def slowly(
    open_: Callable[[Place, bool], contextlib.AbstractAsyncContextManager[None]],
    connections: int,
    seconds: float,
) -> Play:
    """Some connections for so long, every other one of which takes a little; then all leave."""

    async def play(server: Server) -> None:
        async with AsyncExitStack() as stack:
            for number in range(connections):
                await stack.enter_async_context(open_(server.place, number % 2 == 1))
            await asyncio.sleep(seconds)

    return play


def trusted(place: Place) -> ssl.SSLContext | None:
    return None if place.ca is None else ssl.create_default_context(cafile=place.ca)


@contextlib.asynccontextmanager
async def http1(place: Place) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection on which the large content is asked for."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", place.port, ssl=trusted(place), limit=1024
    )
    try:
        writer.write(f"GET {content('large')} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        yield reader, writer
    finally:
        writer.transport.abort()


@contextlib.asynccontextmanager
async def slow_http1(place: Place, takes: bool) -> AsyncIterator[None]:
    async with http1(place) as (reader, _):

        async def take() -> None:
            while takes:
                await asyncio.sleep(1)
                await reader.read(1000)

        async with _beside(take()):
            yield


@contextlib.asynccontextmanager
async def slow_http2(place: Place, takes: bool) -> AsyncIterator[None]:
    """50 streams; where none takes anything there would be room for everything."""
    async with h2_client(place) as client:
        if not takes:
            client.connection.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: WINDOW})
            client.connection.increment_flow_control_window(WINDOW - 65535)
        streams = [client.request(content("large")) for _ in range(50)]
        await client.flush()

        async def take() -> None:
            while takes:
                await asyncio.sleep(1)
                for stream in streams:
                    client.connection.increment_flow_control_window(1000, stream)
                client.connection.increment_flow_control_window(50_000)
                await client.flush()
                client.connection.receive_data(await client.reader.read(2**20))

        async with _beside(take()):
            yield
            client.writer.transport.abort()


@contextlib.asynccontextmanager
async def slow_http3(place: Place, takes: bool) -> AsyncIterator[None]:
    """5 streams; where something is taken it is one stream's at a time."""
    async with h3_client(place) as client:
        for _ in range(5):
            # One after the other: what comes on other streams meanwhile is not kept.
            assert await client.status(client.request(content("large"))) == "200"
        client.deaf = True

        async def take() -> None:
            while takes:
                await asyncio.sleep(1)
                client.deaf = False
                await asyncio.sleep(0)
                client.deaf = True

        async with _beside(take()):
            yield


@contextlib.asynccontextmanager
async def _beside(work: Awaitable[None]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# ------------------------------------------------------------------ clients that leave


async def leave_http1(server: Server) -> None:
    for _ in range(20):
        async with AsyncExitStack() as stack:
            for _ in range(50):
                await stack.enter_async_context(http1(server.place))


async def leave_http2(server: Server) -> None:
    for number in range(20):
        async with h2_client(server.place) as client:
            streams = [client.request(content("large")) for _ in range(50)]
            await asyncio.gather(client.status(streams[-1]))
            if number % 2:
                for stream in streams:
                    client.connection.reset_stream(stream)
                await client.flush()
            else:
                client.writer.transport.abort()


async def leave_http3(server: Server) -> None:
    for number in range(20):
        async with h3_client(server.place) as client:
            streams = [client.request(content("large")) for _ in range(50)]
            assert await client.status(streams[-1]) == "200"
            if number % 2:
                for stream in streams:
                    client.cancel(stream)


# ------------------------------------------------------------------ the table


@dataclass
class Seen:
    """What was seen of the daemon and by curl while a storm went on."""

    most: int = 0
    slowest: float = 0.0
    problems: list[str] = field(default_factory=list)


@contextmanager
def watched(server: Server, process: Process) -> Iterator[Seen]:
    seen, over = Seen(), threading.Event()

    def look() -> None:
        while not over.wait(0.05):
            seen.most = max(seen.most, process.memory)

    def ask() -> None:
        while not over.wait(0.2):
            try:
                seen.slowest = max(seen.slowest, server.curl())
            except AssertionError as exc:
                seen.problems.append(str(exc))

    threads = [threading.Thread(target=look), threading.Thread(target=ask)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        over.set()
        for thread in threads:
            thread.join()


def settle(process: Process, memory: int, descriptors: int) -> None:
    """Wait until there is no more than that, or long enough."""
    end = time.monotonic() + SETTLED
    while time.monotonic() < end:
        if process.memory <= memory and process.descriptors <= descriptors:
            return
        time.sleep(0.2)


def mb(size: int) -> str:
    return f"{size / 1e6:.0f}"


HEAD = (
    f"{'server':<7}{'proto':<7}{'storm':<22}{'streams':>7}{'seconds':>8}"
    f"{'MB before':>10}{'most':>6}{'bound':>6}{'after':>6}{'fds':>5}{'after':>6}"
    f"{'curl alone':>11}{'beside':>7}"
)


def row(server: Server, storm: Storm, first: int | None) -> tuple[int, bool]:
    """Play one storm; the memory after it, and whether all was right. `first` is what there was
    after the same storm before."""
    process = Process(server.daemon)
    alone = max(server.curl() for _ in range(3))
    before, descriptors = process.memory, process.descriptors
    began = time.monotonic()
    problems = []
    with watched(server, process) as seen:
        try:
            asyncio.run(storm.play(server))
        except (AssertionError, OSError, EOFError, TimeoutError) as exc:
            problems.append(f"{type(exc).__name__}: {exc}")
        seconds = time.monotonic() - began
    bound = before + storm.streams * PER_STREAM + BESIDES
    stays = before + STAYS if first is None else max(first, before) + ADDED
    settle(process, stays, descriptors)
    after, left = process.memory, process.descriptors
    problems += seen.problems
    for wrong, what in (
        (seen.most > bound, "too much memory"),
        (after > stays, "memory was left"),
        (left > descriptors, "descriptors were left"),
        (seen.slowest > alone + storm.later, "curl waited too long"),
    ):
        problems += [what] if wrong else []
    line = (
        f"{server.name:<7}{storm.protocol:<7}{storm.name:<22}{storm.streams:>7}{seconds:>8.1f}"
        f"{mb(before):>10}{mb(seen.most):>6}{mb(bound):>6}{mb(after):>6}{descriptors:>5}{left:>6}"
        f"{alone:>11.2f}{seen.slowest:>7.2f}"
    )
    print(f"{line}  WRONG: {'; '.join(problems)}" if problems else line, flush=True)
    return after, not problems


def storms(seconds: float) -> list[Storm]:
    small = content("small")
    streams = ("-m", "20")
    return [
        Storm("h2load /healthy", "h1", 20, h2load("/healthy", "--h1"), LATER),
        Storm("h2load /healthy", "h2", 400, h2load("/healthy", *streams), LATER),
        Storm("h2load 1 MiB", "h1", 20, h2load(small, "--h1"), LATER),
        Storm("h2load 1 MiB", "h2", 400, h2load(small, *streams), LATER),
        Storm("64 MiB not read", "h1", 200, slowly(slow_http1, 200, seconds)),
        Storm("64 MiB not read", "h2", 200, slowly(slow_http2, 4, seconds)),
        Storm("64 MiB not read", "h3", 50, slowly(slow_http3, 10, seconds)),
        Storm("1000 broken off", "h1", 100, leave_http1, LATER),
        Storm("1000 broken off", "h2", 100, leave_http2, LATER),
        Storm("1000 broken off", "h3", 100, leave_http3, LATER),
    ]


@contextmanager
def serving(root: Path) -> Iterator[list[Server]]:
    """A daemon in clear text and one over TLS with HTTP/3, that have the content."""
    ca = authority(root / "ca")
    flags = issue(ca, root / "own", "127.0.0.1", "localhost")
    small, large = (random.Random(1).randbytes(size) for size in (SMALL, LARGE))
    cluster = Cluster(root)
    try:
        servers = [
            Server("clear", cluster.start("clear", "up"), None, small),
            Server("tls", cluster.start("tls", "up", "--http3", *flags), ca / "ca.crt", small),
        ]
        for server in servers:
            server.daemon.wait_ready()
            with server.daemon.client() as client:
                for name, data in (("small", small), ("large", large)):
                    path = "/peer/v1/tasks/import"
                    url = {"url": f"http://storm.test/{name}"}
                    assert client.post(path, params=url, content=data).status_code == 200
        yield servers
    finally:
        cluster.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.outside.storms", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="that nothing is read")
    parser.add_argument("--server", choices=["clear", "tls"], help="only this one")
    parser.add_argument("--protocol", choices=["h1", "h2", "h3"], help="only over this one")
    arguments = parser.parse_args()
    demand(NEEDED)
    right = True
    with directory("storms") as root, serving(root) as servers:
        print(HEAD)
        for server in servers:
            if arguments.server not in (None, server.name):
                continue
            for storm in storms(arguments.seconds):
                if storm.protocol == "h3" and server.ca is None:
                    continue
                if arguments.protocol not in (None, storm.protocol):
                    continue
                after, good = row(server, storm, None)
                _, again = row(server, storm, after)
                right = right and good and again
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
