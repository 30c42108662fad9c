"""The index: which pieces of which generation are valid. The only user of sqlite3 in core.

Write-ahead log with synchronous=NORMAL: a killed process loses nothing, a machine that loses power
may lose the last transactions but never half of one. The directory's lock makes this the only
connection, so that the log needs no shared memory file.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from hawker.core.errors import BadRequest, QuotaExceeded, StorageFailed
from hawker.core.ids import TaskSpec
from hawker.core.pieces import Layout, PieceSet
from hawker.core.storage.directory import Name
from hawker.core.storage.faults import FULL_HINT
from hawker.core.storage.mark import Mark

SCHEMA_VERSION = 3
_SCHEMA = (
    """CREATE TABLE entries (
        number INTEGER PRIMARY KEY,
        task TEXT NOT NULL,
        generation TEXT NOT NULL,
        stamp TEXT NOT NULL,
        spec BLOB NOT NULL,
        total INTEGER,
        piece_length INTEGER NOT NULL,
        created REAL NOT NULL,
        used REAL NOT NULL,
        unsynced TEXT NOT NULL,
        link BLOB,
        mark BLOB,
        modified INTEGER,
        UNIQUE (task, generation))""",
    """CREATE TABLE pieces (
        entry INTEGER NOT NULL,
        piece INTEGER NOT NULL,
        digest BLOB NOT NULL,
        PRIMARY KEY (entry, piece)) WITHOUT ROWID""",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
# Errors that say something about the disk or the process, not about what is in the file.
_NOT_DAMAGE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
    }
)


class DamagedIndex(StorageFailed):
    """The file is not an index that can be trusted."""


class Row(msgspec.Struct, frozen=True):
    """A generation in the index.

    `unsynced` is the boot of the machine during which bytes were written that nobody has forced to
    the disk since; empty where there are none. `link` is set while hard links may exist, and is the
    file as it was when they were allowed; `mark` is the file as this store left it. `modified` is
    when the origin changed it last, in seconds since 1970.
    """

    number: int
    name: Name
    spec: TaskSpec
    layout: Layout
    created: float
    used: float
    unsynced: str
    link: Mark | None = None
    mark: Mark | None = None
    modified: int | None = None


class Contents(msgspec.Struct, frozen=True):
    """All generations, and the valid pieces of each by its number."""

    rows: list[Row]
    pieces: dict[int, PieceSet]


def _failure(exc: sqlite3.Error) -> QuotaExceeded | StorageFailed:
    """An error of the database as one of ours."""
    if _primary_code(exc) == sqlite3.SQLITE_FULL:
        return QuotaExceeded(f"the index cannot be written: {exc}", hint=FULL_HINT)
    return StorageFailed(
        f"the index cannot be used: {exc}", hint="start again: a damaged index is rebuilt"
    )


def _primary_code(exc: sqlite3.Error) -> int:
    return getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


class Index:
    """One connection; used by one thread at a time. What changes it is called inside
    `transaction()`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    @classmethod
    def open(cls, path: Path) -> tuple[Index, Contents]:
        """Open, check and read an index.

        Raises:
            DamagedIndex: there is none, or it cannot be trusted.
            QuotaExceeded, StorageFailed: the disk does not let us.
        """

        def first(index: Index) -> Contents:
            index._check()
            return index._contents()

        return cls._guarded(path, first)

    @classmethod
    def create(cls, path: Path, fill: Callable[[Index], None]) -> tuple[Index, Contents]:
        """A new index with what `fill` puts in: all of it, or after a crash nothing."""

        def first(index: Index) -> Contents:
            with index.transaction():
                for statement in _SCHEMA:
                    index._db.execute(statement)
                fill(index)
            return index._contents()

        return cls._guarded(path, first)

    @classmethod
    def _guarded(cls, path: Path, first: Callable[[Index], Contents]) -> tuple[Index, Contents]:
        try:
            # Made here for its mode: URLs are nobody else's business.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as exc:
            raise StorageFailed(f"the index {path} cannot be opened: {exc}") from exc
        try:
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            index = cls(db)
            return index, first(index)
        except sqlite3.Error as exc:
            db.close()
            if _primary_code(exc) in _NOT_DAMAGE:
                raise _failure(exc) from exc
            raise DamagedIndex(str(exc)) from exc
        except BaseException:
            db.close()
            raise

    def _check(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version != SCHEMA_VERSION:
            raise DamagedIndex(f"schema {version}, not {SCHEMA_VERSION}")
        (verdict,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise DamagedIndex(verdict)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of what happens inside, or none of it; raises QuotaExceeded, StorageFailed."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except BaseException as exc:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if isinstance(exc, sqlite3.Error):
                raise _failure(exc) from exc
            raise

    def close(self) -> None:
        """Empty the log into the file, and close."""
        # Without room for that the log stays, and is read at the next start.
        with suppress(sqlite3.Error):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.close()

    # ------------------------------------------------------------------ entries

    def _contents(self) -> Contents:
        """Everything; raises DamagedIndex where it makes no sense."""
        found = self._db.execute(
            "SELECT number, task, generation, stamp, spec, total, piece_length, created, used,"
            " unsynced, link, mark, modified FROM entries"
        )
        try:
            rows = [_row(values) for values in found]
            for row in rows:
                row.layout.check()
            return Contents(rows, self._piece_sets())
        except (msgspec.DecodeError, BadRequest, TypeError, ValueError) as exc:
            raise DamagedIndex(str(exc)) from exc

    def insert(self, row: Row) -> None:
        """Add an entry; one of the same generation that was left behind goes."""
        name = row.name
        left_behind = self._db.execute(
            "SELECT number FROM entries WHERE task = ? AND generation = ?",
            (name.task, name.generation),
        ).fetchall()
        for (number,) in left_behind:
            self.forget(number)
        self._db.execute(
            "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                row.number,
                name.task,
                name.generation,
                name.stamp,
                msgspec.json.encode(row.spec),
                row.layout.total,
                row.layout.piece_length,
                row.created,
                row.used,
                row.unsynced,
                _mark_blob(row.link),
                _mark_blob(row.mark),
                row.modified,
            ),
        )

    def forget(self, number: int) -> None:
        self._db.execute("DELETE FROM pieces WHERE entry = ?", (number,))
        self._db.execute("DELETE FROM entries WHERE number = ?", (number,))

    def set_total(self, number: int, total: int) -> None:
        self._db.execute("UPDATE entries SET total = ? WHERE number = ?", (total, number))

    def set_used(self, number: int, used: float) -> None:
        self._db.execute("UPDATE entries SET used = ? WHERE number = ?", (used, number))

    def set_unsynced(self, number: int, boot: str) -> None:
        self._db.execute("UPDATE entries SET unsynced = ? WHERE number = ?", (boot, number))

    def set_link(self, number: int, link: Mark | None) -> None:
        self._db.execute("UPDATE entries SET link = ? WHERE number = ?", (_mark_blob(link), number))

    def set_mark(self, number: int, mark: Mark | None) -> None:
        self._db.execute("UPDATE entries SET mark = ? WHERE number = ?", (_mark_blob(mark), number))

    # ------------------------------------------------------------------ pieces

    def add_pieces(self, number: int, digests: Mapping[int, bytes], boot: str) -> None:
        """These pieces are valid; their bytes were written in this boot of the machine."""
        self._db.executemany(
            "INSERT OR REPLACE INTO pieces VALUES (?, ?, ?)",
            [(number, piece, digest) for piece, digest in digests.items()],
        )
        # A mark of an earlier boot stays: that content is still to be verified.
        self._db.execute(
            "UPDATE entries SET unsynced = ? WHERE number = ? AND unsynced = ''", (boot, number)
        )

    def drop_pieces(self, number: int, pieces: Iterable[int]) -> None:
        self._db.executemany(
            "DELETE FROM pieces WHERE entry = ? AND piece = ?",
            [(number, piece) for piece in pieces],
        )

    def digests(self, number: int) -> dict[int, bytes]:
        """The digest of each valid piece of an entry."""
        return dict(self._db.execute("SELECT piece, digest FROM pieces WHERE entry = ?", (number,)))

    def _piece_sets(self) -> dict[int, PieceSet]:
        """The valid pieces by entry; single rows are read only of entries with gaps."""
        sets: dict[int, PieceSet] = {}
        found = self._db.execute(
            "SELECT entry, count(*), min(piece), max(piece) FROM pieces GROUP BY entry"
        ).fetchall()
        for entry, count, first, last in found:
            if last - first + 1 == count:
                sets[entry] = PieceSet.of_run(first, last)
            else:
                sets[entry] = PieceSet.of(self.digests(entry))
        return sets


def _mark_blob(mark: Mark | None) -> bytes | None:
    return None if mark is None else msgspec.json.encode(mark)


def _row(values: tuple[object, ...]) -> Row:
    (number, task, generation, stamp, spec, total, piece_length, created, used, unsynced, link,
     mark, modified) = values  # fmt: skip
    return msgspec.convert(
        {
            "number": number,
            "name": {"task": task, "generation": generation, "stamp": stamp},
            "spec": msgspec.json.decode(_bytes(spec)),
            "layout": {"total": total, "piece_length": piece_length},
            "created": created,
            "used": used,
            "unsynced": unsynced,
            "link": None if link is None else msgspec.json.decode(_bytes(link)),
            "mark": None if mark is None else msgspec.json.decode(_bytes(mark)),
            "modified": modified,
        },
        Row,
    )


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError(f"a {type(value).__name__} where bytes were written")
    return value
