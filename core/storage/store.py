"""All content of a peer: created within the quota, kept over restarts, evicted, removed."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
import math
import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from hawker.core.errors import BadRequest, GenerationGone, HawkerError, QuotaExceeded, StorageFailed
from hawker.core.ids import GENERATION_ID, TaskSpec
from hawker.core.pieces import Layout, PieceSet
from hawker.core.storage.directory import DirectoryLock, Name, boot_id, prepare_directory
from hawker.core.storage.entry import Entry
from hawker.core.storage.eviction import Choice, Stored, choose
from hawker.core.storage.index import Index, Row
from hawker.core.storage.journal import Journal
from hawker.core.storage.recovery import Found, Recovered, extent, load
from hawker.core.storage.sidecar import Header, Sidecar
from hawker.core.storage.verification import synchronise

log = logging.getLogger(__name__)

MAX_AGE = 30 * 86400.0
_SHARE_OF_FILESYSTEM = 0.9
_THREADS = 4
# A write in a thread waits at most this long, in seconds, for content to be evicted.
_ROOM_WAIT = 30.0
# So many of a tenant's unused entries are told at once.
_IDLE = 64


class RoomClaim(Protocol):
    """Room of a tenant's quota; `answer` is over once it is there, or raises why it is not."""

    answer: asyncio.Future[None]

    def release(self) -> None:
        """It is taken now, or not needed any more."""
        ...


class Rooms(Protocol):
    """What content of tenants may be stored, besides the store's own quota."""

    def claim_room(self, tenant: str, size: int) -> RoomClaim | None:
        """None for a tenant without such a quota."""
        ...


