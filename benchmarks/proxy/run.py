"""The forward proxy beside nginx's proxy_cache: warm small objects, and first bytes when cold.

    python -m benchmarks.proxy.run [--requests 2000] [--cold 30] [--json]

The origin is nginx, whose files are fresh for an hour. Warm: GETs of one object of 16 KiB, one
after the other over one kept connection each, to the origin itself, to nginx's proxy_cache and to
Hawker's proxy (a rule without `immutable`, so that HTTP's rules for freshness are followed), in
interleaved blocks. Cold: files of 4 MiB that nobody asked for before; the time to the first byte of
the body, through each proxy, less that of the origin for another such file. Every body is compared.

Needs Linux and nginx (Debian: apt install nginx-light).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

from benchmarks.nginx import free_ports, nginx
from benchmarks.processes import need

SMALL = 16 * 1024
LARGE = 4 * 2**20
BLOCK = 100
CACHE = """\
    keepalive_requests 1000000;
    add_header Cache-Control max-age=3600;
    proxy_cache_path {{directory}}/cache keys_zone=cache:1m;
    server {{{{
        listen 127.0.0.1:{port};
        location / {{{{
            proxy_pass http://127.0.0.1:{{plain}};
            proxy_cache cache;
        }}}}
    }}}}
"""


@dataclass
class Way:
    """A way to the origin's files: where to connect, and what stands before the path."""

    name: str
    port: int
    prefix: str = ""
    warm: list[float] = field(default_factory=list)
    cold: list[float] = field(default_factory=list)

    def ask(self, sock: socket.socket, path: str) -> tuple[float, float, bytes]:
        """Seconds to the first byte of the body and to its last, and the body."""
        request = f"GET {self.prefix}{path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode()
        began = time.perf_counter()
        sock.sendall(request)
        data, end = b"", -1
        while end < 0 or len(data) == end + 4:
            data += self._more(sock)
            end = data.find(b"\r\n\r\n")
        first = time.perf_counter() - began
        head = data[:end].decode("latin-1").lower()
        if " 200 " not in head.partition("\r\n")[0]:
            raise SystemExit(f"{self.name} answered {head}")
        length = int(head.partition("content-length:")[2].split()[0])
        body = bytearray(data[end + 4 :])
        while len(body) < length:
            body += self._more(sock)
        return first, time.perf_counter() - began, bytes(body)

    def _more(self, sock: socket.socket) -> bytes:
        data = sock.recv(1 << 20)
        if not data:
            raise SystemExit(f"{self.name} closed the connection")
        return data

    def connection(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), 30)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock


@contextlib.contextmanager
def hawker(directory: Path) -> Iterator[int]:
    """`hawker up`; the port of its proxy."""
    rules = json.dumps([{"url": "", "action": "swarm"}])
    process = subprocess.Popen(
        [sys.executable, "-m", "hawker", "up", "--port", "0", "--json", "--data", str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"HAWKER_PROXY__RULES": rules},
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit("hawker up did not start")
        yield int(json.loads(line)["proxy"].rpartition(":")[2])
    finally:
        process.terminate()
        process.wait(20)


def measure(ways: list[Way], small: bytes, requests: int, large: dict[str, bytes]) -> None:
    """Fill in what each way takes; the first is the origin."""
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(way.connection()) for way in ways]
        for way, sock in zip(ways, socks, strict=True):
            for _ in range(BLOCK):
                way.ask(sock, "/small")
        for _ in range(requests // BLOCK):
            for way, sock in zip(ways, socks, strict=True):
                for _ in range(BLOCK):
                    _, taken, body = way.ask(sock, "/small")
                    way.warm.append(taken)
                    if body != small:
                        raise SystemExit(f"{way.name} gave wrong bytes")
        # Each file is cold for one way alone.
        for number, (path, data) in enumerate(large.items()):
            way, sock = ways[number % len(ways)], socks[number % len(ways)]
            first, _, body = way.ask(sock, path)
            way.cold.append(first)
            if body != data:
                raise SystemExit(f"{way.name} gave wrong bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=2000, help="for each way")
    parser.add_argument("--cold", type=int, default=30, help="files for each way")
    parser.add_argument("--json", action="store_true", help="print a JSON line after the table")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    need("nginx")
    with tempfile.TemporaryDirectory(prefix="hawker-proxy-") as name:
        directory = Path(name)
        (directory / "www").mkdir()
        small = os.urandom(SMALL)
        (directory / "www" / "small").write_bytes(small)
        large = {f"/large-{n}": os.urandom(LARGE) for n in range(3 * options.cold)}
        for path, data in large.items():
            (directory / "www" / path[1:]).write_bytes(data)
        [cache] = free_ports(1)
        with (
            nginx(directory, more=CACHE.format(port=cache)) as served,
            hawker(directory / "data") as proxy,
        ):
            origin = int(served.plain.rpartition(":")[2])
            ways = [
                Way("origin", origin),
                Way("nginx proxy_cache", cache),
                Way("hawker proxy", proxy, f"http://127.0.0.1:{origin}"),
            ]
            measure(ways, small, options.requests, large)
    report(ways, as_json=options.json)


def report(ways: list[Way], *, as_json: bool) -> None:
    """Milliseconds, and what each proxy adds to the origin's own."""
    figures = {}
    print(f"{'':20} {'warm p50':>9} {'p99':>7} {'first byte, cold':>17} {'over origin':>12}  (ms)")
    for way in ways:
        p50, p99 = median(way.warm) * 1e3, quantiles(way.warm, n=100)[98] * 1e3
        cold = median(way.cold) * 1e3
        over = cold - median(ways[0].cold) * 1e3
        print(f"{way.name:20} {p50:9.3f} {p99:7.3f} {cold:17.2f} {over:12.2f}")
        figures[way.name] = {"p50": p50, "p99": p99, "cold": cold, "cold_over_origin": over}
    if as_json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
