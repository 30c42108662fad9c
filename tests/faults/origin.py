"""An origin that changes, fails, stalls and cuts connections on demand, and counts what it sent."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CHUNK = 1 << 16


class FaultyOrigin:
    """One object in versions. `sent` counts content bytes of each version.

    `validators`: strong ETags; `ranges`: answers 206. Without both it streams chunk by chunk with
    no length, as a program that makes its answer up does.
    """

    def __init__(self, *, validators: bool, ranges: bool) -> None:
        self.versions: list[bytes] = []
        self.sent: list[int] = []
        self.requests = 0
        self.delay = 0.0
        self.ill_until = 0.0
        self.seen_headers: list[dict[str, str]] = []
        self._cut = 0
        self._lock = threading.Lock()
        self._validators = validators
        self._ranges = ranges
        origin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                try:
                    origin._answer(self)
                except OSError:
                    self.close_connection = True

            def log_message(self, format: str, *args: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/object"

    def change(self, data: bytes) -> None:
        """From now on the object is this."""
        with self._lock:
            self.versions.append(data)
            self.sent.append(0)

    def cut(self) -> None:
        """Break every connection that is being answered."""
        self._cut += 1

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        self.seen_headers.append({k.lower(): v for k, v in request.headers.items()})
        if time.monotonic() < self.ill_until:
            request.send_response(503)
            request.send_header("retry-after", "1")
            request.send_header("content-length", "0")
            request.end_headers()
            return
        with self._lock:
            version = len(self.versions) - 1
            self.requests += 1
        data = self.versions[version]
        etag = f'"version-{version}"'
        if request.headers.get("if-match", etag) != etag:
            request.send_response(412)
            request.send_header("content-length", "0")
            request.end_headers()
            return
        start, stop = self._head(request, data, etag)
        self._send(request, version, start, stop)

    def _head(self, request: BaseHTTPRequestHandler, data: bytes, etag: str) -> tuple[int, int]:
        start, stop = 0, len(data)
        asked = request.headers.get("range", "")
        if self._ranges and asked.startswith("bytes=") and data:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last) + 1 if last else stop, stop)
            request.send_response(206)
            request.send_header("content-range", f"bytes {start}-{stop - 1}/{len(data)}")
        else:
            request.send_response(200)
        if self._validators:
            request.send_header("etag", etag)
        if self._ranges:
            request.send_header("accept-ranges", "bytes")
        if self._validators or self._ranges:
            request.send_header("content-length", str(stop - start))
        else:
            request.send_header("connection", "close")
        request.end_headers()
        return start, stop

    def _send(self, request: BaseHTTPRequestHandler, version: int, start: int, stop: int) -> None:
        data, cuts = self.versions[version], self._cut
        for offset in range(start, stop, CHUNK):
            if self._cut != cuts:
                raise ConnectionAbortedError
            part = data[offset : min(stop, offset + CHUNK)]
            request.wfile.write(part)
            with self._lock:
                self.sent[version] += len(part)
            if self.delay:
                time.sleep(self.delay)
