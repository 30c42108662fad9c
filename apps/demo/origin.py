"""An origin with a narrow uplink that counts what it sends: the demo's witness.

    python -m hawker.apps.demo.origin FILE --rate 25000000 --port 0

It shares nothing with Hawker but the repository (standard library only), so that its count is not
Hawker's. One token bucket holds back all its clients together, as one uplink would. `GET /.count`
answers the count as JSON; `GET /.count?settled` first waits until no content is being sent.
"""

from __future__ import annotations

import argparse
import http.server
import json
import os
import re
import socket
import socketserver
import sys
import threading
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

CHUNK_BYTES = 64 * 1024
BURST_SECONDS = 0.005
DEFAULT_RATE = 25e6
SETTLE_SECONDS = 2.0
# Small, so that bytes a client never took are not counted as sent to it.
SEND_BUFFER_BYTES = 256 * 1024
IDLE_SECONDS = 60.0
COUNT_PATH = "/.count"

_RANGE = re.compile(r"^bytes=(\d*)-(\d*)$")


class Uplink:
    """A token bucket that all clients share; `rate` in bytes per second."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._lock = threading.Lock()
        self._free_at = 0.0

    def take(self, count: int) -> None:
        """Wait until `count` more bytes may leave; callers are served in the order they come."""
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - BURST_SECONDS) + count / self._rate
            wait = self._free_at - now
        if wait > 0:
            time.sleep(wait)


class Count:
    """What left the origin: content bytes, requests for content, and those not sent to the end."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._content_bytes = 0
        self._requests = 0
        self._heads = 0
        self._unfinished = 0
        self._active = 0

    def head(self) -> None:
        with self._changed:
            self._heads += 1

    def begin(self) -> None:
        with self._changed:
            self._requests += 1
            self._active += 1

    def sending(self, count: int) -> None:
        """Counted before the bytes leave: who has seen the last byte finds it counted."""
        with self._changed:
            self._content_bytes += count

    def end(self, complete: bool) -> None:
        with self._changed:
            self._active -= 1
            self._unfinished += not complete
            self._changed.notify_all()

    def read(self, settled: bool) -> dict[str, int]:
        """The count; with `settled` after running answers have ended, or two seconds later."""
        with self._changed:
            if settled:
                self._changed.wait_for(lambda: not self._active, SETTLE_SECONDS)
            return {
                "content_bytes": self._content_bytes,
                "requests": self._requests,
                "heads": self._heads,
                "unfinished": self._unfinished,
                "active": self._active,
            }


class Unsatisfiable(Exception):
    """The range asked for lies outside the content."""


def wanted_span(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and stop of the one range asked for; None for the whole content (RFC 9110, 14.2).

    Several ranges, other units and malformed ones are ignored, as the RFC allows.

    Raises:
        Unsatisfiable: no byte of the range exists.
    """
    match = _RANGE.match(header.strip()) if header else None
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None
    if start >= stop:
        raise Unsatisfiable
    return start, stop


class Origin(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Serves one file, a thread per connection."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 512

    def __init__(self, file: Path, rate: float, port: int) -> None:
        self.file = file
        self.content: BinaryIO = file.open("rb")
        state = os.fstat(self.content.fileno())
        self.size = state.st_size
        self.etag = f'"{state.st_mtime_ns:x}-{state.st_size:x}"'
        self.modified = formatdate(state.st_mtime, usegmt=True)
        self.path = "/" + quote(file.name)
        self.uplink = Uplink(rate)
        self.count = Count()
        super().__init__(("127.0.0.1", port), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{self.path}"

    def server_close(self) -> None:
        super().server_close()
        self.content.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left is counted, not reported; faults of our own are printed."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class Handler(http.server.BaseHTTPRequestHandler):
    """One client's connection."""

    server: Origin
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged: the count says what happened."""

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == COUNT_PATH:
            body = json.dumps(self.server.count.read(query == "settled")).encode()
            self._head(200, len(body), {"Content-Type": "application/json"})
            self.wfile.write(body)
            return
        self.server.count.begin()
        complete = False
        try:
            self._send(self._answer(path))
            complete = True
        finally:
            self.server.count.end(complete)

    def do_HEAD(self) -> None:
        self.server.count.head()
        self._answer(self.path.partition("?")[0])

    def _answer(self, path: str) -> tuple[int, int]:
        """Send the head of the answer; the bytes of the content that follow a GET."""
        server = self.server
        if path != server.path:
            self._head(404, 0, {})
            return 0, 0
        if self._matches("If-None-Match"):
            self._head(304, None, {"ETag": server.etag})
            return 0, 0
        if self.headers.get("If-Match") is not None and not self._matches("If-Match"):
            self._head(412, 0, {})
            return 0, 0
        fields = {
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
            "ETag": server.etag,
            "Last-Modified": server.modified,
        }
        asked = self.headers.get("Range")
        if self.command != "GET" or self.headers.get("If-Range", server.etag) != server.etag:
            asked = None
        try:
            span = wanted_span(asked, server.size)
        except Unsatisfiable:
            self._head(416, 0, {"Content-Range": f"bytes */{server.size}"})
            return 0, 0
        if span is None:
            self._head(200, server.size, fields)
            return 0, server.size
        start, stop = span
        fields["Content-Range"] = f"bytes {start}-{stop - 1}/{server.size}"
        self._head(206, stop - start, fields)
        return span

    def _matches(self, field: str) -> bool:
        tags = [tag.strip() for tag in self.headers.get(field, "").split(",")]
        return "*" in tags or self.server.etag in tags

    def _head(self, status: int, length: int | None, fields: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _send(self, span: tuple[int, int]) -> None:
        position, stop = span
        while position < stop:
            count = min(CHUNK_BYTES, stop - position)
            self.server.uplink.take(count)
            chunk = os.pread(self.server.content.fileno(), count, position)
            if not chunk:
                raise ConnectionAbortedError("the file became shorter while it was served")
            self.server.count.sending(len(chunk))
            self.connection.sendall(chunk)
            position += len(chunk)


def main() -> None:
    """Serve until killed; prints one JSON line with the URL once the port is open."""
    parser = argparse.ArgumentParser(prog="hawker.apps.demo.origin", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--rate", type=float, default=DEFAULT_RATE, help="bytes per second")
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    if not arguments.rate > 0:
        parser.error("--rate must be above 0")
    with Origin(arguments.file, arguments.rate, arguments.port) as origin:
        print(json.dumps({"url": origin.url}), flush=True)
        try:
            origin.serve_forever()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
