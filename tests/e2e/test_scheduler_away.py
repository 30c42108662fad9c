"""A scheduler that goes away for good: what runs goes on, what is new waits, then decides alone."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Cluster, Daemon, Origin, fetch, wait_for

SIZE = 8 * 2**20 + 11
WAIT = 1.0
# Hosts that lost their scheduler turn to the origin after a random part of this besides.
DELAY = 3 * WAIT


@pytest.fixture
def impatient(tmp_path: Path) -> tuple[str, str]:
    config = tmp_path / "impatient.toml"
    config.write_text(f"[peer]\nscheduler_wait = {WAIT}\n")
    return "--config", str(config)


def unscheduled(daemon: Daemon) -> float:
    lines = httpx.get(f"{daemon.url}/metrics", trust_env=False).text.splitlines()
    name = "hawker_peer_unscheduled_reads_total "
    return next(float(line.removeprefix(name)) for line in lines if line.startswith(name))


def test_downloads_that_run_go_on_with_the_parents_they_know(
    cluster: Cluster, origin: Origin, tmp_path: Path, impatient: tuple[str, str]
) -> None:
    data = os.urandom(SIZE)
    url = origin.put("/running", data)
    # Longer than anybody waits for a scheduler: nobody may lose patience while bytes still come.
    origin.delay = 0.035
    scheduler, seed, peers = cluster.swarm(2, *impatient)
    with ThreadPoolExecutor() as pool:
        jobs = [pool.submit(fetch, peer, url, tmp_path / peer.port) for peer in peers]
        wait_for(lambda: origin.sent_bytes > SIZE // 5, "the seed reads")
        wait_for(lambda: all(valid_bytes(peer) for peer in peers), "both have some")
        scheduler.kill()
        assert [job.result() for job in jobs] == [(0, "")] * len(peers)
    for peer in peers:
        assert (tmp_path / peer.port).read_bytes() == data
    assert (origin.requests, origin.sent_bytes) == (1, SIZE)
    assert [unscheduled(daemon) for daemon in (seed, *peers)] == [0, 0, 0]


def valid_bytes(daemon: Daemon) -> int:
    with daemon.client() as client:
        return sum(int(stat["valid_bytes"]) for stat in client.get("/peer/v1/tasks").json())


def test_a_new_download_waits_then_reads_the_origin_and_is_counted(
    cluster: Cluster, origin: Origin, tmp_path: Path, impatient: tuple[str, str]
) -> None:
    data = os.urandom(2**20)
    url = origin.put("/new", data)
    scheduler, _, [peer, forbidden] = cluster.swarm(2, *impatient)
    scheduler.kill()

    def timed(daemon: Daemon, *flags: str) -> tuple[int, str, float]:
        began = time.monotonic()
        code, told = fetch(daemon, url, tmp_path / daemon.port, *flags)
        return code, told, time.monotonic() - began

    with ThreadPoolExecutor() as pool:
        allowed = pool.submit(timed, peer)
        refused = pool.submit(timed, forbidden, "--disable-back-to-source")
        code, told, seconds = allowed.result()
        assert (code, told) == (0, "")
        # A command takes a moment to start, and a busy machine has many.
        assert WAIT <= seconds < WAIT + DELAY + 4
        code, told, seconds = refused.result()
    assert (tmp_path / peer.port).read_bytes() == data
    assert (unscheduled(peer), origin.requests, origin.sent_bytes) == (1, 1, len(data))
    assert code == 3
    assert "the origin may not be read" in told and "Traceback" not in told
    assert WAIT <= seconds < WAIT + DELAY + 4
    assert not (tmp_path / forbidden.port).exists()
    assert unscheduled(forbidden) == 0


def test_what_was_read_without_a_scheduler_is_read_once_for_all_when_it_is_back(
    cluster: Cluster, origin: Origin, tmp_path: Path, impatient: tuple[str, str]
) -> None:
    """The reader has the beginning by a reading of its own: others go by what it says again."""
    data = os.urandom(SIZE)
    url = origin.put("/again", data)
    cluster.make_key()
    scheduler = cluster.scheduler("scheduler", *impatient)
    reader, other = (cluster.peer(name, scheduler, *impatient) for name in ("reader", "other"))
    for daemon in (reader, other):
        daemon.wait_ready()
    scheduler.kill()
    begin = {"range": f"bytes=0-{SIZE // 2}"}
    with reader.client() as client:
        part = client.get("/peer/v1/content", params={"url": url}, headers=begin)
    assert part.content == data[: SIZE // 2 + 1]
    alone = origin.sent_bytes
    assert SIZE // 2 <= alone < SIZE
    cluster.scheduler("scheduler", *impatient, "--port", scheduler.port)
    for daemon in (reader, other):
        daemon.wait_ready()
    # Only one of them may read, and that is the one that has something already.
    assert fetch(reader, url, tmp_path / "first") == (0, "")
    assert fetch(other, url, tmp_path / "second", "--disable-back-to-source") == (0, "")
    for name in ("first", "second"):
        assert (tmp_path / name).read_bytes() == data
    assert origin.sent_bytes <= SIZE + 2**20, "no piece was read twice"


def test_a_lone_peer_does_not_read_on_for_a_client_that_left(
    cluster: Cluster, origin: Origin
) -> None:
    peer = cluster.start("peer", "serve", "peer", "--cluster-key", str(cluster.key))
    peer.wait_ready()
    data = os.urandom(32 * 2**20)
    # Which would take 25 s to its end.
    origin.delay = 0.05
    url = origin.put("/left", data)
    with peer.client() as client, client.stream(
        "GET", "/peer/v1/content", params={"url": url}
    ) as answer:  # fmt: skip
        next(answer.iter_raw())
    wait_for(lambda: peer.metric("hawker_peer_tasks_reading") == 0, "it is not read on", 20)
    assert origin.sent_bytes < len(data)
    origin.delay = 0.0
    with peer.client() as client:
        assert client.get("/peer/v1/content", params={"url": url}).content == data
    assert origin.sent_bytes < len(data) + 8 * 2**20
