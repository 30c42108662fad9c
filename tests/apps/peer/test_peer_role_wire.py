"""The peer role as its clients and other peers meet it: over real sockets, in this process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import os
import random
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from hawker.core.clients.live import live_events
from hawker.core.contracts import PieceRequest
from hawker.core.errors import Busy
from hawker.core.messages import Progress, decode_availability, decode_progress
from hawker.core.pieces import KIB
from tests.apps.peer.started import Peer, started

DATA = random.Random(11).randbytes(3 * 256 * KIB + 1000)
TEXT = b"the same words again and again. " * 40_000
PIECE = 256 * KIB

# hypercorn restarts the idle timer of a connection that is being cut, and drops the coroutine.
pytestmark = pytest.mark.filterwarnings("ignore:coroutine 'TCPServer._idle_timeout':RuntimeWarning")


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """What a test drops is collected while the filter holds."""
    yield
    gc.collect()


Body = Callable[[Peer], Coroutine[Any, Any, None]]


def _run(data: Path, body: Body, **flags: Any) -> None:
    async def main() -> None:
        async with started(data, **flags) as peer:
            await body(peer)

    asyncio.run(main())


class Sink:
    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: memoryview) -> None:
        self.data += data


def _code(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["type"].rpartition(":")[2]


# ------------------------------------------------------------------ pieces


@pytest.mark.parametrize("coded", [False, True])
def test_pieces_come_byte_by_byte_through_the_transport(coded: bool, tmp_path: Path) -> None:
    async def body(peer: Peer) -> None:
        for data, url in ((DATA, "http://origin.test/r"), (TEXT, "http://origin.test/t")):
            stat = await peer.put(data, url)
            count = -(-len(data) // PIECE)
            for first, last in ((0, 0), (1, 2), (count - 1, count - 1), (0, count - 1)):
                wanted = data[first * PIECE : (last + 1) * PIECE]
                request = PieceRequest(
                    base_url=peer.url,
                    path=peer.pieces(stat, first, last),
                    headers=peer.token(task=stat.task),
                    length=len(wanted),
                    stall=5.0,
                    codecs=peer.role.codecs if coded else {},
                )
                sink = Sink()
                await peer.transport.fetch(request, sink)
                assert sink.data == wanted

    _run(tmp_path, body)


def test_pieces_need_a_token_for_their_task(tmp_path: Path) -> None:
    async def body(peer: Peer) -> None:
        stat = await peer.put(DATA)
        path = peer.pieces(stat, 0, 0)
        for client in (peer.tcp, peer.unix):
            for headers, expected in (
                ({}, (401, "unauthenticated")),
                ({"authorization": "Bearer a.b.c"}, (401, "unauthenticated")),
                (peer.token("tasks"), (403, "forbidden")),
                (peer.token(task="0" * 64), (403, "forbidden")),
            ):
                assert _code(await client.get(path, headers=headers)) == expected
            good = await client.get(path, headers=peer.token(task=stat.task))
            assert (good.status_code, good.content) == (200, DATA[:PIECE])

    _run(tmp_path, body)


def test_pieces_that_are_not_valid_are_not_found(tmp_path: Path) -> None:
    async def body(peer: Peer) -> None:
        stat = await peer.put(DATA)
        other = msgspec.structs.replace(stat, generation="0" * 16)
        for path, status in (
            (peer.pieces(stat, 0, 4), 404),
            (peer.pieces(stat, 4, 4), 404),
            (peer.pieces(other, 0, 0), 404),
            (peer.pieces(stat, 1, 0), 400),
            (peer.pieces(stat, 0, 1 << 20), 400),
            (peer.pieces(stat, 0, 10**30), 400),
            (peer.pieces(msgspec.structs.replace(stat, generation="x"), 0, 0), 400),
        ):
            answer = await peer.tcp.get(path, headers=peer.token())
            assert _code(answer)[0] == status, path
        answer = await peer.tcp.post(peer.pieces(stat, 0, 0), headers=peer.token())
        assert _code(answer)[0] in (400, 405)

    _run(tmp_path, body)


def test_request_beyond_the_upload_slots_is_told_to_come_back(tmp_path: Path) -> None:
    large = random.Random(5).randbytes(32 << 20)

    async def body(peer: Peer) -> None:
        stat = await peer.put(large)
        path = peer.pieces(stat, 0, len(large) // stat.piece_length - 1)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(2):
                # Nobody reads their bodies, which are larger than all buffers on the way.
                stream = peer.tcp.stream("GET", path, headers=peer.token())
                assert (await stack.enter_async_context(stream)).status_code == 200
            request = PieceRequest(
                base_url=peer.url, path=path, headers=peer.token(), length=len(large), stall=5.0
            )
            with pytest.raises(Busy) as caught:
                await peer.transport.fetch(request, Sink())
            assert caught.value.retry_after is not None and 0 < caught.value.retry_after < 1
            assert peer.role.slots.refused == 1
        async with asyncio.timeout(5):
            while peer.role.slots.used:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        sink = Sink()
        await peer.transport.fetch(request, sink)
        assert sink.data == large

    _run(tmp_path, body, peer__upload_slots=2)


def test_zstd_is_for_what_it_makes_smaller(tmp_path: Path) -> None:
    async def body(peer: Peer) -> None:
        random_, text = await peer.put(DATA), await peer.put(TEXT, "http://origin.test/t")
        for stat, accepted, coding in (
            (text, "gzip, zstd", "zstd"),
            (text, "zstd;q=0", None),
            (text, "identity", None),
            (random_, "zstd", None),
        ):
            headers = peer.token() | {"accept-encoding": accepted}
            async with peer.tcp.stream("GET", peer.pieces(stat, 0, 1), headers=headers) as answer:
                raw = b"".join([part async for part in answer.aiter_raw()])
            assert answer.headers.get("content-encoding") == coding
            assert len(raw) == int(answer.headers["content-length"])
            if coding:
                assert answer.headers["vary"] == "accept-encoding" and len(raw) < PIECE
                decoder = peer.role.codecs[coding].decoder()
                assert decoder.feed(raw) == TEXT[: 2 * PIECE] and decoder.finished
            else:
                assert raw == (TEXT if stat is text else DATA)[: 2 * PIECE]

    _run(tmp_path, body)


def test_availability_tells_runs_and_pieces_then_beats(tmp_path: Path) -> None:
    async def body(peer: Peer) -> None:
        stat = await peer.put(DATA)
        path = f"/v1/tasks/{stat.task}/{stat.generation}/availability"
        assert _code(await peer.tcp.get(path)) == (401, "unauthenticated")
        wrong = peer.token(task="0" * 64)
        assert _code(await peer.tcp.get(path, headers=wrong)) == (403, "forbidden")
        stream = live_events(peer.url + path, peer.token(), connect=1.0, silence=2.0)
        async with contextlib.aclosing(stream):
            first = decode_availability((await anext(stream)).data)
            assert (first.total, first.piece_length) == (len(DATA), PIECE)
            assert first.have == [(0, 3)]
            digests = b"".join(run.digests for run in first.runs)
            assert digests[:32] == hashlib.sha256(DATA[:PIECE]).digest()
            assert len(digests) == 4 * 32
            for _ in range(3):
                began = time.monotonic()
                beat = decode_availability((await anext(stream)).data)
                assert time.monotonic() - began <= 0.5
                assert (beat.have, beat.runs, beat.waiting_upstream) == ([], [], False)

    _run(tmp_path, body)


def test_availability_of_what_is_deleted_ends(tmp_path: Path) -> None:
    async def body(peer: Peer) -> None:
        stat = await peer.put(DATA)
        path = f"/v1/tasks/{stat.task}/{stat.generation}/availability"
        stream = live_events(peer.url + path, peer.token(), connect=1.0, silence=2.0)
        async with contextlib.aclosing(stream), asyncio.timeout(5):
            await anext(stream)
            assert (await peer.tcp.delete(f"/v1/tasks/{stat.task}")).status_code == 204
            async for _ in stream:
                pass

    _run(tmp_path, body)


# ------------------------------------------------------------------ content


def test_content_has_ranges_and_conditions(tmp_path: Path) -> None:
    size = len(DATA)

    async def body(peer: Peer) -> None:
        stat = await peer.put(DATA)
        etag = f'"{stat.generation}"'
        stored = f"/v1/tasks/{stat.task}/{stat.generation}/content"
        for path in (stored, "/v1/content?url=http://origin.test/a"):
            whole = await peer.tcp.get(path)
            assert (whole.status_code, whole.content) == (200, DATA)
            assert whole.headers["etag"] == etag
            assert whole.headers["accept-ranges"] == "bytes"
            head = await peer.tcp.head(path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == str(size)
            for spec, start, stop in (
                ("0-0", 0, 1),
                ("262143-262144", PIECE - 1, PIECE + 1),
                ("700000-", 700_000, size),
                ("-10", size - 10, size),
                (f"-{size + 5}", 0, size),
                (f"5-{size + 5}", 5, size),
            ):
                for condition in ({}, {"if-range": etag}):
                    headers = {"range": f"bytes={spec}", **condition}
                    part = await peer.tcp.get(path, headers=headers)
                    assert (part.status_code, part.content) == (206, DATA[start:stop]), spec
                    told = part.headers["content-range"]
                    assert told == f"bytes {start}-{stop - 1}/{size}"
            for headers in (
                {"range": "bytes=0-0", "if-range": '"other"'},
                {"range": "lines=1-2"},
            ):
                answer = await peer.tcp.get(path, headers=headers)
                assert (answer.status_code, answer.content) == (200, DATA)
            for spec in (f"{size}-", "-0", "9999999999-"):
                answer = await peer.tcp.get(path, headers={"range": f"bytes={spec}"})
                assert _code(answer)[0] == 416
                assert answer.headers["content-range"] == f"bytes */{size}"

    _run(tmp_path, body)


def test_empty_content_is_content(tmp_path: Path) -> None:
    async def body(peer: Peer) -> None:
        stat = await peer.put(b"")
        stored = f"/v1/tasks/{stat.task}/{stat.generation}/content"
        for path in (stored, "/v1/content?url=http://origin.test/a"):
            answer = await peer.tcp.get(path)
            assert (answer.status_code, answer.content) == (200, b"")
            assert (await peer.tcp.head(path)).status_code == 200

    _run(tmp_path, body)


def test_content_that_never_comes_ends_after_the_client_s_patience(tmp_path: Path) -> None:
    async def body(peer: Peer) -> None:
        # An origin that takes connections and says nothing.
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
            began = time.monotonic()
            answer = await peer.tcp.get(
                "/v1/content", params={"url": url}, headers={"prefer": "respond-async, wait=1"}
            )
            assert 0.9 < time.monotonic() - began < 2.5
            assert _code(answer) == (503, "not-here-yet")

    _run(tmp_path, body)


def test_files_are_for_the_unix_socket_and_below_the_roots(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    for directory in (inside, outside):
        directory.mkdir()
        (directory / "f").write_bytes(DATA)
    (inside / "link").symlink_to(outside / "f")

    async def body(peer: Peer) -> None:
        async def ask(client: httpx.AsyncClient, url: str) -> httpx.Response:
            return await client.get("/v1/content", params={"url": url})

        for path in (outside / "f", inside / "link", inside / ".." / "out" / "f"):
            for url in (f"file://{path}", f"FILE://{path}"):
                assert _code(await ask(peer.tcp, url)) == (403, "forbidden")
                wanted = msgspec.json.encode({"url": url})
                assert _code(await peer.tcp.post("/v1/downloads", content=wanted))[0] == 403
        for client, path in ((peer.tcp, inside / "f"), (peer.unix, outside / "f")):
            answer = await ask(client, f"file://{path}")
            assert (answer.status_code, answer.content) == (200, DATA)
        for bad in ("file:///a%00b", "http://[", "no url", ""):
            assert _code(await ask(peer.tcp, bad)) == (400, "bad-request"), bad
        named = {"url": f"file://{outside}/other"}
        answer = await peer.tcp.post("/v1/tasks/import", params=named, content=DATA)
        assert _code(answer) == (403, "forbidden")
        assert (await peer.unix.post("/v1/tasks/import", params=named, content=TEXT)).is_success
        assert (await ask(peer.unix, named["url"])).content == TEXT
        seen = [task["spec"]["url"] for task in (await peer.tcp.get("/v1/tasks")).json()]
        assert seen == [f"file://{inside}/f"]

    _run(tmp_path / "data", body, sources__file__roots=[str(inside)])


# ------------------------------------------------------------------ downloads


async def _download(client: httpx.AsyncClient, **wanted: object) -> list[Progress]:
    async with client.stream(
        "POST", "/v1/downloads", content=msgspec.json.encode(wanted)
    ) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("application/x-ndjson")
        return [decode_progress(line) async for line in answer.aiter_lines()]


def test_download_tells_progress_until_it_is_done(tmp_path: Path) -> None:
    origin = tmp_path / "f"
    origin.write_bytes(DATA)

    async def body(peer: Peer) -> None:
        digest = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
        lines = await _download(peer.unix, url=f"file://{origin}", digest=digest)
        assert [line.done for line in lines] == [False] * (len(lines) - 1) + [True]
        last = lines[-1]
        assert (last.total, last.valid_bytes, last.from_origin) == (len(DATA),) * 3
        assert Path(last.path).read_bytes() == DATA  # noqa: ASYNC240
        wrong = await _download(peer.unix, url=f"file://{origin}", digest="sha256:" + "0" * 64)
        assert wrong[-1].problem is not None and wrong[-1].problem.code == "digest-mismatch"
        assert not wrong[-1].done and not wrong[-1].path
        missing = await _download(peer.unix, url=f"file://{origin}.no")
        assert missing[-1].problem is not None and missing[-1].problem.code == "not-found"

    _run(tmp_path / "data", body)


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b'{"url":"no url"}', b'{"url":"http://["}'])
def test_download_of_nothing_is_a_bad_request(raw: bytes, tmp_path: Path) -> None:
    async def body(peer: Peer) -> None:
        answer = await peer.tcp.post("/v1/downloads", content=raw)
        assert _code(answer) == (400, "bad-request")

    _run(tmp_path, body)


def test_stored_path_is_told_only_over_the_unix_socket(tmp_path: Path) -> None:
    async def body(peer: Peer) -> None:
        await peer.put(DATA)
        for client, told in ((peer.tcp, False), (peer.unix, True)):
            lines = await _download(client, url="http://origin.test/a")
            assert lines[-1].done and bool(lines[-1].path) is told

    _run(tmp_path, body)


# ------------------------------------------------------------------ imports, deletion


def _stored(peer: Peer) -> int:
    return len(peer.role.conductor.ground.store.entries())


def _files(data: Path) -> list[Path]:
    """Content on the disk."""
    return [path for path in data.rglob("*") if path.is_file() and path.stat().st_size >= PIECE]


async def _eventually(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def test_deleted_task_is_gone(tmp_path: Path) -> None:
    async def body(peer: Peer) -> None:
        stat = await peer.put(DATA)
        path = f"/v1/tasks/{stat.task}"
        listed = (await peer.tcp.get("/v1/tasks")).json()
        assert [task["task"] for task in listed] == [stat.task]
        assert (await peer.tcp.get(path)).json()["complete"] is True
        assert (await peer.tcp.delete(path)).status_code == 204
        for answer in (await peer.tcp.get(path), await peer.tcp.delete(path)):
            assert _code(answer) == (404, "not-found")
        assert (await peer.tcp.get("/v1/tasks")).json() == []
        await _eventually(lambda: not _files(tmp_path))

    _run(tmp_path, body)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sha256:" + "0" * 64, (502, "digest-mismatch")),
        ("sha256:" + hashlib.sha256(DATA).hexdigest(), None),
        ("sha256:short", (400, "bad-request")),
        ("no url", (400, "bad-request")),
    ],
)
def test_import_is_what_its_name_says_or_nothing(
    name: str, expected: tuple[int, str] | None, tmp_path: Path
) -> None:
    async def body(peer: Peer) -> None:
        answer = await peer.tcp.post("/v1/tasks/import", params={"url": name}, content=DATA)
        if expected is None:
            assert answer.status_code == 200
            content = await peer.tcp.get("/v1/content", params={"url": name})
            assert content.content == DATA
            assert content.headers["repr-digest"].startswith("sha-256=:")
            return
        assert _code(answer) == expected
        assert _stored(peer) == 0
        assert peer.role.conductor.ground.store.used_bytes == 0
        await _eventually(lambda: not _files(tmp_path))

    _run(tmp_path, body)


def test_aborted_import_leaves_nothing(tmp_path: Path) -> None:
    async def body(peer: Peer) -> None:
        _, port = peer.url.removesuffix("/peer").removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection("127.0.0.1", int(port))
        target = "/peer/v1/tasks/import?url=http://origin.test/b"
        head = f"POST {target} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9000000\r\n\r\n"
        writer.write(head.encode() + DATA * 5)
        await writer.drain()
        await _eventually(lambda: _stored(peer) == 1 and bool(_files(tmp_path)))
        writer.transport.abort()
        await _eventually(lambda: _stored(peer) == 0 and not _files(tmp_path))
        assert peer.role.conductor.ground.store.used_bytes == 0

    _run(tmp_path, body)


def test_two_hundred_aborted_downloads_leave_nothing_behind(tmp_path: Path) -> None:
    large = random.Random(6).randbytes(16 << 20)

    async def abort(peer: Peer, number: int) -> None:
        port = int(peer.url.removesuffix("/peer").rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
        path = "/peer/v1/content?url=http://origin.test/a"
        writer.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        if number % 4:
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
        writer.transport.abort()

    async def body(peer: Peer) -> None:
        stat = await peer.put(large)
        await peer.tcp.aclose()
        await _eventually(lambda: len(asyncio.all_tasks()) < 12)
        store = peer.role.conductor.ground.store
        await abort(peer, 1)
        await asyncio.sleep(0.3)
        tasks, fds = len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))
        for first in range(0, 200, 20):
            async with asyncio.TaskGroup() as group:
                for number in range(first, first + 20):
                    group.create_task(abort(peer, number))
        await _eventually(
            lambda: len(asyncio.all_tasks()) <= tasks and len(os.listdir("/proc/self/fd")) <= fds
        )
        entry = store.get(stat.task, stat.generation)
        assert entry is not None and not entry.in_use

    _run(tmp_path, body)
