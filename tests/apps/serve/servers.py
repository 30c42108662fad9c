"""The same app under hypercorn as it comes and under ours, and clients that see every frame."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
import trustme
from hypercorn.asyncio.run import worker_serve
from hypercorn.config import Config
from hypercorn.utils import wrap_app

from hawker.apps.serve import Files, Listen, serving
from hawker.apps.web.disconnect import until_disconnected
from hawker.core.settings import TlsSettings
from hawker.core.tls import server_context

PATIENCE = 3.0
FAULT = pytest.mark.xfail(strict=True, reason="a fault of hypercorn 0.18")
RACE = pytest.mark.xfail(strict=False, reason="a fault of hypercorn 0.18 that not each run meets")
BOTH = pytest.mark.parametrize("kind", [pytest.param("stock", marks=FAULT), "ours"])
"""A test that shows a fault of hypercorn's own, and that ours has not got it."""
MAYBE_BOTH = pytest.mark.parametrize("kind", [pytest.param("stock", marks=RACE), "ours"])


class Place:
    """Where a server is: its port, and the authority its certificate is of."""

    def __init__(self, port: int, ca: Path | None) -> None:
        self.port = port
        self.ca = ca


@contextlib.asynccontextmanager
async def served(
    kind: str, app: Any, tmp_path: Path, *, tls: bool = False, http3: bool = False
) -> AsyncIterator[Place]:
    """An app under one of the servers, on a free port of loopback."""
    files = _issue(tmp_path) if tls or http3 else None
    serve = _ours if kind == "ours" else _stock
    async with serve(app, tmp_path, files, http3) as port:
        yield Place(port, None if files is None else tmp_path / "ca.pem")


def _issue(tmp_path: Path) -> Files:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued = authority.issue_cert("localhost", "127.0.0.1")
    files = Files(tmp_path / "server.pem", tmp_path / "server.key")
    issued.cert_chain_pems[0].write_to_path(files.certificate)
    issued.private_key_pem.write_to_path(files.key)
    files.key.chmod(0o600)
    return files


@contextlib.asynccontextmanager
async def _ours(app: Any, tmp_path: Path, files: Files | None, http3: bool) -> AsyncIterator[int]:
    tls = None
    if files is not None:
        tls = server_context(TlsSettings(certificate=str(files.certificate), key=str(files.key)))
    listen = Listen("127.0.0.1", 0, tmp_path / "s.sock", tls, files if http3 else None)
    async with serving(app, listen) as bound:
        yield bound.port


@contextlib.asynccontextmanager
async def _stock(app: Any, tmp_path: Path, files: Files | None, http3: bool) -> AsyncIterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    config = Config()
    config.errorlog = None
    config.graceful_timeout = 0.2
    config.bind = [f"127.0.0.1:{port}"]
    if files is not None:
        config.certfile, config.keyfile = str(files.certificate), str(files.key)
    if http3:
        config.quic_bind = [f"127.0.0.1:{port}"]
    stop = asyncio.Event()
    sockets = config.create_sockets()
    running = asyncio.ensure_future(
        worker_serve(wrap_app(app, 0, "asgi"), config, sockets=sockets, shutdown_trigger=stop.wait)
    )
    await asyncio.sleep(0.1)
    try:
        yield port
    finally:
        stop.set()
        await asyncio.wait([running], timeout=2)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


