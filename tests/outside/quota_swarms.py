"""A tenant's quotas hold over all hosts of a cluster: counted by origins, clients and disks."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from hawker.core.tokens import ClusterKey, read_key_file
from tests.e2e.conftest import Cluster, Daemon, Origin, fetch, wait_for
from tests.e2e.hostile_origin import HostileOrigin, good
from tests.e2e.test_hostile_origins import ask
from tests.e2e.test_origin_limits import Watch

MIB = 2**20
# What quotas may be passed by.
ABOVE = 1.05


def limits(cluster: Cluster, **quotas: int) -> list[str]:
    """Flags of a scheduler by which the tenant `default` has these quotas."""
    file = cluster.root / "quotas.toml"
    file.write_text("\n".join(["[tenants.default]", *(f"{k} = {v}" for k, v in quotas.items())]))
    return ["--config", str(file)]


def start(cluster: Cluster, peers: int, **quotas: int) -> tuple[Daemon, list[Daemon]]:
    """A scheduler that knows of quotas, a seed, and peers; the scheduler and the others."""
    cluster.make_key()
    scheduler = cluster.scheduler("scheduler", *limits(cluster, **quotas))
    made = [cluster.peer("seed", scheduler, "--seed")]
    made += [cluster.peer(f"peer-{number}", scheduler) for number in range(peers)]
    for daemon in made:
        daemon.wait_ready()
    return scheduler, made


def problem(peer: Daemon, url: str, timeout: float = 60.0) -> dict[str, Any]:
    """Why a download fails."""
    kind, outcome = ask(peer, url, timeout=timeout)
    assert kind == "quota" and isinstance(outcome, dict), kind
    return outcome


def used(cluster: Cluster, scheduler: Daemon) -> dict[str, Any]:
    token = ClusterKey(read_key_file(cluster.key)).mint("", ["tasks"])
    answer = httpx.get(
        f"{scheduler.url}/scheduler/v1/tenants",
        headers={"authorization": f"Bearer {token}"},
        trust_env=False,
    )
    [usage] = answer.json()
    found: dict[str, Any] = usage
    return found


@pytest.fixture
def hostile() -> Iterator[HostileOrigin]:
    made = HostileOrigin()
    yield made
    made.close()


class Meter:
    """Bytes that clients got, with when they came."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.arrived: list[tuple[float, int]] = []

    def stream(self, daemon: Daemon, url: str) -> int:
        """`GET content` to its end; returns the bytes of the body."""
        size = 0
        with daemon.client() as client:
            with client.stream("GET", "/peer/v1/content", params={"url": url}) as answer:
                assert answer.status_code == 200, answer.read()
                for chunk in answer.iter_bytes(64 * 1024):
                    size += len(chunk)
                    with self._lock:
                        self.arrived.append((time.monotonic(), len(chunk)))
        return size

    def rate(self, since: float, until: float) -> float:
        """Bytes per second between two moments."""
        return sum(size for at, size in self.arrived if since <= at < until) / (until - since)


def test_downloads_beyond_the_quota_wait_for_their_turn(
    cluster: Cluster, hostile: HostileOrigin, tmp_path: Path
) -> None:
    scheduler, made = start(cluster, 2, concurrent_downloads=2)
    watch, contents = Watch(0.5), [os.urandom(300_000) for _ in range(8)]
    urls = [hostile.put(f"/{n}", watch(good(data))) for n, data in enumerate(contents)]
    with ThreadPoolExecutor(len(urls)) as pool:
        jobs = [
            pool.submit(fetch, made[n % len(made)], url, tmp_path / f"{n}")
            for n, url in enumerate(urls)
        ]
        wait_for(lambda: used(cluster, scheduler)["waiting"] >= 4, "the others wait")
        assert used(cluster, scheduler)["concurrent_downloads"] == 2
        assert [job.result() for job in jobs] == [(0, "")] * len(urls)
    assert watch.most == 2, "as the origin sees it"
    for number, data in enumerate(contents):
        assert (tmp_path / f"{number}").read_bytes() == data


