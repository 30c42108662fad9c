"""Content larger than the store's quota passes through a window of it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.conftest import Cluster, Daemon, Origin, wait_for

MIB = 2**20
QUOTA = 96 * MIB
SIZE = 160 * MIB


def stored_bytes(daemon_data: str) -> int:
    total = 0
    for directory, _, names in os.walk(os.path.join(daemon_data, "content")):
        for name in names:
            # It may go while it is looked at.
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(directory, name)).st_blocks * 512
    return total


class Watch:
    """The most that a node's store takes on disk while inside."""

    def __init__(self, node: Daemon) -> None:
        self.most = 0
        self._node = node
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._over.wait(0.02):
            self.most = max(self.most, stored_bytes(str(self._node.data)))

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._over.set()
        self._thread.join()


def test_content_larger_than_the_quota_streams_through_and_is_not_kept(
    cluster: Cluster, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAWKER_STORAGE__QUOTA", str(QUOTA))
    data = os.urandom(SIZE)
    url = origin.put("/large", data)
    peer = cluster.start("peer", "serve", "peer")
    hasher = hashlib.sha256()
    most = 0
    with (
        peer.client() as client,
        client.stream("GET", "/peer/v1/content", params={"url": url}) as answer,
    ):
        for number, chunk in enumerate(answer.iter_raw(2**20)):
            hasher.update(chunk)
            if number == 8:
                with peer.client() as asking:
                    most = asking.get("/peer/v1/tasks").json()[0]["valid_bytes"]
                assert _second_reader_is_refused(peer.socket, url)
    assert hasher.hexdigest() == hashlib.sha256(data).hexdigest()
    assert 0 < most <= QUOTA
    assert origin.requests == 1
    with peer.client() as client:
        refused = client.post("/peer/v1/downloads", json={"url": url})
        assert '"urn:hawker:problem:quota"' in refused.text.splitlines()[-1]
        assert client.get("/peer/v1/tasks").json() == []
    assert stored_bytes(str(peer.data)) == 0


def _second_reader_is_refused(socket: str, url: str) -> bool:
    transport = httpx.HTTPTransport(uds=socket)
    with httpx.Client(transport=transport, base_url="http://daemon", timeout=30) as client:
        answer = client.get("/peer/v1/content", params={"url": url})
    return answer.status_code == 507 and answer.json()["type"] == "urn:hawker:problem:quota"


@pytest.fixture(params=["alone", "scheduled"])
def peer(
    request: pytest.FixtureRequest, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> Daemon:
    """A peer with a small store, that decides by itself, or has a scheduler."""
    monkeypatch.setenv("HAWKER_STORAGE__QUOTA", str(QUOTA))
    if request.param == "alone":
        return cluster.start("peer", "serve", "peer")
    cluster.make_key()
    started = cluster.peer("peer", cluster.scheduler())
    started.wait_ready()
    return started


@pytest.fixture
def whole_origin() -> Iterator[Origin]:
    """It has no ranges."""
    made = Origin(ranges=False)
    yield made
    made.close()


def ask(peer: Daemon, url: str, **fields: str) -> httpx.Response:
    with peer.client() as client:
        return client.get("/peer/v1/content", params={"url": url}, headers=fields)


def kept_nothing(peer: Daemon) -> bool:
    with peer.client() as client:
        tasks = client.get("/peer/v1/tasks").json()
    return tasks == [] and stored_bytes(str(peer.data)) == 0


def test_a_far_range_of_an_origin_without_ranges_comes_by(
    peer: Daemon, whole_origin: Origin
) -> None:
    data = os.urandom(SIZE)
    url = whole_origin.put("/large", data)
    first, last = SIZE - 10 * MIB + 5, SIZE - 9 * MIB
    with Watch(peer) as watch:
        for _ in range(2):
            before = whole_origin.requests
            answer = ask(peer, url, range=f"bytes={first}-{last}")
            assert (answer.status_code, answer.content) == (206, data[first : last + 1])
            assert whole_origin.requests == before + 1
            wait_for(lambda: kept_nothing(peer), "nothing of it is kept", 10)
            # What is read and not kept is not here.
            with peer.client() as client:
                refused = client.post("/peer/v1/downloads", json={"url": url})
            assert '"urn:hawker:problem:quota"' in refused.text.splitlines()[-1]
    # What nobody waits for is not stored; a piece is 1 MiB.
    assert watch.most <= 16 * MIB


def test_parts_far_from_each_other_come_in_their_order(peer: Daemon, whole_origin: Origin) -> None:
    data = os.urandom(SIZE)
    url = whole_origin.put("/large", data)
    spans = [(SIZE - 7, SIZE - 1), (MIB, 2 * MIB + 1), (100 * MIB, 101 * MIB)]
    wanted = ",".join(f"{first}-{last}" for first, last in spans)
    with Watch(peer) as watch:
        answer = ask(peer, url, range=f"bytes={wanted}")
        assert answer.status_code == 206
    at = 0
    for first, last in sorted(spans):
        at = answer.content.find(data[first : last + 1], at)
        assert at > 0
    assert whole_origin.requests == 1
    assert watch.most <= 80 * MIB


def test_a_range_that_turns_out_to_be_all_begins_at_the_start(
    peer: Daemon, whole_origin: Origin
) -> None:
    data = os.urandom(SIZE)
    url = whole_origin.put("/large", data)
    answer = ask(peer, url, **{"range": f"bytes={150 * MIB}-", "if-range": '"another"'})
    assert answer.status_code == 200
    assert sha256(answer.content) == sha256(data)


def test_one_stream_is_one_request_and_for_nobody_else(peer: Daemon, whole_origin: Origin) -> None:
    data = os.urandom(SIZE)
    url = whole_origin.put("/large", data)
    with (
        peer.client() as client,
        client.stream("GET", "/peer/v1/content", params={"url": url}) as answer,
    ):
        hasher, refused = hashlib.sha256(), False
        for chunk in answer.iter_raw(MIB):
            hasher.update(chunk)
            if whole_origin.sent_bytes == SIZE and not refused:
                # All was read, and its end is not delivered yet: it is not here for others.
                with peer.client() as asking:
                    lines = asking.post("/peer/v1/downloads", json={"url": url}).text.splitlines()
                refused = '"urn:hawker:problem:quota"' in lines[-1]
                assert refused, lines[-1]
    assert refused and hasher.digest() == sha256(data)
    assert whole_origin.requests == 1


@pytest.mark.parametrize("ranges", [False, True])
def test_what_a_reader_left_is_read_no_further(peer: Daemon, ranges: bool) -> None:
    origin = Origin(ranges=ranges)
    try:
        data = os.urandom(SIZE)
        url = origin.put("/large", data)
        with Watch(peer) as watch:
            for _ in range(3):
                with (
                    peer.client() as client,
                    client.stream("GET", "/peer/v1/content", params={"url": url}) as answer,
                ):
                    assert answer.status_code == 200
                    next(answer.iter_raw(MIB))
            # Who comes right after has it.
            answer = ask(peer, url)
            assert answer.status_code == 200
            assert sha256(answer.content) == sha256(data)
        assert watch.most <= QUOTA
        wait_for(lambda: kept_nothing(peer), "nothing of it is kept", 10)
    finally:
        origin.close()


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
