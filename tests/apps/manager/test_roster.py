"""What managers remember of members, with rosters on one database: who is active, and what a
keepalive costs."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from hawker.apps.manager import changes, models, roster
from hawker.apps.manager.database import Database
from hawker.apps.manager.roster import Roster
from hawker.apps.manager.secret import KeyedHash
from hawker.apps.manager.standing import Seat
from hawker.core.errors import Unavailable
from hawker.core.membership import Keepalive
from tests.apps.manager.hosts import Host, Waiting, enrol
from tests.apps.manager.running import SERVER, Manager, created, new_database

URL = "http://127.0.0.1:4000"
SAID = Keepalive(kind="scheduler", url=URL)


async def _until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@asynccontextmanager
async def _rosters(
    directory: Path, count: int, ago: float = 0.0
) -> AsyncIterator[tuple[Database, str, list[Roster]]]:
    """So many managers' rosters at work, and a cluster with a scheduler that was heard of then."""
    database = Database(await asyncio.to_thread(new_database), directory)
    await database.open()
    try:
        with database.active():
            cluster = await models.Cluster.create(name="c")
            await models.Member.create(
                id="s", cluster=cluster, host="0" * 32, kind="scheduler", url=URL,
                kept_alive=time.time() - ago,
            )  # fmt: skip
            both = [Roster(database, KeyedHash(b"k" * 32)) for _ in range(count)]
            for one in both:
                await one.load()
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(one.run()) for one in both]
                yield database, cluster.id, both
                for task in running:
                    task.cancel()
    finally:
        await database.close()


