"""An origin that changes, fails, is slow, cuts connections on demand, and counts what it sent."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CHUNK = 1 << 16
# Small, so that bytes which a reader never took are not counted as sent to it.
SEND_BUFFER = 1 << 17


@dataclass
class Answer:
    """One answer with content; `reader` names the daemon that asked."""

    thing: int
    version: int
    reader: str
    sent: int = 0
    over: bool = False
    began: float = field(default_factory=time.monotonic)
    ended: float = 0.0


@dataclass
class Thing:
    """One object: its versions, and the content bytes sent of each."""

    versions: list[bytes] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)

    @property
    def newest(self) -> int:
        return len(self.versions) - 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is what this is about; faults of our own are printed."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class FaultyOrigin:
    """Objects below `/thing-N`.

    Args:
        validators: strong ETags; with or without them, an answer has a length only where there are
            `validators` or `ranges`, as programs that make their answers up do.
        ranges: answers 206.
        rate: bytes per second and connection; 0: no limit.
        reader_of: names the owner of a local TCP port.
    """

    def __init__(
        self,
        things: list[bytes],
        *,
        validators: bool,
        ranges: bool,
        rate: int,
        reader_of: Callable[[int], str],
    ) -> None:
        self.things = [Thing([data], [0]) for data in things]
        self.answers: list[Answer] = []
        # (time.monotonic, bytes) of all that was sent.
        self.trace: list[tuple[float, int]] = []
        self.requests = 0
        self.ill_until = 0.0
        self.rate = rate
        self.slower = 1.0
        self._cuts = 0
        self._lock = threading.Lock()
        self._validators, self._ranges = validators, ranges
        self._reader_of = reader_of
        origin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)

            def do_GET(self) -> None:
                try:
                    origin._answer(self)
                except OSError:
                    # Whoever asked has gone, or is cut off on purpose.
                    self.close_connection = True

            def log_message(self, format: str, *args: Any) -> None:
                return

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def url(self, thing: int) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/thing-{thing}"

    @staticmethod
    def etag(thing: int, version: int) -> str:
        return f'"thing-{thing}-version-{version}"'

    def change(self, thing: int, data: bytes) -> None:
        """From now on the object is this; answers that have begun end as they began."""
        with self._lock:
            self.things[thing].sent.append(0)
            self.things[thing].versions.append(data)

    def cut(self) -> None:
        """Break every connection that is being answered."""
        self._cuts += 1

    def open_answers(self, reader: str = "") -> list[Answer]:
        """Answers that are being sent, to this daemon or to all."""
        with self._lock:
            return [a for a in self.answers if not a.over and reader in ("", a.reader)]

    def close(self) -> None:
        self.cut()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        number = int(request.path.partition("?")[0].removeprefix("/thing-"))
        thing = self.things[number]
        if time.monotonic() < self.ill_until:
            self._say(request, 503, {"retry-after": "1"})
            return
        with self._lock:
            version = thing.newest
            self.requests += 1
        if request.headers.get("if-match", "") not in ("", self.etag(number, version)):
            self._say(request, 412, {})
            return
        reader = self._reader_of(request.client_address[1])
        start, stop = self._head(request, thing.versions[version], self.etag(number, version))
        answer = Answer(number, version, reader)
        with self._lock:
            self.answers.append(answer)
        try:
            self._send(request, answer, start, stop)
        finally:
            answer.ended = time.monotonic()
            answer.over = True

    def _say(self, request: BaseHTTPRequestHandler, status: int, fields: dict[str, str]) -> None:
        request.send_response(status)
        for name, value in {**fields, "content-length": "0"}.items():
            request.send_header(name, value)
        request.end_headers()

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
            request.send_header("transfer-encoding", "chunked")
        request.end_headers()
        return start, stop

    def _send(self, request: BaseHTTPRequestHandler, answer: Answer, start: int, stop: int) -> None:
        thing, cuts = self.things[answer.thing], self._cuts
        data = thing.versions[answer.version]
        chunked = not (self._validators or self._ranges)
        for offset in range(start, stop, CHUNK):
            if self._cuts != cuts:
                raise ConnectionAbortedError
            part = data[offset : min(stop, offset + CHUNK)]
            with self._lock:
                answer.sent += len(part)
                thing.sent[answer.version] += len(part)
                self.trace.append((time.monotonic(), len(part)))
            request.wfile.write(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
            if self.rate or self.slower > 1.0:
                time.sleep(self.slower * len(part) / (self.rate or 50e6))
        if chunked:
            request.wfile.write(b"0\r\n\r\n")
