"""The `http1` transport over TLS: what TLS keeps to itself, and handshakes that nobody answers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import trustme

from hawker.core.contracts import PieceRequest
from hawker.core.settings import TlsSettings
from hawker.plugins.transports.http1 import Http1Transport
from tests.plugins.scripted import Sink

BODY = b"right" * 20
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n" + BODY
STALE = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n" + b"wrong" * 20

Talk = Callable[[ssl.SSLSocket, int], None]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@contextlib.contextmanager
def _server(authority: trustme.CA, talk: Talk) -> Iterator[str]:
    """The URL of a server that talks with each connection, and then closes it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        number = 0
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            number += 1
            with contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as conn:
                conn.settimeout(5)
                talk(conn, number)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/peer"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@contextlib.asynccontextmanager
async def _transport(authority: trustme.CA, tmp_path: Path) -> AsyncIterator[Http1Transport]:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    transport = Http1Transport(TlsSettings(ca=str(tmp_path / "ca.pem")))
    try:
        yield transport
    finally:
        await transport.close()


def _request(url: str) -> PieceRequest:
    return PieceRequest(url, "/v1/pieces", headers={}, length=100, stall=5.0)


def _read_request(conn: ssl.SSLSocket) -> bool:
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        part = conn.recv(65536)
        if not part:
            return False
        data += part
    return True


def test_bytes_left_in_a_tls_record_are_not_the_next_answer(
    authority: trustme.CA, tmp_path: Path
) -> None:
    def talk(conn: ssl.SSLSocket, number: int) -> None:
        while _read_request(conn):
            # The head apart, so that the body is read by its length; then one record that holds
            # more than the body. The socket itself has nothing left to poll.
            conn.sendall(ANSWER[:-100])
            conn.sendall(ANSWER[-100:] + (STALE if number == 1 else b""))

    async def main() -> None:
        with _server(authority, talk) as url:
            async with _transport(authority, tmp_path) as transport:
                for _ in range(3):
                    sink = Sink()
                    await transport.fetch(_request(url), sink)
                    assert sink.data == BODY

    asyncio.run(main())


def test_a_kept_connection_is_used_again(authority: trustme.CA, tmp_path: Path) -> None:
    numbers: list[int] = []

    def talk(conn: ssl.SSLSocket, number: int) -> None:
        while _read_request(conn):
            numbers.append(number)
            conn.sendall(ANSWER)

    async def main() -> None:
        with _server(authority, talk) as url:
            async with _transport(authority, tmp_path) as transport:
                for _ in range(5):
                    await transport.fetch(_request(url), Sink())

    asyncio.run(main())
    assert numbers == [1] * 5


def test_a_fetch_cancelled_in_its_handshake_ends_soon(
    authority: trustme.CA, tmp_path: Path
) -> None:
    async def main() -> None:
        # Accepted by the kernel, answered by nobody.
        with socket.create_server(("127.0.0.1", 0)) as listener:
            async with _transport(authority, tmp_path) as transport:
                url = f"https://127.0.0.1:{listener.getsockname()[1]}/peer"
                running = asyncio.ensure_future(transport.fetch(_request(url), Sink()))
                conn, _ = await asyncio.to_thread(listener.accept)
                with conn:
                    # The first flight of the handshake is here: the client waits for the answer.
                    assert await asyncio.to_thread(conn.recv, 1)
                    began = time.monotonic()
                    running.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await running
                    assert time.monotonic() - began < 0.5

    asyncio.run(main())
