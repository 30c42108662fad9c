"""Whatever a client sends: no answer that blames the server, no endless wait, no request that was
not made, and nobody else is harmed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from hpack import Encoder
from hyperframe.exceptions import HyperframeError
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.apps.peer.started import started
from tests.apps.serve.servers import PATIENCE, App, served

STATUS = re.compile(rb"HTTP/1\.1 (\d{3})")
EXAMPLES = 150
examples = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


class Recorder(App):
    """Keeps the requests that came whole, and what the server's side of ASGI raised."""

    def __init__(self) -> None:
        super().__init__()
        self.began: list[str] = []
        self.requests: list[tuple[str, str, bytes]] = []
        self.failures: list[BaseException] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        self.began.append(scope["path"])
        try:
            await getattr(self, "do_" + scope["path"].strip("/"), self._record)(receive, send)
        except OSError:
            # What `do_break` raises; its client is told.
            raise
        except Exception as exc:
            self.failures.append(exc)

    async def _record(self, receive: Any, send: Any) -> None:
        path, body = self.began[-1], b""
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message["body"]
            if not message["more_body"]:
                break
        self.requests.append(("", path, body))
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})


async def answer(port: int, parts: Iterable[bytes], *, end: bool = True) -> bytes:
    """All that comes back until the server ends the connection; with `end` ours ends first."""
    got = bytearray()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            # Often enough for the server to read it as a part of its own.
            await asyncio.sleep(0)
        if end:
            writer.write_eof()
        async with asyncio.timeout(PATIENCE):
            while data := await reader.read(2**16):
                got += data
    except TimeoutError:
        raise
    except OSError:
        # The server may reset the connection, too.
        pass
    finally:
        writer.transport.abort()
    return bytes(got)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The same bytes in parts."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:stop] for start, stop in itertools.pairwise(edges)]


PLACES = st.lists(st.integers(0, 2**16), max_size=4)


# ------------------------------------------------------------------ HTTP/1.1


def mostly(usual: bytes, *others: bytes) -> st.SearchStrategy[bytes]:
    return st.sampled_from([*[usual] * (len(others) + 1), *others])


METHODS = mostly(
    b"GET", b"POST", b"HEAD", b"OPTIONS", b"CONNECT", b"PRI", b"get", b"BREW", b"G@T", b"", b"G T",
    b"\xff", b"A" * 40, b"DELETE",
)  # fmt: skip
TARGETS = mostly(
    b"/healthy", b"/", b"*", b"http://127.0.0.1/healthy", b"http://[", b"http://a:b/", b"host:443",
    b"//", b"//x", b"/%ff", b"/%00", b"/%2e%2e/", b"/\xe9", b"/\x00", b"x", b"", b"?", b"/ x",
    b"/#f",
    b"/peer/v1/content?url=%", b"/peer/v1/content?url=http://[", b"/peer/v1/tasks/%F0%9F/",
    b"/peer/v1/tasks;a=b", b"/peer/v1/tasks/", b"/peer", b"/peer/", b"/peer/v1/downloads",
    b"file:///etc/passwd", b"/" + b"a" * 9000, b"/?" + b"&" * 9000,
)  # fmt: skip
VERSIONS = mostly(
    b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1.2", b"HTTP/9.9", b"HTTP/11",
    b"http/1.1", b"", b"HTTP/1.1 x", b"HTTP/1.1\t",
)  # fmt: skip
HOSTS = mostly(
    b"host: localhost", b"host: localhost\r\nhost: other", b"a: b", b"host:", b"host: [",
    b"host: \xff",
    b"host: a b", b"host : localhost", b"HOST: localhost:99999999999", b"host: [::1]:x",
)  # fmt: skip
FIELDS = st.sampled_from([
    b"content-length: 5", b"content-length: 5\r\ncontent-length: 6", b"content-length: 5, 5",
    b"content-length: -1", b"content-length: +5", b"content-length: 0x5", b"content-length: \xb2",
    b"content-length: " + b"9" * 30, b"content-length: 5 5", b"content-length:",
    b"transfer-encoding: chunked", b"transfer-encoding: chunked\r\ncontent-length: 5",
    b"transfer-encoding: identity", b"transfer-encoding: gzip, chunked",
    b"transfer-encoding: chunked, chunked", b"transfer-encoding:\x0bchunked",
    b"transfer-encoding : chunked", b"transfer-encoding: Chunked", b"transfer-encoding;: chunked",
    b"expect: 100-continue", b"expect: 200-ok", b"connection: close", b"connection: keep-alive",
    b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13",
    b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk",
    b"a: b\r\n c", b" a: b", b"a", b": b", b"a\x00: b", b"a: \x00", b"a: \r b", b"a: b\rc: d",
    b"range: bytes=0-0,1-\xb2", b"origin: null", b"accept-encoding: \xff;q=x", b"prefer: wait=x",
])  # fmt: skip
BODIES = st.sampled_from([
    b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"5;a=b\r\nhello\r\n0\r\n\r\n", b"0\r\n\r\n",
    b"5\nhello\n0\n\n", b"-1\r\n", b"5 \r\nhello\r\n0\r\n\r\n", b"0x5\r\nhello\r\n",
    b"f" * 20 + b"\r\n",
    b"5\r\nhelloXX0\r\n\r\n", b"0\r\na: b\r\n\r\n", b"5\r\nhello\r\n0\r\nx\r\n\r\n", b"SM\r\n\r\n",
    b"\r\n\r\n", b"\x00" * 20, b"\x16\x03\x01\x02\x00",
])  # fmt: skip
LINE_ENDS = mostly(b"\r\n", b"\n", b"\r", b"\r\n ", b"\r\r\n")


