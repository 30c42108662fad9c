"""A tracker for one torrent: everybody is told of everybody (BEP 3, compact lists of BEP 23).

    python -m benchmarks.swarm.tracker ADDRESS PORT

Says a JSON line when it listens; ends with its input.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from benchmarks.swarm.torrent import bencode

INTERVAL_SECONDS = 5


class Tracker(ThreadingHTTPServer):
    """`peers` are addresses and ports, of those that finished, too, until they stop."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, address: tuple[str, int]) -> None:
        self.peers: set[tuple[str, int]] = set()
        self.lock = threading.Lock()
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: Tracker

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query, encoding="latin-1")
        peer = (self.client_address[0], int(query["port"][0]))
        with self.server.lock:
            others = sorted(self.server.peers - {peer})
            if query.get("event") == ["stopped"]:
                self.server.peers.discard(peer)
            else:
                self.server.peers.add(peer)
        packed = [socket.inet_aton(host) + struct.pack(">H", port) for host, port in others]
        fields = {b"interval": INTERVAL_SECONDS, b"min interval": INTERVAL_SECONDS}
        body = bencode(fields | {b"peers": b"".join(packed)})
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        return


def main() -> None:
    address, port = sys.argv[1:]
    tracker = Tracker((address, int(port)))
    threading.Thread(target=tracker.serve_forever, daemon=True).start()
    print(json.dumps({"listening": True}), flush=True)
    sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
