"""Ranges and conditions of stored content, over real sockets: any field, and what must come."""

from __future__ import annotations

import asyncio
import email.parser
import email.policy
import queue
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hawker.core.pieces import KIB
from hawker.core.ranges import ByteRange, parse_content_range
from tests.apps.peer.started import started

PIECE = 256 * KIB
DATA = random.Random(21).randbytes(2 * PIECE + 1000)
SIZE = len(DATA)
URL = "/v1/content?url=http://origin.test/a"
EMPTY = "/v1/content?url=http://origin.test/empty"


@dataclass
class Served:
    """Stored content, as URL and by its id."""

    client: httpx.Client
    paths: tuple[str, str]
    etag: str


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    ready: queue.Queue[tuple[str, str, str, asyncio.AbstractEventLoop]] = queue.Queue()
    over = asyncio.Event()

    async def serve() -> None:
        async with started(tmp_path_factory.mktemp("peer")) as peer:
            stat = await peer.put(DATA)
            await peer.put(b"", "http://origin.test/empty")
            path = f"/v1/tasks/{stat.task}/{stat.generation}/content"
            ready.put((peer.url, path, f'"{stat.generation}"', asyncio.get_running_loop()))
            await over.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    url, path, etag, loop = ready.get(timeout=30)
    with httpx.Client(base_url=url, timeout=20, trust_env=False) as client:
        yield Served(client, (path, URL), etag)
    loop.call_soon_threadsafe(over.set)
    thread.join()


def parsed_parts(answer: httpx.Response, total: int | None) -> list[tuple[ByteRange, bytes]]:
    """What a 206 holds, as the standard library reads it; `total` is what it has to tell."""

    def placed(field: str) -> ByteRange:
        parsed = parse_content_range(field)
        assert parsed is not None and parsed[1] == total, field
        return parsed[0]

    assert int(answer.headers["content-length"]) == len(answer.content)
    kind = answer.headers["content-type"]
    if not kind.startswith("multipart/byteranges"):
        return [(placed(answer.headers["content-range"]), answer.content)]
    assert "content-range" not in answer.headers
    parser = email.parser.BytesParser(policy=email.policy.HTTP)
    message = parser.parsebytes(b"content-type: " + kind.encode() + b"\r\n\r\n" + answer.content)
    assert not message.defects and not message.preamble and not message.epilogue
    found = []
    for part in message.iter_parts():
        assert part.get_content_type() == "application/octet-stream"
        body = part.get_payload(decode=True)
        assert isinstance(body, bytes) and not part.defects
        found.append((placed(part["content-range"]), body))
    assert len(found) > 1
    return found


def check(answer: httpx.Response, etag: str) -> list[ByteRange]:
    """The ranges of an answer that keeps all rules an answer of its status has."""
    assert answer.status_code in (200, 206, 304, 412, 416), answer.text
    assert answer.headers["etag"] == etag
    if answer.status_code == 304:
        assert answer.content == b""
        return []
    if answer.status_code in (412, 416):
        assert answer.headers["content-type"] == "application/problem+json"
        told = answer.headers.get("content-range")
        assert told == (f"bytes */{SIZE}" if answer.status_code == 416 else None)
        return []
    assert answer.headers["accept-ranges"] == "bytes"
    if answer.status_code == 200:
        assert answer.headers["content-length"] == str(SIZE) and answer.content == DATA
        return [ByteRange(0, SIZE)]
    found = parsed_parts(answer, SIZE)
    for span, body in found:
        assert body == DATA[span.start : span.stop]
    return [span for span, _ in found]


# ------------------------------------------------------------------ fuzzing

EDGES = [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, SIZE - 1, SIZE, SIZE + 1]
NUMBERS = st.one_of(
    st.sampled_from(EDGES), st.integers(0, 2 * SIZE), st.integers(SIZE, 10**30)
)  # fmt: skip
SPECS = st.one_of(
    st.tuples(NUMBERS, st.integers(0, 3000)).map(lambda pair: (pair[0], pair[0] + pair[1])),
    st.tuples(NUMBERS, st.none()),
    st.tuples(st.none(), NUMBERS),
)
HEADER = st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f")
TEXT = st.one_of(
    st.text(HEADER, max_size=60),
    st.text("0123456789-, \t", max_size=60).map("bytes=".__add__),
    st.lists(st.text("0123456789-", max_size=8), max_size=300).map(
        lambda texts: "bytes=" + ",".join(texts)
    ),
)