class H2Client:
    """One HTTP/2 connection, frame by frame; it takes no more than its windows unless told."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.connection = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        )
        self.connection.initiate_connection()
        self.seen: list[h2.events.Event] = []

    def request(
        self,
        path: str = "/",
        *,
        method: str = "GET",
        headers: Iterable[tuple[str, str]] = (),
        end: bool = True,
    ) -> int:
        """Begin a stream; returns its number."""
        stream = self.connection.get_next_available_stream_id()
        fields = [
            *((":method", method), (":scheme", "http"), (":authority", "localhost")),
            (":path", path),
            *headers,
        ]
        self.connection.send_headers(stream, fields, end_stream=end)
        return stream

    async def flush(self) -> None:
        self.writer.write(self.connection.data_to_send())
        await self.writer.drain()

    async def wait(
        self, wanted: Callable[[h2.events.Event], bool], *, take: bool = True
    ) -> h2.events.Event:
        """The next event of this kind; raises TimeoutError, or EOFError where the connection ends.
        With `take` room is given back for what comes."""
        await self.flush()
        async with asyncio.timeout(PATIENCE):
            while True:
                while self.seen:
                    event = self.seen.pop(0)
                    if wanted(event):
                        return event
                data = await self.reader.read(65536)
                if not data:
                    raise EOFError("the server closed the connection")
                for event in self.connection.receive_data(data):
                    if take and isinstance(event, h2.events.DataReceived):
                        self.connection.acknowledge_received_data(
                            event.flow_controlled_length, event.stream_id
                        )
                    self.seen.append(event)
                await self.flush()

    async def status(self, stream: int) -> str:
        """The status of a stream's answer."""

        def is_answer(event: h2.events.Event) -> bool:
            return isinstance(event, h2.events.ResponseReceived) and event.stream_id == stream

        event = await self.wait(is_answer)
        assert isinstance(event, h2.events.ResponseReceived)
        return next(str(value) for name, value in event.headers if str(name) == ":status")

    async def end_of(self, stream: int) -> h2.events.Event:
        """How a stream ended."""
        ends = (h2.events.StreamEnded, h2.events.StreamReset)
        return await self.wait(lambda e: isinstance(e, ends) and e.stream_id == stream)


@contextlib.asynccontextmanager
async def h2_client(place: Place) -> AsyncIterator[H2Client]:
    """A cleartext connection by prior knowledge, or over TLS where the server has it."""
    context = None
    if place.ca is not None:
        context = ssl.create_default_context(cafile=place.ca)
        context.set_alpn_protocols(["h2"])
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port, ssl=context)
    client = H2Client(reader, writer)
    try:
        yield client
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


class App:
    """What the tests let an app do; it counts what is under way."""

    def __init__(self) -> None:
        self.running = 0
        self.sent = 0
        self.disconnects = 0
        self.tls: Any = None
        self.hold = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        self.tls = scope["extensions"].get("tls")
        self.running += 1
        try:
            await getattr(self, "do_" + scope["path"].strip("/"))(receive, send)
        finally:
            self.running -= 1

    async def do_hello(self, receive: Any, send: Any) -> None:
        await _answer(send, 200, b"hello")

    async def do_refuse(self, receive: Any, send: Any) -> None:
        """Answers without reading the body."""
        await _answer(send, 401, b"no")

    async def do_flood(self, receive: Any, send: Any) -> None:
        """64 MiB, as fast as they are taken, or until the client has gone."""
        await until_disconnected(receive, self._flood(send))

    async def do_pour(self, receive: Any, send: Any) -> None:
        """The same, without a look at its client."""
        await self._flood(send)

    async def _flood(self, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(256):
            await send({"type": "http.response.body", "body": bytes(2**18), "more_body": True})
            self.sent += 2**18
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b""})

    async def do_wait(self, receive: Any, send: Any) -> None:
        """Until its client has gone."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        self.disconnects += 1

    async def do_deaf(self, receive: Any, send: Any) -> None:
        """Reads nothing of the body for as long as it is held."""
        await self.hold.wait()
        await _answer(send, 200, b"at last")

    async def do_break(self, receive: Any, send: Any) -> None:
        """Fails within its answer."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        raise OSError("the disk failed")

    async def do_echo(self, receive: Any, send: Any) -> None:
        """How many bytes the body has."""
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return
            size += len(message["body"])
            if not message["more_body"]:
                break
        await _answer(send, 200, str(size).encode())


async def _answer(send: Any, status: int, body: bytes) -> None:
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def eventually(check: Callable[[], bool]) -> bool:
    """Whether it becomes so within `PATIENCE` seconds."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not check():  # noqa: ASYNC110 (an app's counters fire no event)
                await asyncio.sleep(0.01)
    except TimeoutError:
        return False
    return True
