"""An upstream proxy on loopback: it passes on, asks who one is, refuses, and remembers."""

from __future__ import annotations

import base64
import http.client
import select
import socket
import ssl
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from tests.e2e.served import Quiet, Served, secure

HOPS = ("connection", "keep-alive", "proxy-authorization", "proxy-connection", "transfer-encoding")


class UpstreamProxy:
    """Serves absolute form and CONNECT.

    Attributes:
        user: `name:password` that it wants to be shown, empty for none.
        names: where names lead that nobody else knows: host to host and port.
        refusal: a status, and fields, that it answers with instead of passing anything on.
        asked: (method, target) of every request that it passed on.
        fields: the fields of the latest request, by lower-case name.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.user = ""
        self.names: dict[str, tuple[str, int]] = {}
        self.refusal: tuple[int, dict[str, str]] | None = None
        self.asked: list[tuple[str, str]] = []
        self.fields: Mapping[str, str] = {}
        upstream = self

        class Handler(Quiet):
            def _serve(self) -> None:
                upstream.serve(self)

            do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_CONNECT = _serve

        self._served = Served(Handler)
        self.name, self.url = self._served.name, self._served.url
        if context is not None:
            self.url = f"https://{self.name}"
            secure(self._served.server, context)

    def close(self) -> None:
        self._served.close()

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        self.fields = {name.lower(): value for name, value in request.headers.items()}
        wanted = "Basic " + base64.b64encode(self.user.encode()).decode()
        if self.user and self.fields.get("proxy-authorization") != wanted:
            self._refuse(request, 407, {"proxy-authenticate": 'Basic realm="upstream"'})
        elif self.refusal is not None:
            self._refuse(request, *self.refusal)
        else:
            self.asked.append((request.command, request.path))
            tunnel = request.command == "CONNECT"
            (self._tunnel if tunnel else self._pass_on)(request)

    def _place(self, netloc: str, port: int) -> tuple[str, int]:
        parts = urlsplit(f"//{netloc}")
        host = parts.hostname or ""
        return self.names.get(host, (host, parts.port or port))

    def _refuse(
        self, request: BaseHTTPRequestHandler, status: int, fields: Mapping[str, str]
    ) -> None:
        request.send_response(status)
        for name, value in fields.items():
            request.send_header(name, value)
        request.send_header("content-length", "5")
        request.end_headers()
        request.wfile.write(b"proxy")

    def _pass_on(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path)
        origin = http.client.HTTPConnection(*self._place(parts.netloc, 80), timeout=30)
        body = request.rfile.read(int(request.headers.get("content-length", "0")))
        target = parts._replace(scheme="", netloc="").geturl() or "/"
        kept = {n: v for n, v in request.headers.items() if n.lower() not in HOPS}
        origin.request(request.command, target, body, kept)
        answer = origin.getresponse()
        request.send_response(answer.status)
        for name, value in answer.getheaders():
            request.send_header(name, value)
        request.send_header("via", "1.1 upstream")
        request.end_headers()
        while data := answer.read(65536):
            request.wfile.write(data)
        origin.close()

    def _tunnel(self, request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        try:
            origin = socket.create_connection(self._place(request.path, 443), 10)
        except OSError:
            self._refuse(request, 502, {})
            return
        request.send_response(200)
        request.end_headers()
        client = request.connection
        with origin:
            while True:
                pending = isinstance(client, ssl.SSLSocket) and client.pending()
                ready = [client] if pending else select.select([client, origin], [], [], 30)[0]
                for side in ready:
                    data = side.recv(65536)
                    if not data:
                        return
                    (origin if side is client else client).sendall(data)
                if not ready:
                    return