def test_a_client_that_waits_no_longer_is_told_and_one_that_leaves_is_forgotten(
    cluster: Cluster, origin: Origin
) -> None:
    scheduler, [_, peer] = start(cluster, 1, concurrent_downloads=1)
    origin.delay = 0.2
    slow, other = origin.put("/slow", os.urandom(2 * MIB)), origin.put("/other", b"content")
    with ThreadPoolExecutor() as pool:
        running = pool.submit(ask, peer, slow)
        wait_for(lambda: used(cluster, scheduler)["concurrent_downloads"] == 1, "it runs")
        with peer.client() as client:
            # Who does not wait at all needs a place all the same, also for what is coming already.
            wait_for(lambda: client.get("/peer/v1/tasks").json(), "it is coming")
            with client.stream(
                "GET", "/peer/v1/content", params={"url": slow}, headers={"prefer": "wait=0"}
            ) as refused:
                assert refused.status_code == 429
            answer = client.get(
                "/peer/v1/content", params={"url": other}, headers={"prefer": "wait=1"}
            )
            assert answer.status_code == 429
            told = answer.json()
            assert told["type"] == "urn:hawker:problem:quota"
            assert "concurrent_downloads" in told["hint"]
            assert int(answer.headers["retry-after"]) >= 1
            with pytest.raises(httpx.ReadTimeout):
                client.get("/peer/v1/content", params={"url": other}, timeout=0.5)
        wait_for(lambda: used(cluster, scheduler)["waiting"] == 0, "nobody waits any more")
        assert problem(peer, other, timeout=1.0)["status"] == 429
        assert running.result()[0] == "ok"
    assert ask(peer, other) == ("ok", b"content")


def test_all_downloads_together_are_as_fast_as_the_quota(cluster: Cluster, origin: Origin) -> None:
    rate = 4 * MIB
    _, made = start(cluster, 3, bandwidth=rate)
    meter, size = Meter(), 16 * MIB
    urls = [origin.put(f"/{number}", os.urandom(size)) for number in range(len(made))]
    began = time.monotonic()
    with ThreadPoolExecutor(len(made)) as pool:
        got = list(pool.map(meter.stream, made, urls))
    took = time.monotonic() - began
    assert got == [size] * len(made)
    assert sum(got) / took <= rate * ABOVE
    for second in range(int(took) - 3):
        # Any three seconds, but for what was in buffers between peer and client.
        assert meter.rate(began + second, began + second + 3) <= rate * 1.15
    # As they end the others get their parts.
    assert sum(got) / took >= rate * 0.8


def test_downloads_into_the_store_keep_to_the_quota_too(
    cluster: Cluster, origin: Origin, tmp_path: Path
) -> None:
    rate = 4 * MIB
    _, made = start(cluster, 2, bandwidth=rate)
    data = os.urandom(12 * MIB)
    url = origin.put("/all", data)
    began = time.monotonic()
    with ThreadPoolExecutor(len(made)) as pool:
        outs = [tmp_path / str(number) for number in range(len(made))]
        results = list(pool.map(lambda daemon, out: fetch(daemon, url, out), made, outs))
    took = time.monotonic() - began
    assert results == [(0, "")] * len(made)
    assert all(out.read_bytes() == data for out in outs)
    assert len(made) * len(data) / took <= rate * ABOVE
    assert origin.sent_bytes == len(data)


