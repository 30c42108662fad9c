"""The manager's database: two in one process, migrations, faults, and what survives a kill."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

import pytest
from tortoise.migrations.executor import MigrationTarget

from hawker.apps.manager import models, points, tenant_tables
from hawker.apps.manager.database import APP, MIGRATIONS, Database, transaction
from hawker.apps.manager.jobs.tables import TABLES
from hawker.apps.manager.roster import Roster
from hawker.apps.manager.secret import KeyedHash
from hawker.core.errors import ConfigError, StorageFailed, Unavailable
from tests.apps.manager.running import (
    SERVER,
    Manager,
    add_token,
    created,
    new_database,
    problem,
)


async def _with(database: Database, work: Callable[[], Awaitable[Any]]) -> Any:
    with database.active():
        async with database.failures():
            return await work()


def test_two_databases_of_a_process_are_apart(tmp_path: Path) -> None:
    """And many requests to both at once; this is what tortoise's private variable is needed for."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    urls = {name: new_database() for name in ("a", "b")}

    async def check() -> None:
        both = {name: Database(urls[name], tmp_path / name) for name in ("a", "b")}
        for database in both.values():
            await database.open()
        try:

            async def add(name: str, number: int) -> None:
                async def work() -> None:
                    await models.Tenant.create(name=f"{name}-{number}")

                await _with(both[name], work)

            async with asyncio.TaskGroup() as group:
                for number in range(20):
                    for name in both:
                        group.create_task(add(name, number))
            for name, database in both.items():
                found = await _with(database, lambda: models.Tenant.all().values_list("name"))
                assert {row[0] for row in found} == {f"{name}-{n}" for n in range(20)}
        finally:
            for database in both.values():
                await database.close()

    before = threading.active_count()
    asyncio.run(check())
    # No thread of a connection is left.
    assert threading.active_count() <= before


def test_models_and_migrations_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tortoise.migrations.autodetector import MigrationAutodetector

    database = Database(new_database(), tmp_path)

    async def missing() -> list[Any]:
        await database.open()
        try:
            with database.active():
                apps = database._current.apps
                assert apps is not None
                detector = MigrationAutodetector(apps, {APP: {"migrations": MIGRATIONS}})
                return list(await detector.changes())
        finally:
            await database.close()

    assert asyncio.run(missing()) == []
    # It would notice.
    monkeypatch.setattr(models.Tenant._meta.fields_map["name"], "max_length", 7)
    assert asyncio.run(missing())


def test_members_of_before_hosts_joined_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(new_database(), tmp_path)

    async def first_only(self: Database, connection: Any) -> None:
        await self._pending(self._executor(connection))
        await self._executor(connection).migrate([MigrationTarget(APP, "0001_initial")])

    async def check() -> None:
        with monkeypatch.context() as before:
            before.setattr(Database, "_migrate", first_only)
            await database.open()
        insert = (
            "INSERT INTO cluster (id, name, description, scopes, schedulers, seeds, peers, "
            "is_default, created, revision) VALUES ('c', 'c', '', '{}', '{}', '{}', '{}', "
            "false, 0, 1);"
            "INSERT INTO member (id, cluster_id, host, kind, url, addresses, hostname, idc, "
            "location, version, draining, created, kept_alive) VALUES ('m', 'c', 'h', "
            "'scheduler', 'http://h:1', '[]', '', '', '', '', false, 0, 0);"
        )
        with database.active():
            await database._current.connections.get(database.dialect).execute_script(insert)
        await database.close()
        await database.open()

        async def follow() -> list[str]:
            roster = Roster(database, KeyedHash(b"k" * 32))
            await roster.load()
            return roster.schedulers("c")

        assert await _with(database, follow) == ["http://h:1"]
        await database.close()

    asyncio.run(check())


