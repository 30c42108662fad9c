"""An origin that behaves badly, one way per path, on raw sockets so that nothing is repaired."""

from __future__ import annotations

import base64
import email.utils
import hashlib
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Ask:
    """One request as it came: its number on its path, header fields in lower case."""

    number: int
    fields: dict[str, str]
    connection: socket.socket

    @property
    def range(self) -> tuple[int, int | None] | None:
        found = re.match(r"bytes=(\d+)-(\d*)$", self.fields.get("range", ""))
        if found is None:
            return None
        return int(found[1]), int(found[2]) if found[2] else None

    def answer(self, status: str, fields: dict[str, object], body: bytes = b"") -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.connection.sendall(f"HTTP/1.1 {status}\r\n{lines}\r\n".encode("latin-1") + body)

    def reset(self) -> None:
        """End with a TCP reset, not with an end of the stream."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


Behaviour = Callable[[Ask], None]


@dataclass
class HostileOrigin:
    """Serves `paths`; counts requests by path. One request a connection."""

    paths: dict[str, Behaviour] = field(default_factory=dict)
    asked: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    context: ssl.SSLContext | None = None
    host: str = "127.0.0.1"
    send_buffer: int = 0

    def __post_init__(self) -> None:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self._sock = socket.create_server((self.host, 0), family=family, backlog=64)
        if self.send_buffer:
            # So that what was sent has nearly been received.
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.send_buffer)
        self._lock = threading.Lock()
        threading.Thread(target=self._serve, daemon=True).start()

    def put(self, path: str, behaviour: Behaviour) -> str:
        """Behave so at a path; returns its URL."""
        self.paths[path] = behaviour
        scheme = "http" if self.context is None else "https"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self._sock.getsockname()[1]}{path}"

    def requests(self, path: str) -> int:
        with self._lock:
            return len(self.asked.get(path, []))

    def close(self) -> None:
        self._sock.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._sock.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        connection.settimeout(60)
        try:
            if self.context is not None:
                connection = self.context.wrap_socket(connection, server_side=True)
            head = b""
            while b"\r\n\r\n" not in head:
                part = connection.recv(65536)
                if not part:
                    return
                head += part
            line, *rest = head.decode("latin-1").split("\r\n")
            fields = {k.lower(): v.strip() for k, _, v in (r.partition(":") for r in rest if r)}
            path = line.split(" ")[1].partition("?")[0]
            with self._lock:
                seen = self.asked.setdefault(path, [])
                seen.append(fields)
                number = len(seen)
            self.paths[path](Ask(number, fields, connection))
        except OSError:
            # Whoever asked has gone, or never spoke TLS as we do.
            return
        finally:
            connection.close()


# ---------------------------------------------------------------------------- behaviours


def good(
    data: bytes,
    etag: str = '"one"',
    *,
    ranges: bool = True,
    more: dict[str, object] | None = None,
) -> Behaviour:
    """What a good origin does; `more` fields are in every answer."""

    def behave(ask: Ask) -> None:
        if ask.fields.get("if-match", etag) != etag:
            ask.answer("412 Precondition Failed", {"content-length": 0})
            return
        fields: dict[str, object] = {"etag": etag, **(more or {})}
        if ranges:
            fields["accept-ranges"] = "bytes"
        span = ask.range if ranges else None
        if span is None:
            ask.answer("200 OK", {**fields, "content-length": len(data)}, data)
            return
        first, last = span
        body = data[first : None if last is None else last + 1]
        fields["content-range"] = f"bytes {first}-{first + len(body) - 1}/{len(data)}"
        ask.answer("206 Partial Content", {**fields, "content-length": len(body)}, body)

    return behave


def fixed(status: str, fields: dict[str, object], body: bytes = b"") -> Behaviour:
    """Always this answer."""
    return lambda ask: ask.answer(status, fields, body)


def first(times: int, bad: Behaviour, then: Behaviour) -> Behaviour:
    """`bad` for the first requests, then another behaviour."""
    return lambda ask: (bad if ask.number <= times else then)(ask)


def cut_after(size: int, data: bytes, etag: str = '"one"', *, reset: bool = False) -> Behaviour:
    """Promises everything asked for, and ends in the middle."""

    def behave(ask: Ask) -> None:
        span = ask.range or (0, None)
        start = span[0]
        fields: dict[str, object] = {"etag": etag, "accept-ranges": "bytes"}
        status = "200 OK"
        if ask.range is not None:
            status = "206 Partial Content"
            fields["content-range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        fields["content-length"] = len(data) - start
        ask.answer(status, fields, data[start : start + size])
        if reset:
            ask.reset()

    return behave


def stated(data: bytes) -> dict[str, object]:
    """The field by which an origin states the digest of this content (RFC 9530)."""
    digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
    return {"repr-digest": f"sha-256=:{digest}:"}


def chunked(data: bytes, more: dict[str, object] | None = None) -> Behaviour:
    def behave(ask: Ask) -> None:
        ask.answer("200 OK", {"transfer-encoding": "chunked", **(more or {})})
        for at in range(0, len(data), 100_000):
            part = data[at : at + 100_000]
            ask.connection.sendall(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        ask.connection.sendall(b"0\r\n\r\n")

    return behave


def trickle(ask: Ask) -> None:
    """A byte now and then, for as long as somebody listens."""
    ask.answer("200 OK", {"content-length": 1_000_000, "etag": '"slow"'})
    _drip(ask)


def trickle_parts(ask: Ask) -> None:
    """The same, of content that can be asked for in parts."""
    fields: dict[str, object] = {"etag": '"slow"', "accept-ranges": "bytes"}
    start = 0 if ask.range is None else ask.range[0]
    status = "200 OK"
    if ask.range is not None:
        status = "206 Partial Content"
        fields["content-range"] = f"bytes {start}-999999/1000000"
    ask.answer(status, {**fields, "content-length": 1_000_000 - start})
    _drip(ask)


def trickle_head(ask: Ask) -> None:
    """A head that never comes to its end."""
    ask.connection.sendall(b"HTTP/1.1 200 OK\r\nx-slow: ")
    _drip(ask)


def _drip(ask: Ask) -> None:
    while True:
        ask.connection.sendall(b"x")
        time.sleep(0.2)


class Pausing:
    """Asks to be left alone for two seconds, once; remembers who came before they were over.

    `kind` is how it says so: `seconds`, `date`, or `undated` (a date, and no clock of its own).
    """

    def __init__(self, kind: str, then: Behaviour) -> None:
        self.until = 0.0
        self.early: list[float] = []
        self._kind = kind
        self._then = then
        self._lock = threading.Lock()

    def __call__(self, ask: Ask) -> None:
        with self._lock:
            now = time.time()
            first = not self.until
            if first:
                self.until = now + 2 if self._kind == "seconds" else float(int(now) + 2)
            elif now < self.until:
                self.early.append(self.until - now)
        if now >= self.until:
            self._then(ask)
        elif self._kind == "seconds":
            ask.answer("503 Later", {"content-length": 0, "retry-after": 2})
        else:
            fields = {"content-length": 0, "retry-after": _date(self.until)}
            clock = {"date": _date(now)} if self._kind == "date" else {}
            ask.answer("429 Later", {**fields, **clock})

    def in_the_pause(self, then: Behaviour) -> Behaviour:
        """Another content of the same origin, which is to be left alone as well."""

        def behave(ask: Ask) -> None:
            if time.time() < self.until:
                self.early.append(self.until - time.time())
            then(ask)

        return behave


def later(seconds: float) -> str:
    """An HTTP date in so many seconds."""
    return _date(time.time() + seconds)


def _date(seconds: float) -> str:
    return email.utils.formatdate(seconds, usegmt=True)
