"""A manager's quotas hold in its clusters as soon as they are set, and it shows what is used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Cluster, Origin, wait_for
from tests.e2e.managed import API, Host, Managed, made
from tests.outside.quota_swarms import MIB


@pytest.fixture
def managed(cluster: Cluster) -> Iterator[Managed]:
    found = Managed(cluster)
    yield found
    found.api.close()


def status(host: Host, url: str) -> int:
    with host.client() as client:
        answer = client.get("/peer/v1/content", params={"url": url}, headers={"prefer": "wait=3"})
        return answer.status_code


def test_quotas_are_set_changed_and_shown_at_the_manager(managed: Managed, origin: Origin) -> None:
    _, _, [peer] = managed.swarm(1)
    first = {"name": "ada", "password": "correct horse battery"}
    urls = [origin.put(f"/{number}", os.urandom(2 * MIB)) for number in range(4)]
    with httpx.Client(base_url=f"{managed.url}{API}", timeout=30, trust_env=False) as root:
        made(root.post("/session", json=first))
        assert status(peer, urls[0]) == 200
        body = {"name": "default", "quotas": {"origin_bytes": 3 * MIB}}
        tenant = made(root.post("/tenants", json=body))["id"]

        def used() -> dict[str, Any]:
            answer = made(root.get(f"/tenants/{tenant}/usage"))
            [found] = answer["clusters"]
            assert found["problem"] == "" and found["cluster"] == managed.cluster
            return {**found, "quotas": answer["quotas"]}

        def limited() -> bool:
            return peer.daemon.metric("hawker_peer_tenant_limit") == 3 * MIB

        wait_for(limited, "the peer heard of it")
        assert status(peer, urls[1]) == 200
        assert status(peer, urls[2]) == 429
        wait_for(lambda: used()["origin_bytes"] >= 2 * MIB, "what was read is shown")
        assert used()["quotas"] == body["quotas"]
        tag = {"if-match": "*"}
        more = {"quotas": {"origin_bytes": 64 * MIB, "concurrent_downloads": 1}}
        made(root.patch(f"/tenants/{tenant}", json=more, headers=tag))
        wait_for(lambda: status(peer, urls[2]) == 200, "there is more to be read")
        origin.delay = 0.2
        with peer.client() as client:
            slow = {"url": origin.put("/slow", os.urandom(3 * MIB))}
            with client.stream("GET", "/peer/v1/content", params=slow) as running:
                assert used()["concurrent_downloads"] == 1
                assert status(peer, urls[0]) == 429
                running.read()
        made(root.patch(f"/tenants/{tenant}", json={"quotas": {}}, headers=tag))
        wait_for(lambda: not limited(), "there are no quotas any more")
        assert status(peer, urls[3]) == 200
