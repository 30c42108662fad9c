"""Jobs whose broker dies in the middle, with and without what it was given, or is not there at the
start; `python -m tests.outside.brokers` runs this."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Cluster, Origin, wait_for
from tests.e2e.managed import Managed, made
from tests.e2e.test_jobs import begin, ended, has, swarm
from tests.outside.broker_servers import PASSWORD, SERVERS, Server, figure

MIB = 2**20
FILES = 8
KINDS = [
    pytest.param((kind, lasting), id=f"{kind.name}-{'lasting' if lasting else 'forgetful'}")
    for kind in SERVERS
    for lasting in (True, False)
]


def connected(url: str) -> bool:
    return figure(url, "hawker_manager_job_broker_connected") == 1


def notes(url: str) -> list[str]:
    answer = httpx.get(f"{url}/readyz", trust_env=False, timeout=30)
    assert answer.status_code == 200, "jobs go on"
    found: list[str] = answer.json().get("notes", [])
    return found


@pytest.fixture
def broker(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Server]:
    kind, lasting = request.param
    with kind(tmp_path, lasting=lasting) as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def managed(broker: Server, cluster: Cluster) -> Iterator[Managed]:
    running = Managed(cluster)
    yield running
    running.api.close()
    assert PASSWORD not in running.log.read_text()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    running = Cluster(tmp_path)
    try:
        yield running
    finally:
        running.close()


@pytest.fixture
def origin() -> Iterator[Origin]:
    running = Origin()
    yield running
    running.close()


def put(origin: Origin) -> tuple[list[str], list[bytes]]:
    """Files at an origin, which takes its time."""
    files = [os.urandom(2 * MIB + number) for number in range(FILES)]
    return [origin.put(f"/file-{n}", data) for n, data in enumerate(files)], files


def succeeded(managed: Managed, job: int) -> int:
    many: int = made(managed.api.get(f"/jobs/{job}"))["parts"]["succeeded"]
    return many


@pytest.mark.parametrize("broker", KINDS, indirect=True)
def test_a_broker_that_dies_in_the_middle_holds_nothing_up(
    broker: Server, managed: Managed, origin: Origin
) -> None:
    """It is away for a while, comes back, and dies once more for a moment."""
    _, peers = swarm(managed, 2)
    wait_for(lambda: connected(managed.url), "the broker is there")
    assert notes(managed.url) == []
    urls, files = put(origin)
    origin.delay = 0.02
    job = begin(managed, urls=urls, scope="all-peers", at_once=4)
    wait_for(lambda: succeeded(managed, job) >= 2, "it goes on by the broker")
    assert figure(managed.url, "hawker_manager_job_messages_total") > 0
    broker.kill()
    wait_for(lambda: not connected(managed.url), "the manager knows")
    [note] = notes(managed.url)
    assert broker.name in note and PASSWORD not in note
    there = succeeded(managed, job)
    wait_for(lambda: succeeded(managed, job) >= there + 2, "it goes on without the broker")
    broker.start()
    wait_for(lambda: connected(managed.url), "the broker is there again")
    assert notes(managed.url) == []
    broker.kill()
    broker.start()
    over = ended(managed, job)
    assert over["state"] == "succeeded" and over["parts"]["succeeded"] == 2 * FILES, over
    assert origin.sent_bytes == sum(map(len, files)), "each was read once"
    origin.delay = 0.0
    for url, data in zip(urls, files, strict=True):
        assert all(has(peer, data, url, origin) for peer in peers)
    # And the next one goes by the broker.
    wait_for(lambda: connected(managed.url), "the broker is there to the end")
    before = broker.carried()
    last = origin.put("/last", b"last")
    assert ended(managed, begin(managed, urls=[last], scope="all-peers"))["state"] == "succeeded"
    assert broker.carried() > before


@pytest.mark.parametrize("broker", KINDS, indirect=True)
def test_what_waits_in_a_broker_that_dies_is_done_though_managers_die_too(
    broker: Server, managed: Managed, origin: Origin
) -> None:
    """Both are killed at once: what was put and what was taken is in nobody's hands."""
    _, (peer,) = swarm(managed, 1)
    wait_for(lambda: connected(managed.url), "the broker is there")
    urls, files = put(origin)
    origin.delay = 0.02
    job = begin(managed, urls=urls, scope="hosts", hosts=[peer.id], at_once=4)
    wait_for(lambda: succeeded(managed, job) >= 1, "it goes on")
    managed.daemon.kill()
    broker.kill()
    broker.start()
    managed.start()
    over = ended(managed, job)
    assert over["state"] == "succeeded" and over["parts"]["succeeded"] == FILES, over
    assert origin.sent_bytes < sum(map(len, files)) + 2 * MIB


@pytest.mark.parametrize(
    "broker", [pytest.param((kind, True), id=kind.name) for kind in SERVERS], indirect=True
)
def test_a_broker_that_is_not_there_yet(
    broker: Server, cluster: Cluster, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.kill()
    monkeypatch.setenv("HAWKER_TELEMETRY__LOG_LEVEL", "info")
    managed = Managed(cluster)
    try:
        _, (peer,) = swarm(managed, 1)
        assert [note for note in notes(managed.url) if broker.name in note]
        data = os.urandom(MIB)
        url = origin.put("/file", data)
        job = begin(managed, urls=[url], scope="all-peers")
        assert ended(managed, job)["state"] == "succeeded", "jobs go on without it"
        told = managed.log.read_text().count("jobs go on by the database alone")
        assert told == 1, "once, and not with each attempt"
        broker.start()
        wait_for(lambda: connected(managed.url), "the broker is there")
        before = broker.carried()
        job = begin(managed, urls=[origin.put("/other", data)], scope="all-peers")
        assert ended(managed, job)["state"] == "succeeded"
        assert broker.carried() > before
        assert has(peer, data, url, origin)
    finally:
        managed.api.close()
    assert PASSWORD not in managed.log.read_text()
