"""What it takes to begin: the first byte, the first download after a start, an idle peer's memory.

    python -m benchmarks.start.run [--rounds 7] [--peers 5] [--idle 60] [--json]

Targets 10 and 11 of the design. First byte: curl asks nginx for 64 MiB, and a daemon for the same
under a URL that nobody knows yet (`GET /peer/v1/content?url=…`); the difference of both
`time_starttransfer` is what Hawker adds. Once with `hawker up`, once with a scheduler, a seed,
which reads the origin, and a peer, which is asked. Rounds are interleaved, each with new content.

First download: from the start of `hawker up` with an empty data directory until curl has 1 MiB of
an origin through it, every byte right. Memory: so many `hawker serve peer` of one scheduler, idle
for `--idle` seconds. Needs Linux, nginx and curl (Debian: apt install nginx-light curl).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from benchmarks.figures import VERDICT, machine, print_table, spread
from benchmarks.nginx import Nginx, nginx
from benchmarks.processes import (
    START_SECONDS,
    Cluster,
    make_file,
    need,
    output_of,
    resident_bytes,
    sha256_of,
)
from hawker.apps.demo.processes import Fleet, Running

LARGE, SMALL = 64 * 2**20, 2**20
FIRST_BYTE_TARGET, DOWNLOAD_TARGET, MEMORY_TARGET = 0.050, 1.5, 80 * 2**20


async def first_byte(url: str) -> float:
    """Seconds until curl has the first byte."""
    command = ("curl", "-sSf", "--noproxy", "*", "-o", "/dev/null", "-w", "%{time_starttransfer}")
    return float(await output_of(*command, url))


def through(daemon: Running, url: str) -> str:
    return f"{daemon.ready.url}/peer/v1/content?url={quote(url, safe='')}"


async def start_up(fleet: Fleet, directory: Path) -> Running:
    """`hawker up` with an empty data directory."""
    command = ("up", "--port", "0", "--data", str(directory), "--json")
    return await fleet.start(directory.name, "hawker", *command, timeout=START_SECONDS)


async def measure_first_byte(directory: Path, origin: Nginx, rounds: int) -> dict[str, Any]:
    found: dict[str, Any] = {"origin": [], "up": [], "cluster": []}
    number = itertools.count()

    def fresh() -> str:
        """The same bytes under a new name."""
        return f"{origin.plain}/large?{next(number)}"

    async with Fleet(directory) as fleet:
        cluster = Cluster(fleet, directory / "cluster")
        scheduler = await cluster.serve("scheduler", "scheduler")
        attached = ("--scheduler", scheduler.ready.url)
        await cluster.serve("seed", "peer", "--seed", *attached)
        peer = await cluster.serve("peer", "peer", *attached)
        up = await start_up(fleet, directory / "up-first-byte")
        for round in range(rounds + 1):
            own = await first_byte(fresh())
            added = {
                name: await first_byte(through(daemon, fresh())) - own
                for name, daemon in (("up", up), ("cluster", peer))
            }
            # The first round warms what is measured.
            if round:
                found["origin"].append(own)
                for name, seconds in added.items():
                    found[name].append(seconds)
    return found


async def measure_first_download(
    directory: Path, origin: Nginx, digest: str, rounds: int
) -> list[float]:
    found = []
    for round in range(rounds):
        async with Fleet(directory) as fleet:
            began = time.perf_counter()
            up = await start_up(fleet, directory / f"up-{round}")
            target = directory / f"small-{round}"
            url = through(up, f"{origin.plain}/small")
            await output_of("curl", "-sSf", "--noproxy", "*", "-o", str(target), url)
            found.append(time.perf_counter() - began)
            if sha256_of(target) != digest:
                raise SystemExit("other bytes than the origin's came out")
    return found


async def measure_memory(directory: Path, peers: int, idle: float) -> list[float]:
    async with Fleet(directory) as fleet:
        cluster = Cluster(fleet, directory / "idle")
        scheduler = await cluster.serve("scheduler", "scheduler")
        attached = ("--scheduler", scheduler.ready.url)
        running = [await cluster.serve(f"peer-{n}", "peer", *attached) for n in range(peers)]
        await asyncio.sleep(idle)
        return [float(resident_bytes(peer.pid)) for peer in running]


async def measure(directory: Path, options: argparse.Namespace) -> dict[str, Any]:
    www = directory / "www"
    www.mkdir()
    make_file(www / "large", LARGE)
    digest = make_file(www / "small", SMALL)
    with nginx(directory) as origin:
        first_bytes = await measure_first_byte(directory, origin, options.rounds)
        print("first bytes: done", file=sys.stderr)
        downloads = await measure_first_download(directory, origin, digest, options.rounds)
        print("first downloads: done", file=sys.stderr)
    memory = await measure_memory(directory, options.peers, options.idle)
    return {"first_byte": first_bytes, "first_download": downloads, "memory": memory}


def report(found: dict[str, Any], idle: float) -> None:
    print(f"median (min-max); {machine()}\n")
    first = found["first_byte"]
    rows = [("what", "measured", "target")]

    def row(name: str, values: list[float], unit: float, digits: int, target: float = 0) -> None:
        met = VERDICT[statistics.median(values) <= target]
        told = f"<= {target / unit:g}: {met}" if target else ""
        rows.append((name, spread([value / unit for value in values], digits), told))

    row("the origin's first byte, ms", first["origin"], 1e-3, 1)
    row("10: added by hawker up, ms", first["up"], 1e-3, 1, FIRST_BYTE_TARGET)
    row("10: added by a cluster, ms", first["cluster"], 1e-3, 1, FIRST_BYTE_TARGET)
    row("11: start to first download, s", found["first_download"], 1, 2, DOWNLOAD_TARGET)
    row(f"11: a peer idle for {idle:g} s, MiB", found["memory"], 2**20, 1, MEMORY_TARGET)
    print_table(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peers", type=int, default=5)
    parser.add_argument("--idle", type=float, default=60.0, help="seconds")
    parser.add_argument("--json", action="store_true", help="print a JSON line after the table")
    options = parser.parse_args()
    # Ends like Ctrl-C does: nothing is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    need("nginx", "curl")
    with tempfile.TemporaryDirectory(prefix="hawker-start-") as name:
        found = asyncio.run(measure(Path(name), options))
    report(found, options.idle)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
