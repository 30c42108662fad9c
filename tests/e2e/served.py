"""A server of one test, in threads of its own."""

from __future__ import annotations

import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from typing import Any


class Quiet(BaseHTTPRequestHandler):
    """Keeps connections, and says nothing of what it is asked."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        return


class Served:
    """Requests to a port of loopback, for a handler.

    Attributes:
        name: host and port.
        url: the same with its scheme.
    """

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self._thread = threading.Thread(target=self.server.serve_forever)
        self._thread.start()
        self.name = f"127.0.0.1:{self.server.server_address[1]}"
        self.url = f"http://{self.name}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


def secure(server: HTTPServer, context: ssl.SSLContext) -> None:
    """Have a server of a test speak TLS."""
    plain = server.get_request

    def secured() -> tuple[socket.socket, Any]:
        accepted, address = plain()
        return context.wrap_socket(accepted, server_side=True), address

    server.get_request = secured  # type: ignore[method-assign]
