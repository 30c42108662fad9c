"""The `http1` transport: blocking sockets in a bounded pool of threads.

Measured (facts of the project: CPU per gigabyte) a thread that receives a mebibyte at a time and
hashes it while it is in the cache beats every event-loop client by a factor of two or more. A
connection is used by one request at a time and kept for the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from hawker.core.contracts import PieceRequest, Sink, Transport
from hawker.core.errors import HawkerError, Stalled, Unavailable
from hawker.core.settings import Settings, TlsSettings
from hawker.core.tls import ClientTls
from hawker.pluggy_specs import hookimpl
from hawker.plugins.transports.answers import (
    CHUNK,
    MAX_PROBLEM,
    Address,
    Body,
    address_of,
    refusal,
)

THREADS = 16
MAX_HEAD = 64 * 1024
CONNECT_TIMEOUT = 1.0
# How exactly a stall is measured.
TICK = 0.2
MAX_IDLE = 8
IDLE_SECONDS = 30.0


class _Closed(Exception):
    """The server closed a kept connection before it answered: another one may do."""


@dataclass
class _Head:
    status: int
    headers: dict[str, str]
    rest: bytes


@dataclass
class _Connection:
    """A socket that another thread may shut down."""

    sock: socket.socket
    used: bool = False
    idle_since: float = 0.0


@dataclass
class _Job:
    """One fetch as its thread sees it; `abort` may come from the event loop at any time."""

    request: PieceRequest
    sink: Sink
    aborted: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)
    connection: _Connection | None = None

    def abort(self) -> None:
        with self.lock:
            self.aborted = True
            if self.connection is not None:
                with contextlib.suppress(OSError):
                    # Not the TLS socket's own: that one forgets its state under its thread.
                    socket.socket.shutdown(self.connection.sock, socket.SHUT_RDWR)

    def secure(self, connection: _Connection, context: ssl.SSLContext, host: str) -> None:
        """TLS on a connected socket; its handshake can be aborted, as all that follows."""
        with self.lock:
            # Wrapping takes the descriptor from the socket that `abort` knows.
            secured = context.wrap_socket(
                connection.sock, server_hostname=host, do_handshake_on_connect=False
            )
            connection.sock = secured
            if self.aborted:
                raise Unavailable("the transfer was given up")
        secured.do_handshake()

    @contextlib.contextmanager
    def using(self, connection: _Connection) -> Iterator[None]:
        with self.lock:
            if self.aborted:
                raise Unavailable("the transfer was given up")
            self.connection = connection
        try:
            yield
        finally:
            with self.lock:
                self.connection = None


class Http1Transport:
    """See the module; `fetch` belongs to the event loop, everything below it to a thread."""

    def __init__(self, tls: TlsSettings) -> None:
        self._tls = ClientTls(tls)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="hawker-http1")
        self._idle: dict[Address, list[_Connection]] = {}
        self._lock = threading.Lock()
        self._local = threading.local()

    async def fetch(self, request: PieceRequest, sink: Sink) -> None:
        job = _Job(request, sink)
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def end(_: Future[None]) -> None:
            # A loop that is closed has nobody who waits.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(ended.set)

        # An event, as a future of the loop that is shielded takes it five turns more.
        running = self._threads.submit(self._run, job)
        running.add_done_callback(end)
        try:
            await ended.wait()
        except asyncio.CancelledError:
            # One that no thread has begun yet is taken back from the queue.
            if not running.cancel():
                job.abort()
                await _ended(ended)
            raise
        if running.cancelled():
            # The transport was closed.
            raise asyncio.CancelledError
        running.result()

    async def close(self) -> None:
        with self._lock:
            idle = [c for connections in self._idle.values() for c in connections]
            self._idle.clear()
        for connection in idle:
            connection.sock.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    # ------------------------------------------------------------------ in a thread

    def _run(self, job: _Job) -> None:
        parts = urlsplit(job.request.base_url)
        address = address_of(job.request.base_url)
        while True:
            connection = self._take(address, job)
            kept = connection.used
            done = False
            try:
                with job.using(connection):
                    done = self._exchange(job, connection.sock, parts.netloc, parts.path)
                return
            except _Closed:
                if not kept:
                    raise Unavailable(f"{parts.netloc} closed the connection") from None
            except (TimeoutError, BlockingIOError) as exc:
                raise Stalled(f"{parts.netloc} stalled for {job.request.stall:g} s") from exc
            except OSError as exc:
                raise Unavailable(f"{parts.netloc}: {exc.strerror or exc}") from exc
            except _Answered as exc:
                done = exc.reusable
                raise exc.error from None
            finally:
                self._give_back(address, connection, reusable=done)

    def _take(self, address: Address, job: _Job) -> _Connection:
        now = time.monotonic()
        with self._lock:
            idle = self._idle.get(address, [])
            while idle:
                connection = idle.pop()
                if now - connection.idle_since < IDLE_SECONDS and _quiet(connection.sock):
                    return connection
                connection.sock.close()
        try:
            return _connect(address, job, self._tls.context() if address.secure else None)
        except OSError as exc:
            raise Unavailable(f"{address.host}:{address.port} cannot be reached: {exc}") from exc

    def _give_back(self, address: Address, connection: _Connection, *, reusable: bool) -> None:
        with self._lock:
            idle = self._idle.setdefault(address, [])
            if reusable and len(idle) < MAX_IDLE:
                connection.used = True
                connection.idle_since = time.monotonic()
                idle.append(connection)
                return
        connection.sock.close()

    def _exchange(self, job: _Job, sock: socket.socket, host: str, base: str) -> bool:
        """One request and its answer; returns whether the connection can be used again."""
        request = job.request
        _set_stall(sock, request.stall)
        try:
            sock.sendall(_request_bytes(request, host, base))
        except (BrokenPipeError, ConnectionResetError) as exc:
            raise _Closed from exc
        secure = isinstance(sock, ssl.SSLSocket)
        patience = (_SecurePatience if secure else _Patience)(sock, request.stall)
        head = _read_head(patience)
        keep = head.headers.get("connection", "").lower() != "close"
        if head.status != 200:
            raise _refusal(head, patience, host, keep)
        body = Body(request, job.sink, host, head.headers)
        for chunk in _chunks(patience, head.rest, body.length, self._buffer()):
            body.take(chunk)
        body.end()
        return keep

    def _buffer(self) -> memoryview:
        """This thread's own receive buffer."""
        buffer: memoryview | None = getattr(self._local, "buffer", None)
        if buffer is None:
            buffer = self._local.buffer = memoryview(bytearray(CHUNK))
        return buffer


