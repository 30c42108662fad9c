"""An origin for one file: ranges, a strong validator, and counters of its own.

    python -m benchmarks.swarm.origin ADDRESS PORT FILE

Says a JSON line when it listens, and its counters for each line it is given; ends with its input.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ETAG = '"the-only-one"'
CHUNK = 1 << 18


class Origin(ThreadingHTTPServer):
    """Serves the file at `path`; `sent` counts bytes of content, `requests` those with a body."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], path: str) -> None:
        self.path, self.size = path, os.path.getsize(path)
        self.sent = self.requests = 0
        self.lock = threading.Lock()
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that leaves is no fault of ours."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Origin

    def do_HEAD(self) -> None:
        self._head()

    def do_GET(self) -> None:
        start, stop = self._head()
        if stop <= start:
            return
        with self.server.lock:
            self.server.requests += 1
        self.wfile.flush()
        with open(self.server.path, "rb") as file:
            while start < stop:
                count = min(CHUNK, stop - start)
                sent = os.sendfile(self.connection.fileno(), file.fileno(), start, count)
                start += sent
                with self.server.lock:
                    self.server.sent += sent

    def _head(self) -> tuple[int, int]:
        """Send the head; the range of bytes that is to follow."""
        size = self.server.size
        start, stop, status = 0, size, 200
        asked = self.headers.get("range", "")
        if self.headers.get("if-match", ETAG) != ETAG:
            start, stop, status = 0, 0, 412
        elif asked.startswith("bytes="):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, status = int(first), 206
            stop = min(size, int(last) + 1 if last else size)
        self.send_response(status)
        if status == 206:
            self.send_header("content-range", f"bytes {start}-{stop - 1}/{size}")
        self.send_header("etag", ETAG)
        self.send_header("accept-ranges", "bytes")
        self.send_header("content-length", str(stop - start))
        self.end_headers()
        return start, stop

    def log_message(self, format: str, *args: Any) -> None:
        return


def main() -> None:
    address, port, path = sys.argv[1:]
    origin = Origin((address, int(port)), path)
    threading.Thread(target=origin.serve_forever, daemon=True).start()
    print(json.dumps({"listening": True}), flush=True)
    for _ in sys.stdin:
        with origin.lock:
            told = {"sent": origin.sent, "requests": origin.requests}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
