"""Leases on disk: whose signed digests count must be known after a restart too."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import msgspec

from hawker.core.errors import StorageFailed
from hawker.core.scheduling import LeaseRecord


class Ledger:
    """An append-and-replace table of lease records; blocking, used from threads one at a time."""

    def __init__(self, path: Path) -> None:
        """Open or create the file; raises StorageFailed where it cannot be used."""
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS leases (lease TEXT PRIMARY KEY, record BLOB NOT NULL)"
            )
        except (OSError, sqlite3.Error) as exc:
            raise self._failed(exc) from exc

    def load(self) -> list[LeaseRecord]:
        """Every record; one that cannot be read any more is passed over."""
        try:
            rows = self._db.execute("SELECT record FROM leases").fetchall()
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
        try:
            with self._db:
                self._db.execute("BEGIN")
                self._db.executemany("INSERT OR REPLACE INTO leases VALUES (?, ?)", rows)
        except sqlite3.Error as exc:
            raise self._failed(exc) from exc

    def close(self) -> None:
        self._db.close()

    def _failed(self, exc: Exception) -> StorageFailed:
        return StorageFailed(
            f"the scheduler's ledger {self._path} cannot be used: {exc}",
            hint="check the disk, or choose another data directory",
        )
