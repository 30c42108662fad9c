"""Whether several processes would serve more than one: an upper bound for workers over one store.

    python -m benchmarks.workers.run [--size 256MiB] [--pairs 5] [--json]

Four curl clients take stored content at once, each all of it: all from ONE `hawker serve peer`, or
two each from TWO independent ones that have imported the same content, which is more than workers
with one store could ever do. Cleartext and TLS, HTTP/1.1, the files in the page cache, nothing
written to disk. Rounds are interleaved, and each pair begins with the other one. Rates are those of
all clients together, from the start of the first to the end of the last one; CPU is user + system
time, the clients' counted apart. Needs Linux and curl.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.figures import machine, print_table, size_of, spread
from benchmarks.processes import (
    Certificate,
    Cluster,
    cpu_of_all,
    cpu_of_ended,
    issue,
    make_file,
    need,
    output_of,
)
from hawker.apps.demo.processes import Fleet, Running

CLIENTS = 4


@dataclass
class Series:
    """Rounds of one kind, in step: MB/s of all clients, and CPU seconds per GB."""

    rates: list[float] = field(default_factory=list)
    server_cpu: list[float] = field(default_factory=list)
    client_cpu: list[float] = field(default_factory=list)


async def play(
    peers: Sequence[tuple[Running, str]], certificate: Certificate | None, size: int, into: Series
) -> None:
    """All clients at once, dealt to these peers; each with the path of its content."""
    trust = () if certificate is None else ("--cacert", str(certificate.ca))
    command = ("curl", "-sSf", "--http1.1", "--noproxy", "*", *trust)
    told = ("-o", "/dev/null", "-w", "%{size_download}")
    pids = [peer.pid for peer, _ in peers]
    cpu, own = cpu_of_all(pids), cpu_of_ended()
    began = time.perf_counter()
    urls = [f"{peer.ready.url}{path}" for peer, path in peers]
    clients = (output_of(*command, *told, urls[number % len(urls)]) for number in range(CLIENTS))
    received = await asyncio.gather(*clients)
    seconds = time.perf_counter() - began
    if any(int(told) != size for told in received):
        raise SystemExit(f"the clients received {received}, not {size} each")
    gigabytes = CLIENTS * size / 1e9
    into.rates.append(gigabytes * 1e3 / seconds)
    into.server_cpu.append((cpu_of_all(pids) - cpu) / gigabytes)
    into.client_cpu.append((cpu_of_ended() - own) / gigabytes)


async def serve(cluster: Cluster, name: str, file: Path) -> tuple[Running, str]:
    """A peer that has imported the file, and the path of its content."""
    peer = await cluster.serve(name, "peer")
    told = await output_of(
        *(sys.executable, "-m", "hawker", "import", str(file)),
        *("-e", peer.ready.socket, "--json"),
    )
    imported = json.loads(told)
    return peer, f"/peer/v1/tasks/{imported['task']}/{imported['generation']}/content"


async def measure(directory: Path, size: int, pairs: int) -> dict[str, Series]:
    file = directory / "file"
    make_file(file, size)
    certificate = await issue(directory)
    found: dict[str, Series] = {}
    async with Fleet(directory) as fleet:
        worlds = []
        for name, tls in (("cleartext", None), ("TLS", certificate)):
            flags = () if tls is None else tls.flags
            cluster = Cluster(fleet, directory / name, *flags)
            peers = [await serve(cluster, f"peer-{number}", file) for number in range(2)]
            worlds.append((name, tls, peers))
        for pair in range(pairs + 1):
            for name, tls, peers in worlds:
                for count in (1, 2)[:: 1 if pair % 2 == 0 else -1]:
                    series = found.setdefault(f"{name}, {count}", Series())
                    # The first pair warms what is measured.
                    into = series if pair else Series()
                    await play(peers[:count], tls, size, into)
    return found


def report(found: dict[str, Series], size: int) -> None:
    print(f"{CLIENTS} clients, {size / 1e6:.0f} MB each, median (min-max); {machine()}\n")
    rows: list[tuple[str, ...]] = [
        ("", "processes", "MB/s", "two / one", "server, s/GB", "clients, s/GB", "cores in use")
    ]
    for name in sorted(found):
        series = found[name]
        over, _, count = name.partition(", ")
        one = found[f"{over}, 1"].rates
        ratios = [two / single for two, single in zip(series.rates, one, strict=True)]
        used = zip(series.rates, series.server_cpu, series.client_cpu, strict=True)
        cores = [rate / 1e3 * (server + clients) for rate, server, clients in used]
        rows.append(
            (
                over,
                count,
                spread(series.rates, 0),
                spread(ratios, 2) if count == "2" else "",
                spread(series.server_cpu, 2),
                spread(series.client_cpu, 2),
                f"{spread(cores, 2)} of {os.cpu_count()}",
            )
        )
    print_table(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=size_of, default=2**28, help="such as 256MiB")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print a JSON line after the table")
    options = parser.parse_args()
    # Ends like Ctrl-C does: nothing is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    need("curl")
    with tempfile.TemporaryDirectory(prefix="hawker-workers-") as name:
        found = asyncio.run(measure(Path(name), options.size, options.pairs))
    report(found, options.size)
    if options.json:
        print(json.dumps({name: vars(series) for name, series in found.items()}))


if __name__ == "__main__":
    main()
