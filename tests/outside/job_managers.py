"""Jobs of two managers on one PostgreSQL, of which one dies in the middle; `python -m
tests.outside.postgres` runs this, and `python -m tests.outside.brokers` with brokers."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from tests.apps.manager.running import SERVER, Manager, created, new_database
from tests.e2e.conftest import Cluster, hawker, wait_for
from tests.e2e.managed import Host
from tests.e2e.upstream import Registry
from tests.outside.broker_servers import figure

MIB = 2**20
PEERS = 3
LAYERS = 20


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    made = Registry()
    monkeypatch.setenv("HAWKER_REGISTRY__UPSTREAMS", json.dumps({made.name: made.url}))
    monkeypatch.setenv("HAWKER_REGISTRY__DEFAULT", made.name)
    yield made
    made.close()


@pytest.fixture
def pair(tmp_path: Path, registry: Registry) -> Iterator[tuple[Manager, Manager]]:
    assert SERVER, "run it with python -m tests.outside.postgres"
    database, key = new_database(), str(tmp_path / "manager-key")
    made: list[Manager] = []
    try:
        for name in ("one", "two"):
            data = tmp_path / name
            made.append(Manager(data, database=database, HAWKER_MANAGER__KEY_FILE=key))
        yield made[0], made[1]
    finally:
        for manager in made:
            manager.close()


@pytest.fixture
def root(pair: tuple[Manager, Manager]) -> Iterator[httpx.Client]:
    """At the second manager, whose setup link is the one that is good."""
    with pair[1].set_up() as client:
        yield client


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def hosts(pair: tuple[Manager, Manager], root: httpx.Client, daemons: Cluster) -> list[Host]:
    """The peers of a cluster that has a scheduler and a seed."""
    cluster = created(root.post("/clusters", json={"name": "eu"}))["id"]
    kinds = [("scheduler", "scheduler"), ("seed", "seed")]
    kinds += [("peer", f"peer-{number}") for number in range(PEERS)]
    made: list[Host] = []
    for kind, name in kinds:
        token = created(root.post("/enrolments", json={"cluster": cluster, "kind": kind}))["token"]
        data = str(daemons.root / name)
        done = hawker("join", pair[1].url, "--token", token, "--data", data)
        assert done.returncode == 0, done.stderr
        made.append(Host(daemons, name, "scheduler" if kind == "scheduler" else "peer"))

    def known() -> bool:
        return all(member["url"] for member in root.get("/members").json())

    for host in made[1:]:
        host.daemon.wait_ready()
    wait_for(known, "they said where they are")
    return made[2:]


def owners(pair: tuple[Manager, Manager]) -> Counter[str]:
    """How many parts are under way, by the manager's process that works on them."""

    async def ask() -> list[Any]:
        connection = await asyncpg.connect(pair[0].database)
        try:
            found: list[Any] = await connection.fetch(
                "SELECT owner FROM job_part WHERE state = 'running'"
            )
            return found
        finally:
            await connection.close()

    return Counter(row["owner"] for row in asyncio.run(ask()))


def test_one_of_two_dies_and_the_job_is_done_once(
    pair: tuple[Manager, Manager], root: httpx.Client, hosts: list[Host], registry: Registry
) -> None:
    sizes = [MIB + number for number in range(LAYERS)]
    digests = registry.put_image("lib/img", "1", *sizes)
    wanted = {
        "kind": "preheat", "image": f"{registry.name}/lib/img:1", "scope": "all-peers", "at_once": 6
    }  # fmt: skip
    job = created(root.post("/jobs", json=wanted))["id"]
    seen: list[dict[str, Any]] = []
    killed = threading.Event()
    with root.stream("GET", f"/jobs/{job}/events", timeout=120) as answer:
        for line in answer.iter_lines():
            if not line.startswith("data: "):
                continue
            seen.append(json.loads(line.removeprefix("data: ")))
            if seen[-1]["job"]["parts"]["succeeded"] >= 6 and not killed.is_set():
                pair[0].kill()
                killed.set()
    assert killed.is_set()
    last = seen[-1]["job"]
    assert last["state"] == "succeeded", last
    assert last["parts"]["succeeded"] == PEERS * (LAYERS + 2)
    sent = {digest: registry.sent[digest] for digest in digests[1:]}
    assert sent == dict(zip(digests[1:], sizes, strict=True)), "each layer is sent once"
    before = registry.sent.total()
    for host in hosts:
        for digest, size in zip(digests[1:], sizes, strict=True):
            assert len(host.get(f"{registry.url}/v2/lib/img/blobs/{digest}")) == size
    assert registry.sent.total() == before
    pair[1].check()


def test_both_work_and_each_part_is_one_s(
    pair: tuple[Manager, Manager], root: httpx.Client, hosts: list[Host], registry: Registry
) -> None:
    registry.put_image("lib/img", "1", *(MIB for _ in range(LAYERS)))
    wanted = {
        "kind": "preheat", "image": f"{registry.name}/lib/img:1", "scope": "all-peers", "at_once": 4
    }  # fmt: skip
    job = created(root.post("/jobs", json=wanted))["id"]
    working: set[str] = set()
    most = 0

    def over() -> bool:
        nonlocal most
        found = owners(pair)
        working.update(found)
        most = max(most, found.total())
        return bool(root.get(f"/jobs/{job}").json()["state"] == "succeeded")

    wait_for(over, "it ends", 120)
    assert most <= 4, "both together work on no more than the job says"
    parts = root.get(f"/jobs/{job}/parts", params={"per_page": 100}).json()
    assert {part["attempts"] for part in parts} == {1}
    done = [figure(manager.url, "hawker_manager_job_parts_total") for manager in pair]
    assert sum(one for one in done if one > 0) == PEERS * (LAYERS + 2)
    if os.environ.get("HAWKER_MANAGER__JOB_BROKER"):
        # Without a broker it is whoever looks first.
        assert min(done) > 0, done
    for manager in pair:
        manager.check()