def _seat(one: Roster, cluster: str) -> Seat:
    seat = one.find(cluster, "0" * 32, "scheduler")
    assert seat is not None
    return seat


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is noticed soon."""
    monkeypatch.setattr(roster, "EXPIRY", 2.0)
    monkeypatch.setattr(roster, "JUDGE", 0.2)
    monkeypatch.setattr(roster, "WRITE", 0.2)
    monkeypatch.setattr(roster, "LOOK", 0.1)


def test_who_keeps_alive_at_one_manager_is_active_at_the_other(tmp_path: Path, quick: None) -> None:
    """And who does nowhere is not, until it does again: at both, by the word of one."""

    async def check() -> None:
        async with _rosters(tmp_path, 2) as (_, cluster, (first, second)):
            began = time.monotonic()
            while time.monotonic() - began < 5:
                await first.keep(_seat(first, cluster), SAID)
                assert second.schedulers(cluster) == first.schedulers(cluster) == [URL]
                await asyncio.sleep(0.1)
            await _until(lambda: not first.schedulers(cluster))
            await _until(lambda: not second.schedulers(cluster))
            assert not second.views()[cluster].active
            await second.keep(_seat(second, cluster), SAID)
            assert second.schedulers(cluster) == [URL]
            await _until(lambda: first.schedulers(cluster) == [URL])

    asyncio.run(check())


def test_a_start_finds_nobody_silent_who_had_nobody_to_keep_alive_at(
    tmp_path: Path, quick: None
) -> None:
    async def check() -> None:
        async with _rosters(tmp_path, 1, ago=3600) as (_, cluster, (late,)):
            began = time.monotonic()
            while time.monotonic() - began < 1.5:
                assert late.schedulers(cluster) == [URL]
                await asyncio.sleep(0.1)
            # It has had time enough.
            await _until(lambda: not late.schedulers(cluster))

    asyncio.run(check())


def test_while_the_database_is_away_members_are_answered_and_then_written(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = True

    def failing(real: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        async def call(*given: object) -> None:
            if away:
                raise Unavailable("away")
            await real(*given)

        return call

    async def check() -> None:
        nonlocal away
        async with _rosters(tmp_path, 2) as (database, cluster, (first, second)):
            before = time.time()
            monkeypatch.setattr(database, "keep_alive", failing(database.keep_alive))
            began = time.monotonic()
            while time.monotonic() - began < 4:
                await first.keep(_seat(first, cluster), SAID)
                # Longer than silence is borne.
                assert second.schedulers(cluster) == first.schedulers(cluster) == [URL]
                await second.keep(_seat(second, cluster), SAID)
                await asyncio.sleep(0.1)
            away = False
            await asyncio.sleep(1)
            row = await models.Member.get(id="s")
            assert row.kept_alive > before + 3

    asyncio.run(check())


def test_who_announced_itself_is_forgotten_and_who_joined_is_not(
    tmp_path: Path, quick: None
) -> None:
    """Whoever joined may be switched off over a holiday."""

    async def check() -> None:
        async with _rosters(tmp_path, 1, ago=3600) as (_, cluster, (one,)):
            await models.Member.create(
                id="j", cluster_id=cluster, host="1" * 32, kind="peer", url=URL, kept_alive=0
            )
            await models.Credential.create(member_id="j", digest="d", expires=0)
            await changes.forget(time.time() - 1800)
            assert [row.id for row in await models.Member.all()] == ["j"]
            gone = await models.Gone.get()
            assert (gone.id, gone.why) == ("s", "forgotten")
            await _until(lambda: one.find(cluster, "0" * 32, "scheduler") is None)
            # Nobody has to refuse it.
            await changes.forget(time.time() - 1800)
            assert await models.Gone.all().count() == 1

    asyncio.run(check())


# ---------------------------------------------------------------------------- as a process


@pytest.fixture
def joined(tmp_path: Path) -> Iterator[tuple[Manager, httpx.Client, Host]]:
    """A manager of its own with one member."""
    running = Manager(tmp_path / "data")
    with running.set_up() as root, Host(running, "peer") as host:
        cluster = created(root.post("/clusters", json={"name": "c"}))["id"]
        host.join(enrol(root, "peer", cluster)["token"])
        host.keep()
        yield running, root, host
    running.close()


def _kept_alive(root: httpx.Client, host: Host) -> float:
    kept: float = root.get(f"/members/{host.member['id']}").json()["kept_alive"]
    return kept


def test_a_killed_manager_takes_a_second_of_keepalives_with_it(
    joined: tuple[Manager, httpx.Client, Host],
) -> None:
    manager, root, host = joined
    time.sleep(3)
    began = time.time()
    host.keep(hostname="renamed")
    time.sleep(3)
    cookies = root.cookies
    manager.kill()
    manager.start()
    with manager.client(cookies=cookies) as client:
        assert began - 1 < _kept_alive(client, host) < began + 2.5
        assert client.get(f"/members/{host.member['id']}").json()["hostname"] == "renamed"
    host.client.close()
    host.client = manager.client()
    host.told = {"revision": ""}
    host.keep()


def test_a_manager_that_ends_answers_who_waits_and_writes_what_it_knows(
    joined: tuple[Manager, httpx.Client, Host],
) -> None:
    """Even in the middle of writing."""
    manager, root, host = joined
    cookies = root.cookies
    for attempt in range(5):
        poll = Waiting(host)
        began = time.time()
        assert host.ask(known="?", hostname=f"renamed-{attempt}").status_code == 200
        time.sleep(0.25 * attempt)
        assert manager.close() == 0
        assert poll.end().status_code == 200 and poll.seconds < 5
        manager.start()
        with manager.client(cookies=cookies) as client:
            assert _kept_alive(client, host) >= began
            shown = client.get(f"/members/{host.member['id']}").json()
            assert shown["hostname"] == f"renamed-{attempt}"
        manager.check()
        host.client.close()
        host.client = manager.client()
        host.told = {"revision": ""}
        host.keep()


@pytest.mark.skipif(bool(SERVER), reason="counts the commits in SQLite's file")
def test_keepalives_are_written_in_batches(joined: tuple[Manager, httpx.Client, Host]) -> None:
    """However many there are."""
    manager, _, host = joined
    seen: set[int] = set()
    stop = threading.Event()

    def watch() -> None:
        with sqlite3.connect(manager.data / "manager.db") as database:
            while not stop.is_set():
                seen.add(database.execute("PRAGMA data_version").fetchone()[0])
                time.sleep(0.005)

    watching = threading.Thread(target=watch)
    watching.start()
    began, count = time.monotonic(), 0
    while time.monotonic() - began < 5:
        host.ask(known="?")
        count += 1
    seconds = time.monotonic() - began
    stop.set()
    watching.join()
    assert count > 20
    assert 2 <= len(seen) <= seconds + 2, (len(seen), count)
