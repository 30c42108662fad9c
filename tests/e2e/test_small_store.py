"""Content larger than the store's quota passes through a window of it."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    import pytest

    from tests.e2e.conftest import Cluster, Origin

QUOTA = 96 * 2**20
SIZE = 160 * 2**20


def stored_bytes(daemon_data: str) -> int:
    total = 0
    for directory, _, names in os.walk(os.path.join(daemon_data, "content")):
        total += sum(os.stat(os.path.join(directory, name)).st_blocks * 512 for name in names)
    return total


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
