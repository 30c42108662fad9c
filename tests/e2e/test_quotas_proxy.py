"""A proxy's and a mirror's clients keep to their tenant's quotas, and are not led past them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.conftest import Cluster, Daemon, Origin
from tests.e2e.upstream import IMAGE, Registry
from tests.outside.quota_swarms import MIB, limits

QUOTAS = [{"origin_bytes": 3 * MIB}, {"stored_bytes": 3 * MIB}]


@pytest.fixture
def registry() -> Iterator[Registry]:
    made = Registry()
    yield made
    made.close()


@pytest.fixture
def node(
    cluster: Cluster,
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Daemon:
    """A host with a mirror and a proxy, whose tenant has a quota."""
    monkeypatch.setenv("HAWKER_REGISTRY__UPSTREAMS", json.dumps({registry.name: registry.url}))
    monkeypatch.setenv("HAWKER_REGISTRY__DEFAULT", registry.name)
    rules = [{"url": "^http://127.0.0.1:", "action": "swarm", "immutable": True}]
    monkeypatch.setenv("HAWKER_PROXY__RULES", json.dumps(rules))
    monkeypatch.setenv("HAWKER_PROXY__PORT", "0")
    node = cluster.start("node", "up", *limits(cluster, **request.param))
    node.wait_ready()
    return node


@pytest.mark.parametrize(
    "node", [{"origin_bytes": 3 * MIB}, {"stored_bytes": 3 * MIB}], indirect=True
)
def test_a_proxy_leads_nobody_past_a_quota(node: Daemon, origin: Origin) -> None:
    small, large = os.urandom(2 * MIB), os.urandom(4 * MIB)
    urls = origin.put("/small", small), origin.put("/large", large)
    proxy = httpx.Proxy(node.ready["proxy"])
    with httpx.Client(proxy=proxy, trust_env=False, timeout=60) as client:
        assert client.get(urls[0]).content == small
        assert node.metric("hawker_peer_origin_bytes_total") == len(small)
        read = origin.requests
        answer = client.get(urls[1])
        assert answer.status_code == 429
        assert answer.json()["type"] == "urn:hawker:problem:quota"
        assert "default" in answer.json()["detail"]
        assert origin.requests <= read + 1, "it was not asked past the swarm"


@pytest.mark.parametrize(
    "node", [{"origin_bytes": 3 * MIB}, {"stored_bytes": 3 * MIB}], indirect=True
)
def test_a_mirror_leads_nobody_past_a_quota(node: Daemon, registry: Registry) -> None:
    registry.put_image("lib/img", "1", 4 * MIB)
    fields = {"accept": IMAGE}

    def asked(path: str) -> httpx.Response:
        return httpx.get(
            f"{node.url}/v2/lib/img/{path}", headers=fields, trust_env=False, timeout=60
        )

    manifest = asked("manifests/1").json()
    [layer] = manifest["layers"]
    answer = asked(f"blobs/{layer['digest']}")
    # None of 429, at which containerd would ask here again at once: it goes to its next mirror.
    assert answer.status_code == 502, answer.text
    assert "default" in answer.json()["errors"][0]["message"]
