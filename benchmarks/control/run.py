"""What one scheduler bears: its core in process, registrations over HTTP, idle decision streams.

    python -m benchmarks.control.run [--peers 100000] [--streams 10000] [--idle 30] [--runs 3]
        [--json]

Target 8 of the design. The core is measured in a process of its own: a crowd of live peers, each of
them a host in a task, then 5 000 more registrations and 20 000 reports of ten pieces; once spread
over 100 tasks, once in a single one. Over HTTP the scheduler is `hawker serve scheduler`; two
client processes hold 100 hosts each, every host with an open decision stream and one connection for
its reports, which registers tasks one in a request, then ten in a request. Clients and scheduler
share the machine's cores. Content is known in every task, so that each registration is answered
with parents.

Idle streams: so many hosts with an open stream each, and nothing to decide; the scheduler's memory
for each, its CPU time, and how long a decision for all of them takes to the last one (one host
registers a task that no scheduler knew, and everybody is asked who has it).

Raises its limit of open descriptors as far as it may, and processes inherit that. Needs Linux.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.control.clients import Client, Done, Load, clients, follow, register
from benchmarks.control.hosts import Host, Line, provide, spec_of
from benchmarks.figures import VERDICT, machine, print_table, spread
from benchmarks.processes import Cluster, cpu_seconds, output_of, resident_bytes
from hawker.apps.demo.processes import Fleet, Running
from hawker.core.messages import Register
from hawker.core.tokens import read_key_file

REGISTRATIONS_TARGET, REPORTS_TARGET, HTTP_TARGET = 2000, 5000, 800
MEMORY_TARGET = 4096
PROCESSES = 2
LOADS = (Load(100, 20, 1), Load(100, 40, 10))


async def measure_core(peers: int, tasks: int, runs: int) -> list[dict[str, float]]:
    command = (sys.executable, "-m", "benchmarks.control.core", str(peers), str(tasks))
    return [json.loads(await output_of(*command)) for _ in range(runs)]


async def measure_http(
    scheduler: Running, key: bytes, seed: Host, line: Line, load: Load, first: int
) -> dict[str, Any]:
    """One load, by all client processes at once."""
    numbers = range(first, first + load.tasks)
    await provide(seed, line, numbers)
    made = [Client(register, scheduler.ready.url, key, first, load) for _ in range(PROCESSES)]
    async with clients(*made):
        cpu = [cpu_seconds(scheduler.pid), sum(cpu_seconds(c.pid) for c in made)]
        began = time.perf_counter()
        for client in made:
            client.tell("go")
        for client in made:
            await client.answer()
        seconds = time.perf_counter() - began
        used = [cpu_seconds(scheduler.pid) - cpu[0], sum(cpu_seconds(c.pid) for c in made) - cpu[1]]
        done: list[Done] = [await client.answer() for client in made]
    count = sum(d.registrations for d in done)
    times = sorted(t for d in done for t in d.seconds)
    return {
        "batch": load.batch,
        "registrations": count,
        "registrations_per_second": count / seconds,
        "answers_without_decision": sum(d.empty for d in done),
        "scheduler_cpu_ms_each": used[0] / count * 1e3,
        "clients_cpu_ms_each": used[1] / count * 1e3,
        "median_seconds": statistics.median(times),
        "p99_seconds": times[int(len(times) * 0.99)],
    }


async def measure_streams(
    scheduler: Running, key: bytes, count: int, idle: float
) -> dict[str, Any]:
    before = resident_bytes(scheduler.pid)
    parts = [count // PROCESSES + (n < count % PROCESSES) for n in range(PROCESSES)]
    began = time.perf_counter()
    made = [Client(follow, scheduler.ready.url, key, part) for part in parts]
    async with clients(*made):
        opening = time.perf_counter() - began
        await asyncio.sleep(1.0)
        grown = resident_bytes(scheduler.pid) - before
        cpu = cpu_seconds(scheduler.pid)
        await asyncio.sleep(idle)
        used = cpu_seconds(scheduler.pid) - cpu
        asking, line = Host(key), await Line.open(scheduler.ready.url)
        await asking.announce(line)
        # Hosts that hold nothing of a task are asked for it where its own scheduler is away.
        spec = spec_of(-1)
        for client in made:
            client.tell(spec.task_id.encode())
        for client in made:
            await client.answer()
        asked = time.monotonic()
        await asking.report(line, Register(task=spec.task_id, spec=spec, failover=True))
        line.close()
        arrivals = sorted([at for client in made for at in await client.answer()])
    return {
        "streams": count,
        "opening_seconds": opening,
        "bytes_per_stream": grown / count,
        "idle_seconds": idle,
        "idle_cpu_share": used / idle,
        "broadcast_median_seconds": statistics.median(arrivals) - asked,
        "broadcast_last_seconds": arrivals[-1] - asked,
    }


async def measure(directory: Path, options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {"core": {}, "http": [], "streams": {}}
    for tasks in (100, 1):
        found["core"][tasks] = await measure_core(options.peers, tasks, options.runs)
        print(f"core, {tasks} tasks: done", file=sys.stderr)
    async with Fleet(directory) as fleet:
        cluster = Cluster(fleet, directory / "cluster")
        key = read_key_file(cluster.key)
        first = 0
        scheduler = await cluster.serve("scheduler", "scheduler")
        line = await Line.open(scheduler.ready.url)
        seed = Host(key, seed=True)
        await seed.announce(line)
        stream = await seed.follow(scheduler.ready.url)
        reading = asyncio.create_task(stream.wait_for(b"\0"))
        for run in range(options.runs):
            for load in LOADS[:: 1 if run % 2 == 0 else -1]:
                found["http"].append(await measure_http(scheduler, key, seed, line, load, first))
                first += load.tasks
        print("http: done", file=sys.stderr)
        reading.cancel()
        line.close()
        # A new one, for memory that was used before hides what streams need.
        scheduler = await cluster.serve("scheduler-2", "scheduler")
        found["streams"] = await measure_streams(scheduler, key, options.streams, options.idle)
    return found


def report(found: dict[str, Any], peers: int) -> None:
    print(f"median (min-max); {machine()}\n")
    rows = [("8: scheduler", "measured", "target")]

    def row(name: str, values: list[float], digits: int, target: float = 0, sign: int = 0) -> None:
        told = ""
        if sign:
            met = sign * statistics.median(values) >= sign * target
            told = f"{'>=' if sign > 0 else '<='} {target:g}: {VERDICT[met]}"
        rows.append((name, spread(values, digits), told))

    for tasks, runs in found["core"].items():
        where = f"core, {peers} peers in {tasks} task{'s' * (tasks > 1)}"
        of = {name: [run[name] for run in runs] for name in runs[0]}
        for what, target in (("registrations", REGISTRATIONS_TARGET), ("reports", REPORTS_TARGET)):
            row(f"{where}: {what}/s", of[f"{what}_per_second"], 0, target, 1)
            row(f"   {what} per second of CPU", of[f"{what}_per_cpu_second"], 0)
        row("   memory per peer, bytes", of["bytes_per_peer"], 0, MEMORY_TARGET, -1)
    for load in LOADS:
        runs = [run for run in found["http"] if run["batch"] == load.batch]
        of = {name: [run[name] for run in runs] for name in runs[0]}
        name = f"HTTP, {load.batch} in a request: registrations/s"
        row(name, of["registrations_per_second"], 0, HTTP_TARGET, 1)
        row("   scheduler's CPU each, ms", of["scheduler_cpu_ms_each"], 2)
        row("   clients' CPU each, ms", of["clients_cpu_ms_each"], 2)
        row("   a request's time, median, ms", [s * 1e3 for s in of["median_seconds"]], 1)
        row("   a request's time, p99, ms", [s * 1e3 for s in of["p99_seconds"]], 1)
    streams = found["streams"]
    row(
        f"{streams['streams']} idle streams: memory each, KiB",
        [streams["bytes_per_stream"] / 1024],
        1,
    )
    row("   opening all of them, s", [streams["opening_seconds"]], 1)
    row(
        f"   CPU while idle ({streams['idle_seconds']:g} s), %",
        [streams["idle_cpu_share"] * 100],
        1,
    )
    row("   a decision for all: median, ms", [streams["broadcast_median_seconds"] * 1e3], 0)
    row("   a decision for all: the last, ms", [streams["broadcast_last_seconds"] * 1e3], 0)
    print_table(rows)


def raise_descriptors(needed: int) -> None:
    """As many as the hard limit allows; raises SystemExit where a scheduler would refuse some."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if needed > hard * 3 / 4:
        raise SystemExit(
            f"{needed} streams need {needed * 4 // 3} descriptors, and {hard} may be had"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--peers", type=int, default=100_000)
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--idle", type=float, default=30.0, help="seconds")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print a JSON line after the table")
    options = parser.parse_args()
    # Ends like Ctrl-C does: nothing is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    raise_descriptors(options.streams + 100)
    with tempfile.TemporaryDirectory(prefix="hawker-control-") as name:
        found = asyncio.run(measure(Path(name), options))
    report(found, options.peers)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
