"""Client processes of a scheduler: registrations over HTTP, and idle decision streams."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.control.hosts import Host, Line, spec_of
from hawker.core.messages import Register, decode_answer

OPENING = 64
WAIT = 600.0


@dataclass(frozen=True)
class Load:
    """What one process does: each host registers `tasks` tasks, `batch` in a request."""

    hosts: int
    tasks: int
    batch: int


@dataclass(frozen=True)
class Done:
    """How a load went: times of each request in seconds; `empty` answers held no decision."""

    registrations: int
    seconds: list[float]
    empty: int


class Client:
    """A process of its own that is told what to do."""

    def __init__(self, work: Callable[..., Any], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(work, theirs, *arguments), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def tell(self, what: Any) -> None:
        self._pipe.send(what)

    async def answer(self) -> Any:
        """What the process answers; raises EOFError where it has ended."""
        while not await asyncio.to_thread(self._pipe.poll, 0.5):
            if not self._process.is_alive():
                raise EOFError("a client process has ended")
        return self._pipe.recv()

    def end(self) -> None:
        self._process.terminate()
        self._process.join()


def _run(work: Callable[..., Any], pipe: Connection, *arguments: Any) -> None:
    asyncio.run(work(pipe, *arguments))


async def register(pipe: Connection, url: str, key: bytes, first: int, load: Load) -> None:
    """Hosts with open streams, each with a connection of its own; begins when it is told to."""
    hosts = [Host(key) for _ in range(load.hosts)]
    lines = [await Line.open(url) for _ in hosts]
    streams = []
    for host, line in zip(hosts, lines, strict=True):
        await host.announce(line)
        streams.append(asyncio.create_task((await host.follow(url)).wait_for(b"\0")))
    work = []
    for host in hosts:
        specs = [spec_of(first + number) for number in range(load.tasks)]
        reports = [Register(task=spec.task_id, spec=spec) for spec in specs]
        starts = range(0, load.tasks, load.batch)
        work.append([host.batch(reports[at : at + load.batch]) for at in starts])
    # A host's first report is checked for its token, later ones are not.
    for host, line in zip(hosts, lines, strict=True):
        await host.report(line)
    pipe.send("ready")
    await asyncio.to_thread(pipe.recv)
    seconds: list[float] = []
    answers: list[bytes] = []

    async def play(host: Host, line: Line, batches: list[bytes]) -> None:
        for batch in batches:
            began = time.perf_counter()
            answers.append(await host.send(line, batch))
            seconds.append(time.perf_counter() - began)

    await asyncio.gather(*map(play, hosts, lines, work))
    pipe.send(None)
    empty = sum(not decode_answer(answer).decisions for answer in answers)
    pipe.send(Done(load.hosts * load.tasks, seconds, empty))
    await asyncio.gather(*streams)


async def follow(pipe: Connection, url: str, key: bytes, count: int) -> None:
    """So many idle streams; told a mark, the times at which it came to each of them."""
    gate = asyncio.Semaphore(OPENING)

    async def open_one() -> Line:
        async with gate:
            host = Host(key)
            line = await Line.open(url)
            await host.announce(line)
            line.close()
            return await host.follow(url)

    streams = await asyncio.gather(*(open_one() for _ in range(count)))
    pipe.send("ready")
    mark = await asyncio.to_thread(pipe.recv)
    arrivals: list[float] = []

    async def arrive(line: Line) -> None:
        await line.wait_for(mark)
        arrivals.append(time.monotonic())

    waits = [asyncio.create_task(arrive(line)) for line in streams]
    pipe.send("listening")
    await asyncio.gather(*waits)
    pipe.send(arrivals)
    await asyncio.to_thread(pipe.recv)


@asynccontextmanager
async def clients(*made: Client) -> AsyncIterator[list[Client]]:
    """Processes that are ready, and ended when this is left."""
    try:
        for client in made:
            await client.answer()
        yield list(made)
    finally:
        for client in made:
            client.end()
