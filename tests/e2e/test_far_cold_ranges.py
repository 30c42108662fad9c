"""Small parts that somebody waits for are read beside what is read already, and nothing twice."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.e2e.conftest import Cluster, Daemon, wait_for
from tests.e2e.served import Quiet, Served

MIB = 2**20
# Cut in pieces of 256 KiB.
PIECE = 256 * 1024
SIZE = 48 * MIB
DEADLINE = 30.0


class Gated:
    """An origin of one file whose answers are held back after their first piece, until `let_go`.

    `asked` are the ranges asked for, with the condition they came with; `sent` is how often each
    piece was sent; `failing` are places whose next request is answered by 500.
    """

    def __init__(self) -> None:
        self.data = os.urandom(SIZE)
        self.asked: list[tuple[int, int, str]] = []
        self.sent = [0] * (SIZE // PIECE)
        self._gate = threading.Condition()
        self._let: set[int] = set()
        self._open = False
        self.failing: set[int] = set()
        gated = self

        class Handler(Quiet):
            def do_GET(self) -> None:
                gated.answer(self)

        self._served = Served(Handler)
        self.url = f"{self._served.url}/file"

    def answer(self, request: Quiet) -> None:
        first, _, last = request.headers["range"].removeprefix("bytes=").partition("-")
        start, stop = int(first), min(int(last) + 1 if last else SIZE, SIZE)
        self.asked.append((start, stop, request.headers.get("if-match", "")))
        if start in self.failing:
            self.failing.discard(start)
            request.send_response(500)
            request.send_header("content-length", "0")
            request.end_headers()
            return
        request.send_response(206)
        request.send_header("content-range", f"bytes {start}-{stop - 1}/{SIZE}")
        request.send_header("content-length", str(stop - start))
        request.send_header("etag", '"one"')
        request.send_header("accept-ranges", "bytes")
        request.end_headers()
        for offset in range(start, stop, PIECE):
            if offset > start:
                with self._gate:
                    self._gate.wait_for(lambda: self._open or start in self._let, DEADLINE)
            try:
                request.wfile.write(self.data[offset : min(stop, offset + PIECE)])
            except OSError:
                # The test is over.
                request.close_connection = True
                return
            if stop - start > 1:
                self.sent[offset // PIECE] += 1

    def let_go(self, *starts: int) -> None:
        """Let the answers that begin here go on; all of them where none is named."""
        with self._gate:
            self._let |= set(starts)
            self._open = self._open or not starts
            self._gate.notify_all()

    def close(self) -> None:
        self.let_go()
        self._served.close()


@pytest.fixture
def origin() -> Iterator[Gated]:
    made = Gated()
    yield made
    made.close()


@pytest.fixture
def peer(cluster: Cluster) -> Daemon:
    """A peer whose seed reads the origin."""
    _, _, [peer] = cluster.swarm(1)
    return peer


def read(peer: Daemon, origin: Gated, start: int, size: int) -> bytes:
    fields = {"range": f"bytes={start}-{start + size - 1}"}
    with peer.client() as client:
        answer = client.get(
            "/peer/v1/content", params={"url": origin.url}, headers=fields, timeout=DEADLINE
        )
    assert answer.status_code == 206, answer.text
    return answer.content


def begun(pool: ThreadPoolExecutor, peer: Daemon, origin: Gated) -> Future[bytes]:
    """A long reading that stands still at the origin."""
    long = pool.submit(read, peer, origin, 0, 16 * MIB)
    wait_for(lambda: any(stop - start > PIECE for start, stop, _ in origin.asked), "no reading")
    return long


def test_a_far_range_does_not_wait_for_what_is_being_read(peer: Daemon, origin: Gated) -> None:
    far = 32 * MIB + 5
    with ThreadPoolExecutor() as pool:
        long = begun(pool, peer, origin)
        try:
            assert read(peer, origin, far, 1000) == origin.data[far : far + 1000]
            assert not long.done()
            # Of what is under way nothing is asked for again.
            start, stop, condition = origin.asked[-1]
            assert (start, stop, condition) == (32 * MIB, 32 * MIB + PIECE, '"one"')
        finally:
            origin.let_go()
        assert long.result() == origin.data[: 16 * MIB]
    assert origin.sent == [1] * 64 + [0] * 64 + [1] + [0] * 63


def test_a_part_that_could_not_be_read_beside_is_read_afterwards(
    peer: Daemon, origin: Gated
) -> None:
    far = 32 * MIB
    origin.failing = {far}
    with ThreadPoolExecutor() as pool:
        long = begun(pool, peer, origin)
        small = pool.submit(read, peer, origin, far, 1000)
        wait_for(lambda: not origin.failing, "it was not asked for")
        origin.let_go()
        assert small.result() == origin.data[far : far + 1000]
        assert long.result() == origin.data[: 16 * MIB]
    assert origin.sent == [1] * 64 + [0] * 64 + [1] + [0] * 63


def test_who_waits_longest_is_served_first(peer: Daemon, origin: Gated) -> None:
    # As many as are read beside the long one, and each of two pieces, to be held back.
    places = [44 * MIB, 42 * MIB, 40 * MIB]
    later = [36 * MIB, 30 * MIB, 24 * MIB]
    with ThreadPoolExecutor(8) as pool:
        long = begun(pool, peer, origin)
        try:
            reads = []
            for place in places:
                reads.append(pool.submit(read, peer, origin, place, 2 * PIECE))
            wait_for(lambda: set(places) <= set(starts(origin)), "they were not asked for")
            for place in later:
                asked = pool.submit(read, peer, origin, place, 1000)
                reads.append(asked)
                # There is nothing to be seen of what waits.
                threading.Event().wait(0.5)
            assert not set(later) & set(starts(origin)), "more at once than is polite"
            # One is over, and the others take its place in turn.
            origin.let_go(places[0])
            for asked in reads[-3:]:
                asked.result()
        finally:
            origin.let_go()
        for place, asked in zip((*places, *later), reads, strict=True):
            assert asked.result() == origin.data[place : place + len(asked.result())]
        assert long.result() == origin.data[: 16 * MIB]
    assert [start for start in starts(origin) if start in later] == later
    assert max(origin.sent) == 1


def starts(origin: Gated) -> list[int]:
    return [start for start, _, _ in origin.asked]
