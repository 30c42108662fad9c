"""A cluster that a manager looks after: made by HTTP alone, told what to do while it works, and at
work without its manager."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Cluster, Origin, hawker, wait_for
from tests.e2e.managed import Host, Managed
from tests.e2e.test_metrics import documented

MIB = 2**20
RATE = 200_000


@pytest.fixture
def managed(cluster: Cluster) -> Iterator[Managed]:
    made = Managed(cluster)
    yield made
    made.api.close()


def shows(host: Host, name: str, value: float, what: str) -> None:
    """Wait until a figure of a host is this."""
    wait_for(lambda: host.daemon.metric(name) == value, what)


def url_of(origin: Origin, name: str, size: int) -> tuple[str, bytes]:
    data = os.urandom(size)
    return origin.put(f"/{name}", data), data


def test_a_cluster_is_made_by_http_and_its_origin_is_read_once_at_the_rate_it_is_told(
    managed: Managed, origin: Origin, capsys: pytest.CaptureFixture[str]
) -> None:
    scheduler, seed, (one, two) = managed.swarm(2)
    url, data = url_of(origin, "first", 5 * MIB + 17)
    assert one.get(url) == data and two.get(url) == data
    assert (origin.requests, origin.sent_bytes) == (1, len(data))
    assert all(host.daemon.url.startswith("https://") for host in (scheduler, seed, one, two))

    # Some 8 MB/s as far as the origin is concerned.
    origin.delay = 0.008
    url, data = url_of(origin, "second", 32 * MIB)
    got: list[bytes] = []
    getting = threading.Thread(target=lambda: got.append(one.get(url)))
    before = seed.daemon.metric("hawker_peer_origin_bytes_total")

    def read() -> float:
        return seed.daemon.metric("hawker_peer_origin_bytes_total") - before

    getting.start()
    try:
        wait_for(lambda: read() > MIB, "it is being read")
        began = time.monotonic()
        managed.change(schedulers={"origin_rate": RATE})
        limit = "hawker_scheduler_origin_rate_limit_bytes"
        shows(scheduler, limit, RATE, "the scheduler grants that rate")
        told = time.monotonic() - began
        # What the reader had taken by then, and a moment for it to hear of it.
        time.sleep(1.0)
        since, middle = time.monotonic(), read()
        time.sleep(3.0)
        rate = (read() - middle) / (time.monotonic() - since)
        assert read() < len(data), "it is still in the middle"
        assert rate < 2 * RATE, f"{rate:.0f} bytes per second"
        managed.change(schedulers={})
        shows(scheduler, limit, 0, "there is no limit any more")
    finally:
        getting.join()
    with capsys.disabled():
        print(f"\na new origin_rate held after {told:.2f} s; read then: {rate:.0f} B/s of {RATE}")
    assert got == [data]
    assert (origin.requests, origin.sent_bytes) == (2, len(data) + 5 * MIB + 17)


def test_who_drains_gives_what_it_gives_and_nothing_to_others(
    managed: Managed, origin: Origin
) -> None:
    scheduler, _, (one, two, three) = managed.swarm(3)
    url, data = url_of(origin, "content", 5 * MIB)
    assert one.get(url) == data
    managed.drain(one)
    wait_for(
        lambda: {h["host"]: h["draining"] for h in scheduler.sees("hosts")}[one.id],
        "the scheduler knows that it drains",
    )
    assert managed.member(one)["state"] == "draining"
    assert two.get(url) == data and three.get(url) == data
    assert one.daemon.metric("hawker_peer_uploaded_bytes_total") == 0
    assert origin.requests == 1
    other, more = url_of(origin, "other", MIB)
    assert one.get(other) == more, "its own users are served"
    managed.drain(one, False)
    wait_for(
        lambda: not {h["host"]: h["draining"] for h in scheduler.sees("hosts")}[one.id],
        "it is back",
    )


def test_who_is_removed_ends_and_is_let_in_nowhere(managed: Managed, origin: Origin) -> None:
    scheduler, _, (one, two) = managed.swarm(2)
    host = one.id
    managed.remove(one)
    wait_for(lambda: one.daemon.process.poll() is not None, "its process ends")
    assert one.daemon.process.poll() == 4
    assert "ERROR" in one.log.read_text() and "was removed from the cluster eu" in (
        one.log.read_text()
    )
    assert "Traceback" not in one.log.read_text()
    wait_for(
        lambda: host not in {h["host"] for h in scheduler.sees("hosts")},
        "it is in no swarm any more",
    )
    assert _announced_again(one, scheduler) == 403
    url, data = url_of(origin, "content", 3 * MIB)
    assert two.get(url) == data
    done = hawker("serve", "peer", "--port", "0", "--data", str(one.daemon.data))
    assert done.returncode == 2 and b"`hawker leave` and join again" in done.stderr
    again = managed.join("peer", "peer-0")
    assert again.returncode == 2 and b"has joined a cluster already" in again.stderr


def _announced_again(host: Host, scheduler: Host) -> int:
    """The status that a host gets which announces itself with all it has."""
    from hawker.core.messages import HostAnnouncement, encode
    from hawker.core.storage.identity import load_host_key
    from hawker.core.tokens import ClusterKey, read_key_file

    key = load_host_key(host.daemon.data)
    token = ClusterKey(read_key_file(host.folder / "cluster.key"), own=key).mint(
        key.host, ["announce"]
    )
    body = encode(HostAnnouncement("https://127.0.0.1:1/peer", key.public, "boot"))
    with scheduler.client() as client:
        answer = client.put(
            f"/scheduler/v1/hosts/{key.host}",
            content=body,
            headers={"authorization": f"Bearer {token}"},
        )
    return answer.status_code


def test_all_goes_on_without_the_manager_and_with_it_again(
    managed: Managed, origin: Origin
) -> None:
    scheduler, seed, (one, two) = managed.swarm(2)
    managed.change(peers={"upload_slots": 3}, schedulers={"origin_reads": 2})
    slots = "hawker_peer_upload_slots"
    reads = "hawker_scheduler_origin_reads_limit"
    shows(one, slots, 3, "the peer does what it is told")
    shows(scheduler, reads, 2, "the scheduler does what it is told")
    managed.daemon.kill()
    one.daemon.kill()
    two.daemon.stop()
    scheduler.daemon.kill()
    for host in (scheduler, one, two):
        host.start()
    for host in (seed, one, two):
        host.daemon.wait_ready()
    assert one.daemon.metric(slots) == 3, "it is as it was told last"
    assert scheduler.daemon.metric(reads) == 2
    url, data = url_of(origin, "content", 5 * MIB)
    assert one.get(url) == data and two.get(url) == data
    assert (origin.requests, origin.sent_bytes) == (1, len(data))
    assert one.daemon.metric("hawker_membership_connected") == 0
    managed.start()
    for host in (scheduler, seed, one, two):
        shows(host, "hawker_membership_connected", 1, "they are back")
    managed.change(peers={"upload_slots": 5})
    shows(one, slots, 5, "what is told now is done")
    assert not any(" ERROR " in host.log.read_text() for host in (scheduler, seed, one, two))


def test_a_frozen_manager_keeps_nobody_from_working(managed: Managed, origin: Origin) -> None:
    _, _, (one,) = managed.swarm(1)
    managed.daemon.process.send_signal(signal.SIGSTOP)
    try:
        url, data = url_of(origin, "content", 3 * MIB)
        assert one.get(url) == data
        one.daemon.stop()
        one.start()
        one.daemon.wait_ready()
        url, data = url_of(origin, "other", 3 * MIB)
        assert one.get(url) == data and origin.requests == 2
    finally:
        managed.daemon.process.send_signal(signal.SIGCONT)
    shows(one, "hawker_membership_connected", 1, "it is back")


def test_a_scheduler_that_drains_leaves_its_hosts_to_the_other(
    managed: Managed, origin: Origin
) -> None:
    first = managed.host("scheduler", "first")
    second = managed.host("scheduler", "second")
    hosts = [managed.host(kind, name) for kind, name in (("seed", "seed"), ("peer", "peer"))]
    schedulers = "hawker_peer_schedulers"
    for host in hosts:
        shows(host, schedulers, 2, "it is told both")
        host.daemon.wait_ready()
    reads = "hawker_scheduler_origin_reads_limit"
    for scheduler in (first, second):
        shows(scheduler, reads, 8, "they share what an origin bears")
    managed.drain(first)
    for host in hosts:
        shows(host, schedulers, 1, "it leaves the one that drains")
        host.daemon.wait_ready()
    wait_for(lambda: not first.sees("hosts"), "nobody is there any more")
    url, data = url_of(origin, "content", 3 * MIB)
    assert hosts[1].get(url) == data
    assert [task["url"] for task in second.sees("tasks")] == [url]
    assert (origin.requests, origin.sent_bytes) == (1, len(data))

    # The other way round, in the middle of a download.
    managed.drain(first, False)
    for host in hosts:
        shows(host, schedulers, 2, "it is told both")
        host.daemon.wait_ready()
    origin.delay = 0.008
    url, data = url_of(origin, "large", 24 * MIB)
    got: list[bytes] = []
    getting = threading.Thread(target=lambda: got.append(hosts[1].get(url)))
    read = "hawker_peer_origin_bytes_total"
    getting.start()
    try:
        wait_for(lambda: hosts[0].daemon.metric(read) > 5 * MIB, "it is being read")
        managed.drain(second)
        wait_for(lambda: not second.sees("hosts"), "nobody is there any more")
        assert hosts[0].daemon.metric(read) < len(data), "it is still in the middle"
    finally:
        getting.join()
    assert got == [data] and "unscheduled" not in hosts[1].log.read_text()
    # Where a reading is cut and another goes on, what was on its way is lost.
    assert origin.sent_bytes - 3 * MIB <= len(data) + MIB


def test_a_token_is_good_for_one_host(managed: Managed, tmp_path: Path) -> None:
    token = managed.enrol("peer")
    assert managed.join("peer", "one", token=token).returncode == 0
    other = managed.join("peer", "other", token=token)
    assert other.returncode == 4 and b"another host has joined" in other.stderr
    assert not (tmp_path / "other" / "membership").exists()
    # As where the answer was lost.
    shutil.rmtree(tmp_path / "one" / "membership")
    assert managed.join("peer", "one", token=token).returncode == 0


def test_a_scheduler_and_a_peer_may_be_one_process(managed: Managed, origin: Origin) -> None:
    assert managed.join("scheduler", "both").returncode == 0
    both = Host(managed.daemons, "both", "scheduler", "peer")
    both.daemon.wait_ready()
    peer = managed.host("peer", "peer")
    peer.daemon.wait_ready()
    url, data = url_of(origin, "content", 3 * MIB)
    assert peer.get(url) == data and both.get(url) == data
    assert (origin.requests, origin.sent_bytes) == (1, len(data))


def test_the_figures_of_a_member_are_documented(managed: Managed) -> None:
    peer = managed.host("peer", "peer")
    with peer.client() as client:
        text = client.get("/metrics").text
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE hawker_")}
    shown = {name.removesuffix("_total") for name in names if "membership" in name}
    assert shown == {name for name in documented() if "membership" in name} != set()
