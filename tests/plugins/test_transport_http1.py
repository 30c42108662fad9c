"""The `http1` transport against servers that misbehave, each on a real socket in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator

import msgspec
import pytest

from hawker.core.contracts import PieceRequest
from hawker.core.errors import Busy, HawkerError, NotFound, Stalled, Unavailable
from hawker.core.settings import TlsSettings
from hawker.plugins.compression.zstd import ZstdCodec
from hawker.plugins.transports.http1 import THREADS, Http1Transport
from tests.plugins.scripted import Sink

DATA = random.Random(3).randbytes(3_000_000)
ZSTD = {"zstd": ZstdCodec()}

Script = Callable[[socket.socket, int], None]
"""What a server does with a connection, given its number; the connection is closed after it."""


def _read_request(conn: socket.socket) -> bytes:
    """One request's head; empty where the client has gone."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        part = conn.recv(65536)
        if not part:
            return b""
        data += part
    return data


def _head(length: int | str, *more: str, status: str = "200 OK") -> bytes:
    fields = [f"HTTP/1.1 {status}", f"content-length: {length}", *more]
    return ("\r\n".join(fields) + "\r\n\r\n").encode()


@contextlib.contextmanager
def _server(script: Script) -> Iterator[str]:
    """A server's base URL; every connection has a thread of its own."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    conns: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def serve(conn: socket.socket, number: int) -> None:
        with conn, contextlib.suppress(OSError):
            script(conn, number)

    def accept() -> None:
        while True:
            try:
                conn, _ = listener.accept()
            except OSError:
                return
            conns.append(conn)
            thread = threading.Thread(target=serve, args=(conn, len(conns)))
            threads.append(thread)
            thread.start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/peer"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join()
        for conn in conns:
            with contextlib.suppress(OSError):
                conn.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


@contextlib.asynccontextmanager
async def _transport() -> AsyncIterator[Http1Transport]:
    transport = Http1Transport(TlsSettings())
    try:
        yield transport
    finally:
        await transport.close()


REQUEST = PieceRequest(
    base_url="", path="/v1/pieces", headers={"x-token": "t"}, length=len(DATA), stall=5.0
)


def _fetch(script: Script, sink: Sink | None = None, **changes: object) -> None:
    async def main() -> None:
        with _server(script) as url:
            async with _transport() as transport:
                request = msgspec.structs.replace(REQUEST, base_url=url, **changes)
                await transport.fetch(request, sink or Sink())

    asyncio.run(main())


def _answer(*parts: bytes) -> Script:
    def script(conn: socket.socket, number: int) -> None:
        if _read_request(conn):
            for part in parts:
                conn.sendall(part)

    return script


def _then_wait(*parts: bytes) -> Script:
    """Answer, then keep the connection open until the client goes."""

    def script(conn: socket.socket, number: int) -> None:
        _answer(*parts)(conn, number)
        conn.recv(1)

    return script


def test_request_and_body_are_exact() -> None:
    requests: list[bytes] = []

    def script(conn: socket.socket, number: int) -> None:
        requests.append(_read_request(conn))
        conn.sendall(_head(len(DATA)) + DATA)

    sink = Sink()
    _fetch(script, sink)
    assert sink.data == DATA
    head, *fields = requests[0].decode().split("\r\n")
    assert head == "GET /peer/v1/pieces HTTP/1.1"
    assert {"accept-encoding: identity", "x-token: t"} <= set(fields)


@pytest.mark.parametrize("step", [1, 7, 4096])
def test_head_may_come_in_parts(step: int) -> None:
    whole = _head(500) + DATA[:500]
    sink = Sink()
    _fetch(_answer(*(whole[at : at + step] for at in range(0, len(whole), step))), sink, length=500)
    assert sink.data == DATA[:500]


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [b"HTTP/1.1 200 O"],
        [_head(len(DATA))],
        # The clock starts at the last byte that came, wherever in a buffer that is.
        [_head(len(DATA)), DATA[:100]],
        [_head(len(DATA)) + DATA[:1_500_000]],
        [_head(100, status="404 Not Found") + b"{"],
    ],
    ids=["nothing", "within head", "after head", "first bytes", "half the body", "problem"],
)
def test_stall_is_unavailable_in_time(parts: list[bytes]) -> None:
    began = time.monotonic()
    with pytest.raises(Unavailable, match=r"stalled for 0\.7 s"):
        _fetch(_then_wait(*parts), stall=0.7)
    assert 0.7 <= time.monotonic() - began < 1.2


def test_slow_but_steady_body_is_no_stall() -> None:
    def script(conn: socket.socket, number: int) -> None:
        _read_request(conn)
        conn.sendall(_head(8))
        gap = threading.Event()
        for at in range(8):
            gap.wait(0.15)
            conn.sendall(DATA[at : at + 1])

    sink = Sink()
    _fetch(script, sink, length=8, stall=0.4)
    assert sink.data == DATA[:8]


def test_server_that_is_not_there_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

    async def main() -> None:
        async with _transport() as transport:
            for bad in (url, "https://127.0.0.1:1", "http://", "http://127.0.0.1:99999"):
                with pytest.raises(Unavailable):
                    await transport.fetch(msgspec.structs.replace(REQUEST, base_url=bad), Sink())

    asyncio.run(main())


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([_head(len(DATA)), DATA[:-1]], "1 bytes too early"),
        ([_head(len(DATA)) + DATA[:10]], "too early"),
        ([_head(len(DATA) + 1), DATA + b"x"], "bytes, not"),
        ([_head(len(DATA) - 1), DATA[:-1]], "bytes, not"),
        ([_head("12x"), DATA], "did not say how long"),
        ([_head("-5"), DATA], "did not say how long"),
        ([_head("9" * 40), DATA], "did not say how long"),
        ([_head("\u00b2"), DATA], "did not say how long"),
        ([b"HTTP/1.1 200 OK\r\n\r\n" + DATA], "did not say how long"),
        ([_head(5, "content-length: 6"), DATA], "no header field"),
        ([_head(5, "no colon"), DATA], "no header field"),
        ([_head(5, "x : space"), DATA], "no header field"),
        ([b"SSH-2.0-OpenSSH_9.9\r\n\r\n"], "no HTTP/1.1 answer"),
        ([b"HTTP/1.1 abc\r\n\r\n"], "no HTTP/1.1 answer"),
        ([random.Random(1).randbytes(200).replace(b"\n", b"") + b"\r\n\r\n"], "answer"),
        ([b"x" * 200_000], "too long"),
        ([b"HTTP/1.1 200"], "within an answer's head"),
        ([], "closed the connection"),
        (
            [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"],
            "chunk",
        ),
        ([_head(5, "content-encoding: br"), b"hello"], "not asked"),
    ],
)
def test_answer_that_is_no_good_is_unavailable(parts: list[bytes], text: str) -> None:
    with pytest.raises(Unavailable, match=text):
        _fetch(_answer(*parts))


def test_more_bytes_than_announced_are_refused() -> None:
    sink = Sink()
    with pytest.raises(Unavailable, match="more bytes came"):
        _fetch(_answer(_head(100) + DATA[:110]), sink, length=100)
    assert len(sink.data) <= 100


def test_extra_bytes_after_a_body_are_not_the_next_answer() -> None:
    first, second = b"a" * 100, b"b" * 100
    sent = threading.Event()

    def script(conn: socket.socket, number: int) -> None:
        _read_request(conn)
        if number == 1:
            conn.sendall(_head(100))
            conn.sendall(first)
            conn.sendall(_head(100) + b"e" * 100)
            sent.set()
            conn.recv(1)
        else:
            conn.sendall(_head(100) + second)

    async def main() -> None:
        with _server(script) as url:
            async with _transport() as transport:
                request = msgspec.structs.replace(REQUEST, base_url=url, length=100)
                with contextlib.suppress(Unavailable):
                    await transport.fetch(request, Sink())
                assert await asyncio.to_thread(sent.wait, 5)
                sink = Sink()
                await transport.fetch(request, sink)
                assert sink.data == second

    asyncio.run(main())


def test_connection_is_kept_for_the_next_request() -> None:
    numbers: list[int] = []

    def script(conn: socket.socket, number: int) -> None:
        while _read_request(conn):
            numbers.append(number)
            conn.sendall(_head(1000) + DATA[:1000])

    async def main() -> None:
        with _server(script) as url:
            async with _transport() as transport:
                for _ in range(5):
                    sink = Sink()
                    request = msgspec.structs.replace(REQUEST, base_url=url, length=1000)
                    await transport.fetch(request, sink)
                    assert sink.data == DATA[:1000]

    asyncio.run(main())
    assert numbers == [1] * 5


@pytest.mark.parametrize("how", ["closed", "reset", "closed on request", "asked to close"])
def test_kept_connection_that_ended_is_replaced(how: str) -> None:
    ended = threading.Event()

    def script(conn: socket.socket, number: int) -> None:
        _read_request(conn)
        more = ["connection: close"] if how == "asked to close" else []
        conn.sendall(_head(1000, *more) + DATA[:1000])
        if how == "reset":
            conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        if how == "closed on request":
            ended.set()
            _read_request(conn)
        conn.close()
        ended.set()

    async def main() -> None:
        with _server(script) as url:
            async with _transport() as transport:
                request = msgspec.structs.replace(REQUEST, base_url=url, length=1000)
                for _ in range(3):
                    sink = Sink()
                    await transport.fetch(request, sink)
                    assert sink.data == DATA[:1000]
                    assert await asyncio.to_thread(ended.wait, 5)

    asyncio.run(main())


def _problem(error: HawkerError) -> bytes:
    body = msgspec.json.encode(error.problem())
    reason = f"{error.status} No"
    return _head(len(body), "content-type: application/problem+json", status=reason) + body


def test_problems_are_the_errors_they_name_and_keep_the_connection() -> None:
    numbers: list[int] = []
    answers = [
        _problem(Busy("no slot", retry_after=0.02)),
        _problem(NotFound("no such piece")),
        _head(6, status="500 Oops") + b"<html>",
        _head(1000) + DATA[:1000],
    ]

    def script(conn: socket.socket, number: int) -> None:
        while answers and _read_request(conn):
            numbers.append(number)
            conn.sendall(answers.pop(0))

    async def main() -> None:
        with _server(script) as url:
            async with _transport() as transport:
                request = msgspec.structs.replace(REQUEST, base_url=url, length=1000)
                with pytest.raises(Busy, match="no slot") as caught:
                    await transport.fetch(request, Sink())
                assert caught.value.retry_after == 0.02
                with pytest.raises(NotFound, match="no such piece"):
                    await transport.fetch(request, Sink())
                with pytest.raises(Unavailable, match="answered 500"):
                    await transport.fetch(request, Sink())
                sink = Sink()
                await transport.fetch(request, sink)
                assert sink.data == DATA[:1000]

    asyncio.run(main())
    assert numbers == [1] * 4


def test_huge_problem_is_not_read() -> None:
    with pytest.raises(Unavailable, match="answered 503"):
        _fetch(_then_wait(_head(10**12, status="503 Busy") + b"x" * 1000))


# ------------------------------------------------------------------ cancelling


async def _cancelled(running: asyncio.Task[None]) -> float:
    """Seconds until a fetch ended that was cancelled."""
    began = time.monotonic()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    return time.monotonic() - began


@pytest.mark.parametrize("trickle", [False, True])
def test_cancelled_fetch_ends_soon_and_writes_nothing_more(trickle: bool) -> None:
    begun = threading.Event()

    def script(conn: socket.socket, number: int) -> None:
        _read_request(conn)
        conn.sendall(_head(len(DATA)))
        conn.sendall(DATA[:2_000_000])
        begun.set()
        gap = threading.Event()
        while trickle:
            conn.sendall(b"x" * 100)
            gap.wait(0.001)
        conn.recv(1)

    async def main() -> None:
        with _server(script) as url:
            async with _transport() as transport:
                sink = Sink()
                request = msgspec.structs.replace(
                    REQUEST, base_url=url, length=len(DATA), stall=20.0
                )
                running = asyncio.ensure_future(transport.fetch(request, sink))
                assert await asyncio.to_thread(begun.wait, 5)
                assert await _cancelled(running) < 0.5
                written = bytes(sink.data)
                await asyncio.to_thread(threading.Event().wait, 0.1)
                assert sink.data == written

    asyncio.run(main())


def test_fetch_cancelled_twice_still_waits_for_its_thread() -> None:
    writing, go_on = threading.Event(), threading.Event()

    class SlowSink(Sink):
        def write(self, data: memoryview) -> None:
            writing.set()
            go_on.wait(5)
            super().write(data)

    async def main() -> None:
        with _server(_then_wait(_head(len(DATA)) + DATA)) as url:
            async with _transport() as transport:
                sink = SlowSink()
                request = msgspec.structs.replace(REQUEST, base_url=url)
                running = asyncio.ensure_future(transport.fetch(request, sink))
                assert await asyncio.to_thread(writing.wait, 5)
                for _ in range(3):
                    running.cancel()
                    await asyncio.wait([running], timeout=0.02)
                assert not running.done()
                go_on.set()
                with pytest.raises(asyncio.CancelledError):
                    await running
                written = len(sink.data)
            assert len(sink.data) == written

    asyncio.run(main())


def test_fetch_that_waits_for_a_thread_is_cancelled_at_once() -> None:
    async def main() -> None:
        with _server(_then_wait()) as url:
            async with _transport() as transport:
                request = msgspec.structs.replace(REQUEST, base_url=url, stall=20.0)
                running = [
                    asyncio.ensure_future(transport.fetch(request, Sink()))
                    for _ in range(THREADS + 1)
                ]
                await asyncio.wait(running, timeout=0.1)
                for task in reversed(running):
                    assert await _cancelled(task) < 0.5

    asyncio.run(main())


def test_fetch_that_waits_for_a_thread_ends_with_the_transport() -> None:
    async def main() -> None:
        with _server(_then_wait()) as url:
            async with _transport() as transport:
                request = msgspec.structs.replace(REQUEST, base_url=url, stall=2.0)
                running = [
                    asyncio.ensure_future(transport.fetch(request, Sink()))
                    for _ in range(THREADS + 1)
                ]
                await asyncio.wait(running, timeout=0.1)
                await transport.close()
                with pytest.raises(asyncio.CancelledError):
                    await asyncio.wait_for(running[-1], 1.2)
                ended = await asyncio.gather(*running[:-1], return_exceptions=True)
                assert {type(end) for end in ended} == {Stalled}

    asyncio.run(main())


def test_cancelled_while_connecting_ends_soon() -> None:
    # A listener whose queue is full: further handshakes get no answer.
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listener.getsockname()
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)

        async def main() -> None:
            async with _transport() as transport:
                url = f"http://127.0.0.1:{address[1]}"
                request = msgspec.structs.replace(REQUEST, base_url=url)
                running = asyncio.ensure_future(transport.fetch(request, Sink()))
                await asyncio.wait([running], timeout=0.1)
                assert not running.done()
                assert await _cancelled(running) < 0.5

        asyncio.run(main())


# ------------------------------------------------------------------ coded bodies


def _coded(body: bytes) -> bytes:
    return _head(len(body), "content-encoding: zstd") + body


def test_coded_body_is_decoded() -> None:
    text = b"all work and no play " * 100_000
    sink = Sink()
    _fetch(_answer(_coded(ZstdCodec().encode(text))), sink, length=len(text), codecs=ZSTD)
    assert sink.data == text


def _bad_codings() -> list[tuple[bytes, str]]:
    encode = ZstdCodec().encode
    good = encode(DATA)
    return [
        (encode(DATA[:-1]), "not 3000000"),
        (encode(DATA + b"x"), "more than"),
        (good[:-10], "not 3000000"),
        (good + b"tail", "cannot be decoded"),
        (b"no zstd at all", "cannot be decoded"),
        (b"", "not 3000000"),
        # 100 000 bytes that stand for more than three gigabytes.
        (encode(bytes(1 << 20)) * 2000, "decode"),
    ]


@pytest.mark.parametrize(("body", "text"), _bad_codings())
def test_wrong_coded_body_is_unavailable(body: bytes, text: str) -> None:
    sink = Sink()
    with pytest.raises(Unavailable, match=text):
        _fetch(_answer(_coded(body)), sink, codecs=ZSTD)
    assert len(sink.data) <= len(DATA)


def test_bomb_costs_no_memory_and_writes_nothing_beyond_the_length() -> None:
    from backports import zstd

    compressor = zstd.ZstdCompressor(level=3)
    block = bytes(1 << 24)
    bomb = b"".join(compressor.compress(block) for _ in range(64)) + compressor.flush()
    assert len(bomb) < 200_000
    sink = Sink()
    with pytest.raises(Unavailable, match="more than"):
        _fetch(_answer(_coded(bomb)), sink, length=1000, codecs=ZSTD)
    assert len(sink.data) <= 1000
