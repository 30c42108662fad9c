"""What every transport promises, each against our own server and a scripted app."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme

from hawker.apps.serve import Files, Listen, serving
from hawker.apps.web.disconnect import until_disconnected
from hawker.core.contracts import PieceRequest, Transport
from hawker.core.errors import (
    Busy,
    HawkerError,
    NotFound,
    QuotaExceeded,
    StorageFailed,
    Unavailable,
)
from hawker.core.messages import encode
from hawker.core.settings import TlsSettings
from hawker.core.tls import server_context
from hawker.plugins.compression.zstd import ZstdCodec
from hawker.plugins.transports.answers import address_of
from hawker.plugins.transports.http1 import Http1Transport
from hawker.plugins.transports.http2 import Http2Transport
from hawker.plugins.transports.http3 import Http3Transport
from tests.plugins.scripted import Sink

DATA = random.Random(3).randbytes(3_000_000)
KINDS: dict[str, Callable[[TlsSettings], Transport]] = {
    "http1": Http1Transport,
    "http2": Http2Transport,
    "http3": Http3Transport,
}
EACH = pytest.mark.parametrize(
    ("kind", "tls"),
    [("http1", False), ("http1", True), ("http2", False), ("http2", True), ("http3", True)],
)
Do = Callable[[Any, Any], Awaitable[None]]


class Parent:
    """An app that does what the test says; it counts who is being answered."""

    def __init__(self, do: Do) -> None:
        self.running = 0
        self.scopes: list[Any] = []
        self._do = do

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        self.running += 1
        try:
            await until_disconnected(receive, self._do(scope, send))  # type: ignore[arg-type]
        finally:
            self.running -= 1


async def _head(send: Any, status: int, length: int | None, *more: tuple[bytes, bytes]) -> None:
    headers = list(more)
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _body(send: Any, data: bytes, *, more: bool = False) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


def _issue(tmp_path: Path) -> Files:
    files = Files(tmp_path / "server.pem", tmp_path / "server.key")
    if not files.key.exists():
        authority = trustme.CA()
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        issued = authority.issue_cert("127.0.0.1")
        issued.cert_chain_pems[0].write_to_path(files.certificate)
        issued.private_key_pem.write_to_path(files.key)
        files.key.chmod(0o600)
    return files


@contextlib.asynccontextmanager
async def _parent(
    kind: str, tls: bool, tmp_path: Path, do: Do, port: int = 0
) -> AsyncIterator[tuple[PieceRequest, Parent]]:
    """A parent, and a request towards it."""
    parent = Parent(do)
    context, http3 = None, None
    if tls:
        files = _issue(tmp_path)
        settings = TlsSettings(certificate=str(files.certificate), key=str(files.key))
        context = server_context(settings)
        http3 = files if kind == "http3" else None
    listen = Listen("127.0.0.1", port, tmp_path / "s.sock", context, http3)
    async with serving(parent, listen) as bound:
        yield (
            PieceRequest(
                base_url=f"{bound.url}/peer",
                path="/v1/pieces/0-2",
                headers={"authorization": "Bearer t"},
                length=len(DATA),
                stall=3.0,
            ),
            parent,
        )


@contextlib.asynccontextmanager
async def _transport(kind: str, tls: bool, tmp_path: Path) -> AsyncIterator[Transport]:
    transport = KINDS[kind](TlsSettings(ca=str(tmp_path / "ca.pem")) if tls else TlsSettings())
    try:
        yield transport
    finally:
        await transport.close()


@contextlib.asynccontextmanager
async def _between(
    kind: str, tls: bool, tmp_path: Path, do: Do
) -> AsyncIterator[tuple[Transport, PieceRequest, Parent]]:
    """A transport, a request towards a parent, and the parent."""
    async with (
        _parent(kind, tls, tmp_path, do) as (request, parent),
        _transport(kind, tls, tmp_path) as transport,
    ):
        yield transport, request, parent


async def _all_of_it(scope: Any, send: Any) -> None:
    await _head(send, 200, len(DATA))
    await _body(send, DATA)


@EACH
def test_the_bytes_and_the_request_are_exact(kind: str, tls: bool, tmp_path: Path) -> None:
    async def main() -> None:
        async with _between(kind, tls, tmp_path, _all_of_it) as (transport, request, parent):
            for _ in range(3):
                sink = Sink()
                await transport.fetch(request, sink)
                assert sink.data == DATA
            scope = parent.scopes[0]
            assert scope["http_version"] == {"http1": "1.1", "http2": "2", "http3": "3"}[kind]
            assert scope["raw_path"] == b"/peer/v1/pieces/0-2"
            assert (b"authorization", b"Bearer t") in scope["headers"]
            assert (b"accept-encoding", b"identity") in scope["headers"]
            # One connection serves them all.
            assert len({scope["client"] for scope in parent.scopes}) == 1

    asyncio.run(main())


@EACH
def test_requests_at_once_do_not_mix(kind: str, tls: bool, tmp_path: Path) -> None:
    async def answer(scope: Any, send: Any) -> None:
        number = int(scope["path"].rpartition("/")[2])
        part = DATA[number * 1000 : number * 1000 + 500_000]
        await _head(send, 200, len(part))
        for at in range(0, len(part), 50_000):
            await _body(send, part[at : at + 50_000], more=True)
            await asyncio.sleep(0)
        await _body(send, b"")

    async def main() -> None:
        async with _between(kind, tls, tmp_path, answer) as (transport, request, _):

            async def one(number: int) -> None:
                sink = Sink()
                mine = msgspec.structs.replace(request, path=f"/{number}", length=500_000)
                await transport.fetch(mine, sink)
                assert sink.data == DATA[number * 1000 : number * 1000 + 500_000]

            await asyncio.gather(*(one(number) for number in range(8)))

    asyncio.run(main())


@EACH
def test_problems_are_the_errors_they_name(kind: str, tls: bool, tmp_path: Path) -> None:
    async def answer(scope: Any, send: Any) -> None:
        error = said.get(scope["path"].rpartition("/")[2], NotFound("gone"))
        text = encode(error.problem())
        await _head(send, error.status, len(text))
        await _body(send, text)

    said: dict[str, HawkerError] = {
        "busy": Busy("no slot", retry_after=0.5),
        "full": QuotaExceeded("no room"),
        "ill": StorageFailed("a bad disk"),
    }

    async def main() -> None:
        async with _between(kind, tls, tmp_path, answer) as (transport, request, _):
            for path in ("/full", "/ill"):
                # The parent's disk: who asked must not take it for their own.
                with pytest.raises(Unavailable) as failed:
                    await transport.fetch(msgspec.structs.replace(request, path=path), Sink())
                assert type(failed.value) is Unavailable
            with pytest.raises(Busy) as caught:
                await transport.fetch(msgspec.structs.replace(request, path="/busy"), Sink())
            assert caught.value.retry_after == 0.5
            with pytest.raises(NotFound, match="gone"):
                await transport.fetch(request, Sink())

    asyncio.run(main())


@EACH
@pytest.mark.parametrize(
    ("length", "sent", "text"),
    [
        (len(DATA), 100_000, "."),
        (100, 100, "sent 100 bytes, not 3000000"),
        (None, len(DATA), "did not say how long|not in chunks"),
    ],
)
def test_an_answer_of_another_length_is_unavailable(
    kind: str, tls: bool, length: int | None, sent: int, text: str, tmp_path: Path
) -> None:
    async def answer(scope: Any, send: Any) -> None:
        await _head(send, 200, length)
        await _body(send, DATA[:sent], more=True)
        if sent == length or length is None:
            await _body(send, b"")

    async def main() -> None:
        async with _between(kind, tls, tmp_path, answer) as (transport, request, _):
            sink = Sink()
            with pytest.raises(Unavailable, match=text):
                await transport.fetch(request, sink)
            assert len(sink.data) < len(DATA)

    asyncio.run(main())


@EACH
@pytest.mark.parametrize("begun", [False, True])
def test_a_stall_is_unavailable_in_time(kind: str, tls: bool, begun: bool, tmp_path: Path) -> None:
    async def answer(scope: Any, send: Any) -> None:
        if begun:
            await _head(send, 200, len(DATA))
            await _body(send, DATA[:100_000], more=True)
        await asyncio.sleep(30)

    async def main() -> None:
        async with _between(kind, tls, tmp_path, answer) as (transport, request, parent):
            began = time.monotonic()
            with pytest.raises(Unavailable, match=r"stalled for 0\.4 s"):
                await transport.fetch(msgspec.structs.replace(request, stall=0.4), Sink())
            assert time.monotonic() - began < 2
            # The parent hears of it: its slot is free again.
            async with asyncio.timeout(5):
                while parent.running:  # noqa: ASYNC110 (a counter fires no event)
                    await asyncio.sleep(0.01)

    asyncio.run(main())


@EACH
def test_a_cancelled_fetch_ends_soon_at_both_ends(kind: str, tls: bool, tmp_path: Path) -> None:
    async def answer(scope: Any, send: Any) -> None:
        await _head(send, 200, len(DATA))
        while True:
            await _body(send, DATA[:10_000], more=True)
            await asyncio.sleep(0.05)

    async def main() -> None:
        async with _between(kind, tls, tmp_path, answer) as (transport, request, parent):
            sink = Sink()
            running = asyncio.ensure_future(transport.fetch(request, sink))
            other = asyncio.ensure_future(transport.fetch(request, Sink()))
            await asyncio.sleep(0.5)
            assert parent.running == 2
            began = time.monotonic()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert time.monotonic() - began < 0.5
            written = bytes(sink.data)
            async with asyncio.timeout(5):
                while parent.running == 2:  # noqa: ASYNC110 (a counter fires no event)
                    await asyncio.sleep(0.01)
            assert sink.data == written
            # What shares the connection goes on.
            assert not other.done()
            other.cancel()
            await asyncio.gather(other, return_exceptions=True)

    asyncio.run(main())


@EACH
def test_a_coded_body_is_decoded(kind: str, tls: bool, tmp_path: Path) -> None:
    text = b"all work and no play " * 100_000

    async def answer(scope: Any, send: Any) -> None:
        coded = ZstdCodec().encode(text)
        await _head(send, 200, len(coded), (b"content-encoding", b"zstd"))
        await _body(send, coded)

    async def main() -> None:
        async with _between(kind, tls, tmp_path, answer) as (transport, request, _):
            sink = Sink()
            asked = msgspec.structs.replace(request, length=len(text), codecs={"zstd": ZstdCodec()})
            await transport.fetch(asked, sink)
            assert sink.data == text
            with pytest.raises(Unavailable, match="not asked"):
                await transport.fetch(msgspec.structs.replace(asked, codecs={}), Sink())

    asyncio.run(main())


@EACH
def test_a_parent_that_goes_and_comes_back(kind: str, tls: bool, tmp_path: Path) -> None:
    async def main() -> None:
        if tls:
            _issue(tmp_path)
        async with _transport(kind, tls, tmp_path) as transport:
            async with _parent(kind, tls, tmp_path, _all_of_it) as (request, _):
                await transport.fetch(request, Sink())
            with pytest.raises(Unavailable):
                await transport.fetch(request, Sink())
            port = address_of(request.base_url).port
            async with _parent(kind, tls, tmp_path, _all_of_it, port) as (request, _):
                sink = Sink()
                await transport.fetch(request, sink)
                assert sink.data == DATA

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_a_certificate_of_another_authority_gets_no_token(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with _between(kind, True, tmp_path, _all_of_it) as (_, request, parent):
            trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
            transport = KINDS[kind](TlsSettings(ca=str(tmp_path / "other.pem")))
            with pytest.raises(Unavailable):
                await transport.fetch(request, Sink())
            await transport.close()
            assert parent.scopes == []

    asyncio.run(main())


def test_http3_needs_tls(tmp_path: Path) -> None:
    async def main() -> None:
        transport = Http3Transport(TlsSettings())
        request = PieceRequest("http://127.0.0.1:1/peer", "/", {}, 1, 1.0)
        with pytest.raises(Unavailable, match="TLS"):
            await transport.fetch(request, Sink())

    asyncio.run(main())