async def _ended(ended: asyncio.Event) -> None:
    """Until the thread has ended, however often the caller is cancelled meanwhile: nothing may be
    written to the sink once `fetch` has returned. It takes no time, as the socket is shut down."""
    while not ended.is_set():
        with contextlib.suppress(asyncio.CancelledError):
            await ended.wait()


class _Answered(Exception):
    """The server said no, with a problem."""

    def __init__(self, error: HawkerError, *, reusable: bool) -> None:
        super().__init__(str(error))
        self.error = error
        self.reusable = reusable


def _connect(address: Address, job: _Job, context: ssl.SSLContext | None) -> _Connection:
    """A new connection; `job.abort` ends a handshake that nobody answers."""
    failure: OSError = OSError("no address")
    found = socket.getaddrinfo(address.host, address.port, 0, socket.SOCK_STREAM)
    for family, kind, protocol, _, target in found:
        connection = _Connection(socket.socket(family, kind, protocol))
        try:
            connection.sock.settimeout(CONNECT_TIMEOUT)
            with job.using(connection):
                connection.sock.connect(target)
                connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if context is not None:
                    job.secure(connection, context, address.host)
            return connection
        except OSError as exc:
            connection.sock.close()
            failure = exc
        except BaseException:
            connection.sock.close()
            raise
    raise failure


def _quiet(sock: socket.socket) -> bool:
    """Nothing came on a kept connection: neither its end nor bytes that no request asked for."""
    if isinstance(sock, ssl.SSLSocket):
        # What came may be inside the TLS layer already, or be a ticket for it alone.
        sock.settimeout(0)
        try:
            sock.recv(1)
        except ssl.SSLWantReadError:
            return True
        except OSError:
            pass
        return False
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return not poll.poll(0)


def _set_stall(sock: socket.socket, seconds: float) -> None:
    """A blocking socket whose writes give up after `seconds`, and its reads after a `TICK`.

    The kernel's own timeout, and not Python's: that one makes the socket non-blocking, so that
    a read could not wait for a whole buffer in one call. Such a read returns what came when the
    timeout passes, whenever in between that was: hence ticks, which `_Patience` counts. TLS gives
    a record at a time anyway, and knows Python's timeout only.
    """
    if isinstance(sock, ssl.SSLSocket):
        sock.settimeout(min(seconds, TICK))
        return
    sock.settimeout(None)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(seconds))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(min(seconds, TICK)))


