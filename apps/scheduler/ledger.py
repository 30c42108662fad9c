"""What a scheduler knows after a restart: whose signed digests count, who was there, and what was
read from origins for tenants with quotas."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from hawker.core.errors import StorageFailed
from hawker.core.quotas import Spent
from hawker.core.scheduling import MAX_RECORDS, LeaseRecord


class Ledger:
    """Tables of lease records, host ids and tenants' reads; blocking, from any thread: they take
    turns."""

    def __init__(self, path: Path) -> None:
        """Open or create the file; raises StorageFailed where it cannot be used."""
        self._path = path
        # One connection has one transaction; a cancelled caller's thread goes on with its own.
        self._turn = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS leases (lease TEXT PRIMARY KEY, record BLOB NOT NULL)"
            )
            self._db.execute("CREATE TABLE IF NOT EXISTS hosts (host TEXT PRIMARY KEY)")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS spent (tenant TEXT, host TEXT, life TEXT,"
                " period INTEGER NOT NULL, bytes INTEGER NOT NULL, ends REAL NOT NULL,"
                " PRIMARY KEY (tenant, host, life))"
            )
        except (OSError, sqlite3.Error) as exc:
            raise self._failed(exc) from exc

    def load(self) -> list[LeaseRecord]:
        """Every record; one that cannot be read any more is passed over."""
        try:
            rows = self._db.execute("SELECT record FROM leases ORDER BY rowid").fetchall()
        except sqlite3.Error as exc:
            raise self._failed(exc) from exc
        records: list[LeaseRecord] = []
        for (raw,) in rows:
            try:
                records.append(msgspec.msgpack.decode(raw, type=LeaseRecord))
            except msgspec.DecodeError:
                continue
        return records

    def save(self, records: Sequence[LeaseRecord]) -> None:
        """Store these records, in one transaction."""
        rows = [(record.lease, msgspec.msgpack.encode(record)) for record in records]
        with self._transaction():
            self._db.executemany("INSERT OR REPLACE INTO leases VALUES (?, ?)", rows)
            # A row that is replaced gets a new number: the lowest are those written first.
            self._db.execute(
                "DELETE FROM leases WHERE rowid <= (SELECT max(rowid) FROM leases) - ?",
                (MAX_RECORDS,),
            )

    def hosts(self) -> set[str]:
        """The hosts that were there when the scheduler ended."""
        try:
            return {host for (host,) in self._db.execute("SELECT host FROM hosts")}
        except sqlite3.Error as exc:
            raise self._failed(exc) from exc

    def save_hosts(self, came: Collection[str], went: Collection[str]) -> None:
        """Hosts that came and went since the last call."""
        with self._transaction():
            self._db.executemany("DELETE FROM hosts WHERE host = ?", [(h,) for h in went])
            self._db.executemany("INSERT OR IGNORE INTO hosts VALUES (?)", [(h,) for h in came])

    def spent(self) -> list[Spent]:
        """What tenants' hosts have read."""
        try:
            rows = self._db.execute("SELECT tenant, host, life, period, bytes, ends FROM spent")
            return [Spent(*row) for row in rows]
        except sqlite3.Error as exc:
            raise self._failed(exc) from exc

    def save_spent(self, spent: Sequence[Spent], wall: float) -> None:
        """Store these, and forget those whose period is over at that time."""
        rows = [(s.tenant, s.host, s.life, s.period, s.bytes, s.ends) for s in spent]
        with self._transaction():
            self._db.execute("DELETE FROM spent WHERE ends <= ?", (wall,))
            self._db.executemany("INSERT OR REPLACE INTO spent VALUES (?, ?, ?, ?, ?, ?)", rows)

    def close(self) -> None:
        with self._turn:
            self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of what happens inside, or none of it; raises StorageFailed."""
        try:
            with self._turn, self._db:
                self._db.execute("BEGIN")
                yield
        except sqlite3.Error as exc:
            raise self._failed(exc) from exc

    def _failed(self, exc: Exception) -> StorageFailed:
        return StorageFailed(
            f"the scheduler's ledger {self._path} cannot be used: {exc}",
            hint="check the disk, or choose another data directory",
        )