def test_a_newer_database_is_left_alone(tmp_path: Path) -> None:
    database = Database(new_database(), tmp_path)

    async def check() -> None:
        await database.open()
        statement = (
            "INSERT INTO tortoise_migrations (app, name, applied_at) "
            "VALUES ('manager', '9999_later', '2030-01-01 00:00:00')"
        )
        with database.active():
            await database._current.connections.get(database.dialect).execute_script(statement)
        await database.close()
        with pytest.raises(ConfigError, match="a newer Hawker") as caught:
            await database.open()
        assert "9999_later" in caught.value.hint
        # Closed again, so that it can be tried again.
        with pytest.raises(Unavailable, match="is closed"), database.active():
            pass

    asyncio.run(check())


@pytest.mark.skipif(bool(SERVER), reason="of SQLite's file alone")
def test_a_data_directory_has_one_manager(tmp_path: Path) -> None:
    async def check() -> None:
        first, second = Database("", tmp_path), Database("", tmp_path)
        await first.open()
        with pytest.raises(StorageFailed, match="in use by process"):
            await second.open()
        await first.close()
        await second.open()
        await second.close()

    asyncio.run(check())


@pytest.mark.skipif(bool(SERVER), reason="of SQLite's file alone")
def test_what_a_killed_migration_left_is_thrown_away(tmp_path: Path) -> None:
    """A half-made file is no database, and the one in use is never migrated in place."""
    (tmp_path / "manager.new").write_bytes(os.urandom(5000))
    (tmp_path / "manager.new-wal").write_bytes(os.urandom(5000))

    async def check() -> None:
        database = Database("", tmp_path)
        await database.open()
        await _with(database, lambda: models.Tenant.create(name="kept"))
        await database.close()
        left = await asyncio.to_thread(os.listdir, tmp_path)
        assert "manager.db" in left and not [name for name in left if ".new" in name]
        # As an older version left it.
        await database.open()
        with database.active():
            connection = database._current.connections.get("sqlite")
            await connection.execute_script("DELETE FROM tortoise_migrations")
            every = (*models.TABLES, *tenant_tables.TABLES, *TABLES, *points.TABLES)
            tables = {table._meta.db_table for table in every} - {"tenant"}
            dropped = "".join(f'DROP TABLE "{table}";' for table in sorted(tables))
            await connection.execute_script(f"PRAGMA foreign_keys = OFF; {dropped}")
            await connection.execute_script('ALTER TABLE "tenant" RENAME TO "old"')
        await database.close()
        await database.open()
        found = await _with(database, lambda: models.Tenant.all().count())
        with database.active():
            connection = database._current.connections.get("sqlite")
            _, rows = await connection.execute_query('SELECT name FROM "old"')
        assert found == 0 and [row["name"] for row in rows] == ["kept"]
        await database.close()

    asyncio.run(check())
    assert (tmp_path / "manager.db").stat().st_mode & 0o077 == 0


@pytest.mark.skipif(bool(SERVER), reason="of SQLite's file alone")
def test_what_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "manager.db").write_bytes(os.urandom(8192))
    with pytest.raises(ConfigError, match=r"manager\.db.*not a database"):
        asyncio.run(Database("", tmp_path).open())


def test_other_databases_are_refused(tmp_path: Path) -> None:
    for url in ("mysql://h/db", "sqlite://x", "nonsense"):
        with pytest.raises(ConfigError, match="is not a postgres:"):
            Database(url, tmp_path)