def test_no_more_than_the_budget_is_read_from_origins(cluster: Cluster, origin: Origin) -> None:
    budget = 64 * MIB
    scheduler, made = start(cluster, 2, origin_bytes=budget)
    urls = [origin.put(f"/{number}", os.urandom(10 * MIB)) for number in range(9)]
    for number, url in enumerate(urls[:6]):
        assert ask(made[1 + number % 2], url)[0] == "ok"
    for number, url in enumerate(urls[6:]):
        told = problem(made[1 + number % 2], url)
        assert told["status"] == 429
        assert 0 < told["retry_after"] <= 86_400
        assert str(budget) in told["detail"]
    assert budget / ABOVE <= origin.sent_bytes <= budget * ABOVE
    assert origin.requests == 7, "who may read nothing at all does not ask"
    assert origin.sent_bytes <= used(cluster, scheduler)["origin_bytes"]
    # What is stored somewhere needs no origin.
    assert ask(made[0], urls[0])[0] == "ok"


def test_a_period_s_end_gives_a_new_budget(cluster: Cluster, origin: Origin) -> None:
    _, [_, peer] = start(cluster, 1, origin_bytes=2 * MIB, origin_period=8)
    # Not at the very end of one.
    time.sleep(max(0.0, 4 - (8 - time.time() % 8)))
    assert ask(peer, origin.put("/a", os.urandom(2 * MIB)))[0] == "ok"
    url = origin.put("/b", os.urandom(2 * MIB))
    time.sleep(problem(peer, url)["retry_after"] + 0.5)
    assert ask(peer, url)[0] == "ok"


def on_disk(daemon: Daemon) -> int:
    """Bytes that content takes on a host's disk."""
    files = (daemon.data / "content").rglob("*")
    return sum(file.stat().st_blocks * 512 for file in files if file.is_file())


def test_the_oldest_unused_content_of_the_cluster_makes_room(
    cluster: Cluster, origin: Origin
) -> None:
    quota = 20 * MIB
    scheduler, made = start(cluster, 2, stored_bytes=quota)
    urls = [origin.put(f"/{number}", os.urandom(4 * MIB)) for number in range(8)]
    # The seed reads each for a peer: two copies.
    for number, url in enumerate(urls):
        assert ask(made[1 + number % 2], url)[0] == "ok"
        wait_for(lambda: sum(map(on_disk, made)) <= quota * ABOVE, "it is within the quota")
    assert sum(map(on_disk, made)) >= quota / 2
    assert used(cluster, scheduler)["stored_bytes"] <= quota
    with made[1].client() as client:
        stored = {task["spec"]["url"] for task in client.get("/peer/v1/tasks").json()}
    assert urls[0] not in stored and urls[6] in stored
    told = problem(made[1], origin.put("/large", os.urandom(quota + 1)))
    assert told["status"] == 429
    assert "'default'" in told["detail"] and str(quota) in told["detail"]


def test_content_of_unknown_length_is_cut_where_the_budget_ends(
    cluster: Cluster, plain_origin: Origin
) -> None:
    budget = 128 * MIB
    _, made = start(cluster, 1, origin_bytes=budget)
    url = plain_origin.put("/endless", os.urandom(160 * MIB))
    meter = Meter()
    with pytest.raises(httpx.RemoteProtocolError):
        meter.stream(made[1], url)
    assert problem(made[1], url)["status"] == 429
    assert budget / ABOVE <= plain_origin.sent_bytes <= budget * ABOVE
    assert plain_origin.requests == 1
    with made[1].client() as client:
        assert not any(task["complete"] for task in client.get("/peer/v1/tasks").json())


def test_content_of_unknown_length_is_stored_no_further_than_the_quota(
    cluster: Cluster, plain_origin: Origin
) -> None:
    quota = 24 * MIB
    scheduler, made = start(cluster, 1, stored_bytes=quota)
    url = plain_origin.put("/endless", os.urandom(40 * MIB))
    assert problem(made[1], url)["status"] == 429
    assert sum(map(on_disk, made)) <= quota * ABOVE
    # What is of no use any more makes room again.
    small = os.urandom(8 * MIB)
    assert ask(made[1], plain_origin.put("/small", small)) == ("ok", small)
    assert used(cluster, scheduler)["stored_bytes"] <= quota
