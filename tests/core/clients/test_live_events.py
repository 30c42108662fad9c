"""Listening to an event stream over real sockets: odd splits, silence, refusals, broken chunks."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hawker.core.clients.events import (
    MAX_EVENT,
    MAX_LINES,
    MAX_PEER_EVENT,
    Event,
    Splitter,
)
from hawker.core.clients.live import live_events
from hawker.core.errors import BadRequest, Busy, Forbidden, HawkerError, Unavailable

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
STREAM = b'id: 1\ndata: {"a":1}\n\n: ping\n\ndata: x\ndata: y\n\nevent: z\n\ndata:tight\nid:\n\n'
EVENTS = [Event("1", b'{"a":1}'), Event("", b"x\ny"), Event("", b"tight")]


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@contextlib.asynccontextmanager
async def _server(parts: Sequence[bytes], *, stay: bool = False) -> AsyncIterator[str]:
    """A server that answers with these parts, one write each; `stay` keeps it silent after them."""
    left = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0)
            if stay:
                await reader.read()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            left.set()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/stream?x=1"
        async with asyncio.timeout(5):
            await left.wait()


async def _listen(parts: Sequence[bytes], *, stay: bool = False) -> list[Event]:
    events: list[Event] = []
    async with _server(parts, stay=stay) as url:
        async with aclosing(live_events(url, {}, connect=1.0, silence=0.2)) as stream:
            async for event in stream:
                events.append(event)
    return events


def _cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if a != b]


@given(st.lists(st.integers(0, 10_000), max_size=30))
def test_events_are_the_same_however_the_bytes_are_cut(places: list[int]) -> None:
    splitter = Splitter()
    events = [event for part in _cut(STREAM, places) for event in splitter.feed(part)]
    assert events == EVENTS


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 10_000), max_size=8), st.lists(st.integers(0, 10_000), max_size=8))
def test_stream_is_the_same_however_chunks_and_packets_are_cut(
    chunks: list[int], packets: list[int]
) -> None:
    body = b"".join(_chunk(part) for part in _cut(STREAM, chunks)) + b"0\r\n\r\n"
    assert asyncio.run(_listen(_cut(HEAD + body, packets))) == EVENTS


def test_chunk_extensions_and_capital_digits_are_understood() -> None:
    data = b"data: " + b"x" * 180 + b"\n\n"
    body = b"%X;name=value\r\n%b\r\n0\r\n\r\n" % (len(data), data)
    assert asyncio.run(_listen([HEAD.upper() + body])) == [Event("", b"x" * 180)]


def test_request_carries_path_query_and_fields() -> None:
    async def main() -> bytes:
        heads: asyncio.Queue[bytes] = asyncio.Queue()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await heads.put(await reader.readuntil(b"\r\n\r\n"))
            writer.write(HEAD + b"0\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/a/b?c=d"
            fields = {"authorization": "Bearer t"}
            async for _ in live_events(url, fields, connect=1.0, silence=1.0):
                pytest.fail("there is no event")
        return await heads.get()

    head = asyncio.run(main()).decode().split("\r\n")
    assert head[0] == "GET /a/b?c=d HTTP/1.1"
    assert "authorization: Bearer t" in head


@pytest.mark.parametrize(
    "parts",
    [[], [b"HTTP/1.1 200"], [HEAD], [HEAD + _chunk(b": ping\n\n")], [HEAD + b"10\r\ndata"]],
    ids=["nothing", "within head", "after head", "after a ping", "within a chunk"],
)
def test_silence_is_unavailable_in_time(parts: list[bytes]) -> None:
    began = time.monotonic()
    with pytest.raises(Unavailable, match=r"silent for 0\.2 s"):
        asyncio.run(_listen(parts, stay=True))
    assert 0.2 <= time.monotonic() - began < 0.7


def test_events_before_the_silence_are_delivered() -> None:
    async def main() -> list[Event]:
        events: list[Event] = []
        async with _server([HEAD + _chunk(STREAM)], stay=True) as url:
            with pytest.raises(Unavailable):
                async for event in live_events(url, {}, connect=1.0, silence=0.2):
                    events.append(event)
        return events

    assert asyncio.run(main()) == EVENTS


def _refusal(error: HawkerError) -> bytes:
    body = msgspec.json.encode(error.problem())
    head = f"HTTP/1.1 {error.status} No\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize("error", [Busy("full", retry_after=0.5), Forbidden("not you")])
def test_refusal_is_the_error_its_problem_names(error: HawkerError) -> None:
    with pytest.raises(type(error), match=error.detail) as caught:
        asyncio.run(_listen([_refusal(error)]))
    assert caught.value.retry_after == error.retry_after


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 502 Bad Gateway\r\n\r\n",
        b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 6\r\n\r\n<html>",
        b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 60\r\n\r\n<html>",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\ndata: 12\n\n",
        b"HTTP/1.0 200 OK\r\n\r\ndata: 12\n\n",
        b"SSH-2.0-x\r\n\r\n",
        b"x" * 100_000,
        b"",
    ],
)
def test_answer_that_is_no_stream_is_unavailable(answer: bytes) -> None:
    with pytest.raises(Unavailable):
        asyncio.run(_listen([answer]))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"5\r\nab",
        b"xyz\r\nab\r\n",
        b"-1\r\nab\r\n",
        b"\r\n\r\n",
        b"fffffffff\r\nab",
        b"3\r\nabcdef\r\n0\r\n\r\n",
        b"7" * 100_000,
    ],
    ids=["cut off", "short", "no hex", "negative", "empty", "huge", "longer", "endless size"],
)
def test_broken_chunk_is_unavailable(body: bytes) -> None:
    with pytest.raises(Unavailable, match="broke off"):
        asyncio.run(_listen([HEAD + body]))


def test_event_without_end_is_refused() -> None:
    splitter = Splitter()
    with pytest.raises(BadRequest, match="larger than"):
        for _ in range(MAX_EVENT // (1 << 20) + 1):
            splitter.feed(b"x" * (1 << 20))
    with pytest.raises(BadRequest, match="larger than"):
        Splitter(100).feed(b"data: " + b"x" * 100 + b"\n\n")


def test_a_peer_whose_event_does_not_end_is_left() -> None:
    chunks = [_chunk(b"x" * 1024)] * (MAX_PEER_EVENT // 1024 + 1)
    with pytest.raises(BadRequest, match="larger than"):
        asyncio.run(_listen([HEAD, *chunks], stay=True))


def test_event_of_very_many_lines_is_refused() -> None:
    with pytest.raises(BadRequest, match="lines"):
        Splitter().feed(b"a\n" * MAX_LINES + b"a\n\n")


@pytest.mark.parametrize("part", [b"x" * 1024, b"data: x\n\n" * 100, b"\n" * 1024, b": ping\n\n"])
def test_work_is_linear_in_the_bytes(part: bytes) -> None:
    splitter = Splitter(16 << 20)
    began = time.process_time()
    for _ in range((8 << 20) // len(part)):
        splitter.feed(part)
    # Where all that came before is looked at again, the first of these takes a minute.
    assert time.process_time() - began < 8


@pytest.mark.parametrize("url", ["https://127.0.0.1/", "http:///x", "http://127.0.0.1:1/x"])
def test_server_that_cannot_be_reached_is_unavailable(url: str) -> None:
    async def main() -> None:
        with pytest.raises(Unavailable):
            async for _ in live_events(url, {}, connect=1.0, silence=1.0):
                pytest.fail("there is no event")

    asyncio.run(main())


def test_reader_that_leaves_closes_the_connection() -> None:
    async def main() -> None:
        # The server's block waits until its client has gone.
        async with _server([HEAD + _chunk(STREAM)], stay=True) as url:
            async with aclosing(live_events(url, {}, connect=1.0, silence=5.0)) as stream:
                assert await anext(stream) == EVENTS[0]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