class Store:
    """The content of one data directory. Everything but `Entry.write` is called on one loop.

    Attributes:
        on_removed: called with an entry after it was evicted or removed.
        rooms: quotas of tenants; None: there are none.
    """

    def __init__(
        self,
        recovered: Recovered,
        directory: Path,
        lock: DirectoryLock,
        threads: ThreadPoolExecutor,
        boot: str,
        *,
        quota: int,
        max_age: float,
        clock: Callable[[], float],
    ) -> None:
        self.on_removed: Callable[[Entry], None] | None = None
        self.rooms: Rooms | None = None
        self.boot = boot
        self.threads = threads
        self.clock = clock
        self.journal = Journal(recovered.index)
        self._index = recovered.index
        self._directory = directory
        self._lock = lock
        self._quota = quota
        self._max_age = max_age
        self._used = 0
        self._used_by: Counter[str] = Counter()
        self._next_number = recovered.next_number
        self._entries: dict[str, dict[str, Entry]] = {}
        self._of: defaultdict[str, dict[int, Entry]] = defaultdict(dict)
        self._creating = asyncio.Lock()
        self._erasing: set[asyncio.Future[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._closed = False
        for found in recovered.found:
            entry = self._restored(found)
            self._add(entry)
            self._count(entry.spec.tenant, entry.reserved)

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        quota: int = 0,
        max_age: float = MAX_AGE,
        clock: Callable[[], float] = time.time,
    ) -> Store:
        """Open a data directory, made where there is none; blocking.

        Args:
            quota: most bytes of content to keep; 0 means nine tenths of the filesystem's size.
            max_age: seconds after its last use at which content may go though there is room.
            clock: seconds since the epoch.

        Raises:
            StorageFailed: another process has it, others may write to it, or it cannot be used.
        """
        prepare_directory(directory)
        lock = DirectoryLock(directory)
        threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="hawker-store")
        try:
            boot = boot_id()
            recovered = load(directory, boot, clock(), threads)
            return cls(
                recovered,
                directory,
                lock,
                threads,
                boot,
                quota=quota or _share_of_filesystem(directory),
                max_age=max_age,
                clock=clock,
            )
        except BaseException:
            threads.shutdown()
            lock.release()
            raise

    async def start(self) -> None:
        """Begin work on this loop; evicts what is too old or beyond the quota."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        choice = self._choose(0)
        await self._erased(self._evict(choice.victims))

    async def close(self) -> None:
        """Commit what is under way, force content to the disk, give the directory back."""
        if self._closed:
            return
        self._closed = True
        try:
            await self._erased(self._erasing)
            await self._synchronise()
            await self.journal.close()
        finally:
            await asyncio.to_thread(self._index.close)
            self.threads.shutdown()
            self._lock.release()

    # ------------------------------------------------------------------ what is there

    @property
    def used_bytes(self) -> int:
        """Bytes of the quota that are taken or promised."""
        return self._used

    @property
    def quota(self) -> int:
        """Most bytes of content this store keeps."""
        return self._quota

    def used_by(self, tenant: str) -> int:
        """Those of the used bytes that are of a tenant's content."""
        return self._used_by[tenant]

    def idle_of(self, tenant: str) -> tuple[list[Stored], int]:
        """The tenant's content that nobody uses, the longest unused first, not necessarily all;
        and the bytes of all of it."""
        idle = [entry for entry in self._of[tenant].values() if not entry.in_use]
        first = heapq.nsmallest(_IDLE, idle, key=lambda entry: (entry.used, entry.number))
        told = [Stored(entry.number, entry.reserved, entry.used, False) for entry in first]
        return told, sum(entry.reserved for entry in idle)

    async def evict_of(self, tenant: str, keep: int) -> None:
        """Evict what of the tenant's content was unused for longest, until no more than `keep`
        bytes are left of it, or only what is in use."""
        while (excess := self._used_by[tenant] - keep) > 0:
            idle, _ = self.idle_of(tenant)
            if not idle:
                return
            numbers = choose(idle, excess, -math.inf).victims or [each.number for each in idle]
            await self._erased(self._evict(numbers))

    def get(self, task: str, generation: str) -> Entry | None:
        return self._entries.get(task, {}).get(generation)

    def newest(self, task: str) -> Entry | None:
        """The generation of the task that was created last."""
        own = self._entries.get(task, {}).values()
        return max(own, key=lambda entry: (entry.created, entry.number), default=None)

    def entries(self) -> list[Entry]:
        return [entry for own in self._entries.values() for entry in own.values()]

    # ------------------------------------------------------------------ coming and going

    async def create(
        self,
        spec: TaskSpec,
        generation: str,
        layout: Layout,
        *,
        window: int | None = None,
        modified: int | None = None,
    ) -> Entry:
        """The entry of this generation, made where there is none.

        Its bytes are reserved within the quota; other content is evicted for them. Content of
        unknown length reserves piece by piece. Content larger than the quota becomes a windowed
        entry where `window`, in bytes, is given. `modified` is when the origin changed it last, in
        seconds since 1970.

        Raises:
            QuotaExceeded: there is no room, and nothing that may be evicted.
            OverQuota: there is none within the tenant's quota.
            StorageFailed: the files cannot be made.
        """
        if not GENERATION_ID.match(generation):
            raise BadRequest(f"{generation!r} is not a generation")
        layout.check()
        task = spec.task_id
        size = layout.total or 0
        windowed = window is not None and size > self._quota
        if windowed and window is not None:
            size = window
        known = self.get(task, generation)
        if known is not None:
            return known
        # Before the lock: others need not wait while hosts make room for this tenant.
        async with self._room_of(spec.tenant, size) as claim, self._creating:
            known = self.get(task, generation)
            if known is not None:
                return known
            erasing = self._reserve(spec.tenant, size, f"task {task[:12]}")
            if claim is not None:
                # From now on it counts as stored; both would be too much.
                claim.release()
            now = self.clock()
            name = Name.new(task, generation)
            row = Row(self._number(), name, spec, layout, now, now, self.boot, modified=modified)
            entry = Entry(
                self,
                row,
                row.name.files(self._directory),
                valid=PieceSet(),
                reserved=size,
                windowed=windowed,
            )
            try:
                await self._erased(erasing)
                await self.journal.submit(lambda index: _make(index, row, entry))
            except BaseException:
                # Behind the creation in the journal, which a cancelled caller does not stop.
                self._count(spec.tenant, -size)
                self.journal.post(lambda index: _unmake(index, entry))
                raise
            self._add(entry)
            return entry

    async def remove(self, task: str, generation: str | None = None) -> int:
        """Remove a generation of a task, or all of them; returns how many.

        What is in use is withdrawn at once, and its files go when its last user leaves.
        """
        doomed = [
            entry
            for entry in self._entries.get(task, {}).values()
            if generation in (None, entry.generation)
        ]
        erasing = [future for entry in doomed for future in self._withdraw(entry)]
        await self._erased(erasing)
        return len(doomed)

    # ------------------------------------------------------------------ for entries

    def make_room(self, entry: Entry, size: int) -> None:
        """Let an entry occupy `size` bytes; waits in a thread until there is room.

        Raises:
            QuotaExceeded: there is no room, and nothing that may be evicted.
            StorageFailed: the store was not started or is closed.
        """
        if self._loop is None or self._closed:
            raise StorageFailed("the store is not running")
        if threading.get_ident() == self._thread:
            self._grow(entry, size)
            return
        done: Future[None] = Future()
        try:
            self._loop.call_soon_threadsafe(self._grow_for, entry, size, done)
            done.result(_ROOM_WAIT)
        except (RuntimeError, TimeoutError) as exc:
            raise StorageFailed(f"{entry}: no answer whether there is room") from exc

    def give_back(self, entry: Entry, size: int) -> None:
        """An entry occupies no more than `size` bytes."""
        spare = entry.reserved - size
        if spare > 0 and not entry.windowed:
            entry.reserved = size
            self._count(entry.spec.tenant, -spare)

    def released(self, entry: Entry) -> None:
        """The last user of an entry left: what is gone or windowed goes now."""
        if entry.gone:
            self._erase(entry)
        elif entry.windowed:
            self._withdraw(entry)

    def withdraw(self, entry: Entry) -> None:
        """An entry must not be used any more."""
        self._withdraw(entry)

    # ------------------------------------------------------------------ room

    def _count(self, tenant: str, size: int) -> None:
        self._used += size
        self._used_by[tenant] += size

    @contextlib.asynccontextmanager
    async def _room_of(self, tenant: str, size: int) -> AsyncIterator[RoomClaim | None]:
        """Room of the tenant's quota, until it is taken; raises OverQuota."""
        claim = None if self.rooms is None else self.rooms.claim_room(tenant, size)
        if claim is None:
            yield None
            return
        try:
            await claim.answer
            yield claim
        finally:
            claim.release()

    def _reserve(self, tenant: str, size: int, what: str) -> list[asyncio.Future[None]]:
        """Take `size` bytes of the quota; the futures end when what was evicted is erased."""
        if self._used + size <= self._quota:
            self._count(tenant, size)
            return []
        choice = self._choose(size)
        erasing = self._evict(choice.victims)
        if not choice.enough:
            raise QuotaExceeded(
                f"{what}: no room for {size} bytes: {self._used} of {self._quota} are taken,"
                " all of them by content in use",
                hint="raise storage.quota, or wait until other downloads have ended",
            )
        self._count(tenant, size)
        return erasing

    def _choose(self, size: int) -> Choice:
        stored = [
            Stored(entry.number, entry.reserved, entry.used, entry.in_use)
            for entry in self.entries()
        ]
        excess = self._used + size - self._quota
        return choose(stored, excess, self.clock() - self._max_age)

    def _evict(self, numbers: Iterable[int]) -> list[asyncio.Future[None]]:
        by_number = {entry.number: entry for entry in self.entries()}
        return [future for n in numbers for future in self._withdraw(by_number[n])]

    def _grow(self, entry: Entry, size: int) -> list[asyncio.Future[None]]:
        if entry.gone:
            raise GenerationGone(f"{entry} was removed")
        more = size - entry.reserved
        if more <= 0:
            return []
        erasing = self._reserve(entry.spec.tenant, more, str(entry))
        entry.reserved = size
        return erasing

    def _grow_for(self, entry: Entry, size: int, done: Future[None]) -> None:
        """`_grow` on the loop for a thread, which waits for `done`."""
        more = size - entry.reserved
        rooms = self.rooms if more > 0 and not entry.gone else None
        claim = None if rooms is None else rooms.claim_room(entry.spec.tenant, more)
        if claim is None:
            self._grow_now(entry, size, done)
            return

        def answered(answer: asyncio.Future[None]) -> None:
            try:
                error = answer.exception()
            except asyncio.CancelledError:
                error = StorageFailed("the store is not running")
            if error is not None:
                done.set_exception(error)
            else:
                self._grow_now(entry, size, done)
            claim.release()

        claim.answer.add_done_callback(answered)

    def _grow_now(self, entry: Entry, size: int, done: Future[None]) -> None:
        try:
            erasing = self._grow(entry, size)
        except HawkerError as exc:
            done.set_exception(exc)
            return
        asyncio.gather(*erasing, return_exceptions=True).add_done_callback(
            lambda _: done.set_result(None)
        )

    # ------------------------------------------------------------------ removal

    def _withdraw(self, entry: Entry) -> list[asyncio.Future[None]]:
        """Nobody gets the entry any more; its bytes go unless it is in use."""
        own = self._entries.get(entry.task, {})
        if own.get(entry.generation) is not entry:
            return []
        del self._of[entry.spec.tenant][entry.number]
        del own[entry.generation]
        if not own:
            del self._entries[entry.task]
        entry.withdraw()
        number = entry.number
        if not entry.windowed and not self._closed:
            self.journal.post(lambda index: index.forget(number))
        # Without it the row is dead, even if the disk is too full to delete the row.
        _unlink(entry.files.sidecar)
        erasing = [] if entry.in_use else self._erase(entry)
        if self.on_removed is not None:
            self.on_removed(entry)
        return erasing

    def _erase(self, entry: Entry) -> list[asyncio.Future[None]]:
        """Unlink the files in a thread: that of a large file takes a while."""
        self._count(entry.spec.tenant, -entry.reserved)
        entry.reserved = 0
        if self._closed:
            _unlink(entry.files.sidecar, entry.files.content)
            return []
        future = asyncio.get_running_loop().run_in_executor(
            self.threads, _unlink, entry.files.sidecar, entry.files.content
        )
        self._erasing.add(future)
        future.add_done_callback(self._erasing.discard)
        return [future]

    async def _erased(self, erasing: Iterable[asyncio.Future[None]]) -> None:
        """Wait for erasures; who waits may be cancelled, they are not."""
        if pending := list(erasing):
            await asyncio.wait(pending)

    # ------------------------------------------------------------------ inside

    def _restored(self, found: Found) -> Entry:
        layout = found.row.layout
        reserved = extent(layout, found.valid) if layout.total is None else layout.total
        return Entry(
            self, found.row, found.files, valid=found.valid, reserved=reserved, windowed=False
        )

    def _add(self, entry: Entry) -> None:
        self._entries.setdefault(entry.task, {})[entry.generation] = entry
        self._of[entry.spec.tenant][entry.number] = entry

    def _number(self) -> int:
        number, self._next_number = self._next_number, self._next_number + 1
        return number

    async def _synchronise(self) -> None:
        """After this the machine may lose power: what is marked as synced is on the disk."""
        loop = asyncio.get_running_loop()
        dirty = [entry for entry in self.entries() if entry.unsynced == self.boot]
        done = await asyncio.gather(
            *(
                loop.run_in_executor(
                    self.threads, synchronise, [entry.files.content, entry.files.sidecar]
                )
                for entry in dirty
            )
        )
        synced = [entry.number for entry, safe in zip(dirty, done, strict=True) if safe]
        used = [(e.number, use) for e in self.entries() if (use := e.pending_use())]

        def change(index: Index) -> None:
            for number in synced:
                index.set_unsynced(number, "")
            for number, at in used:
                index.set_used(number, at)

        try:
            await self.journal.submit(change)
        except HawkerError as exc:
            log.warning("content is verified again after the next start of the machine: %s", exc)


def _make(index: Index, row: Row, entry: Entry) -> None:
    """The files and the row of a new entry; one that is not retained has no row."""
    files, layout = entry.files, row.layout
    files.content.parent.mkdir(mode=0o700, exist_ok=True)
    if not entry.windowed:
        header = Header(row.spec, row.name.generation, layout, row.created, row.modified)
        Sidecar(files.sidecar).create(header)
    fd = os.open(files.content, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.ftruncate(fd, layout.total or 0)
    finally:
        os.close(fd)
    if not entry.windowed:
        index.insert(row)


def _unmake(index: Index, entry: Entry) -> None:
    _unlink(entry.files.sidecar, entry.files.content)
    index.forget(entry.number)


def _unlink(*paths: Path) -> None:
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as exc:
            log.warning("%s cannot be removed: %s", path, exc.strerror)


def _share_of_filesystem(directory: Path) -> int:
    status = os.statvfs(directory)
    return int(status.f_blocks * status.f_frsize * _SHARE_OF_FILESYSTEM)
