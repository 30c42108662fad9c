"""The command line as a process, and a daemon's API played by a small real server."""

from __future__ import annotations

import json
import os
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from hawker.apps.cli import run


class CommandLine:
    """Runs `hawker` in a process, with its own home and without the caller's settings."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.data = home / "data"
        self.environ = {
            name: value for name, value in os.environ.items() if not name.startswith("HAWKER_")
        }
        self.environ |= {"HOME": str(home), "XDG_DATA_HOME": str(home / "share")}

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "hawker", *arguments],
            cwd=self.home,
            env=self.environ | options.pop("environ", {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=options.pop("stderr", subprocess.PIPE),
            **options,
        )

    def __call__(
        self, *arguments: str, environ: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        with self.start(*arguments, environ=environ or {}) as process:
            try:
                out, err = process.communicate(timeout=60)
            finally:
                process.kill()
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)


@pytest.fixture
def hawker(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path)


Command = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def command(
    hawker: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> Command:
    """Runs a command in this process, in an own home: these are many, and a process takes long."""
    monkeypatch.chdir(hawker.home)
    for name in os.environ:
        if name.startswith("HAWKER_"):
            monkeypatch.delenv(name)

    def run_here(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        code = run([*arguments, "--data", str(hawker.data)])
        return subprocess.CompletedProcess(arguments, code, *capfdbinary.readouterr())

    return run_here


class FakeDaemon(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Plays the peer API of a daemon from what a test puts into its fields."""

    daemon_threads = True
    request_queue_size = 16

    def __init__(self, path: Path) -> None:
        self.socket_path = path
        self.steps: list[dict[str, Any]] = []
        self.content = b""
        self.promised: int | None = None
        """Length to announce, where it is not that of the content."""
        self.stats: list[dict[str, Any]] = []
        self.hold: threading.Event | None = None
        """Content stops half-way until this is set."""
        self.half_sent = threading.Event()
        self.requests: list[tuple[str, str, dict[str, list[str]], bytes]] = []
        self.headers: list[dict[str, str]] = []
        super().__init__(str(path), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away early is part of the tests."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def offer(self, content: bytes) -> None:
        """Have a download of this content."""
        self.content = content
        self.steps = [
            {"task": "ab" * 32, "generation": "cd" * 8, "total": len(content)},
            {
                "task": "ab" * 32,
                "generation": "cd" * 8,
                "total": len(content),
                "valid_bytes": len(content),
                "from_seeds": len(content),
                "done": True,
            },
        ]


class _Handler(BaseHTTPRequestHandler):
    server: FakeDaemon
    protocol_version = "HTTP/1.1"

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _route(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        self.server.requests.append((self.command, parts.path, parse_qs(parts.query), body))
        self.server.headers.append({k.lower(): v for k, v in self.headers.items()})
        stats = self.server.stats
        if self.command == "POST" and parts.path == "/peer/v1/downloads":
            self._progress()
        elif parts.path.endswith("/content"):
            self._content()
        elif parts.path == "/peer/v1/tasks":
            self._json(200, stats)
        elif parts.path == "/peer/v1/tasks/import":
            self._json(200, stats[0])
        else:
            found = [stat for stat in stats if parts.path.endswith(stat["task"])]
            if not found:
                self._problem("not-found", 404, "no such task")
            elif self.command == "DELETE":
                self.send_response(204)
                self.end_headers()
            else:
                self._json(200, found[0])

    do_GET = do_POST = do_DELETE = _route

    def _json(self, status: int, value: Any, kind: str = "application/json") -> None:
        raw = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def _problem(self, code: str, status: int, detail: str) -> None:
        self._json(status, problem(code, status, detail), "application/problem+json")

    def _chunk(self, raw: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(raw), raw))

    def _progress(self) -> None:
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for step in self.server.steps:
            self._chunk(json.dumps(step).encode() + b"\n")
        if self.server.steps and self.server.steps[-1].get("done"):
            # A pinned download's stream stays open until the client leaves.
            self.rfile.read(1)
            self.close_connection = True
        else:
            self._chunk(b"")

    def _content(self) -> None:
        content, promised = self.server.content, self.server.promised
        self.send_response(200)
        self.send_header("content-length", str(len(content) if promised is None else promised))
        self.end_headers()
        half = len(content) // 2
        self.wfile.write(content[:half])
        self.server.half_sent.set()
        if self.server.hold is not None:
            self.server.hold.wait(30)
        self.wfile.write(content[half:])
        self.close_connection = promised is not None


def problem(code: str, status: int, detail: str) -> dict[str, Any]:
    return {
        "type": f"urn:hawker:problem:{code}",
        "title": code,
        "status": status,
        "detail": detail,
    }


@pytest.fixture
def daemon(hawker: CommandLine) -> Iterator[FakeDaemon]:
    hawker.data.mkdir()
    with FakeDaemon(hawker.data / "hawker.sock") as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        if server.hold is not None:
            server.hold.set()
        server.shutdown()
        thread.join()
