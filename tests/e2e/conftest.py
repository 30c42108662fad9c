"""Real processes of each role, started by the commands the documentation names."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from hawker.core.tokens import ClusterKey, read_key_file

READY = 30.0


class Origin:
    """A well-behaved origin that counts: content bytes, and requests for content."""

    def __init__(self, *, ranges: bool = True, length: bool = True) -> None:
        self.files: dict[str, bytes] = {}
        self.sent_bytes = 0
        self.requests = 0
        # Seconds that each 64 KiB take.
        self.delay = 0.0
        # Sent with every content.
        self.fields: dict[str, str] = {}
        origin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                data = origin.files.get(self.path)
                if data is None:
                    self.send_error(404)
                    return
                origin.requests += 1
                start, stop = 0, len(data)
                asked = self.headers.get("range", "")
                if ranges and asked.startswith("bytes=") and data:
                    first, _, last = asked.removeprefix("bytes=").partition("-")
                    start, stop = int(first), min(int(last) + 1 if last else stop, stop)
                    self.send_response(206)
                    self.send_header("content-range", f"bytes {start}-{stop - 1}/{len(data)}")
                else:
                    self.send_response(200)
                self.send_header("etag", f'"{len(data)}-{hash(self.path) & 0xFFFF}"')
                for name, value in origin.fields.items():
                    self.send_header(name, value)
                if ranges:
                    self.send_header("accept-ranges", "bytes")
                if length:
                    self.send_header("content-length", str(stop - start))
                else:
                    self.send_header("connection", "close")
                self.end_headers()
                for offset in range(start, stop, 1 << 16):
                    part = data[offset : min(stop, offset + (1 << 16))]
                    try:
                        self.wfile.write(part)
                    except OSError:
                        # Whoever asked has gone.
                        self.close_connection = True
                        return
                    origin.sent_bytes += len(part)
                    if origin.delay:
                        time.sleep(origin.delay)

            def log_message(self, format: str, *args: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def put(self, path: str, data: bytes) -> str:
        """Offer bytes; returns their URL."""
        self.files[path] = data
        return f"http://127.0.0.1:{self._server.server_address[1]}{path}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Daemon:
    """A `hawker` process that serves."""

    def __init__(
        self, data: Path, *arguments: str, program: Sequence[str] = ("-m", "hawker")
    ) -> None:
        self.data = data
        port = () if "--port" in arguments else ("--port", "0")
        command = [sys.executable, *program, *arguments, *port, "--json"]
        self.process = subprocess.Popen(
            [*command, "--data", str(data)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"{arguments} printed no ready line (exit {self.process.poll()})"
        self.ready: dict[str, Any] = json.loads(line)
        self.url: str = self.ready["url"]
        self.socket: str = self.ready["socket"]

    def client(self) -> httpx.Client:
        transport = httpx.HTTPTransport(uds=self.socket)
        return httpx.Client(transport=transport, base_url="http://daemon", timeout=60)

    def wait_ready(self) -> None:
        """Until its schedulers know it."""
        with self.client() as client:
            for _ in range(300):
                if client.get("/readyz").status_code == 200:
                    return
                # The daemon says when it is ready only when asked.
                threading.Event().wait(0.1)
        raise AssertionError(f"{self.url} did not become ready")

    def metric(self, name: str) -> float:
        """The sum over its labels."""
        with self.client() as client:
            lines = client.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    @property
    def port(self) -> str:
        return self.url.rpartition(":")[2]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self._end()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self._end()

    def _end(self) -> None:
        end = time.monotonic() + 20
        while self.process.poll() is None:
            assert time.monotonic() < end, f"the daemon at {self.url} did not end"
            # A liar that froze, perhaps once more just now, hears no other signal.
            self.process.send_signal(signal.SIGCONT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=0.5)
        assert self.process.stdout is not None
        self.process.stdout.close()


class Cluster:
    """Daemons of one test, all stopped at its end."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.key = root / "cluster.key"
        self._daemons: list[Daemon] = []

    def make_key(self) -> None:
        hawker("cluster", "key", str(self.key))

    def start(
        self, name: str, *arguments: str, program: Sequence[str] = ("-m", "hawker")
    ) -> Daemon:
        daemon = Daemon(self.root / name, *arguments, program=program)
        self._daemons.append(daemon)
        return daemon

    def scheduler(self, name: str = "scheduler", *flags: str) -> Daemon:
        return self.start(name, "serve", "scheduler", "--cluster-key", str(self.key), *flags)

    def peer(self, name: str, scheduler: Daemon, *flags: str) -> Daemon:
        return self.peer_of([scheduler.url], name, *flags)

    def peer_of(self, schedulers: list[str], name: str, *flags: str) -> Daemon:
        links = [part for url in schedulers for part in ("--scheduler", url)]
        command = ("serve", "peer", *links, "--cluster-key", str(self.key))
        return self.start(name, *command, *flags)

    def swarm(self, peers: int, *flags: str) -> tuple[Daemon, Daemon, list[Daemon]]:
        """A scheduler, a seed and some peers that know each other; `flags` are for all."""
        self.make_key()
        scheduler = self.scheduler("scheduler", *flags)
        seed = self.peer("seed", scheduler, "--seed", *flags)
        made = [self.peer(f"peer-{number}", scheduler, *flags) for number in range(peers)]
        for daemon in (seed, *made):
            daemon.wait_ready()
        return scheduler, seed, made

    def view(self, url: str, what: str) -> list[dict[str, Any]]:
        """What the scheduler at this URL says of its hosts or tasks."""
        token = ClusterKey(read_key_file(self.key)).mint("", ["tasks", "hosts"])
        headers = {"authorization": f"Bearer {token}"}
        answer = httpx.get(f"{url}/scheduler/v1/{what}", headers=headers, trust_env=False)
        views: list[dict[str, Any]] = answer.json()
        return views

    def close(self) -> None:
        while self._daemons:
            self._daemons.pop().stop()


def hawker(
    *arguments: str, timeout: float = 60.0, before: Sequence[str] = ()
) -> subprocess.CompletedProcess[bytes]:
    """Run the command line to its end; `before` is a command that runs the rest of its line."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HAWKER_")}
    return subprocess.run(
        [*before, sys.executable, "-m", "hawker", *arguments],
        capture_output=True,
        timeout=timeout,
        env=environment,
        check=False,
    )


@contextlib.contextmanager
def logging_to(file: Path) -> Iterator[None]:
    """What is started inside writes its standard error there."""
    mine = os.dup(2)
    with file.open("wb") as opened:
        os.dup2(opened.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(mine, 2)
            os.close(mine)


def wait_for(true: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Until it is true; raises AssertionError with `what` where it never is."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def fetch(daemon: Daemon, url: str, target: Path, *flags: str) -> tuple[int, str]:
    """`hawker get` through a daemon: its exit code and what it printed as errors."""
    done = hawker("get", url, "-O", str(target), "-e", daemon.socket, *flags)
    return done.returncode, done.stderr.decode()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def origin() -> Iterator[Origin]:
    made = Origin()
    yield made
    made.close()


@pytest.fixture
def plain_origin() -> Iterator[Origin]:
    """Without ranges and without a length."""
    made = Origin(ranges=False, length=False)
    yield made
    made.close()