def test_an_unreachable_server_is_named_without_its_password(tmp_path: Path) -> None:
    url = "postgres://hawker:hunter2@127.0.0.1:1/hawker"
    # tortoise keeps what it knows of a dialect for the whole process.
    code = (
        "import asyncio; from pathlib import Path; "
        "from hawker.apps.manager.database import Database; "
        f"asyncio.run(Database({url!r}, Path('.')).open())"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    last = ran.stderr.strip().splitlines()[-1]
    assert ran.returncode == 1 and "Unavailable" in last and "127.0.0.1:1/hawker" in last
    assert "hunter2" not in last


def _start(data: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hawker", *command, "--port", "0", "--data", str(data)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


def test_a_manager_alone_does_not_start_without_its_database(tmp_path: Path) -> None:
    url = "postgres://hawker:hunter2@127.0.0.1:1/hawker"
    ran = _start(tmp_path / "data", "serve", "manager", HAWKER_MANAGER__DATABASE=url)
    assert ran.returncode == 1 and "127.0.0.1:1/hawker cannot be used" in ran.stderr
    assert "hunter2" not in ran.stderr and "Traceback" not in ran.stderr


def test_the_key_belongs_to_the_database(tmp_path: Path) -> None:
    manager = Manager(tmp_path / "data")
    manager.set_up().close()
    assert manager.close() == 0
    key = tmp_path / "data" / "manager.key"
    key.write_text("0" * 64)
    env = {"HAWKER_MANAGER__DATABASE": manager.database}
    ran = _start(tmp_path / "data", "serve", "manager", **env)
    assert ran.returncode == 2 and "not hashed with" in ran.stderr
    key.unlink()
    ran = _start(tmp_path / "data", "serve", "manager", **env)
    assert ran.returncode == 2 and "cannot be read" in ran.stderr and not key.exists()


def test_nothing_that_was_answered_is_lost_in_a_kill(tmp_path: Path) -> None:
    manager = Manager(tmp_path / "data")
    try:
        with manager.set_up() as root:
            cookies = dict(root.cookies)
            names = [f"tenant-{n}" for n in range(30)]
            for name in names:
                created(root.post("/tenants", json={"name": name}))
            manager.process.send_signal(signal.SIGKILL)
        manager.kill()
        manager.start()
        with manager.client(cookies=cookies) as root:
            assert [t["name"] for t in root.get("/tenants?per_page=100").json()] == names
            assert len(root.get("/audit?resource=tenants&per_page=100").json()) == 30
        manager.check()
    finally:
        manager.close()


@pytest.mark.skipif(bool(SERVER), reason="of SQLite's file alone")
def test_a_disk_that_is_full_in_a_migration_is_left_as_it_was(tmp_path: Path) -> None:
    """Nothing of the copy stays, and what there was goes on with an older version."""

    async def make() -> None:
        database = Database("", tmp_path)
        await database.open()
        for number in range(200):
            text = os.urandom(2000).hex()
            await _with(
                database,
                lambda number=number, text=text: models.Tenant.create(  # type: ignore[misc]
                    name=f"t-{number}", description=text
                ),
            )
        # As an older version left it.
        with database.active():
            connection = database._current.connections.get("sqlite")
            await connection.execute_script("DELETE FROM tortoise_migrations")
        await database.close()

    asyncio.run(make())
    before = (tmp_path / "manager.db").read_bytes()
    code = (
        "import asyncio, resource; from pathlib import Path; "
        "from hawker.apps.manager.database import Database; "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) // 2}, -1)); "
        f"asyncio.run(Database('', Path({str(tmp_path)!r})).open())"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    last = ran.stderr.strip().splitlines()[-1]
    assert ran.returncode == 1 and "ConfigError" in last and "manager.db" in last
    assert (tmp_path / "manager.db").read_bytes() == before
    assert not list(tmp_path.glob("*.new*"))


class _CancelledAt:
    """A coroutine that is cancelled where it waits for the nth time."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], nth: int) -> None:
        self._coroutine = coroutine
        self._left = nth
        self.reached = False

    def __await__(self) -> Generator[Any, Any, None]:
        steps = self._coroutine.__await__()
        try:
            waited = next(steps)
            while True:
                if self._left == 0 and waited is not None:
                    # As asyncio cancels a task.
                    self.reached = waited.cancel()
                self._left -= 1
                try:
                    yield waited
                except BaseException as exc:
                    waited = steps.throw(exc)
                else:
                    waited = next(steps)
        except StopIteration:
            return


def test_a_change_that_is_cancelled_anywhere_is_not_made(tmp_path: Path) -> None:
    """And nobody after it waits for its connection, or commits what it began."""

    async def change(name: str) -> None:
        async with transaction():
            await models.Tenant.create(name=name)
            await models.Tenant.create(name=f"{name}-too")

    async def awaited(cancelled: _CancelledAt) -> None:
        await cancelled

    # One connection, so that its loss is missed at once.
    url = f"{new_database()}?maxsize=1" if SERVER else ""

    async def check() -> int:
        database = Database(url, tmp_path)
        await database.open()
        made: set[str] = set()
        nth = 0
        try:
            with database.active():
                while True:
                    cancelled = _CancelledAt(change(f"t-{nth}"), nth)
                    async with asyncio.TaskGroup() as group:
                        group.create_task(awaited(cancelled))
                    if not cancelled.reached:
                        break
                    async with asyncio.timeout(10):
                        await change(f"after-{nth}")
                        names = {tenant.name for tenant in await models.Tenant.all()}
                    made |= {f"after-{nth}", f"after-{nth}-too"}
                    # The last waits are those of a COMMIT, which may be done or not.
                    both = {f"t-{nth}", f"t-{nth}-too"}
                    assert names - made in (set(), both)
                    made |= names & both
                    nth += 1
        finally:
            await database.close()
        return nth

    assert asyncio.run(check()) >= 5


@pytest.mark.skipif(bool(SERVER), reason="of SQLite's file alone")
def test_what_a_full_disk_refuses_is_not_made_later(tmp_path: Path) -> None:
    """Reads go on, and changes once there is room again."""
    manager = Manager(tmp_path / "data", database="")
    try:
        with manager.set_up() as root:
            token = manager.with_token(add_token(root, "tenants:read"))
            created(root.post("/tenants", json={"name": "before"}))
            log = manager.data / "manager.db-wal"
            limit = log.stat().st_size
            resource.prlimit(manager.process.pid, resource.RLIMIT_FSIZE, (limit, -1))
            refused = 0
            for number in range(20):
                body = {"name": f"full-{number}", "description": "x" * 4000}
                answer = root.post("/tenants", json=body)
                if answer.status_code == 503:
                    refused += 1
                    assert "manager.db" in problem(answer, 503)
                    names = [row["name"] for row in root.get("/tenants?per_page=100").json()]
                    assert f"full-{number}" not in names
                    assert token.get("/tenants").status_code == 200
                else:
                    created(answer)
            assert refused
            kept = root.get("/tenants?per_page=100").json()
            resource.prlimit(manager.process.pid, resource.RLIMIT_FSIZE, (-1, -1))
            after = created(root.post("/tenants", json={"name": "after"}))
            assert root.get("/tenants?per_page=100").json() == [*kept, after]
            assert len(kept) == 1 + 20 - refused
            audit = root.get("/audit?resource=tenants&per_page=100").json()
            assert len(audit) == len(kept) + 1
            token.close()
        manager.check()
    finally:
        manager.close()


@pytest.mark.skipif(bool(SERVER), reason="of SQLite's file alone")
def test_a_file_that_somebody_else_locks_is_told_and_used_again(tmp_path: Path) -> None:
    manager = Manager(tmp_path / "data", database="")
    try:
        with manager.set_up() as root:
            token = manager.with_token(add_token(root, "tenants:read"))
            other = sqlite3.connect(manager.data / "manager.db", isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            told = problem(root.post("/tenants", json={"name": "locked"}), 503)
            assert "manager.db failed: database is locked" in told
            assert root.get("/tenants").json() == []
            assert token.get("/tenants").status_code == 200
            other.execute("ROLLBACK")
            other.close()
            created(root.post("/tenants", json={"name": "locked"}))
            token.close()
        manager.check()
    finally:
        manager.close()