@st.composite
def nearly_requests(draw: st.DrawFn) -> bytes:
    """What a request looks like, more or less."""
    line = b" ".join([draw(METHODS), draw(TARGETS), draw(VERSIONS)])
    lines = [line, draw(HOSTS), *draw(st.lists(FIELDS, max_size=2))]
    before = draw(mostly(b"", b"\r\n", b"\n", b" ", b"\x00"))
    data = before + b"".join(line + draw(LINE_ENDS) for line in lines) + draw(LINE_ENDS)
    return data + draw(BODIES)


NEARLY = st.lists(nearly_requests(), min_size=1, max_size=3).map(b"".join) | st.binary(max_size=200)


def blames(got: bytes) -> set[bytes]:
    """Statuses that say that the server is at fault."""
    return {status for status in STATUS.findall(got) if status[:1] == b"5"} - {b"501", b"505"}


def faults(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]


Check = Callable[[int, Any], Coroutine[Any, Any, None]]
Serve = AbstractAsyncContextManager[int]


def every(server: Serve, strategy: st.SearchStrategy[Any], check: Check) -> None:
    """Check each example against one server, and each time that others are still served."""
    with asyncio.Runner() as runner:
        port = runner.run(server.__aenter__())

        async def one(example: Any) -> None:
            await check(port, example)
            fresh = b"GET /healthy HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
            assert (await answer(port, [fresh], end=False)).startswith(b"HTTP/1.1 200 ")

        @examples
        @given(strategy)
        def each(example: Any) -> None:
            runner.run(one(example))

        try:
            each()
        finally:
            runner.run(server.__aexit__(None, None, None))


@contextlib.asynccontextmanager
async def recorded(app: App, tmp_path: Path) -> AsyncIterator[int]:
    async with served("ours", app, tmp_path) as place:
        yield place.port


@contextlib.asynccontextmanager
async def composed(tmp_path: Path) -> AsyncIterator[int]:
    """A whole peer."""
    async with started(tmp_path / "data") as peer:
        yield int(peer.url.removesuffix("/peer").rpartition(":")[2])


def test_what_is_nearly_http_is_answered_or_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = Recorder()

    async def check(port: int, example: tuple[bytes, list[int]]) -> None:
        got = await answer(port, cut(*example))
        assert not blames(got), got
        assert not got or got.startswith((b"HTTP/1.1 ", b"\x00\x00")), got
        assert not faults(caplog) and not app.failures

    every(recorded(app, tmp_path), st.tuples(NEARLY, PLACES), check)