def _timeval(seconds: float) -> bytes:
    whole = int(seconds)
    return struct.pack("@ll", whole, int((seconds - whole) * 1e6))


class _Patience:
    """Reads that raise TimeoutError after `seconds` without a byte."""

    def __init__(self, sock: socket.socket, seconds: float) -> None:
        self._sock = sock
        self._seconds = seconds
        self._last = time.monotonic()

    def recv(self, size: int) -> bytes:
        while True:
            try:
                data = self._sock.recv(size)
            except BlockingIOError:
                self._check()
                continue
            self._last = time.monotonic()
            return data

    def fill(self, view: memoryview) -> int:
        """Bytes put into `view`, fewer than it takes only after a tick; 0 at the end."""
        while True:
            try:
                size = self._sock.recv_into(view, len(view), socket.MSG_WAITALL)
            except BlockingIOError:
                self._check()
                continue
            self._last = time.monotonic()
            return size

    def _check(self) -> None:
        if time.monotonic() - self._last >= self._seconds:
            raise TimeoutError


class _SecurePatience(_Patience):
    """The same over TLS."""

    def recv(self, size: int) -> bytes:
        while True:
            try:
                data = self._sock.recv(size)
            except TimeoutError:
                self._check()
                continue
            self._last = time.monotonic()
            return data

    def fill(self, view: memoryview) -> int:
        filled = 0
        while filled < len(view):
            try:
                size = self._sock.recv_into(view[filled:])
            except TimeoutError:
                self._check()
                continue
            self._last = time.monotonic()
            if not size:
                break
            filled += size
        return filled


def _request_bytes(request: PieceRequest, host: str, base: str) -> bytes:
    lines = [f"GET {base}{request.path} HTTP/1.1", f"host: {host}"]
    lines.append(f"accept-encoding: {', '.join(request.codecs) or 'identity'}")
    lines.extend(f"{name}: {value}" for name, value in request.headers.items())
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _read_head(sock: _Patience) -> _Head:
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0:
        if len(data) > MAX_HEAD:
            raise Unavailable("an answer's head is too long")
        try:
            chunk = sock.recv(MAX_HEAD)
        except ConnectionResetError as exc:
            if not data:
                raise _Closed from exc
            raise
        if not chunk:
            if not data:
                raise _Closed
            raise Unavailable("the connection ended within an answer's head")
        data += chunk
    status_line, *lines = data[:end].decode("latin-1").split("\r\n")
    version, _, rest = status_line.partition(" ")
    code = rest[:3]
    if version not in ("HTTP/1.1", "HTTP/1.0") or not code.isdecimal():
        raise Unavailable(f"{status_line[:80]!r} is no HTTP/1.1 answer")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.lower()
        if not colon or name != name.strip() or (name in headers and name == "content-length"):
            raise Unavailable(f"{line[:80]!r} is no header field")
        headers[name] = value.strip()
    if "transfer-encoding" in headers:
        raise Unavailable("pieces are sent with a length, not in chunks")
    return _Head(int(code), headers, data[end + 4 :])


def _refusal(head: _Head, sock: _Patience, host: str, keep: bool) -> Exception:
    """The error behind an unsuccessful answer."""
    length = head.headers.get("content-length", "")
    body = bytearray(head.rest)
    whole = length.isdecimal() and int(length) <= MAX_PROBLEM
    if whole:
        while len(body) < int(length):
            chunk = sock.recv(MAX_PROBLEM)
            if not chunk:
                whole = False
                break
            body += chunk
    return _Answered(refusal(head.status, bytes(body), host), reusable=keep and whole)


def _chunks(sock: _Patience, first: bytes, length: int, buffer: memoryview) -> Iterator[memoryview]:
    """The body in parts as large as the buffer, so that each is hashed and stored in one go."""
    if len(first) > length:
        raise Unavailable("more bytes came than were announced")
    if first:
        yield memoryview(first)
    left = length - len(first)
    while left:
        want = min(left, len(buffer))
        filled = 0
        while filled < want:
            size = sock.fill(buffer[filled:want])
            if not size:
                raise Unavailable(f"the connection ended {left - filled} bytes too early")
            filled += size
        yield buffer[:want]
        left -= want


@hookimpl
def hawker_transport(name: str, settings: Settings) -> Transport:
    return Http1Transport(settings.tls)
