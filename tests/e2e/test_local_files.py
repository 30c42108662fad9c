"""`file:` URLs: a file of one machine is its user's own, one below the roots is for all."""

from __future__ import annotations

import base64
import os
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from hawker.core.digests import HostKey
from hawker.core.ids import TaskSpec
from hawker.core.tokens import ClusterKey, read_key_file
from tests.e2e.conftest import Cluster, Daemon, fetch

DATA = os.urandom(700_000)
OTHER = os.urandom(len(DATA))


def tasks_of(daemon: Daemon) -> list[dict[str, Any]]:
    """What it stores, as its own user sees it."""
    with daemon.client() as client:
        found: list[dict[str, Any]] = client.get("/peer/v1/tasks").json()
    return found


def test_a_file_asked_for_over_the_socket_stays_on_its_host(
    cluster: Cluster, tmp_path: Path
) -> None:
    scheduler, seed, peers = cluster.swarm(2)
    file = tmp_path / "secret"
    url = f"file://{file}"
    for peer, content in zip(peers, (DATA, OTHER), strict=True):
        # The same URL is another file on each machine.
        file.write_bytes(content)
        target = tmp_path / f"out-{peer.port}"
        assert fetch(peer, url, target) == (0, "")
        assert target.read_bytes() == content
    [first], [second] = tasks_of(peers[0]), tasks_of(peers[1])
    assert first["task"] != second["task"] != TaskSpec(url).task_id
    assert tasks_of(seed) == [] and cluster.view(scheduler.url, "tasks") == []

    key = ClusterKey(read_key_file(cluster.key))
    stored = f"/peer/v1/tasks/{first['task']}/{first['generation']}"
    every = ["content", "tasks", "tasks:delete", "pieces", "downloads"]
    token = {"authorization": f"Bearer {key.mint('', every)}"}
    for headers in ({}, token):
        with httpx.Client(base_url=peers[0].url, headers=headers, trust_env=False) as client:
            assert client.get("/peer/v1/tasks").json() == []
            assert client.get(f"/peer/v1/tasks/{first['task']}").status_code == 404
            assert client.delete(f"/peer/v1/tasks/{first['task']}").status_code == 404
            assert client.get(f"{stored}/content").status_code == 404
            assert client.get("/peer/v1/content", params={"url": url}).status_code == 403
    with httpx.Client(base_url=peers[0].url, headers=token, trust_env=False) as client:
        assert client.get(f"{stored}/pieces/0-0").status_code == 404
        nowhere = f"/peer/v1/tasks/{'0' * 64}/{first['generation']}"
        told, unknown = client.get(f"{stored}/availability"), client.get(f"{nowhere}/availability")
        assert (told.status_code, told.content) == (unknown.status_code, unknown.content)
        assert b"have" not in told.content
    with peers[0].client() as client:
        assert client.get(f"{stored}/content").content == DATA

    # After a restart, too, no scheduler is told what is stored of it.
    peers[0].stop()
    again = cluster.peer("peer-0", scheduler)
    again.wait_ready()
    assert [task["task"] for task in tasks_of(again)] == [first["task"]]
    time.sleep(1)
    assert cluster.view(scheduler.url, "tasks") == []


def test_files_below_the_roots_are_read_once_by_a_host_that_has_them(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.make_key()
    scheduler = cluster.scheduler()
    seed = cluster.peer("seed", scheduler, "--seed")
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "model").write_bytes(DATA)
    monkeypatch.setenv("HAWKER_SOURCES__FILE__ROOTS", str(shared))
    peers = [cluster.peer(f"peer-{number}", scheduler) for number in range(2)]
    for daemon in (seed, *peers):
        daemon.wait_ready()
    url = f"file://{shared}/model"
    with httpx.Client(base_url=peers[0].url, trust_env=False, timeout=60) as client:
        assert client.get("/peer/v1/content", params={"url": url}).content == DATA
    with peers[1].client() as client:
        answer = client.post("/peer/v1/downloads", json={"url": url})
    last = answer.text.splitlines()[-1]
    assert '"done":true' in last and f'"from_peers":{len(DATA)}' in last, last
    assert tasks_of(seed) == []
    # Its roots are the seed's own matter.
    with httpx.Client(base_url=seed.url, trust_env=False) as client:
        assert client.get("/peer/v1/content", params={"url": url}).status_code == 403


def test_a_seed_refuses_a_lease_on_a_file_that_is_not_for_others(
    cluster: Cluster, tmp_path: Path
) -> None:
    scheduler, seed, _ = cluster.swarm(0)
    file = tmp_path / "secret"
    file.write_bytes(DATA)
    own = HostKey.generate()
    key = ClusterKey(read_key_file(cluster.key), own=own)
    token = key.mint(own.host, ["announce", "decisions", "report"])
    headers = {"authorization": f"Bearer {token}"}
    spec = TaskSpec(f"file://{file}")
    base = f"{scheduler.url}/scheduler/v1/hosts/{own.host}"
    with httpx.Client(headers=headers, trust_env=False, timeout=30) as client:
        announcement = {
            "url": "http://127.0.0.1:9/peer",
            "key": base64.b64encode(own.public).decode(),
            "boot": "b",
        }
        assert client.put(base, json=announcement).status_code == 200
        register = {"kind": "register", "task": spec.task_id, "seq": 1, "spec": {"url": spec.url}}
        reports = {"boot": "b", "events": [register]}
        with client.stream("GET", f"{base}/decisions") as decisions:
            assert client.post(f"{base}/reports", json=reports).status_code == 200
            stop = next(line for line in decisions.iter_lines() if '"kind":"stop"' in line)
    assert ":forbidden" in stop
    assert tasks_of(seed) == []
