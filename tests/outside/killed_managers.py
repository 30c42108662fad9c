"""Managers that are killed, or hang, on one PostgreSQL; `python -m tests.outside.postgres` runs
this."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from hawker.apps.manager import models
from hawker.apps.manager.database import Database, transaction
from tests.apps.manager.running import DEADLINE, SERVER, Manager, created, new_database


class Load:
    """Clients that make tenants and count in one of them, through two managers, and go to the other
    one where a manager does not answer."""

    def __init__(self, managers: tuple[Manager, Manager], cookies: httpx.Cookies) -> None:
        self.managers = managers
        self.cookies = cookies
        self.tenants: dict[str, str] = {}
        """The ids that were answered, by name."""
        self.counted = 0
        """Changes of the counter that were answered."""
        self.tried = 0
        """Changes of the counter that nobody answered."""
        self.unanswered = 0
        self.enough = threading.Event()
        self.ended = 0
        self._lock = threading.Lock()

    def run(self, number: int) -> None:
        clients = [m.client(cookies=self.cookies) for m in self.managers]
        for turn in itertools.count():
            if self.enough.is_set():
                break
            name = f"t-{number}-{turn}"
            key = {"idempotency-key": name}
            for attempt in range(200):
                manager = (number + turn + attempt) % 2
                try:
                    answer = clients[manager].post("/tenants", json={"name": name}, headers=key)
                except httpx.TransportError:
                    # It may be another port by now.
                    clients[manager].close()
                    clients[manager] = self.managers[manager].client(cookies=self.cookies)
                    with self._lock:
                        self.unanswered += 1
                    time.sleep(0.05)
                    continue
                if answer.status_code == 201:
                    break
                assert answer.status_code == 503, answer.text
                time.sleep(0.05)
            with self._lock:
                self.tenants[name] = created(answer)["id"]
            self._count(clients[(number + turn) % 2])
        for client in clients:
            client.close()
        with self._lock:
            self.ended += 1

    def wait_for(self, more: int) -> None:
        """Until so many more tenants were made."""
        target, until = len(self.tenants) + more, time.monotonic() + DEADLINE
        while len(self.tenants) < target:
            assert time.monotonic() < until
            time.sleep(0.01)

    def _count(self, client: httpx.Client) -> None:
        url = "/tenants/" + self.tenants["counter"]
        try:
            read = client.get(url)
            if read.status_code != 200:
                return
            body = {"description": str(int(read.json()["description"]) + 1)}
            answer = client.patch(url, json=body, headers={"if-match": read.headers["etag"]})
        except httpx.TransportError:
            with self._lock:
                self.tried += 1
            return
        with self._lock:
            self.counted += answer.status_code == 200
            self.tried += answer.status_code == 503


def _all(client: httpx.Client, url: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for page in itertools.count(1):
        found = client.get(f"{url}per_page=100&page={page}").json()
        rows += found
        if len(found) < 100:
            break
    return rows


def test_a_manager_that_is_killed_under_load_loses_nothing(pair: tuple[Manager, Manager]) -> None:
    """What was answered is there, once; the other goes on, and the killed one comes back."""
    first, second = pair
    with second.set_up() as root:
        counter = created(root.post("/tenants", json={"name": "counter", "description": "0"}))
        load = Load(pair, root.cookies)
        load.tenants["counter"] = counter["id"]
        threads = [threading.Thread(target=load.run, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(3):
                load.wait_for(20)
                first.kill()
                # The other one goes on by itself.
                load.wait_for(10)
                first.start()
            load.wait_for(20)
        finally:
            load.enough.set()
            for thread in threads:
                thread.join()
        assert load.ended == len(threads)
        # It was killed in the middle of something.
        assert load.unanswered
        with first.client(cookies=root.cookies) as there:
            for client in (root, there):
                rows = _all(client, "/tenants?")
                assert {row["name"]: row["id"] for row in rows} == load.tenants
                assert len(rows) == len(load.tenants)
                made = _all(client, "/audit?resource=tenants&action=create&")
                assert sorted(row["target"] for row in made) == sorted(load.tenants.values())
                row = client.get(f"/tenants/{counter['id']}").json()
                assert load.counted <= int(row["description"]) <= load.counted + load.tried
                assert row["revision"] == int(row["description"]) + 1
        for manager in pair:
            manager.check()


def test_a_manager_that_is_killed_as_it_migrates_leaves_nothing_half_made(tmp_path: Path) -> None:
    """At whatever moment: another one starts on the same database."""
    assert SERVER, "run it with python -m tests.outside.postgres"
    (tmp_path / "key").write_text("ab" * 32)
    (tmp_path / "key").chmod(0o600)
    key = str(tmp_path / "key")
    interrupted = 0
    for turn in range(6):
        database = new_database()
        process = subprocess.Popen(
            [sys.executable, "-m", "hawker", "serve", "manager", "--port", "0",
             "--data", str(tmp_path / f"killed-{turn}")],
            env={**os.environ, "HAWKER_MANAGER__DATABASE": database,
                 "HAWKER_MANAGER__KEY_FILE": key},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            _wait_for_a_connection(database)
            time.sleep(turn * 0.02)
        finally:
            process.kill()
            process.wait()
        interrupted += not asyncio.run(_tables(database))
        manager = Manager(
            tmp_path / f"next-{turn}", database=database, HAWKER_MANAGER__KEY_FILE=key
        )
        try:
            with manager.set_up() as root:
                created(root.post("/tenants", json={"name": "t"}))
            manager.check()
        finally:
            assert manager.close() == 0
    assert interrupted


def test_a_manager_that_hangs_in_a_change_holds_nobody_up_for_long(
    pair: tuple[Manager, Manager], tmp_path: Path
) -> None:
    """As one whose machine is gone: what it has locked is free after `IDLE_SECONDS`."""
    _, manager = pair
    with manager.set_up() as root:
        tenant = created(root.post("/tenants", json={"name": "locked"}))

        async def hang() -> int:
            database = Database(manager.database, tmp_path)
            await database.open()
            try:
                with database.active():
                    with pytest.raises(asyncpg.InterfaceError, match="is closed"):
                        async with transaction():
                            found = models.Tenant.filter(id=tenant["id"]).select_for_update()
                            assert await found.first()
                            status = await asyncio.to_thread(change)
                            await models.Tenant.all().count()
                return status
            finally:
                await database.close()

        def change() -> int:
            body, match = {"description": "x"}, {"if-match": "*"}
            return root.patch(f"/tenants/{tenant['id']}", json=body, headers=match).status_code

        assert asyncio.run(hang()) == 200
        manager.check()


def _wait_for_a_connection(database: str) -> None:
    async def count() -> int:
        connection = await asyncpg.connect(SERVER)
        try:
            name = database.rpartition("/")[2]
            sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1"
            return int(await connection.fetchval(sql, name))
        finally:
            await connection.close()

    until = time.monotonic() + DEADLINE
    while not asyncio.run(count()):
        assert time.monotonic() < until
        time.sleep(0.005)


async def _tables(database: str) -> int:
    """How many the manager has made there."""
    connection = await asyncpg.connect(database)
    try:
        sql = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'"
        return int(await connection.fetchval(sql))
    finally:
        await connection.close()
