"""What one HTTP/1.1 client, or one app, can do to the server, and what a client can rely on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from hawker.apps.serve import Listen, serving
from hawker.core.settings import TlsSettings
from hawker.core.tls import server_context
from tests.apps.serve.servers import BOTH, MAYBE_BOTH, PATIENCE, App, eventually, served


@contextlib.asynccontextmanager
async def _asking(
    port: int, request: bytes = b""
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection with a request on its way."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        await writer.drain()
        yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _all(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(PATIENCE):
        return await reader.read()


@MAYBE_BOTH
def test_an_app_that_answers_early_ends_though_nobody_reads_the_body(
    kind: str, tmp_path: Path
) -> None:
    async def main() -> None:
        app = App()
        async with served(kind, app, tmp_path) as place:
            head = b"POST /refuse HTTP/1.1\r\nhost: x\r\ncontent-length: 8000000\r\n\r\n"
            async with _asking(place.port) as (reader, writer):
                # More than the kernel takes where nobody reads.
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
                writer.write(head + bytes(8_000_000))
                # All of it is sent before anything is read, as simple clients do.
                async with asyncio.timeout(PATIENCE):
                    await writer.drain()
                assert (await _all(reader)).startswith(b"HTTP/1.1 401")
                assert await eventually(lambda: app.running == 0)

    asyncio.run(main())


def test_who_is_answered_before_the_body_came_is_told_that_the_connection_ends(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with served("ours", App(), tmp_path) as place:
            head = b"POST /refuse HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n"
            async with _asking(place.port, head) as (reader, _):
                async with asyncio.timeout(PATIENCE):
                    answer = await reader.readuntil(b"\r\n\r\n")
                assert answer.startswith(b"HTTP/1.1 401")
                assert b"\r\nconnection: close\r\n" in answer.lower()

    asyncio.run(main())


def test_lingering_has_an_end(tmp_path: Path) -> None:
    async def main() -> None:
        app = App()
        async with served("ours", app, tmp_path) as place:
            head = b"POST /refuse HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\n\r\n"
            async with _asking(place.port, head) as (reader, writer):
                assert (await reader.readline()).startswith(b"HTTP/1.1 401")
                with pytest.raises(OSError):
                    async with asyncio.timeout(PATIENCE):
                        while True:
                            writer.write(bytes(65536))
                            await writer.drain()
                            await asyncio.sleep(0)

    asyncio.run(main())


@BOTH
def test_an_answer_without_length_that_breaks_off_is_not_taken_for_whole(
    kind: str, tmp_path: Path
) -> None:
    async def main() -> None:
        async with served(kind, App(), tmp_path) as place:
            async with _asking(place.port, b"GET /break HTTP/1.0\r\n\r\n") as (reader, _):
                with pytest.raises(ConnectionResetError):
                    await _all(reader)

    asyncio.run(main())


def test_a_chunked_answer_that_breaks_off_has_no_last_chunk(tmp_path: Path) -> None:
    async def main() -> None:
        async with served("ours", App(), tmp_path) as place, httpx.AsyncClient() as client:
            with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
                await client.get(f"http://127.0.0.1:{place.port}/break")

    asyncio.run(main())


@BOTH
def test_an_upgrade_to_cleartext_http2_is_ignored(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with served(kind, App(), tmp_path) as place:
            fields = b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMA"
            request = b"GET /hello HTTP/1.1\r\nhost: x\r\n" + fields + b"\r\n\r\n"
            async with _asking(place.port, request) as (reader, _):
                assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /hello HTTP/1.1\r\nhost: x\r\na: " + b"b" * 70_000 + b"\r\n\r\n", b"431"),
        (b"GET /hello HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 20_000 + b"\r\n", b"431"),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", b"431"),
        (
            b"GET /hello HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            b"400",
        ),
        (b"GET /hello HTTP/1.1\r\nhost: x\r\ncontent-length: +5\r\n\r\n", b"400"),
        (b"GET /hello HTTP/1.1\r\nhost: x\r\ntransfer-encoding: xchunked\r\n\r\n", b"501"),
        (b"GET /hello HTTP/1.1\r\nhost: x\r\n\x00: b\r\n\r\n", b"400"),
        (b"GET /hello HTTP/1.1\r\nhost : x\r\n\r\n", b"400"),
        (b"GET /hello\r\n\r\n", b"400"),
        (b"GET /hello HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /hello HTTP/2.0\r\nhost: x\r\n\r\n", b"505"),
        (b"GET /hello HTTP/0.9\r\nhost: x\r\n\r\n", b"505"),
        (b"PRI * HTTP/2.0\r\nhost: x\r\n\r\nSM\r\n\r\n", b"505"),
        (b"CONNECT x:443 HTTP/1.1\r\nhost: x\r\n\r\n", b"501"),
        # Two lengths: whoever stands before us may believe the other one.
        (
            b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n"
            b"transfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /hello HTTP/1.1\r\nhost: x\r\n\r\n",
            b"400",
        ),
        (b"POST /echo HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40) + b"\r\n\r\n", b"400"),
    ],
)
def test_requests_that_are_none_are_refused(
    request_bytes: bytes, status: bytes, tmp_path: Path
) -> None:
    async def main() -> None:
        async with served("ours", App(), tmp_path) as place:
            async with _asking(place.port, request_bytes) as (reader, _):
                answer = await _all(reader)
                assert answer.split(b" ", 2)[1] == status
                assert answer.count(b"HTTP/1.1 ") == 1
            # And nobody else is harmed.
            async with _asking(place.port, b"GET /hello HTTP/1.0\r\n\r\n") as (reader, _):
                assert (await _all(reader)).endswith(b"hello")

    asyncio.run(main())


def test_what_follows_the_last_request_does_not_spoil_its_answer(tmp_path: Path) -> None:
    async def main() -> None:
        async with served("ours", App(), tmp_path) as place:
            for request in (
                b"POST /echo HTTP/1.0\r\ncontent-length: 3\r\n\r\nabc",
                b"POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
                b"content-length: 3\r\n\r\nabc",
            ):
                async with _asking(place.port, request + b"\r\n" + request) as (reader, _):
                    answer = await _all(reader)
                    assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"\r\n\r\n3")

    asyncio.run(main())


def test_a_connection_does_not_become_http2_later(tmp_path: Path) -> None:
    async def main() -> None:
        app = App()
        async with served("ours", app, tmp_path) as place:
            preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
            request = b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n"
            async with _asking(place.port, request + preface) as (reader, _):
                answer = await _all(reader)
                statuses = [part[:4] for part in answer.split(b"HTTP/1.1")[1:]]
                assert statuses == [b" 200", b" 505"]

    asyncio.run(main())


@pytest.mark.parametrize("fields", [b"", b"connection: upgrade\r\nupgrade: h2c\r\n"])
@pytest.mark.parametrize("more", [b"", b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n"])
def test_an_app_hears_that_its_client_has_gone(fields: bytes, more: bytes, tmp_path: Path) -> None:
    async def main() -> None:
        app = App()
        async with served("ours", app, tmp_path) as place:
            request = b"GET /wait HTTP/1.1\r\nhost: x\r\n" + fields + b"\r\n" + more
            async with _asking(place.port, request) as (reader, _):
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")
                assert app.running == 1
            assert await eventually(lambda: app.running == 0)
            assert app.disconnects == 1

    asyncio.run(main())


def test_many_requests_at_once_wait_for_their_turn(tmp_path: Path) -> None:
    async def main() -> None:
        app = App()
        async with served("ours", app, tmp_path) as place:
            # Far more than may be read ahead.
            request = b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n" + bytes(
                1000
            )
            last = b"GET /hello HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
            async with _asking(place.port) as (reader, writer):
                writer.write(request * 1000 + last)
                answer = await _all(reader)
            assert answer.count(b"HTTP/1.1 200 OK") == 1001
            assert answer.count(b"1000HTTP/1.1") == 1000 and answer.endswith(b"hello")

    asyncio.run(main())


@BOTH
def test_an_upgrade_to_websocket_is_ignored(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with served(kind, App(), tmp_path) as place:
            fields = b"connection: upgrade\r\nupgrade: websocket"
            request = b"GET /hello HTTP/1.1\r\nhost: x\r\n" + fields + b"\r\n\r\n"
            async with _asking(place.port, request) as (reader, _):
                assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"

    asyncio.run(main())


def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    async def main() -> None:
        async with served("ours", App(), tmp_path) as place:
            one = b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s"
            requests = b"".join(one % (n, b"x" * n) for n in range(10, 20))
            last = b"GET /hello HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
            async with _asking(place.port, requests + last) as (reader, _):
                bodies = [
                    part.rpartition(b"\r\n\r\n")[2] for part in (await _all(reader)).split(b"HTTP")
                ]
                told = [body for body in bodies if body]
                assert told == [*(str(n).encode() for n in range(10, 20)), b"hello"]

    asyncio.run(main())


def test_a_connection_that_asks_nothing_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hawker.apps.serve.connection.FIRST_REQUEST", 0.3)

    async def main() -> None:
        async with served("ours", App(), tmp_path) as place:
            # A head that never ends, and silence.
            for begun in (b"GET /hello HTTP/1.1\r\nhost: ", b""):
                async with _asking(place.port, begun) as (reader, _):
                    assert b"200" not in await _all(reader)

    asyncio.run(main())


def test_a_client_that_takes_nothing_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hawker.apps.serve.connection.STALL", 0.3)

    async def main() -> None:
        app = App()
        async with served("ours", app, tmp_path) as place:
            async with _asking(place.port, b"GET /flood HTTP/1.1\r\nhost: x\r\n\r\n") as _:
                assert await eventually(lambda: app.running == 1)
                assert await eventually(lambda: app.running == 0)

    asyncio.run(main())


def test_a_slow_client_is_no_dead_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hawker.apps.serve.connection.STALL", 0.5)

    async def main() -> None:
        async with served("ours", App(), tmp_path) as place:
            loop = asyncio.get_running_loop()
            with socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
                sock.setblocking(False)
                await loop.sock_connect(sock, ("127.0.0.1", place.port))
                await loop.sock_sendall(sock, b"GET /flood HTTP/1.0\r\n\r\n")
                received = 0
                # Reading takes four times as long as nothing at all may come.
                for _ in range(40):
                    received += len(await loop.sock_recv(sock, 2**17))
                    await asyncio.sleep(0.05)
                async with asyncio.timeout(60):
                    while data := await loop.sock_recv(sock, 2**20):
                        received += len(data)
            assert received > 64 * 2**20

    asyncio.run(main())


def test_a_thousand_aborted_downloads_leave_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        app = App()
        async with served("ours", app, tmp_path) as place:
            tasks, files = len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))
            for _ in range(20):
                async with contextlib.AsyncExitStack() as stack:
                    request = b"GET /flood HTTP/1.1\r\nhost: x\r\n\r\n"
                    clients = [
                        await stack.enter_async_context(_asking(place.port, request))
                        for _ in range(50)
                    ]
                    await asyncio.gather(*(reader.readline() for reader, _ in clients))
            assert await eventually(lambda: app.running == 0)
            assert await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
            assert await eventually(lambda: len(os.listdir("/proc/self/fd")) <= files)

    asyncio.run(main())


def test_connections_leave_descriptors_for_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hawker.apps.serve.server.resource.getrlimit", lambda _: (88, 88))

    async def main() -> None:
        async with served("ours", App(), tmp_path) as place, contextlib.AsyncExitStack() as stack:
            for _ in range(66):
                await stack.enter_async_context(_asking(place.port))
            async with _asking(place.port, b"GET /hello HTTP/1.0\r\n\r\n") as (reader, _):
                with contextlib.suppress(ConnectionResetError):
                    assert not await _all(reader)

    asyncio.run(main())


def test_the_app_sees_the_clients_certificate(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
    issued.private_key_pem.write_to_path(tmp_path / "server.key")
    (tmp_path / "server.key").chmod(0o600)
    tls = TlsSettings(
        certificate=str(tmp_path / "server.pem"),
        key=str(tmp_path / "server.key"),
        ca=str(tmp_path / "ca.pem"),
        mutual=True,
    )
    context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    authority.issue_cert("peer-7.example", common_name="peer-7").configure_cert(context)

    async def main() -> None:
        app = App()
        listen = Listen("127.0.0.1", 0, tmp_path / "s.sock", server_context(tls))
        async with serving(app, listen) as bound:
            for http2 in (False, True):
                transport = httpx.AsyncHTTPTransport(verify=context, http2=http2)
                async with httpx.AsyncClient(transport=transport) as client:
                    assert (await client.get(f"{bound.url}/hello")).text == "hello"
                assert "CN=peer-7" in app.tls["client_cert_name"]
                assert app.tls["client_cert_chain"][0].startswith("-----BEGIN CERTIFICATE")
                assert app.tls["tls_version"] == 0x0304

    asyncio.run(main())


def test_a_client_that_does_not_answer_the_end_of_tls_is_no_fault(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
    issued.private_key_pem.write_to_path(tmp_path / "server.key")
    (tmp_path / "server.key").chmod(0o600)
    tls = TlsSettings(certificate=str(tmp_path / "server.pem"), key=str(tmp_path / "server.key"))
    context = ssl.create_default_context(cafile=tmp_path / "ca.pem")

    def ask(port: int) -> ssl.SSLSocket:
        """A request over a connection that is kept, and never looked at again."""
        plain = socket.create_connection(("127.0.0.1", port), timeout=10)
        client = context.wrap_socket(plain, server_hostname="127.0.0.1")
        client.sendall(b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n")
        while b"hello" not in client.recv(4096):
            pass
        return client

    async def main() -> ssl.SSLSocket:
        listen = Listen("127.0.0.1", 0, tmp_path / "s.sock", server_context(tls))
        async with serving(App(), listen) as bound:
            return await asyncio.to_thread(ask, bound.port)

    client = asyncio.run(main())
    client.close()
    assert not [r for r in caplog.records if r.levelname == "ERROR"]


@pytest.mark.parametrize("length", [b"5", b"70000", b""])
def test_a_head_whose_body_is_late_does_not_wait_for_it(length: bytes, tmp_path: Path) -> None:
    """Though the head of a small answer leaves together with its body where that is there."""
    go_on = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", length)] if length else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["path"] == "/late":
            await go_on.wait()
        await send({"type": "http.response.body", "body": b"x" * int(length or 5)})

    async def main() -> None:
        async with served("ours", app, tmp_path) as place:
            async with _asking(place.port, b"GET /late HTTP/1.1\r\nhost: x\r\n\r\n") as (reader, _):
                async with asyncio.timeout(PATIENCE):
                    head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200 OK\r\n")
                go_on.set()
                async with asyncio.timeout(PATIENCE):
                    assert await reader.readexactly(1)
            for method in (b"GET", b"HEAD"):
                both = method + b" / HTTP/1.1\r\nhost: x\r\n\r\n"
                async with _asking(place.port, both + both) as (reader, _):
                    async with asyncio.timeout(PATIENCE):
                        for _ in range(2):
                            await reader.readuntil(b"\r\n\r\n")
                            if method == b"GET" and length:
                                assert await reader.readexactly(int(length)) == b"x" * int(length)
                            elif method == b"GET":
                                assert (await reader.readuntil(b"\r\n0\r\n\r\n")).count(b"x") == 5

    asyncio.run(main())


def test_a_small_answer_is_sent_in_one_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []
    write = asyncio.StreamWriter.write

    def watch(self: asyncio.StreamWriter, data: bytes) -> None:
        sent.append(bytes(data))
        write(self, data)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"5")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"small"})

    async def main() -> None:
        async with served("ours", app, tmp_path) as place:
            async with _asking(place.port, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n") as (reader, _):
                monkeypatch.setattr(asyncio.StreamWriter, "write", watch)
                async with asyncio.timeout(PATIENCE):
                    await reader.readuntil(b"small")
        assert [part for part in sent if part.endswith(b"small")] == sent[-1:]
        assert sent[-1].startswith(b"HTTP/1.1 200")

    asyncio.run(main())
