"""Ranges of content that is still arriving: what they touch is read, and nothing is guessed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest

from hawker.core.pieces import KIB, MIB
from tests.apps.peer.started import Peer, started
from tests.apps.peer.test_content_ranges import parsed_parts
from tests.e2e.conftest import Origin

DATA = random.Random(22).randbytes(24 * MIB)
SMALL = DATA[: 3 * MIB + 5]
SIZE = len(DATA)
PIECE = 256 * KIB
# Seconds that each 64 KiB take: 6 MiB a second.
SLOW = 0.01

# hypercorn restarts the idle timer of a connection that is being cut, and drops the coroutine.
pytestmark = pytest.mark.filterwarnings("ignore:coroutine 'TCPServer._idle_timeout':RuntimeWarning")


def _run(
    data: Path,
    origin: Origin,
    body: Callable[[Peer, Origin], Coroutine[Any, Any, None]],
    **flags: Any,
) -> None:
    async def main() -> None:
        async with started(data, **flags) as peer:
            await body(peer, origin)

    try:
        asyncio.run(main())
    finally:
        origin.close()


async def _get(peer: Peer, url: str, field: str = "", **more: str) -> httpx.Response:
    headers = {name.replace("_", "-"): value for name, value in more.items()}
    if field:
        headers["range"] = f"bytes={field}"
    return await peer.tcp.get("/v1/content", params={"url": url}, headers=headers)


def _valid_bytes(peer: Peer) -> int:
    [entry] = peer.role.conductor.ground.store.entries()
    return entry.valid_bytes


@pytest.mark.parametrize(
    ("field", "pieces"),
    [
        ("0-9", 1),
        ("-10", 2),
        (f"{9 * PIECE}-{9 * PIECE}", 1),
        (f"0-9,{40 * PIECE - 5}-{40 * PIECE + 4},-1", 4),
        (f"-1,{7 * PIECE}-{7 * PIECE + 9}", 2),
        (f"{SIZE + 5}-,5-5", 1),
    ],
)
def test_only_the_pieces_that_the_ranges_touch_are_read(
    field: str, pieces: int, tmp_path: Path
) -> None:
    async def body(peer: Peer, origin: Origin) -> None:
        answer = await _get(peer, origin.put("/a", DATA), field)
        assert answer.status_code == 206
        for span, part in parsed_parts(answer, SIZE):
            assert part == DATA[span.start : span.stop]
        await asyncio.sleep(0.2)
        # One more where the length had to be learned first.
        assert _valid_bytes(peer) <= pieces * PIECE

    _run(tmp_path, Origin(), body)


def test_ranges_are_delivered_before_the_rest_is_there(tmp_path: Path) -> None:
    async def body(peer: Peer, origin: Origin) -> None:
        origin.delay = SLOW
        url = origin.put("/a", DATA)
        async with asyncio.TaskGroup() as group:
            whole = group.create_task(_get(peer, url))
            await asyncio.sleep(0.3)
            # The origin is read in order: what lies further on comes when its reader is there.
            for field in (
                "0-9",
                f"5-{PIECE}",
                f"{3 * MIB}-{3 * MIB + 9},3-3",
                f"9-9,0-0,{4 * MIB}-{4 * MIB + PIECE}",
            ):
                answer = await _get(peer, url, field)
                assert answer.status_code == 206
                for span, part in parsed_parts(answer, SIZE):
                    assert part == DATA[span.start : span.stop]
            head = await peer.tcp.head("/v1/content", params={"url": url})
            assert head.headers["content-length"] == str(SIZE)
            same = await _get(peer, url, if_none_match=head.headers["etag"])
            other = await _get(peer, url, "0-9", if_match='"other"')
            beyond = await _get(peer, url, f"{SIZE}-")
            assert (same.status_code, other.status_code, beyond.status_code) == (304, 412, 416)
            assert beyond.headers["content-range"] == f"bytes */{SIZE}"
            assert not whole.done()
        assert whole.result().content == DATA

    _run(tmp_path, Origin(), body)


def test_content_of_unknown_length_has_the_ranges_that_have_an_end(tmp_path: Path) -> None:
    async def body(peer: Peer, origin: Origin) -> None:
        origin.delay = SLOW
        url = origin.put("/a", DATA[: 6 * MIB])
        near, wrong, many = await asyncio.gather(
            _get(peer, url, f"5-{MIB}"), _get(peer, url, "2-1"), _get(peer, url, f"{MIB}-{MIB},0-0")
        )
        assert near.headers["content-range"] == f"bytes 5-{MIB}/*"
        assert (near.status_code, near.content) == (206, DATA[5 : MIB + 1])
        assert wrong.status_code == 416 and "content-range" not in wrong.headers
        assert [body for _, body in parsed_parts(many, None)] == [DATA[MIB : MIB + 1], DATA[:1]]
        assert (await _get(peer, url)).content == DATA[: 6 * MIB]
        later = await _get(peer, url, f"5-{MIB}")
        assert later.headers["content-range"] == f"bytes 5-{MIB}/{6 * MIB}"

    _run(tmp_path, Origin(ranges=False, length=False), body)


@pytest.mark.parametrize("field", ["5-", "-5", f"0-0,{17 * MIB}-{17 * MIB}"])
def test_ranges_that_need_the_length_bring_all_while_nobody_knows_it(
    field: str, tmp_path: Path
) -> None:
    async def body(peer: Peer, origin: Origin) -> None:
        origin.delay = SLOW / 5
        url = origin.put("/a", SMALL)
        answer = await _get(peer, url, field)
        assert (answer.status_code, answer.content) == (200, SMALL)
        assert "content-length" not in answer.headers
        # Then it is known.
        answer = await _get(peer, url, field)
        assert answer.status_code == 206
        for span, part in parsed_parts(answer, len(SMALL)):
            assert part == SMALL[span.start : span.stop]

    _run(tmp_path, Origin(ranges=False, length=False), body)


@pytest.mark.parametrize("start", [1 << 40, 10**18 - 9])
def test_a_range_of_pieces_that_cannot_be_brings_all_while_nobody_knows_the_length(
    start: int, tmp_path: Path
) -> None:
    async def body(peer: Peer, origin: Origin) -> None:
        url = origin.put("/a", SMALL)
        answer = await _get(peer, url, f"{start}-{start + 5}")
        assert (answer.status_code, answer.content) == (200, SMALL)
        assert (await _get(peer, url, f"{start}-{start + 5}")).status_code == 416

    _run(tmp_path, Origin(ranges=False, length=False), body)


def test_a_range_beyond_the_end_waits_until_the_end_is_known(tmp_path: Path) -> None:
    async def body(peer: Peer, origin: Origin) -> None:
        url, size = origin.put("/a", SMALL), len(SMALL)
        beyond, over = await asyncio.gather(
            _get(peer, url, f"{size}-{size + 5}"), _get(peer, url, f"{size - 5}-{size + 5}")
        )
        assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{size}")
        assert (over.status_code, over.content) == (206, SMALL[-5:])
        assert over.headers["content-range"] == f"bytes {size - 5}-{size - 1}/{size}"

    _run(tmp_path, Origin(ranges=False, length=False), body)


def test_parts_that_do_not_come_are_missed(tmp_path: Path) -> None:
    async def body(peer: Peer, origin: Origin) -> None:
        url = origin.put("/a", DATA)
        assert (await _get(peer, url, "0-9")).status_code == 206
        # There is no more to be had, and what is asked for was not read yet.
        del origin.files["/a"]
        with pytest.raises(httpx.RemoteProtocolError):
            await _get(peer, url, f"0-9,{20 * PIECE}-{20 * PIECE + 9}")

    _run(tmp_path, Origin(), body)


def test_ranges_of_content_larger_than_the_store_come_in_its_order(tmp_path: Path) -> None:
    data = DATA * 4
    asked = [
        (90 * MIB, 90 * MIB + 9),
        (0, 9),
        (len(data) - 10, len(data) - 1),
        (40 * MIB, 50 * MIB),
    ]

    async def body(peer: Peer, origin: Origin) -> None:
        field = ",".join(f"{first}-{last}" for first, last in asked)
        answer = await _get(peer, origin.put("/a", data), field)
        found = [(span.start, part) for span, part in parsed_parts(answer, len(data))]
        assert found == [(first, data[first : last + 1]) for first, last in sorted(asked)]

    _run(tmp_path, Origin(), body, storage__quota=70 * MIB)