def test_a_peer_answers_or_refuses_what_is_nearly_http(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def check(port: int, example: tuple[bytes, list[int]]) -> None:
        got = await answer(port, cut(*example))
        assert not blames(got), got
        assert not faults(caplog)

    every(composed(tmp_path), st.tuples(NEARLY, PLACES), check)


BYTES = st.binary(max_size=300) | st.sampled_from([
    b"GET /other HTTP/1.1\r\nhost: x\r\n\r\n", b"0\r\n\r\n", b"\r\n", b"\r\n\r\n",
    b"5\r\nhello\r\n",
])  # fmt: skip


@st.composite
def requests(draw: st.DrawFn, path: bytes, last: bool = False) -> tuple[bytes, bytes]:
    """A request without a fault, and its body."""
    body = draw(BYTES)
    fields = [draw(st.sampled_from([b"host: x", b"Host:\tx ", b"HOST:x"]))]
    fields += draw(st.lists(st.sampled_from([b"a: b", b"upgrade: a/1", b"expect: 100-continue"])))
    if last:
        fields.append(b"connection: close")
    if draw(st.booleans()):
        fields.append(b"transfer-encoding: " + draw(st.sampled_from([b"chunked", b"CHUNKED"])))
        parts = [part for part in cut(body, draw(PLACES)) if part]
        size = draw(st.sampled_from([b"%x", b"%X", b"0000%x", b"%x;a=b"]))
        sent = b"".join(size % len(part) + b"\r\n" + part + b"\r\n" for part in parts)
        sent += b"0\r\n" + draw(st.sampled_from([b"", b"a: b\r\n"])) + b"\r\n"
    else:
        fields.append(b"Content-Length: %d" % len(body))
        sent = body
    fields = draw(st.permutations(fields))
    return b"POST %s HTTP/1.1\r\n%s\r\n\r\n" % (path, b"\r\n".join(fields)) + sent, body


def test_an_app_sees_the_requests_that_were_made_and_no_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = Recorder()

    async def check(port: int, example: Any) -> None:
        (one, first), (two, second), places = example
        app.requests.clear()
        got = await answer(port, cut(one + two, places), end=False)
        assert app.requests == [("", "/one", first), ("", "/two", second)]
        assert [status for status in STATUS.findall(got) if status != b"100"] == [b"200", b"200"]
        assert not faults(caplog) and not app.failures

    pairs = st.tuples(requests(b"/one"), requests(b"/two", last=True), PLACES)
    every(recorded(app, tmp_path), pairs, check)


SECOND = b"GET /second HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST /first HTTP/1.1\r\nhost: x\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"
BROKEN = [
    *(CHUNKED + size + b"\r\nhello\r\n0\r\n\r\n" for size in (
        b"z", b"-5", b"+5", b"0x5", b"5 5", b"\xb2", b"", b"f" * 21, b"5_0", b"5\x00",
    )),
    CHUNKED + b"5\nhello\n0\n\n", CHUNKED + b"5\r\nhelloXX0\r\n\r\n",
    CHUNKED + b"5\r\nhello\n0\r\n\r\n",
    CHUNKED + b"5\r\nhello0\r\n\r\n", CHUNKED + b"0\r\nx\r\n\r\n", CHUNKED + b"0\r\na : b\r\n\r\n",
    *(POST + fields + b"\r\n\r\nhello" for fields in (
        b"content-length: 5\r\ncontent-length: 6", b"content-length: 5, 6", b"content-length: +5",
        b"content-length: -5", b"content-length: 5x", b"content-length: 0x5",
        b"content-length: 5 5",
        b"content-length : 5", b"content-length:", b"content-length: \xb2", b"content-length;: 5",
        b"transfer-encoding: identity", b"transfer-encoding: gzip, chunked",
        b"transfer-encoding: chunked, chunked",
        b"transfer-encoding: x\r\ntransfer-encoding: chunked",
        b"transfer-encoding : chunked", b"transfer-encoding: \x0bchunked",
        b"content-length: 5\r\n\x00: b", b"content-length: 5\r\na b: c", b"content-length: 5\r\na",
        b"content-length: 5\r\na: \x00", b"content-length: 5\r\nhost: y",
    )),
    *(POST + fields + b"\r\n\r\n0\r\n\r\n" for fields in (
        b"transfer-encoding: chunked\r\ncontent-length: 5",
        b"content-length: 5\r\nTransfer-Encoding: Chunked",
    )),
    b"POST /first HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /first HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello",
    *(line + b"\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello" for line in (
        b"POST /first", b"POST /first HTTP/2.0", b"POST /first HTTP/0.9", b"POST /first HTTP/11",
        b"POST /fi rst HTTP/1.1", b"P@ST /first HTTP/1.1", b"POST /first http/1.1",
        b"POST  /first HTTP/1.1", b"POST\t/first HTTP/1.1", b"CONNECT first:443 HTTP/1.1",
        b"PRI * HTTP/2.0", b"\x00POST /first HTTP/1.1",
    )),
]  # fmt: skip


def test_behind_a_request_that_is_none_there_is_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = Recorder()

    async def check(port: int, example: tuple[bytes, bytes, list[int]]) -> None:
        before, broken, places = example
        app.began.clear()
        got = await answer(port, cut(before + broken + SECOND, places))
        assert "/second" not in app.began
        statuses = [status for status in STATUS.findall(got) if status != b"200"]
        # None, where the answer to the broken one had begun.
        assert statuses in ([], [b"400"], [b"501"], [b"505"]), got
        assert not faults(caplog) and not app.failures

    before = st.sampled_from([b"", b"GET /before HTTP/1.1\r\nhost: x\r\n\r\n"])
    strategy = st.tuples(before, st.sampled_from(BROKEN), PLACES)
    every(recorded(app, tmp_path), strategy, check)


# ------------------------------------------------------------------ HTTP/2

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PATHS = (b"/healthy", b"/hello", b"/refuse", b"/wait", b"/pour", b"/flood", b"/break", b"/echo")
ODD_FIELDS: list[tuple[bytes, bytes]] = [
    (b"X", b"y"), (b"connection", b"close"), (b":other", b"x"), (b":protocol", b"websocket"), (b"",
    b""),
    (b"a", b"\x00\n"), (b"host", b"other"), (b"te", b"gzip"), (b"transfer-encoding", b"chunked"),
    (b"content-length", b"-1"), (b"content-length", b"x"), (b"content-length", b"5"),
    (b"cookie", b"a" * 20_000), (b":path", b"/other"), (b"a", b"b"), (b"sec-websocket-version",
    b"13"),
]  # fmt: skip


@st.composite
def fields(draw: st.DrawFn) -> list[tuple[bytes, bytes]]:
    """The header fields of a request, mostly."""
    method = draw(mostly(b"GET", b"POST", b"HEAD", b"CONNECT", b"\xff", b"get", b""))
    path = draw(st.sampled_from(PATHS) | mostly(b"/echo", b"/\xe9", b"*", b"", b"x", b"/?\x00"))
    pairs = [(b":method", method), (b":scheme", b"http"), (b":authority", b"x"), (b":path", path)]
    if draw(st.integers(0, 3)) == 0:
        pairs += draw(st.lists(st.sampled_from(ODD_FIELDS), max_size=2))
    if draw(st.integers(0, 9)) == 0:
        pairs.pop(draw(st.integers(0, len(pairs) - 1)))
    return pairs


@st.composite
def frames(draw: st.DrawFn) -> list[bytes]:
    """What a client may send on one connection, and may not."""
    encoder = Encoder()
    stream = -1
    sent = [PREFACE, SettingsFrame(0).serialize()]
    for _ in range(draw(st.integers(1, 20))):
        kind = draw(st.sampled_from(("request",) * 5 + ("data",) * 4 + KINDS))
        if kind == "request":
            stream += 2
            frame: Frame = HeadersFrame(stream, encoder.encode(draw(fields())))
            frame.flags.add("END_HEADERS")
            if draw(st.booleans()):
                frame.flags.add("END_STREAM")
            sent.append(frame.serialize())
        elif kind == "bytes":
            sent.append(draw(st.binary(max_size=40)))
        else:
            number = draw(mostly_number(max(stream, 1)))
            with contextlib.suppress(HyperframeError):
                sent.append(_frame(draw, kind, number, encoder).serialize())
    return sent


KINDS = (
    "reset", "reset", "window", "window", "settings", "ping", "priority", "goaway", "continuation",
    "push", "trailers", "bytes",
)  # fmt: skip


def mostly_number(stream: int) -> st.SearchStrategy[int]:
    return st.sampled_from([*[stream] * 5, max(1, stream - 2), stream + 2, 0, 1, 2, 2**31 - 1])


def _frame(draw: st.DrawFn, kind: str, stream: int, encoder: Encoder) -> Frame:
    size = draw(st.sampled_from([0, 1, 5, 100, 16_384, 16_385]))
    number = draw(st.sampled_from([0, 1, 8, 65_535, 2**31 - 1]))
    setting = draw(st.sampled_from([1, 2, 3, 4, 5, 6, 8, 99]))
    frame: Frame
    match kind:
        case "data":
            frame = DataFrame(stream, bytes(size))
        case "reset":
            frame = RstStreamFrame(stream, number)
        case "window":
            frame = WindowUpdateFrame(stream, number)
        case "settings":
            frame = SettingsFrame(0, {setting: number})
        case "ping":
            frame = PingFrame(0, b"12345678")
        case "priority":
            frame = PriorityFrame(stream, depends_on=number, stream_weight=size % 256)
        case "goaway":
            frame = GoAwayFrame(0, number, 0)
        case "continuation":
            frame = ContinuationFrame(stream, encoder.encode(draw(fields())))
        case "push":
            frame = PushPromiseFrame(stream, 2, encoder.encode(draw(fields())))
        case _:
            frame = HeadersFrame(stream, encoder.encode([(b"a", b"b")]))
            frame.flags.add("END_HEADERS")
    for flag in draw(st.lists(st.sampled_from(["END_STREAM", "END_HEADERS", "ACK"]), max_size=2)):
        with contextlib.suppress(ValueError):
            frame.flags.add(flag)
    return frame


def test_frames_of_any_kind_end_a_connection_at_most(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = Recorder()

    async def check(port: int, example: tuple[list[bytes], bool]) -> None:
        sent, at_once = example
        await answer(port, [b"".join(sent)] if at_once else sent)
        assert not faults(caplog) and not app.failures
        assert not app.running

    every(recorded(app, tmp_path), st.tuples(frames(), st.booleans()), check)
