"""A token is good for its task, verbs and tenant, at every role."""

from __future__ import annotations

import os
from typing import Any

import httpx

from hawker.core.ids import TaskSpec
from hawker.core.tokens import ClusterKey, read_key_file
from tests.e2e.conftest import Cluster, Daemon, Origin

DATA = os.urandom(300_000)
CLIENT = ["content", "downloads", "tasks", "tasks:delete", "tasks:import"]
IMPORT = "http://imported.test/a"


def client(daemon: Daemon, *verbs: str, **named: Any) -> httpx.Client:
    """Somebody with a token."""
    token = ClusterKey(read_key_file(daemon.data / "cluster.key")).mint("", verbs, **named)
    headers = {"authorization": f"Bearer {token}"}
    return httpx.Client(base_url=daemon.url, headers=headers, trust_env=False, timeout=30)


def test_a_token_for_one_task_is_for_nothing_else(cluster: Cluster, origin: Origin) -> None:
    daemon = cluster.start("up", "up")
    daemon.wait_ready()
    mine, other = origin.put("/mine", DATA), origin.put("/other", DATA)
    task = TaskSpec(mine).task_id
    with client(daemon, *CLIENT) as anybody:
        assert anybody.get("/peer/v1/content", params={"url": other}).content == DATA
    with client(daemon, *CLIENT, task=task) as scoped:
        assert scoped.get("/peer/v1/content", params={"url": mine}).content == DATA
        answer = scoped.post("/peer/v1/downloads", json={"url": mine})
        assert b'"done":true' in answer.content
        assert scoped.get(f"/peer/v1/tasks/{task}").status_code == 200
        assert scoped.get(f"/scheduler/v1/tasks/{task}").status_code == 200
        foreign = TaskSpec(other).task_id
        refused = [
            scoped.get("/peer/v1/content", params={"url": other}),
            scoped.get("/peer/v1/content", params={"url": mine, "tag": "x"}),
            scoped.head("/peer/v1/content", params={"url": other}),
            scoped.post("/peer/v1/downloads", json={"url": other}),
            scoped.post("/peer/v1/downloads", json={"url": mine, "revision": "2"}),
            scoped.post("/peer/v1/tasks/import", params={"url": IMPORT}, content=b"x"),
            scoped.get(f"/peer/v1/tasks/{foreign}"),
            scoped.delete(f"/peer/v1/tasks/{foreign}"),
            scoped.get("/peer/v1/tasks"),
            scoped.get("/peer/v1/host"),
            scoped.get("/scheduler/v1/tasks"),
            scoped.get("/scheduler/v1/hosts"),
            scoped.get(f"/scheduler/v1/tasks/{foreign}"),
            scoped.delete(f"/scheduler/v1/tasks/{foreign}"),
        ]
        assert [answer.status_code for answer in refused] == [403] * len(refused)
        assert scoped.delete(f"/peer/v1/tasks/{task}").status_code == 204
    # What hosts do is about no single task.
    with client(daemon, "announce", "leases", task=task) as scoped:
        assert scoped.get("/scheduler/v1/leases").status_code == 403


def test_tenants_do_not_see_each_other(cluster: Cluster, origin: Origin) -> None:
    daemon = cluster.start("up", "up")
    daemon.wait_ready()
    url = origin.put("/shared", DATA)
    task = TaskSpec(url).task_id
    with client(daemon, *CLIENT) as own:
        assert own.get("/peer/v1/content", params={"url": url}).content == DATA
        [stat] = own.get("/peer/v1/tasks").json()
        answer = own.post("/peer/v1/downloads", json={"url": url, "tenant": "acme"})
        assert answer.status_code == 403
    stored = f"/peer/v1/tasks/{task}/{stat['generation']}"
    with client(daemon, *CLIENT, "pieces", tenant="acme") as acme:
        assert acme.get("/peer/v1/tasks").json() == []
        assert acme.get("/scheduler/v1/tasks").json() == []
        answer = acme.post("/peer/v1/downloads", json={"url": url, "tenant": "default"})
        assert answer.status_code == 403
        gone = [
            acme.get(f"{stored}/content"),
            acme.get(f"{stored}/pieces/0-0"),
            acme.get(f"/peer/v1/tasks/{task}"),
            acme.delete(f"/peer/v1/tasks/{task}"),
            acme.get(f"/scheduler/v1/tasks/{task}"),
        ]
        assert [answer.status_code for answer in gone] == [404] * len(gone)
        # A stream waits for what it may not tell of as for what there is not.
        nowhere = f"/peer/v1/tasks/{'0' * 64}/{stat['generation']}/availability"
        told, unknown = acme.get(f"{stored}/availability"), acme.get(nowhere)
        assert told.content == unknown.content and b"have" not in told.content
        told = acme.delete(f"/scheduler/v1/tasks/{task}")
        assert told.status_code == acme.delete(f"/scheduler/v1/tasks/{'0' * 64}").status_code
        # The same URL is a task of its own.
        assert acme.get("/peer/v1/content", params={"url": url}).content == DATA
        [theirs] = acme.get("/peer/v1/tasks").json()
        assert theirs["task"] == TaskSpec(url, tenant="acme").task_id != task
        imported = acme.post("/peer/v1/tasks/import", params={"url": IMPORT}, content=b"theirs")
        assert imported.json()["spec"]["tenant"] == "acme"
    with client(daemon, *CLIENT) as own:
        assert [found["task"] for found in own.get("/peer/v1/tasks").json()] == [task]
        assert own.get(f"{stored}/content").content == DATA


def test_a_tenants_content_travels_between_hosts(cluster: Cluster, origin: Origin) -> None:
    _, _, peers = cluster.swarm(2)
    url = origin.put("/theirs", DATA)
    token = ClusterKey(read_key_file(cluster.key)).mint("", CLIENT, tenant="acme")
    headers = {"authorization": f"Bearer {token}"}
    for peer in peers:
        with httpx.Client(base_url=peer.url, headers=headers, trust_env=False, timeout=60) as acme:
            assert acme.get("/peer/v1/content", params={"url": url}).content == DATA
    assert origin.sent_bytes == len(DATA)
