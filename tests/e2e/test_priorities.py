"""Priorities through a swarm of processes: who reads the origin, and who is given nothing of it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Cluster, Daemon, Origin, fetch, wait_for
from tests.e2e.managed import API, Managed, made

SIZE = 3 * 2**20 + 7

RULES = """
[[scheduler.priorities]]
tag = "nightly"
level = 2
"""


@pytest.fixture
def swarm(cluster: Cluster, tmp_path: Path) -> tuple[Daemon, list[Daemon]]:
    config = tmp_path / "priorities.toml"
    config.write_text(RULES)
    _, seed, peers = cluster.swarm(2, "--config", str(config))
    return seed, peers


def stored(daemon: Daemon) -> list[int]:
    with daemon.client() as client:
        return [int(stat["valid_bytes"]) for stat in client.get("/peer/v1/tasks").json()]


def test_at_one_and_two_content_that_no_peer_has_is_refused_and_the_origin_sees_nobody(
    swarm: tuple[Daemon, list[Daemon]], origin: Origin, tmp_path: Path
) -> None:
    _, [one, _] = swarm
    url = origin.put("/refused", os.urandom(SIZE))
    code, told = fetch(one, url, tmp_path / "a", "--priority", "1")
    assert code == 4 and "priority 1" in told, told
    code, told = fetch(one, url, tmp_path / "b", "--priority", "2")
    assert code == 3 and "no peer has" in told, told
    code, told = fetch(one, url, tmp_path / "c", "--tag", "nightly")
    assert code == 3 and "no peer has" in told, told
    assert not any((tmp_path / name).exists() for name in "abc")
    assert (origin.requests, origin.sent_bytes) == (0, 0)


def test_what_peers_have_is_given_at_any_priority_and_at_three_no_seed_reads(
    swarm: tuple[Daemon, list[Daemon]], origin: Origin, tmp_path: Path
) -> None:
    seed, [one, two] = swarm
    data = os.urandom(SIZE)
    url = origin.put("/given", data)
    assert fetch(one, url, tmp_path / "one", "--priority", "3") == (0, "")
    assert stored(seed) == []
    assert fetch(two, url, tmp_path / "two", "--priority", "1") == (0, "")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes() == data
    assert (origin.requests, origin.sent_bytes) == (1, SIZE)


def test_a_request_that_names_a_priority_is_not_ruled_by_its_tag(
    swarm: tuple[Daemon, list[Daemon]], origin: Origin, tmp_path: Path
) -> None:
    seed, [one, _] = swarm
    url = origin.put("/named", os.urandom(SIZE))
    target = tmp_path / "named"
    assert fetch(one, url, target, "--tag", "nightly", "--priority", "6") == (0, "")
    assert stored(seed) == [SIZE]
    assert origin.requests == 1


def test_a_manager_s_applications_have_theirs_as_soon_as_they_are_set(
    cluster: Cluster, origin: Origin
) -> None:
    managed = Managed(cluster)
    _, _, [peer] = managed.swarm(1)
    numbers = iter(range(1000))

    def status(application: str) -> int:
        url = origin.put(f"/{next(numbers)}", os.urandom(1000))
        with peer.client() as client:
            wanted = {"url": url, "application": application}
            return client.get("/peer/v1/content", params=wanted).status_code

    root = httpx.Client(base_url=f"{managed.url}{API}", timeout=30, trust_env=False)
    with contextlib.closing(managed.api), root:
        made(root.post("/session", json={"name": "ada", "password": "correct horse battery"}))
        tenant = made(root.post("/tenants", json={"name": "default"}))["id"]
        body = {"tenant": tenant, "name": "app", "priority": 2}
        application = made(root.post("/applications", json=body))["id"]
        wait_for(lambda: status("app") == 404, "the scheduler heard of it")
        sent = origin.sent_bytes
        assert status("app") == 404 and origin.sent_bytes == sent
        assert status("other") == 200
        path, tag = f"/applications/{application}", {"if-match": "*"}
        made(root.patch(path, json={"priority": 1}, headers=tag))
        wait_for(lambda: status("app") == 403, "it has another one")
        assert root.delete(path, headers=tag).status_code == 204
        wait_for(lambda: status("app") == 200, "there is no such application any more")
