"""What a manager shows of its clusters' tasks: relayed from schedulers, to who may see it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from hawker.core.clients.events import Splitter
from hawker.core.ids import TaskSpec
from hawker.core.window import Frame, decode_frame, fold
from tests.e2e.conftest import Cluster, Origin, fetch, wait_for
from tests.e2e.managed import API, Managed, made

MIB = 2**20


@pytest.fixture
def managed(cluster: Cluster) -> Iterator[Managed]:
    running = Managed(cluster)
    yield running
    running.api.close()


def frames_of(client: httpx.Client, path: str) -> list[Frame]:
    """All frames of a task's stream, to its end."""
    frames: list[Frame] = []
    with client.stream("GET", path, timeout=60) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        splitter = Splitter()
        for chunk in answer.iter_raw():
            frames += [decode_frame(event.data) for event in splitter.feed(chunk)]
    return frames


def user_of(managed: Managed, name: str, tenant: str) -> httpx.Client:
    """A viewer who is bound to a tenant."""
    client = httpx.Client(base_url=f"{managed.url}{API}", timeout=30, trust_env=False)
    first = {"name": "ada", "password": "correct horse battery"}
    made(client.post("/session", json=first))
    told = {"name": name, "password": "a long enough password"}
    user = made(client.post("/users", json=told))["id"]
    tenants = {row["name"]: row["id"] for row in made(client.get("/tenants"))}
    if tenant not in tenants:
        tenants[tenant] = made(client.post("/tenants", json={"name": tenant}))["id"]
    binding = {"user": user, "role": "viewer", "tenant": tenants[tenant]}
    made(client.post("/bindings", json=binding))
    made(client.delete("/session"))
    made(client.post("/session", json=told))
    return client


def test_a_cluster_is_seen_through_its_manager(
    managed: Managed, origin: Origin, tmp_path: Path
) -> None:
    base = f"/clusters/{managed.cluster}"
    assert made(managed.api.get(f"{base}/tasks")) == []
    other = managed.host("scheduler", "another")
    scheduler, seed, peers = managed.swarm(2)
    origin.delay = 0.02
    data = os.urandom(6 * MIB)
    urls = [origin.put(f"/{n}", data) for n in range(6)]
    tasks = [TaskSpec(url).task_id for url in urls]
    watched: list[Frame] = []

    def watch() -> None:
        path = f"{base}/tasks/{tasks[0]}"
        wait_for(lambda: managed.api.get(path).status_code == 200, "the task is known")
        watched.extend(frames_of(managed.api, f"{path}/events?replay=true"))

    watching = threading.Thread(target=watch)
    watching.start()
    for n, url in enumerate(urls):
        assert fetch(peers[n % 2].daemon, url, tmp_path / str(n))[0] == 0
    watching.join(60)
    assert watched[0].kind == "snapshot" and watched[-1].kind == "end"
    again = frames_of(managed.api, f"{base}/tasks/{tasks[0]}/events")
    assert fold(watched).maps() == fold(again).maps()
    assert {len(have) for have in fold(again).maps().values()} == {24}

    rows: list[dict[str, Any]] = made(managed.api.get(f"{base}/tasks"))
    assert {row["task"] for row in rows} == set(tasks)
    assert [row["at"] for row in rows] == sorted((row["at"] for row in rows), reverse=True)
    first = managed.api.get(f"{base}/tasks", params={"per_page": 4})
    rest = managed.api.get(f"{base}/tasks", params={"per_page": 4, "page": 2})
    assert [row["task"] for row in made(first) + made(rest)] == [row["task"] for row in rows]
    assert 'rel="next"' in first.headers["link"] and 'rel="next"' not in rest.headers["link"]

    detail = made(managed.api.get(f"{base}/tasks/{tasks[1]}"))
    assert {member["host"] for member in detail["members"]} == {seed.id, peers[1].id}
    overview = made(managed.api.get(f"{base}/overview"))
    assert overview["schedulers"] == 2 and "away" not in overview
    assert overview["hosts"] == {"connected": 3}
    assert overview["origin_bytes"] == overview["delivered_bytes"] == 6 * len(data)
    assert (overview["peers"], overview["complete"]) == (12, 12)
    for path in ("tasks/nonsense", f"tasks/{'0' * 64}", f"tasks/{'0' * 64}/events"):
        assert managed.api.get(f"{base}/{path}").status_code == 404, path

    def moved() -> int:
        points = made(managed.api.get(f"{base}/series"))["points"]
        return sum(point["delivered_bytes"] for point in points)

    fetch(peers[0].daemon, urls[1], tmp_path / "1-again")
    wait_for(lambda: moved() >= len(data), "the series has it")
    assert made(managed.api.get(f"{base}/tasks", params={"page": 10**5})) == []

    mine, theirs = user_of(managed, "mine", "default"), user_of(managed, "theirs", "acme")
    with contextlib.closing(mine), contextlib.closing(theirs):
        assert {row["task"] for row in made(mine.get(f"{base}/tasks"))} == set(tasks)
        assert fold(frames_of(mine, f"{base}/tasks/{tasks[0]}/events")).maps()
        assert made(mine.get(f"{base}/overview"))["peers"] == 13
        assert made(theirs.get(f"{base}/tasks")) == []
        assert made(theirs.get(f"{base}/tasks?tenant=default")) == []
        assert theirs.get(f"{base}/tasks/{tasks[0]}").status_code == 404
        assert theirs.get(f"{base}/tasks/{tasks[0]}/events").status_code == 404
        assert "peers" not in made(theirs.get(f"{base}/overview"))
        assert theirs.get(f"{base}/series").status_code == 404, "it is of all tenants"

    for host in (other, scheduler):
        host.daemon.kill()
    told = made(managed.api.get(f"{base}/overview"))
    assert len(told["away"]) == 2
    assert managed.api.get(f"{base}/tasks").status_code == 503


def test_a_manager_that_stops_ends_what_is_watched(
    managed: Managed, origin: Origin, tmp_path: Path
) -> None:
    _, _, peers = managed.swarm(1)
    origin.delay = 0.1
    url = origin.put("/slow", os.urandom(8 * MIB))
    getting = threading.Thread(target=fetch, args=(peers[0].daemon, url, tmp_path / "slow"))
    getting.start()
    path = f"/clusters/{managed.cluster}/tasks/{TaskSpec(url).task_id}"
    wait_for(lambda: managed.api.get(path).status_code == 200, "the task is known")
    frames: list[Frame] = []
    watching = threading.Thread(
        target=lambda: frames.extend(frames_of(managed.api, f"{path}/events"))
    )
    watching.start()
    wait_for(lambda: managed.daemon.metric("hawker_manager_observers") == 1, "it is watched")
    managed.daemon.process.terminate()
    assert managed.daemon.process.wait(15) == 0
    watching.join(10)
    assert not watching.is_alive() and frames and frames[-1].kind != "end"
    getting.join(60)
