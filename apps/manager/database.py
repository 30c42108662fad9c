"""The manager's database: opened by one role object, migrated under a lock, closed with it.

tortoise keeps what is current in a context variable, which a task inherits from whoever started it;
a request's task is not started by the role. `active` makes one database current for a request, and
two managers of a process keep theirs apart. The variable is private to tortoise: this module alone
touches it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tortoise.backends.base.config_generator import expand_db_url
from tortoise.context import TortoiseContext, _current_context
from tortoise.exceptions import BaseORMException
from tortoise.migrations.executor import MigrationExecutor
from tortoise.transactions import in_transaction

from hawker.core.errors import ConfigError, HawkerError, Unavailable
from hawker.core.masking import mask
from hawker.core.storage.directory import DirectoryLock

APP = "manager"
MODELS = [
    "hawker.apps.manager.models",
    "hawker.apps.manager.tenant_tables",
    "hawker.apps.manager.jobs.tables",
    "hawker.apps.manager.points",
]
MIGRATIONS = "hawker.apps.manager.migrations"
POSTGRES = ("postgres", "postgresql")
OPEN_SECONDS = 20.0
BUSY_MS = 1000
IDLE_SECONDS = 10
# Any number will do that nobody else in the database locks.
ADVISORY_LOCK = 0x4861776B_6572


class Database:
    """One database, by URL; without one, the SQLite file `manager.db` in the data directory."""

    def __init__(self, url: str, data: Path) -> None:
        """Nothing is opened yet; raises ConfigError for a URL of another kind of database."""
        self._url = url
        self._data = data
        self._file = data / "manager.db"
        self._lock: DirectoryLock | None = None
        self._context: TortoiseContext | None = None
        self._faults: tuple[type[Exception], ...] = (BaseORMException, OSError, sqlite3.Error)
        if not url:
            return
        if urlsplit(url).scheme not in POSTGRES:
            raise ConfigError(
                f"manager.database: {url!r} is not a postgres:// URL",
                hint="leave it empty for an SQLite file in the data directory",
            )
        if find_spec("asyncpg") is None:
            raise ConfigError(
                "manager.database needs asyncpg", hint="pip install 'hawker[postgres]'"
            )
        import asyncpg

        # tortoise lets those of a lost connection through.
        self._faults += (
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            asyncpg.InternalClientError,
        )

    @property
    def name(self) -> str:
        """What errors call it: without its password."""
        return mask(self._url) or str(self._file)

    @property
    def dialect(self) -> str:
        return "postgres" if self._url else "sqlite"

    async def open(self) -> None:
        """Migrate it, and connect.

        Raises:
            ConfigError: a newer Hawker made it, or it is no database.
            StorageFailed: another manager has its file.
            Unavailable: it cannot be reached.
        """
        try:
            # A file is copied for as long as that takes.
            async with asyncio.timeout(OPEN_SECONDS if self._url else None):
                await self._open()
        except BaseException as exc:
            await self.close()
            if isinstance(exc, HawkerError) or not isinstance(exc, Exception):
                raise
            told = str(exc) or type(exc).__name__
            if not self._url:
                raise ConfigError(f"the manager's database {self.name}: {told}") from exc
            raise Unavailable(
                f"the manager's database {self.name} cannot be used: {told}",
                hint="check manager.database",
                retry_after=5,
            ) from exc

    async def _open(self) -> None:
        if self._url:
            await self._connect(self._credentials())
            with self.active():
                async with in_transaction() as connection:
                    lock = "SELECT pg_advisory_xact_lock($1)"
                    await connection.execute_query(lock, [ADVISORY_LOCK])
                    await self._migrate(connection)
            return
        self._lock = DirectoryLock(self._data, "manager.lock")
        exists = await asyncio.to_thread(self._file.exists)
        if not exists or await self._behind():
            await self._renew_file()
        await self._connect(_sqlite(self._file))
        with self.active():
            # Now, so that no request waits for it, or is cancelled while it does.
            await self._current.connections.get(self.dialect).execute_query("SELECT 1")

    def _credentials(self) -> dict[str, Any]:
        url = "asyncpg" + self._url[len(urlsplit(self._url).scheme) :]
        made = expand_db_url(url)
        # A manager that hangs, or whose machine is gone, holds nobody up: it has no transaction
        # that waits for anything but the server.
        idle = {"idle_in_transaction_session_timeout": f"{IDLE_SECONDS * 1000}"}
        made["credentials"]["server_settings"] = idle
        return made

    async def _connect(self, connection: dict[str, Any]) -> None:
        self._context = TortoiseContext()
        config = {
            "connections": {self.dialect: connection},
            "apps": {APP: _app(self.dialect)},
        }
        with self.active():
            await self._context.init(config=config)

    async def _behind(self) -> bool:
        await self._connect(_sqlite(self._file))
        try:
            with self.active():
                async with in_transaction() as connection:
                    return bool(await self._pending(self._executor(connection)))
        finally:
            await self._disconnect()

    async def _renew_file(self) -> None:
        """Migrate a copy, and put it in the file's place: SQLite commits before each script, so
        that a process that ends in mid-migration would leave half of it."""
        new = self._file.with_suffix(".new")
        try:
            await asyncio.to_thread(_copy, self._file, new)
            await self._connect(_sqlite(new))
            try:
                with self.active():
                    connection = self._current.connections.get(self.dialect)
                    await self._migrate(connection)
            finally:
                # The last connection writes the log back into the file.
                await self._disconnect()
            await asyncio.to_thread(_replace, new, self._file)
        except Exception:
            # A disk may be full of it.
            await asyncio.to_thread(_remove, new)
            raise

    async def _migrate(self, connection: Any) -> None:
        executor = self._executor(connection)
        await self._pending(executor)
        await executor.migrate()

    def _executor(self, connection: Any) -> MigrationExecutor:
        return MigrationExecutor(connection, {APP: _app(self.dialect)})

    async def _pending(self, executor: MigrationExecutor) -> list[str]:
        """The migrations it lacks; raises ConfigError where it has some that we do not know."""
        # tortoise asks a table for them that may not be there, which ends PostgreSQL's transaction.
        await executor.recorder.ensure_schema(executor._schema_editor(atomic=False))
        plan = await executor.plan()
        known = {key.name for key in executor.loader.disk_migrations}
        applied = {key.name for key in await executor.recorder.applied_migrations()}
        if applied - known:
            raise ConfigError(
                f"a newer Hawker made the manager's database {self.name}",
                hint=f"it has {max(applied - known)!r}; install that version again",
            )
        return [step.migration.name for step in plan]

    @property
    def _current(self) -> TortoiseContext:
        if self._context is None:
            raise Unavailable(f"the manager's database {self.name} is closed")
        return self._context

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Make it the current one of this task."""
        token = _current_context.set(self._current)
        try:
            yield
        finally:
            _current_context.reset(token)

    @contextlib.asynccontextmanager
    async def failures(self) -> AsyncIterator[None]:
        """What is not a caller's mistake is Unavailable, naming the database."""
        try:
            yield
        except self._faults as exc:
            told = str(exc) or "it did not answer in time"
            raise Unavailable(
                f"the manager's database {self.name} failed: {told}", retry_after=1
            ) from exc

    async def keep_alive(self, ids: Sequence[str], at: float) -> None:
        """Write down when these members were heard of last: one statement, with one parameter for
        all of them."""
        those = "id = ANY($2)" if self._url else "id IN (SELECT value FROM json_each(?))"
        given = list(ids) if self._url else json.dumps(ids)
        statement = f"UPDATE member SET kept_alive = {self._mark(1)} WHERE {those}"
        await self._connection.execute_query(statement, [at, given])

    async def describe(self, columns: Sequence[str], rows: Mapping[str, Sequence[Any]]) -> None:
        """Write down what members say of themselves, by id."""
        marks = ", ".join(f"{name} = {self._mark(n)}" for n, name in enumerate(columns, 1))
        statement = f"UPDATE member SET {marks} WHERE id = {self._mark(len(columns) + 1)}"
        given = [
            [*(v if isinstance(v, str) else json.dumps(v) for v in values), id_]
            for id_, values in rows.items()
        ]
        await self._connection.execute_many(statement, given)

    @property
    def _connection(self) -> Any:
        return self._current.connections.get(self.dialect)

    def _mark(self, number: int) -> str:
        """Where a parameter goes."""
        return f"${number}" if self._url else "?"

    async def close(self) -> None:
        """Close the connections and let go of the file."""
        try:
            await self._disconnect()
        finally:
            if self._lock is not None:
                self._lock.release()
                self._lock = None

    async def _disconnect(self) -> None:
        if self._context is not None:
            with self.active():
                # Else their threads keep the process alive.
                await self._context.close_connections()
            self._context = None


