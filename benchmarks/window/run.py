"""What observers of a task cost its scheduler.

    python -m benchmarks.window.run [--peers 200] [--observers 1 5] [--seconds 20] [--rounds 3]
        [--json]

The scheduler is `hawker serve scheduler`. A client process holds the peers of one task at a time:
hosts with an open decision stream each, which report once a second, as peers do, what came: sixteen
pieces of 1 024 in no order, from four others. Observers are in a process of their own and decode
every frame. In each round the scheduler's CPU time is measured without observers and with so many
of them, in alternating order, each with a new task and for as many seconds; the share of a core is
user and system time by the time that passed. Clients and scheduler share the machine's cores. Needs
Linux.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import signal
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx

from benchmarks.control.clients import Client, clients
from benchmarks.control.hosts import GENERATION, PIECES, Host, Line, provide, spec_of
from benchmarks.figures import VERDICT, machine, print_table, spread
from benchmarks.processes import Cluster, cpu_seconds, resident_bytes
from hawker.apps.demo.processes import Fleet
from hawker.core.clients.events import sse
from hawker.core.messages import Have, Register
from hawker.core.pieces import MIB, PieceSet
from hawker.core.tokens import ClusterKey, read_key_file
from hawker.core.window import SeenTask, decode_frame

TARGET = 0.05
EVERY = 1.0
A_REPORT = 16
SENDERS = 4


async def play(pipe: Connection, url: str, key: bytes, peers: int) -> None:
    """The peers of one task after the other; told to, they begin the next one, and send its id."""
    seed, line = Host(key, seed=True), await Line.open(url)
    await seed.announce(line)
    hosts = [Host(key) for _ in range(peers)]
    lines = [await Line.open(url) for _ in hosts]
    streams, tasks = [], list[asyncio.Task[None]]()
    for host, own in zip([seed, *hosts], [line, *lines], strict=True):
        await host.announce(own)
        streams.append(asyncio.create_task((await host.follow(url)).wait_for(b"\0")))
    rng = random.Random(1)

    async def take_part(host: Host, line: Line, task: str) -> None:
        left = list(range(PIECES))
        rng.shuffle(left)
        await asyncio.sleep(rng.uniform(0, EVERY))
        due = time.monotonic()
        while left:
            pieces = [left.pop() for _ in range(min(A_REPORT, len(left)))]
            others = rng.sample(hosts, SENDERS)
            have = Have(
                task=task,
                generation=GENERATION,
                pieces=PieceSet.of(pieces).runs(),
                senders={other.id: len(pieces) // SENDERS * 4 * MIB for other in others},
            )
            await host.report(line, have)
            due += EVERY
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async with asyncio.TaskGroup() as group:
        for number in itertools.count():
            await asyncio.to_thread(pipe.recv)
            for taking in tasks:
                taking.cancel()
            spec = spec_of(number)
            await provide(seed, line, [number])
            for host, own in zip(hosts, lines, strict=True):
                await host.report(own, Register(task=spec.task_id, spec=spec))
            tasks = [
                group.create_task(take_part(host, own, spec.task_id))
                for host, own in zip(hosts, lines, strict=True)
            ]
            pipe.send(spec.task_id)


async def observe(pipe: Connection, url: str, key: bytes, count: int) -> None:
    """So many observers of the task that is named, until the process is ended; asked, it sends how
    many frames came and how many peers and pieces they show."""
    pipe.send("ready")
    task: str = await asyncio.to_thread(pipe.recv)
    token = ClusterKey(key).mint("", ["tasks"])
    seen = [SeenTask() for _ in range(count)]
    frames = bytes_ = 0

    async def follow(mine: SeenTask) -> None:
        nonlocal frames, bytes_
        path = f"{url}/scheduler/v1/tasks/{task}/events"
        headers = {"authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            async with client.stream("GET", path, headers=headers) as answer:
                answer.raise_for_status()
                async for event in sse(answer):
                    mine.take(decode_frame(event.data))
                    frames += 1
                    bytes_ += len(event.data)

    async with asyncio.TaskGroup() as group:
        for mine in seen:
            group.create_task(follow(mine))
        await asyncio.to_thread(pipe.recv)
        pieces = [sum(map(len, mine.maps().values())) for mine in seen]
        pipe.send([frames, bytes_, min(len(mine.peers) for mine in seen), min(pieces)])


async def measure(directory: Path, options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {"shares": {n: [] for n in (0, *options.observers)}, "seen": {}}
    async with Fleet(directory) as fleet:
        cluster = Cluster(fleet, directory / "cluster")
        key = read_key_file(cluster.key)
        scheduler = await cluster.serve("scheduler", "scheduler")
        url = scheduler.ready.url
        swarm = Client(play, url, key, options.peers)
        try:
            for number in range(options.rounds):
                order = [0, *options.observers]
                for count in order if number % 2 == 0 else reversed(order):
                    swarm.tell("another")
                    task = await swarm.answer()
                    await asyncio.sleep(2.0)
                    used, seen = await one(scheduler.pid, url, key, task, count, options.seconds)
                    found["shares"][count].append(used)
                    if count:
                        found["seen"][count] = seen
                    print(f"round {number}, {count} observers: {used:.3f}", file=sys.stderr)
            found["rss"] = resident_bytes(scheduler.pid)
        finally:
            swarm.end()
    return found


async def one(
    pid: int, url: str, key: bytes, task: str, count: int, seconds: float
) -> tuple[float, list[int]]:
    """The scheduler's share of a core for so long, with so many observers of a task."""
    if count == 0:
        return await share(pid, seconds), []
    async with clients(Client(observe, url, key, count)) as [observers]:
        observers.tell(task)
        await asyncio.sleep(2.0)
        used = await share(pid, seconds)
        observers.tell("how much")
        return used, await observers.answer()


async def share(pid: int, seconds: float) -> float:
    cpu, began = cpu_seconds(pid), time.monotonic()
    await asyncio.sleep(seconds)
    return (cpu_seconds(pid) - cpu) / (time.monotonic() - began)


def report(found: dict[str, Any], options: argparse.Namespace) -> None:
    print(f"median (min-max) of {options.rounds} rounds; {machine()}\n")
    rows = [("share of a core, %", "measured", "target")]
    alone = found["shares"][0]
    name = f"scheduler of {options.peers} peers that report once a second"
    rows.append((name, spread([100 * share for share in alone], 1), ""))
    for count in options.observers:
        more = [100 * (a - b) for a, b in zip(found["shares"][count], alone, strict=True)]
        met = statistics.median(more) < 100 * TARGET
        told = f"< {100 * TARGET:g}: {VERDICT[met]}" if count == 1 else ""
        rows.append((f"more with {count} observer{'s' * (count > 1)}", spread(more, 1), told))
    print_table(rows)
    for count, (frames, size, peers, pieces) in found["seen"].items():
        rate = f"{frames / count / options.seconds:.1f} frames/s"
        print(f"{count}: each {rate}, {size / count / options.seconds / 1000:.0f} kB/s;", end=" ")
        print(f"{peers} peers and {pieces} pieces shown")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--peers", type=int, default=200)
    parser.add_argument("--observers", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print a JSON line after the table")
    options = parser.parse_args()
    # Ends like Ctrl-C does: nothing is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="hawker-window-") as name:
        found = asyncio.run(measure(Path(name), options))
    report(found, options)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
