"""What a data directory holds when it is opened, after whatever happened to it; blocking."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from hawker.core.digests import check_run
from hawker.core.errors import BadRequest, DigestMismatch, QuotaExceeded
from hawker.core.pieces import Layout, PieceSet
from hawker.core.storage.directory import (
    SIDECAR_SUFFIX,
    Files,
    Name,
    content_directory,
    content_files,
)
from hawker.core.storage.faults import storage_failure
from hawker.core.storage.index import Contents, DamagedIndex, Index, Row
from hawker.core.storage.mark import Mark
from hawker.core.storage.sidecar import Digests, Learned, Sidecar
from hawker.core.storage.verification import matching, slices

log = logging.getLogger(__name__)

INDEX_FILE = "index.sqlite"
DAMAGED_SUFFIX = ".damaged"
SUSPECT_SIZE = "shorter than its pieces"


class Found(msgspec.Struct, frozen=True):
    """A generation that is there: its row, its files, its committed pieces."""

    row: Row
    files: Files
    valid: PieceSet


class Recovered(msgspec.Struct, frozen=True):
    """An open index, what it knows, and the first number for a new entry."""

    index: Index
    found: list[Found]
    next_number: int


def load(directory: Path, boot: str, now: float, threads: ThreadPoolExecutor) -> Recovered:
    """The index of a directory and what it holds; leftovers are removed.

    Raises:
        StorageFailed, QuotaExceeded: the directory cannot be used.
    """
    try:
        content_directory(directory).mkdir(mode=0o700, exist_ok=True)
        index, contents = _open_or_rebuild(directory, boot, now, threads)
        try:
            found = list(_present(directory, contents))
            _forget_lost(index, contents.rows, found)
            _remove_leftovers(directory, found)
        except BaseException:
            index.close()
            raise
    except OSError as exc:
        raise storage_failure(exc, f"the data directory {directory}") from exc
    return Recovered(index, found, 1 + max((row.number for row in contents.rows), default=0))


def _open_or_rebuild(
    directory: Path, boot: str, now: float, threads: ThreadPoolExecutor
) -> tuple[Index, Contents]:
    path = directory / INDEX_FILE
    try:
        if path.exists() and path.stat().st_size:
            return Index.open(path)
    except DamagedIndex as exc:
        log.warning("the index %s is damaged (%s): rebuilt from the digest runs", path, exc)
        os.replace(path, path.with_name(path.name + DAMAGED_SUFFIX))
    # The log of another file must not be taken for that of the new one.
    path.with_name(path.name + "-wal").unlink(missing_ok=True)
    return Index.create(path, lambda index: _rebuild(index, directory, boot, now, threads))


# ---------------------------------------------------------------------------- rebuilding


def _rebuild(
    index: Index, directory: Path, boot: str, now: float, threads: ThreadPoolExecutor
) -> None:
    """Fill a new index with the pieces on disk that have the digest a signed run gives them."""
    seen: set[tuple[str, str]] = set()
    number = 0
    for name, files, layout, sidecar in _headed(directory):
        header, records = sidecar.read()
        if header is None or (name.task, name.generation) in seen:
            continue
        seen.add((name.task, name.generation))
        number += 1
        digests = _accepted(records, layout)
        if layout.total is None and digests.total is not None:
            layout = Layout(digests.total, layout.piece_length)
        # Before the bytes are read: a change during that is seen the next time.
        mark = Mark.of(files.content.stat())
        good = _on_disk(files.content, layout, digests.by_piece(), threads)
        link = _link(files)
        row = Row(
            number,
            name,
            header.spec,
            layout,
            header.created,
            now,
            boot,
            link,
            mark,
            header.modified,
        )
        index.insert(row)
        index.add_pieces(number, good, boot)


def _headed(directory: Path) -> Iterator[tuple[Name, Files, Layout, Sidecar]]:
    """Every generation whose sidecar says what it is, the youngest life of each first."""
    headed = []
    for file in content_files(directory):
        name = Name.parse(file.name.removesuffix(SIDECAR_SUFFIX))
        if name is None or file.suffix != SIDECAR_SUFFIX:
            continue
        sidecar = Sidecar(file)
        header, _ = sidecar.read()
        files = name.files(directory)
        if header is None or not files.content.exists():
            continue
        if (header.spec.task_id, header.generation) != (name.task, name.generation):
            continue
        with contextlib.suppress(BadRequest):
            headed.append((header.created, name, files, header.layout.check(), sidecar))
    headed.sort(key=lambda item: item[0], reverse=True)
    yield from (item[1:] for item in headed)


def _accepted(records: list[Learned], layout: Layout) -> Digests:
    """The runs whose signature is right; the file may be anybody's after a damage."""
    digests = Digests()
    for record in records:
        for reader in record.readers:
            digests.readers[reader.host, reader.lease] = reader
        for run in record.runs:
            with contextlib.suppress(DigestMismatch):
                check_run(run, layout, list(digests.readers.values()))
                digests.add(Learned([run], []))
    return digests


def _on_disk(
    path: Path, layout: Layout, digests: dict[int, bytes], threads: ThreadPoolExecutor
) -> dict[int, bytes]:
    parts = threads.map(lambda part: matching(path, layout, part), slices(layout, digests))
    return {piece: digests[piece] for part in parts for piece in part}


def _link(files: Files) -> Mark | None:
    """A stored file is read-only when hard links to it may exist."""
    status = files.content.stat()
    return None if status.st_mode & 0o200 else Mark.of(status)


# ---------------------------------------------------------------------------- what is there


def _present(directory: Path, contents: Contents) -> Iterator[Found]:
    """Rows whose files are there; those whose file is too short are to be verified."""
    for row in contents.rows:
        files = row.name.files(directory)
        pieces = contents.pieces.get(row.number, PieceSet())
        if row.layout.total is not None:
            pieces &= row.layout.everything()
        try:
            size = files.content.stat().st_size
            files.sidecar.stat()
        except FileNotFoundError:
            continue
        if size < extent(row.layout, pieces):
            row = msgspec.structs.replace(row, unsynced=SUSPECT_SIZE)
        yield Found(row, files, pieces)


def extent(layout: Layout, pieces: PieceSet) -> int:
    """Bytes up to the end of the last of these pieces."""
    if not pieces:
        return 0
    last = pieces.bits.bit_length() - 1
    return layout.offset(last) + layout.length(last)


def _forget_lost(index: Index, rows: list[Row], found: list[Found]) -> None:
    """Drop rows without files. They do no harm, so it does not matter if the disk is full."""
    kept = {item.row.number for item in found}
    lost = [row.number for row in rows if row.number not in kept]
    if not lost:
        return

    try:
        with index.transaction():
            for number in lost:
                index.forget(number)
    except QuotaExceeded as exc:
        log.warning("%d rows of missing content stay in the index: %s", len(lost), exc)


def _remove_leftovers(directory: Path, found: list[Found]) -> None:
    """Remove files that no row names: of creations and removals that were interrupted."""
    kept = {path for item in found for path in (item.files.content, item.files.sidecar)}
    for file in content_files(directory):
        if file not in kept:
            file.unlink(missing_ok=True)
