"""What transports do alike: answers to requests for pieces, on their way into a sink."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from hawker.core.contracts import ContentDecoder, PieceRequest, Sink
from hawker.core.errors import BY_CODE, HawkerError, Unavailable, from_peer
from hawker.core.messages import decode_problem

MAX_PROBLEM = 64 * 1024
# Bytes that are hashed and stored in one go.
CHUNK = 1024 * 1024


class Address(NamedTuple):
    """Where a parent listens."""

    host: str
    port: int
    secure: bool


def address_of(base_url: str) -> Address:
    """Raises Unavailable for what is no http:// or https:// URL."""
    parts = urlsplit(base_url)
    secure = parts.scheme == "https"
    try:
        port = parts.port or (443 if secure else 80)
    except ValueError:
        port = 0
    if parts.scheme not in ("http", "https") or not parts.hostname or not port:
        raise Unavailable(f"{parts.geturl()} is not an http:// or https:// URL")
    return Address(parts.hostname, port, secure)


def refusal(status: int, body: bytes, host: str) -> HawkerError:
    """The error behind an unsuccessful answer: what its problem says, if it has one."""
    try:
        problem = decode_problem(body)
        if problem.code in BY_CODE:
            return from_peer(problem)
    except HawkerError:
        pass
    return Unavailable(f"{host} answered {status}")


class Body:
    """The body of an answer, decoded and counted into a sink.

    `length` is how many bytes come over the wire. Raises Unavailable for an answer that says no
    length, another one than asked, or a coding that was not asked.
    """

    def __init__(
        self, request: PieceRequest, sink: Sink, host: str, headers: Mapping[str, str]
    ) -> None:
        length = headers.get("content-length", "")
        if not length.isdecimal() or len(length) > 18:
            raise Unavailable(f"{host} did not say how long its answer is")
        self.length = int(length)
        self._expected = request.length
        self._sink = sink
        self._received = 0
        self._decoded = 0
        self._decoder: ContentDecoder | None = None
        coding = headers.get("content-encoding", "identity")
        if coding != "identity":
            codec = request.codecs.get(coding)
            if codec is None:
                raise Unavailable(f"{host} answered in the coding {coding!r}, which was not asked")
            self._decoder = codec.decoder()
        elif self.length != request.length:
            raise Unavailable(f"{host} sent {self.length} bytes, not {request.length}")

    def take(self, data: memoryview | bytes) -> None:
        """Hash and store; blocking.

        Raises:
            Unavailable: more came than was announced or asked, or it cannot be decoded.
        """
        self._received += len(data)
        if self._received > self.length:
            raise Unavailable("more bytes came than were announced")
        if self._decoder is None:
            self._sink.write(memoryview(data))
            return
        try:
            decoded = self._decoder.feed(data)
        except ValueError as exc:
            raise Unavailable(f"a coded body cannot be decoded: {exc}") from exc
        self._decoded += len(decoded)
        if self._decoded > self._expected:
            raise Unavailable(f"a coded body holds more than {self._expected} bytes")
        self._sink.write(memoryview(decoded))

    def end(self) -> None:
        """Raises Unavailable where not all of it came."""
        if self._received != self.length:
            missing = self.length - self._received
            raise Unavailable(f"the connection ended {missing} bytes too early")
        if self._decoder is not None:
            if self._decoded != self._expected or not self._decoder.finished:
                raise Unavailable(f"a coded body holds {self._decoded} bytes, not {self._expected}")


async def in_thread(call: Callable[[], None]) -> None:
    """Run a blocking call in a thread; however often cancelled, not before it has ended: nothing
    may be written to a sink once `fetch` has returned."""
    running = asyncio.get_running_loop().run_in_executor(None, call)
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        # Its failure is that of a transfer nobody wants any more.
        running.cancelled() or running.exception()
        raise
