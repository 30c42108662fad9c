"""Whether a tenant's quotas hold over a swarm: counted by the origin, by clients and on disks.

    python -m benchmarks.quotas.run [--hosts 4] [--seconds 20] [--json]

For one scheduler and for two: schedulers, a seed and hosts are processes of their own, and the
tenant has one quota at a time.

- `concurrent_downloads`: many clients at all hosts ask at once for content of its own each; most
  requests that the origin answered at a time.
- `bandwidth`: a client at each host streams content of its own, of which one comes later, one from
  an origin slower than its part; bytes a second that all clients got, after 10 s.
- `origin_bytes`: content is asked for until it is refused; bytes that the origin has handed to its
  sockets by then, also those that nobody read.
- `stored_bytes`: content is asked for at all hosts in turn; most bytes that files below the data
  directories took at any time.

In the middle of each the scheduler that decides is killed, and started anew where it is the only
one. Exit code 1 where one is passed by more than a twentieth.

Needs Linux.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from benchmarks.figures import VERDICT, machine, print_table
from benchmarks.processes import Cluster
from hawker.apps.demo.processes import Fleet, Running
from hawker.core.tokens import ClusterKey, read_key_file

MIB = 2**20
ABOVE = 1.05
PLACES, RATE, BUDGET, STORED = 4, 16 * MIB, 256 * MIB, 128 * MIB
BLOCK = os.urandom(MIB)
# By then parts of the bandwidth are divided by what hosts can use.
SETTLED = 10.0


class Origin:
    """Content of any length at any path: `/SIZE/PACE/NAME` in bytes and bytes per second, 0 for
    none; counts what it handed to its sockets, and how many requests it answers at a time."""

    def __init__(self) -> None:
        self.sent = self.now = self.most = 0
        lock = threading.Lock()
        origin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                size, pace = (int(part) for part in self.path.split("/")[1:3])
                start, stop = 0, size
                asked = self.headers.get("range", "").removeprefix("bytes=")
                if asked:
                    first, _, last = asked.partition("-")
                    start, stop = int(first), min(int(last) + 1 if last else size, size)
                    self.send_response(206)
                    self.send_header("content-range", f"bytes {start}-{stop - 1}/{size}")
                else:
                    self.send_response(200)
                self.send_header("accept-ranges", "bytes")
                self.send_header("etag", f'"{hash(self.path)}"')
                self.send_header("content-length", str(stop - start))
                self.end_headers()
                with lock:
                    origin.now += 1
                    origin.most = max(origin.most, origin.now)
                try:
                    self._send(start, stop, pace)
                finally:
                    with lock:
                        origin.now -= 1

            def _send(self, start: int, stop: int, pace: int) -> None:
                step = 64 * 1024
                for offset in range(start, stop, step):
                    at = offset % (MIB - step)
                    try:
                        self.wfile.write(BLOCK[at : at + min(step, stop - offset)])
                    except OSError:
                        self.close_connection = True
                        return
                    with lock:
                        origin.sent += min(step, stop - offset)
                    if pace:
                        time.sleep(step / pace)

            def log_message(self, format: str, *args: Any) -> None:
                return

        class Server(ThreadingHTTPServer):
            request_queue_size = 256

            def handle_error(self, *_: Any) -> None:
                return

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def url(self, name: str, size: int, pace: int = 0) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/{size}/{pace}/{name}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Swarm:
    """What runs: `kill` kills the scheduler that decides about the tenant."""

    origin: Origin
    hosts: list[Running]
    directory: Path
    kill: Callable[[], None]
    seconds: float
    meter: list[tuple[float, int]] = field(default_factory=list)

    def get(self, host: Running, url: str) -> int:
        """Stream content; its status, with what came of it counted."""
        with httpx.Client(base_url=host.ready.url, timeout=120, trust_env=False) as client:
            with client.stream("GET", "/peer/v1/content", params={"url": url}) as answer:
                with suppress(httpx.HTTPError):
                    for chunk in answer.iter_bytes(256 * 1024):
                        if answer.status_code == 200:
                            self.meter.append((time.monotonic(), len(chunk)))
                return answer.status_code

    def on_disk(self) -> int:
        total = 0
        for file in self.directory.rglob("content/**/*"):
            with suppress(OSError):
                total += file.stat().st_blocks * 512
        return total


def places(swarm: Swarm) -> float:
    """Each takes about half a second of the origin."""
    size = 2 * MIB
    count = max(24, int(swarm.seconds * 4))
    urls = [swarm.origin.url(f"p{n}", size, 4 * MIB) for n in range(count)]
    killer = threading.Timer(2.0, swarm.kill)
    killer.start()
    with ThreadPoolExecutor(32) as pool:
        hosts = [swarm.hosts[n % len(swarm.hosts)] for n in range(len(urls))]
        statuses = list(pool.map(swarm.get, hosts, urls))
    killer.join()
    if set(statuses) != {200}:
        raise SystemExit(f"downloads that only had to wait were answered {set(statuses)}")
    return swarm.origin.most


def bandwidth(swarm: Swarm) -> float:
    paces = [0] * len(swarm.hosts)
    paces[1] = RATE // len(swarm.hosts) // 4
    sizes = [int((pace or RATE) * (SETTLED + swarm.seconds + 5)) for pace in paces]
    urls = [swarm.origin.url(f"b{n}", sizes[n], paces[n]) for n in range(len(paces))]
    began = time.monotonic()

    def late(number: int) -> None:
        time.sleep(3.0 if number == 2 else 0.0)
        with suppress(httpx.HTTPError):
            swarm.get(swarm.hosts[number], urls[number])

    threads = [threading.Thread(target=late, args=(n,), daemon=True) for n in range(len(urls))]
    for thread in threads:
        thread.start()
    since, until = began + SETTLED, began + SETTLED + swarm.seconds
    time.sleep(SETTLED + swarm.seconds / 2)
    swarm.kill()
    time.sleep(max(0.0, until - time.monotonic()))
    return sum(n for at, n in list(swarm.meter) if since <= at < until) / swarm.seconds


def origin_bytes(swarm: Swarm) -> float:
    size, refused, number = 8 * MIB, 0, 0
    while refused < 4:
        if number == 12:
            swarm.kill()
        host = swarm.hosts[number % len(swarm.hosts)]
        refused += swarm.get(host, swarm.origin.url(f"o{number}", size)) == 429
        number += 1
    return swarm.origin.sent


def stored_bytes(swarm: Swarm) -> float:
    most, over = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.wait(0.05):
            most = max(most, swarm.on_disk())

    watching = threading.Thread(target=watch)
    watching.start()
    for number in range(48):
        if number == 20:
            swarm.kill()
        host = swarm.hosts[number % len(swarm.hosts)]
        status = swarm.get(host, swarm.origin.url(f"s{number}", 6 * MIB))
        if status != 200:
            raise SystemExit(f"content that fits was answered {status}")
    over.set()
    watching.join()
    return most


@dataclass(frozen=True)
class Figure:
    quota: str
    schedulers: int
    limit: int
    used: int


QUOTAS: dict[str, tuple[int, Callable[[Swarm], float]]] = {
    "concurrent_downloads": (PLACES, places),
    "bandwidth": (RATE, bandwidth),
    "origin_bytes": (BUDGET, origin_bytes),
    "stored_bytes": (STORED, stored_bytes),
}


async def measure(quota: str, schedulers: int, hosts: int, seconds: float) -> float:
    """What was used of a quota."""
    use = QUOTAS[quota][1]
    with tempfile.TemporaryDirectory(prefix="hawker-quotas-") as name:
        directory = Path(name)
        origin = Origin()
        try:
            (directory / "logs").mkdir()
            async with Fleet(directory / "logs") as fleet:
                cluster = Cluster(fleet, directory / "cluster")
                urls = [f"http://127.0.0.1:{_port()}" for _ in range(schedulers)]
                deciding = [await _scheduler(cluster, urls, n, quota) for n in range(schedulers)]
                links = [part for url in urls for part in ("--scheduler", url)]
                await cluster.serve("seed", "peer", "--seed", *links)
                made = [await cluster.serve(f"host-{n}", "peer", *links) for n in range(hosts)]
                loop = asyncio.get_running_loop()

                def kill() -> None:
                    number = _decider(cluster, urls)
                    os.kill(deciding[number].pid, signal.SIGKILL)
                    if schedulers == 1:
                        anew = _scheduler(cluster, urls, number, quota)
                        asyncio.run_coroutine_threadsafe(anew, loop).result(60)

                swarm = Swarm(origin, made, directory / "cluster", kill, seconds)
                return await asyncio.to_thread(use, swarm)
        finally:
            origin.close()


async def _scheduler(cluster: Cluster, urls: Sequence[str], number: int, quota: str) -> Running:
    file = cluster.key.parent / f"scheduler-{number}.toml"
    others = [url for at, url in enumerate(urls) if at != number]
    text = f"[tenants.default]\n{quota} = {QUOTAS[quota][0]}\n"
    file.write_text(f"{text}[scheduler]\nothers = {json.dumps(others)}\n")
    port = urls[number].rpartition(":")[2]
    return await cluster.serve(
        f"scheduler-{number}", "scheduler", "--port", port, "--config", str(file)
    )


def _decider(cluster: Cluster, urls: Sequence[str]) -> int:
    token = ClusterKey(read_key_file(cluster.key)).mint("", ["tasks"])
    fields = {"authorization": f"Bearer {token}"}
    for number, url in enumerate(urls):
        [usage] = httpx.get(f"{url}/scheduler/v1/tenants", headers=fields, trust_env=False).json()
        if usage["decides"]:
            return number
    raise SystemExit("no scheduler decides about the tenant")


def _port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--hosts", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("quotas", nargs="*", metavar="QUOTA", help="some of them; else all")
    given = parser.parse_args()
    rows = []
    for schedulers in (1, 2):
        for quota in given.quotas or QUOTAS:
            used = asyncio.run(measure(quota, schedulers, given.hosts, given.seconds))
            limit = QUOTAS[quota][0]
            rows.append(Figure(quota, schedulers, limit, round(used)))
    if given.json:
        print(json.dumps({"machine": machine(), "figures": [asdict(row) for row in rows]}))
    else:
        print(machine())
        table = [("quota", "schedulers", "limit", "used", "of it", f"at most {ABOVE}")]
        for row in rows:
            ratio = row.used / row.limit
            cells = row.quota, str(row.schedulers), str(row.limit), str(row.used), f"{ratio:.3f}"
            table.append((*cells, VERDICT[ratio <= ABOVE]))
        print_table(table)
    raise SystemExit(any(row.used > row.limit * ABOVE for row in rows))


if __name__ == "__main__":
    main()
