"""Each way to run Hawker moves a real file between real processes."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.conftest import Cluster, Daemon, Origin, fetch


def get_at_all(daemons: list[Daemon], url: str, directory: Path) -> None:
    """All at once; every one must succeed."""
    with ThreadPoolExecutor(len(daemons)) as pool:
        jobs = [
            pool.submit(fetch, daemon, url, directory / f"out-{number}")
            for number, daemon in enumerate(daemons)
        ]
        for job in jobs:
            assert job.result() == (0, "")


@pytest.mark.parametrize("size", [0, 1, 5 * 2**20 + 17])
def test_a_swarm_reads_the_origin_once(
    cluster: Cluster, origin: Origin, tmp_path: Path, size: int
) -> None:
    data = os.urandom(size)
    url = origin.put("/file", data)
    _, _, peers = cluster.swarm(3)
    get_at_all(peers, url, tmp_path)
    for number in range(len(peers)):
        assert (tmp_path / f"out-{number}").read_bytes() == data
    assert (origin.requests, origin.sent_bytes) == (1, size)


def test_without_a_seed_one_peer_reads_for_all(
    cluster: Cluster, origin: Origin, tmp_path: Path
) -> None:
    data = os.urandom(3 * 2**20)
    url = origin.put("/seedless", data)
    cluster.make_key()
    scheduler = cluster.scheduler()
    peers = [cluster.peer(f"peer-{number}", scheduler) for number in range(2)]
    for daemon in peers:
        daemon.wait_ready()
    get_at_all(peers, url, tmp_path)
    assert {(tmp_path / f"out-{n}").read_bytes() == data for n in range(2)} == {True}
    assert (origin.requests, origin.sent_bytes) == (1, len(data))


def test_an_origin_without_ranges_and_length_is_read_once_too(
    cluster: Cluster, plain_origin: Origin, tmp_path: Path
) -> None:
    data = os.urandom(3 * 2**20 + 5)
    url = plain_origin.put("/stream", data)
    _, _, peers = cluster.swarm(2)
    get_at_all(peers, url, tmp_path)
    assert {(tmp_path / f"out-{n}").read_bytes() == data for n in range(2)} == {True}
    assert (plain_origin.requests, plain_origin.sent_bytes) == (1, len(data))


def test_up_is_a_whole_cluster_and_keeps_content_over_a_restart(
    cluster: Cluster, origin: Origin, tmp_path: Path
) -> None:
    data = os.urandom(2 * 2**20)
    url = origin.put("/up", data)
    first = cluster.start("up", "up")
    first.wait_ready()
    assert fetch(first, url, tmp_path / "one") == (0, "")
    first.kill()
    second = cluster.start("up", "up")
    second.wait_ready()
    peer = cluster.start(
        "peer", "serve", "peer", "--scheduler", second.url,
        "--cluster-key", str(cluster.root / "up" / "cluster.key"),
    )  # fmt: skip
    peer.wait_ready()
    assert fetch(peer, url, tmp_path / "two") == (0, "")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes() == data
    assert origin.requests == 1, "the second daemon had it stored, and the peer took it from there"


def test_a_peer_without_scheduler_reads_the_origin_itself(
    cluster: Cluster, origin: Origin, tmp_path: Path
) -> None:
    data = os.urandom(2**20)
    url = origin.put("/lone-peer", data)
    peer = cluster.start("peer", "serve", "peer")
    assert fetch(peer, url, tmp_path / "out") == (0, "")
    assert fetch(peer, url, tmp_path / "again") == (0, "")
    assert (tmp_path / "again").read_bytes() == data
    assert origin.requests == 1


def test_a_killed_parent_is_replaced_and_a_killed_child_continues(
    cluster: Cluster, origin: Origin, tmp_path: Path
) -> None:
    data = os.urandom(24 * 2**20)
    url = origin.put("/killed", data)
    _, seed, peers = cluster.swarm(3)
    assert fetch(peers[0], url, tmp_path / "first") == (0, "")
    seed.kill()
    get_at_all(peers[1:], url, tmp_path)
    assert {(tmp_path / f"out-{n}").read_bytes() == data for n in range(2)} == {True}
    assert origin.requests == 1
    assert origin.sent_bytes == len(data)


def test_two_peers_that_ask_for_parts_cost_the_origin_only_those_parts(
    cluster: Cluster, origin: Origin
) -> None:
    data = os.urandom(16 * 2**20)
    url = origin.put("/parts", data)
    cluster.make_key()
    scheduler = cluster.scheduler()
    seed = cluster.peer("seed", scheduler, "--seed")
    peer = cluster.peer("peer", scheduler)
    for daemon in (seed, peer):
        daemon.wait_ready()
    with peer.client() as client:
        for start, stop in (
            (5_000_000, 5_000_100),
            (5_000_050, 5_000_150),
            (12_000_000, 12_600_000),
        ):
            answer = client.get(
                "/peer/v1/content",
                params={"url": url},
                headers={"range": f"bytes={start}-{stop - 1}"},
            )
            assert answer.status_code == 206
            assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(data)}"
            assert answer.content == data[start:stop]
    assert origin.sent_bytes < 2 * 2**20


def test_many_who_ask_one_peer_share_one_download(cluster: Cluster, origin: Origin) -> None:
    data = os.urandom(6 * 2**20)
    url = origin.put("/shared", data)
    peer = cluster.start("peer", "serve", "peer")

    def ask(_: int) -> bytes:
        with peer.client() as client:
            return client.get("/peer/v1/content", params={"url": url}).content

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(8))) == {data}
    assert (origin.requests, origin.sent_bytes) == (1, len(data))


def test_compressible_content_crosses_the_wire_smaller_and_arrives_whole(
    cluster: Cluster, origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (b"the same words again and again, " * 64 + os.urandom(256)) * 2048
    url = origin.put("/words", data)
    cluster.make_key()
    scheduler = cluster.scheduler()
    seed = cluster.peer("seed", scheduler, "--seed")
    monkeypatch.setenv("HAWKER_PEER__COMPRESSION", "true")
    peer = cluster.peer("peer", scheduler)
    for daemon in (seed, peer):
        daemon.wait_ready()
    assert fetch(peer, url, tmp_path / "out") == (0, "")
    assert (tmp_path / "out").read_bytes() == data
    with seed.client() as client:
        metrics = client.get("/metrics").text.splitlines()
    name = "hawker_peer_uploaded_bytes_total"
    sent = next(float(line.split()[1]) for line in metrics if line.startswith(name))
    assert 0 < sent < len(data) / 2


def test_a_wrong_digest_is_told_and_nothing_is_delivered(
    cluster: Cluster, origin: Origin, tmp_path: Path
) -> None:
    url = origin.put("/digest", os.urandom(2**20))
    peer = cluster.start("peer", "serve", "peer")
    code, message = fetch(peer, url, tmp_path / "out", "--digest", "sha256:" + "0" * 64)
    assert code == 5
    assert "sha256:" in message and "Traceback" not in message
    assert list(tmp_path.glob("out*")) == []
