"""Repositories of packages on loopback, which know what they were asked and what they sent."""

from __future__ import annotations

import hashlib
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from hawker.core.ranges import parse_ranges, satisfy

# When files were offered, in seconds since 1970; each time later.
MODIFIED = 1_600_000_000
LATER = 3600


@dataclass(frozen=True)
class Asked:
    """A request; `target` has the query."""

    method: str
    target: str
    body: bytes
    fields: Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    """What is answered to it."""

    status: int
    data: bytes = b""
    fields: Mapping[str, str] = field(default_factory=dict)


Route = Callable[[Asked], Answer]


class Repository:
    """Pages, which may change, packages, which do not, and routes of its own; counts each.

    Attributes:
        asked: requests by method and path.
        content: bytes of packages that were sent.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.asked: Counter[tuple[str, str]] = Counter()
        self.content = 0
        self.size = 0
        self._files: dict[str, bytes] = {}
        self._changes: Counter[str] = Counter()
        self._packages: set[str] = set()
        self._routes: dict[str, Route] = {}
        self._others: list[Repository] = []
        self._lock = threading.Lock()
        repository = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                repository.serve(self)

            do_GET = do_HEAD = do_POST = _serve

            def log_message(self, format: str, *args: Any) -> None:
                return

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.context = context
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        scheme = "http" if context is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}"

    def page(self, path: str, data: bytes | str) -> None:
        """Offer what may change; this is newer than what was there."""
        self._files[path] = data.encode() if isinstance(data, str) else data
        self._changes[path] += 1

    def package(self, path: str, data: bytes) -> None:
        """Offer what must be sent once."""
        self._files[path] = data
        self._packages.add(path)
        self.size += len(data)

    def route(self, path: str, route: Route) -> None:
        """Answer requests for a path by a function, before files."""
        self._routes[path] = route

    def beside(self) -> Repository:
        """Another one, at an address of its own, that is closed with this one."""
        self._others.append(Repository(self._server.context))
        return self._others[-1]

    def file(self, asked: Asked) -> Answer:
        """A file as an ordinary server gives it, with a validator and ranges."""
        path = urlsplit(asked.target).path
        data = self._files.get(path)
        if data is None:
            return Answer(404)
        changed = formatdate(MODIFIED + LATER * self._changes[path], usegmt=True)
        tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        fields = {"etag": tag, "last-modified": changed, "accept-ranges": "bytes"}
        if asked.fields.get("if-none-match") == tag:
            return Answer(304, b"", fields)
        kind = "text/html" if data.startswith(b"<!") else "application/octet-stream"
        fields["content-type"] = kind
        wanted = parse_ranges(asked.fields.get("range"))
        if not wanted or asked.fields.get("if-range", tag) != tag:
            return Answer(200, data, fields)
        span = satisfy(wanted, len(data))[0]
        fields["content-range"] = f"bytes {span.start}-{span.start + span.size - 1}/{len(data)}"
        return Answer(206, data[span.start : span.stop], fields)

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        fields = {name.lower(): value for name, value in request.headers.items()}
        body = request.rfile.read(int(fields.get("content-length", "0")))
        asked = Asked(request.command, request.path, body, fields)
        path = urlsplit(request.path).path
        answer = self._routes.get(path, self.file)(asked)
        with self._lock:
            self.asked[asked.method, path] += 1
        try:
            request.send_response(answer.status)
            for name, value in answer.fields.items():
                request.send_header(name, value)
            if answer.status != 304:
                request.send_header("content-length", str(len(answer.data)))
            request.end_headers()
            if asked.method != "HEAD":
                self._send(request, answer.data, path in self._packages)
        except OSError:
            # Whoever asked has gone.
            request.close_connection = True

    def _send(self, request: BaseHTTPRequestHandler, data: bytes, counts: bool) -> None:
        for offset in range(0, len(data), 1 << 16):
            part = data[offset : offset + (1 << 16)]
            request.wfile.write(part)
            if counts:
                with self._lock:
                    self.content += len(part)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        for other in self._others:
            other.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    context: ssl.SSLContext | None = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        # In the connection's own thread, so that a slow handshake keeps nobody waiting.
        if self.context is not None:
            try:
                request = self.context.wrap_socket(request, server_side=True)
            except OSError:
                return
        super().finish_request(request, client_address)