@contextlib.asynccontextmanager
async def transaction() -> AsyncIterator[None]:
    """A transaction of the current database: all that is done inside happens, or nothing.

    tortoise's own keeps its connection for ever where BEGIN fails or is cancelled.
    """
    context = in_transaction()
    async with contextlib.AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(context)
        except BaseException as exc:
            # It has the connection from when it has this.
            if hasattr(context, "token"):
                # What never began cannot be rolled back; the connection is given back all the same.
                with contextlib.suppress(Exception):
                    await context.__aexit__(type(exc), exc, exc.__traceback__)
            raise
        yield


def _app(connection: str) -> dict[str, Any]:
    return {"models": MODELS, "default_connection": connection, "migrations": MIGRATIONS}


def _sqlite(file: Path) -> dict[str, Any]:
    # What was answered must survive the machine, too. All wait for one who waits for a lock.
    credentials = {"file_path": str(file), "synchronous": "FULL", "busy_timeout": BUSY_MS}
    return {"engine": "tortoise.backends.sqlite", "credentials": credentials}


def _copy(source: Path, target: Path) -> None:
    """Make a new file, with what is in the other if there is one."""
    _remove(target)
    os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o600))
    if not source.exists():
        return
    with contextlib.closing(sqlite3.connect(source)) as old:
        with contextlib.closing(sqlite3.connect(target)) as new:
            old.backup(new)


def _remove(file: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{file}{suffix}").unlink(missing_ok=True)


def _replace(new: Path, file: Path) -> None:
    descriptor = os.open(new, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    for suffix in ("-wal", "-shm"):
        Path(f"{file}{suffix}").unlink(missing_ok=True)
    os.replace(new, file)
