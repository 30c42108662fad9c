"""Small reads of a large task by lazy readers: at random, and as a container's start would.

    python -m benchmarks.lazy.run [--size 1GiB] [--reads 1000] [--json]

A scheduler, a seed and a peer are processes; the origin is nginx. `random` reads 64 KiB at random
places of a task that nobody has, one after the other over one kept connection, then the same
places again (warm). `replay` is no trace of nydusd: it repeats the pattern that it is known for,
on another cold task. Four readers at once, each following files of a few chunks of up to 1 MiB in
order from random places, with a small read of what stands before them, while a fifth prefetches the
task from its beginning. Beside each the same reads from nginx itself. Every body is compared.

Needs Linux and nginx (Debian: apt install nginx-light).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median, quantiles
from urllib.parse import quote, urlsplit

from benchmarks.figures import size_of
from benchmarks.nginx import nginx
from benchmarks.processes import Cluster, make_file, need
from hawker.apps.demo.processes import Fleet

SMALL = 64 * 1024
CHUNK = 2**20
READERS = 4
FILES = 25
CHUNKS = (1, 6)
HEAD = 4096


class Reader:
    """One kept connection to a URL; reads ranges of it, and compares them with the file."""

    def __init__(self, url: str, file: int) -> None:
        parts = urlsplit(url)
        self._target = parts.path + (f"?{parts.query}" if parts.query else "")
        self._sock = socket.create_connection((parts.hostname, parts.port), 60)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = file

    def read(self, start: int, size: int) -> float:
        """Seconds that a range takes, to its last byte."""
        span = f"bytes={start}-{start + size - 1}"
        head = f"GET {self._target} HTTP/1.1\r\nhost: localhost\r\nrange: {span}\r\n\r\n"
        began = time.perf_counter()
        self._sock.sendall(head.encode())
        data, end = bytearray(), -1
        while end < 0 or len(data) < end + 4 + size:
            part = self._sock.recv(1 << 20)
            if not part:
                raise SystemExit(f"{self._target} was cut")
            data += part
            end = data.find(b"\r\n\r\n") if end < 0 else end
            if end >= 0 and not data.startswith(b"HTTP/1.1 206"):
                raise SystemExit(bytes(data[:end]).decode())
        taken = time.perf_counter() - began
        if data[end + 4 :] != os.pread(self._file, size, start):
            raise SystemExit("wrong bytes")
        return taken

    def close(self) -> None:
        self._sock.close()


def at_random(url: str, file: int, places: list[int]) -> list[float]:
    """Seconds of each read."""
    with contextlib.closing(Reader(url, file)) as reader:
        return [reader.read(place, SMALL) for place in places]


def replay(url: str, file: int, size: int) -> list[float]:
    """Seconds of each read of `READERS`, while a prefetch goes on."""
    over = threading.Event()

    def prefetch() -> None:
        with contextlib.closing(Reader(url, file)) as reader:
            for start in range(0, size - CHUNK, CHUNK):
                if over.is_set():
                    return
                reader.read(start, CHUNK)

    def follow(seed: int) -> list[float]:
        rng = random.Random(seed)
        taken: list[float] = []
        with contextlib.closing(Reader(url, file)) as reader:
            for _ in range(FILES):
                start = rng.randrange(size // CHUNK - CHUNKS[1]) * CHUNK
                taken.append(reader.read(start, HEAD))
                for number in range(rng.randint(*CHUNKS)):
                    taken.append(reader.read(start + number * CHUNK, rng.randint(HEAD, CHUNK)))
        return taken

    with ThreadPoolExecutor() as pool:
        ahead = pool.submit(prefetch)
        followed = list(pool.map(follow, range(READERS)))
        over.set()
        ahead.result()
    return [taken for one in followed for taken in one]


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


async def run(directory: Path, size: int, reads: int) -> dict[str, list[float]]:
    """Seconds of each read, by what it was."""
    www = directory / "www"
    www.mkdir()
    for name in ("random", "replay"):
        make_file(www / name, size)
    rng = random.Random(1)
    places = [rng.randrange((size - SMALL) // 512) * 512 for _ in range(reads)]
    found: dict[str, list[float]] = {}
    with nginx(directory) as origin:
        async with Fleet(directory) as fleet:
            cluster = Cluster(fleet, directory / "cluster")
            scheduler = await cluster.serve("scheduler", "scheduler")
            await cluster.serve("seed", "peer", "--seed", "--scheduler", scheduler.ready.url)
            peer = await cluster.serve("peer", "peer", "--scheduler", scheduler.ready.url)
            await asyncio.sleep(2.0)

            reads_of: dict[str, Callable[[str, int], list[float]]] = {
                "random": lambda url, file: at_random(url, file, places),
                "replay": lambda url, file: replay(url, file, size),
            }
            for name, read in reads_of.items():
                with opened(www / name) as file:
                    there = f"{origin.plain}/{name}"
                    here = f"{peer.ready.url}/peer/v1/content?url={quote(there)}"
                    for what, url in (("cold", here), ("warm", here), ("nginx", there)):
                        found[f"{name}, {what}"] = await asyncio.to_thread(read, url, file)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=size_of, default=2**30, help="such as 1GiB")
    parser.add_argument("--reads", type=int, default=1000, help="at random places")
    parser.add_argument("--json", action="store_true", help="print a JSON line after the table")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    need("nginx")
    with tempfile.TemporaryDirectory(prefix="hawker-lazy-") as name:
        found = asyncio.run(run(Path(name), options.size, options.reads))
    print(f"{'':16} {'reads':>6} {'p50':>9} {'p99':>9} {'worst':>9}  (ms)")
    figures = {}
    for what, taken in found.items():
        p50, p99, worst = median(taken), quantiles(taken, n=100)[98], max(taken)
        print(f"{what:16} {len(taken):6} {p50 * 1e3:9.2f} {p99 * 1e3:9.2f} {worst * 1e3:9.2f}")
        figures[what] = {"reads": len(taken), "p50": p50, "p99": p99, "worst": worst}
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