@settings(max_examples=120, deadline=None)
@given(st.lists(SPECS, min_size=1, max_size=12), st.integers(0, 1), st.booleans())
def test_every_set_of_ranges_brings_what_it_asks_for(
    served: Served, specs: list[tuple[int | None, int | None]], path: int, matching: bool
) -> None:
    pairs = (["" if number is None else str(number) for number in spec] for spec in specs)
    field = "bytes=" + ",".join("-".join(pair) for pair in pairs)
    condition = {"if-range": served.etag} if matching else {}
    answer = served.client.get(served.paths[path], headers={"range": field, **condition})
    spans = check(answer, served.etag)
    meant = []
    for first, last in specs:
        start = max(0, SIZE - (last or 0)) if first is None else first
        stop = SIZE if first is None or last is None else min(last + 1, SIZE)
        if start < stop:
            meant.append((start, stop))
    assert answer.status_code == (206 if meant else 416)
    for start, stop in meant:
        assert any(span.start <= start and stop <= (span.stop or 0) for span in spans)
    assert all(any(span.start == start for start, _ in meant) for span in spans)
    assert all(any(span.stop == stop for _, stop in meant) for span in spans)
    assert sum((span.stop or 0) - span.start for span in spans) <= SIZE


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["GET", "HEAD"]),
    st.lists(st.tuples(st.sampled_from(["range", "if-range"]), TEXT), max_size=3),
    st.lists(st.tuples(st.sampled_from(["if-match", "if-none-match", "if-modified-since"]),
                       TEXT), max_size=1),
    st.integers(0, 1),
)  # fmt: skip
def test_no_field_breaks_an_answer(
    served: Served,
    method: str,
    ranges: list[tuple[str, str]],
    conditions: list[tuple[str, str]],
    path: int,
) -> None:
    headers = [(name, text.strip().encode("latin-1")) for name, text in ranges + conditions]
    raw = [(name.encode(), value) for name, value in headers]
    answer = served.client.request(method, served.paths[path], headers=raw)
    if method == "HEAD":
        assert answer.status_code in (200, 304, 412) and answer.content == b""
        assert answer.headers["etag"] == served.etag
        if answer.status_code == 200:
            assert answer.headers["content-length"] == str(SIZE)
        return
    check(answer, served.etag)


# ------------------------------------------------------------------ the rules, one by one


@pytest.mark.parametrize("path", [0, 1])
@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([("range", "bytes=0-0,1000-1999,-5")], 206),
        ([("range", "bytes=5-1")], 416),
        ([("range", "bytes=x")], 416),
        ([("range", f"bytes={SIZE}-")], 416),
        ([("range", "bytes=-0")], 416),
        ([("range", "bytes=0-0"), ("range", "bytes=5-5")], 416),
        ([("range", "lines=0-0")], 200),
        ([("range", "bytes=" + ",".join(f"{n}-{n}" for n in range(0, 5000, 2)))], 416),
        ([("range", "bytes=0-,0-,0-,0-,0-")], 206),
        ([("range", "bytes=0-0"), ("if-range", '"other"')], 200),
        ([("range", "bytes=5-1"), ("if-range", '"other"')], 200),
        ([("range", "bytes=0-0"), ("if-range", "Sun, 06 Nov 1994 08:49:37 GMT")], 200),
        ([("if-range", '"other"')], 200),
        ([("if-match", '"other"')], 412),
        ([("if-match", "*"), ("range", "bytes=0-0")], 206),
        ([("if-match", '"other"'), ("range", "bytes=5-1")], 412),
        ([("if-none-match", "*"), ("range", "bytes=5-1")], 304),
        ([("if-none-match", '"a"'), ("if-none-match", '"b", *')], 200),
        ([("if-modified-since", "Sun, 06 Nov 2094 08:49:37 GMT")], 200),
        ([("if-unmodified-since", "Sun, 06 Nov 1994 08:49:37 GMT")], 200),
        ([("want-repr-digest", "sha-256=10"), ("accept-encoding", "gzip")], 200),
    ],
)
def test_rules(served: Served, fields: list[tuple[str, str]], status: int, path: int) -> None:
    answer = served.client.get(served.paths[path], headers=fields)
    assert answer.status_code == status
    check(answer, served.etag)
    head = served.client.head(served.paths[path], headers=fields)
    assert head.status_code == (200 if status in (206, 416) else status)
    assert head.content == b"" and head.headers["etag"] == served.etag


@pytest.mark.parametrize("path", [0, 1])
def test_the_entity_tag_of_an_answer_is_good_for_the_next(served: Served, path: int) -> None:
    for tag in (served.etag, f"W/{served.etag}", f'"x", {served.etag}'):
        answer = served.client.get(served.paths[path], headers={"if-none-match": tag})
        assert answer.status_code == 304
        check(answer, served.etag)
    part = {"range": "bytes=10-19", "if-match": served.etag, "if-range": served.etag}
    answer = served.client.get(served.paths[path], headers=part)
    assert answer.status_code == 206
    assert check(answer, served.etag) == [ByteRange(10, 20)]
    weak = part | {"if-range": f"W/{served.etag}"}
    assert served.client.get(served.paths[path], headers=weak).status_code == 200


def test_parts_come_in_the_order_they_were_asked_for(served: Served) -> None:
    field = f"bytes={PIECE}-{PIECE + 9},-10,0-9,20-29"
    for path in served.paths:
        answer = served.client.get(path, headers={"range": field})
        spans = check(answer, served.etag)
        assert spans == [ByteRange(PIECE, PIECE + 10), ByteRange(SIZE - 10, SIZE), ByteRange(0, 30)]
        assert len(answer.content) < 50 + 3 * 200


def test_no_bytes_have_no_ranges(served: Served) -> None:
    for field in ("bytes=0-", "bytes=-5", "bytes=0-0,5-9"):
        answer = served.client.get(EMPTY, headers={"range": field})
        assert (answer.status_code, answer.content) == (200, b"")
    wrong = served.client.get(EMPTY, headers={"range": "bytes=1-0"})
    assert (wrong.status_code, wrong.headers["content-range"]) == (416, "bytes */0")
