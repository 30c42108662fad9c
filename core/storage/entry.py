"""One generation in the store: bytes in, digests learned, valid pieces out."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import msgspec

from hawker.core.digests import PIECE_DIGEST_BYTES, DigestRun, Reader
from hawker.core.errors import BadRequest, GenerationGone, StorageFailed
from hawker.core.messages import TaskStat
from hawker.core.pieces import Layout, PieceSet
from hawker.core.signal import Signal
from hawker.core.storage.content import ContentFile, write_fully
from hawker.core.storage.directory import Files
from hawker.core.storage.faults import storage_failure
from hawker.core.storage.index import Index, Row
from hawker.core.storage.journal import Journal
from hawker.core.storage.linux import punch_hole
from hawker.core.storage.mark import Mark
from hawker.core.storage.sidecar import Digests, Learned, Sidecar
from hawker.core.storage.trust import Trust

# Eviction needs no finer order of last uses than this after a restart.
_USED_STEP = 60.0


class Keeper(Protocol):
    """What an entry needs of its store."""

    boot: str
    journal: Journal
    threads: ThreadPoolExecutor
    clock: Callable[[], float]

    def make_room(self, entry: Entry, size: int) -> None:
        """Let the entry occupy `size` bytes; any thread; raises QuotaExceeded."""
        ...

    def give_back(self, entry: Entry, size: int) -> None:
        """The entry occupies no more than `size` bytes."""
        ...

    def released(self, entry: Entry) -> None:
        """The last user of the entry left."""
        ...

    def withdraw(self, entry: Entry) -> None:
        """The entry must not be used any more."""
        ...


class Entry:
    """A generation of a task; made by the store. Use it inside `using()`, after `prepare()`.

    Attributes:
        gone: withdrawn or evicted; users should let go of it.
        windowed: larger than the quota; its user discards what it has consumed, and nothing of it
            is kept.
        reserved: bytes of the quota it occupies.
    """

    def __init__(
        self,
        keeper: Keeper,
        row: Row,
        files: Files,
        *,
        valid: PieceSet,
        reserved: int,
        windowed: bool,
    ) -> None:
        self.task = row.name.task
        self.generation = row.name.generation
        self.spec = row.spec
        self.number = row.number
        self.created = row.created
        self.used = row.used
        self.modified = row.modified
        self.files = files
        self.gone = False
        # The origin was seen not to have it any more; forgotten by a restart.
        self.outdated = False
        self.windowed = windowed
        self.reserved = reserved
        self.unsynced = row.unsynced
        self._keeper = keeper
        self._layout = row.layout
        self._recorded_use = row.used
        self._file = ContentFile(files.content)
        self._trust = Trust(
            row, self._file, keeper.boot, keeper.journal, keeper.threads, empty=not valid
        )
        # Pieces that may not be on the disk are not valid until `prepare` has seen them.
        self._valid = PieceSet() if self._trust.in_doubt_since_boot else valid
        self._sidecar = Sidecar(files.sidecar)
        self._digests: Digests | None = Digests() if windowed else None
        self._preparing = asyncio.Lock()
        # Nobody relies on it before the first `prepare` is done, whoever already waits for that.
        self._prepared = False
        self._users = 0
        self._changes = Signal()

    # ------------------------------------------------------------------ what it is

    @property
    def layout(self) -> Layout:
        return self._layout

    @property
    def valid(self) -> PieceSet:
        """The pieces whose bytes were verified and whose index row is committed."""
        return self._valid

    @property
    def valid_bytes(self) -> int:
        layout, valid = self._layout, self._valid
        size = len(valid) * layout.piece_length
        if layout.count and layout.count - 1 in valid:
            size -= layout.piece_length - layout.length(layout.count - 1)
        return size

    @property
    def complete(self) -> bool:
        """The length is known and every piece is valid."""
        return self._layout.total is not None and self._layout.everything() <= self._valid

    @property
    def in_use(self) -> bool:
        return self._users > 0

    @property
    def path(self) -> Path:
        """The stored file."""
        return self.files.content

    @property
    def fd(self) -> int:
        """The stored file, open for reading and writing (for reading only once it may have hard
        links); raises StorageFailed where the entry is not in use.

        Threads that use it must be done before `using()` is left.
        """
        return self._file.fd

    @property
    def runs(self) -> Sequence[DigestRun]:
        """The signed digest runs learned so far, new ones last; the list grows as more are."""
        return self._known().runs

    @property
    def readers(self) -> list[Reader]:
        """The readers who signed them."""
        return list(self._known().readers.values())

    def digest_of(self, piece: int) -> bytes | None:
        """The digest that a signed run gives the piece, None while none does."""
        return self._known().digest_of(piece)

    def read_alone(self, host: str) -> dict[int, bytes]:
        """Valid pieces, with their digests, that nobody but this host read, under no lease."""
        alone = self._known().read_alone(host)
        return {piece: digest for piece, digest in alone.items() if piece in self._valid}

    def is_news(self, run: DigestRun) -> bool:
        """Whether learning this run would change what is known."""
        return self._known().is_new(run, self._layout.total)

    def stat(self) -> TaskStat:
        return TaskStat(
            task=self.task,
            generation=self.generation,
            spec=self.spec,
            total=self._layout.total,
            piece_length=self._layout.piece_length,
            valid_pieces=len(self._valid),
            valid_bytes=self.valid_bytes,
            complete=self.complete,
            in_use=self.in_use,
            created=self.created,
            used=self.used,
        )

    @property
    def version(self) -> int:
        """Grows with every change that somebody may wait for."""
        return self._changes.seen

    async def wait_change(self, seen: int, timeout: float) -> int:
        """The version, as soon as it is not `seen` any more or `timeout` seconds have passed."""
        await self._changes.wait(timeout, seen)
        return self.version

    # ------------------------------------------------------------------ using it

    @contextmanager
    def using(self) -> Iterator[Entry]:
        """Keep the entry from eviction, and its file open; it is used until this is left.

        Raises:
            GenerationGone: it was withdrawn, or its file is missing.
        """
        self._check_here()
        try:
            self._file.hold(read_only=self._trust.linked)
        except FileNotFoundError as exc:
            self._keeper.withdraw(self)
            raise GenerationGone(f"the stored file of {self} is missing") from exc
        except OSError as exc:
            raise storage_failure(exc, f"the stored file of {self}") from exc
        self._users += 1
        try:
            self._touch()
            yield self
        finally:
            self.used = self._keeper.clock()
            self._users -= 1
            self._file.release()
            if self._users == 0:
                if not self.windowed:
                    self._digests = None
                    self._trust.settle()
                    self._trust.record()
                self._keeper.released(self)

    def write(self, offset: int, data: memoryview) -> None:
        """Put bytes at an offset of the content; from any thread, while the entry is in use.

        Pieces that are valid already are left as they are.

        Raises:
            QuotaExceeded: no room within the quota or on the disk.
            StorageFailed: anything else.
        """
        end = offset + len(data)
        layout = self._layout
        if layout.total is not None and end > layout.total:
            raise StorageFailed(f"{self}: byte {end} is beyond its {layout.total} bytes")
        try:
            with self._file.borrow() as fd, self._trust.writing():
                if end > self.reserved and not self.windowed:
                    self._keeper.make_room(self, _rounded_up(end, layout))
                while data:
                    piece = offset // layout.piece_length
                    part = data[: layout.offset(piece + 1) - offset]
                    if piece not in self._valid:
                        with self._file.turn:
                            write_fully(fd, offset, part)
                    offset += len(part)
                    data = data[len(part) :]
        except OSError as exc:
            raise storage_failure(exc, f"writing {self}") from exc

    async def commit(self, digests: Mapping[int, bytes]) -> None:
        """Pieces whose bytes were written and verified become valid, once their rows are committed.

        Raises:
            GenerationGone: the entry was withdrawn.
            QuotaExceeded, StorageFailed: the index could not be written; nothing became valid.
        """
        self._check_here()
        new = {piece: digest for piece, digest in digests.items() if piece not in self._valid}
        count = self._layout.count
        for piece, digest in new.items():
            if piece < 0 or (count is not None and piece >= count):
                raise BadRequest(f"{self} has no piece {piece}")
            if len(digest) != PIECE_DIGEST_BYTES:
                raise BadRequest(f"{self}: {len(digest)} bytes are no digest of a piece")
        if not new:
            return
        pieces = PieceSet.of(new)
        if self.windowed:
            self._became_valid(pieces)
            return
        boot, number = self._keeper.boot, self.number
        self.unsynced = self.unsynced or boot
        await self._keeper.journal.submit(
            lambda index: index.add_pieces(number, new, boot),
            lambda _: self._became_valid(pieces),
        )

    async def learn(self, runs: Sequence[DigestRun], readers: Sequence[Reader]) -> None:
        """Keep runs that the caller has checked, and who signed them; what is known is dropped.

        Raises:
            GenerationGone: the entry was withdrawn.
            QuotaExceeded, StorageFailed: they could not be stored, and are not known.
        """
        self._check_here()
        learned = self._known().news(Learned(runs, readers), self._layout.total)
        if learned is None:
            return
        totals = [run.layout.total for run in learned.runs if run.layout.total is not None]
        total = totals[0] if totals and self._layout.total is None else None
        if self.windowed:
            self._learned(learned, total)
            return

        def change(index: Index) -> None:
            self._sidecar.append(learned)
            if total is not None:
                with self._trust.writing():
                    os.truncate(self.files.content, total)
                index.set_total(self.number, total)

        await self._keeper.journal.submit(change, lambda _: self._learned(learned, total))

    async def discard(self, pieces: PieceSet) -> None:
        """Give the space of pieces of a windowed entry back; they are not valid any more.

        Raises:
            StorageFailed: the entry is not windowed or not in use, or the filesystem cannot do it.
        """
        if not self.windowed:
            raise StorageFailed(f"{self} is kept as a whole: no piece of it can be discarded")
        self._valid -= pieces
        self._changes.fire()
        spans = [self._layout.span(run) for run in pieces.runs()]

        def punch() -> None:
            with self._file.borrow() as fd:
                for span in spans:
                    punch_hole(fd, span.start, (span.stop or span.start) - span.start)

        try:
            await asyncio.get_running_loop().run_in_executor(self._keeper.threads, punch)
        except OSError as exc:
            raise storage_failure(exc, f"giving back space of {self}") from exc

    # ------------------------------------------------------------------ trusting the disk

    async def prepare(self) -> None:
        """Verify the pieces again where the disk may not hold what was written; bad ones go.

        That is after an unclean boot of the machine, and where a file with hard links was changed.
        Call it before the first use; it is quick where there is nothing to do.

        Raises:
            GenerationGone: the entry was withdrawn.
            QuotaExceeded, StorageFailed: the result could not be stored; call it again.
        """
        async with self._preparing:
            self._check_here()
            if self._users > 1 and self._prepared:
                # Others rely on what it was: none of it may become invalid under their hands.
                self.check_unchanged()
            if not self.windowed and self._trust.in_doubt:
                with self.using():
                    await self._trust.examine(self._layout, self.digest_of, self._examined)
            self._prepared = True

    @property
    def missing(self) -> bool:
        """Somebody took its files away."""
        return not (self.files.content.exists() and self.files.sidecar.exists())

    @property
    def mark(self) -> Mark | None:
        """What the stored file looks like as this store left it; None while it is written."""
        return self._trust.mark

    def check_unchanged(self) -> None:
        """Before bytes of an entry that is in use are given away: it must be as it was left.

        Raises:
            GenerationGone: somebody else changed the stored file; it is withdrawn.
        """
        if not self.windowed and self._trust.changed:
            self._keeper.withdraw(self)
            raise GenerationGone(f"the stored file of {self} was changed by somebody else")

    async def prepare_hard_link(self) -> None:
        """Make the stored file read-only, and notice from now on when it was changed.

        Raises:
            StorageFailed: the entry is not complete, or it is windowed.
        """
        self._check_here()
        self.check_unchanged()
        if self.windowed or not self.complete:
            raise StorageFailed(f"{self} is not complete: a hard link to it would never be")
        await self._trust.allow_links()

    def _examined(self, good: PieceSet, bad: PieceSet) -> None:
        # Pieces may have been committed meanwhile; they are in neither set.
        self._valid = (self._valid | good) - bad
        self.unsynced = self._keeper.boot
        self._changes.fire()

    # ------------------------------------------------------------------ for the store

    def withdraw(self) -> None:
        """Mark the entry as gone and wake whoever waits."""
        self.gone = True
        self._changes.fire()

    def pending_use(self) -> float | None:
        """The last use, where the index does not know it yet."""
        return None if self.windowed or self.used == self._recorded_use else self.used

    # ------------------------------------------------------------------ inside

    def _known(self) -> Digests:
        """The digests: in memory while the entry is in use, else read when they are asked for."""
        if self._digests is None:
            self._digests = Digests()
            for learned in self._sidecar.read()[1]:
                self._digests.add(learned)
        return self._digests

    def _learned(self, learned: Learned, total: int | None) -> None:
        if self._digests is not None:
            self._digests.add(learned)
        if total is not None and self._layout.total is None:
            self._layout = msgspec.structs.replace(self._layout, total=total)
            self._keeper.give_back(self, total)
            self._changes.fire()

    def _became_valid(self, pieces: PieceSet) -> None:
        self._valid |= pieces
        if self.complete and not self.windowed:
            self._trust.settle()
        self._changes.fire()

    def _touch(self) -> None:
        now = self.used = self._keeper.clock()
        if now - self._recorded_use > _USED_STEP and not self.windowed:
            self._recorded_use = now
            self._keeper.journal.post(lambda index: index.set_used(self.number, now))

    def _check_here(self) -> None:
        if self.gone:
            raise GenerationGone(f"{self} was removed")

    def __str__(self) -> str:
        return f"task {self.task[:12]} generation {self.generation}"


def _rounded_up(size: int, layout: Layout) -> int:
    """Whole pieces, so that content of unknown length asks for room once a piece."""
    whole = -(-size // layout.piece_length) * layout.piece_length
    return whole if layout.total is None else min(whole, layout.total)
