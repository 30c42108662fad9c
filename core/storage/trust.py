"""Whether the disk still holds what the index says of an entry."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from hawker.core.pieces import Layout, PieceSet
from hawker.core.storage.content import ContentFile
from hawker.core.storage.delivery import deliver
from hawker.core.storage.index import Index, Row
from hawker.core.storage.journal import Journal
from hawker.core.storage.mark import Mark
from hawker.core.storage.verification import matching, slices


class Trust:
    """Doubts about one stored file, and how they are settled.

    A machine that lost power may have kept the rows of pieces and not their bytes. Anybody who may
    write the file may have changed it: it must look as this store left it (its size, time of the
    last write and inode). Only within a write of the store itself that cannot be told.
    """

    def __init__(
        self,
        row: Row,
        file: ContentFile,
        boot: str,
        journal: Journal,
        threads: ThreadPoolExecutor,
        *,
        empty: bool,
    ) -> None:
        self._number = row.number
        self._file = file
        self._boot = boot
        self._journal = journal
        self._threads = threads
        self._link = row.link
        self._mark = self._recorded = row.mark
        # What has no piece yet cannot have lost one.
        self._dirty = empty
        self._writers = 0
        self._left: Mark | None = None
        self._tainted = False
        self._lock = threading.Lock()
        self.in_doubt_since_boot = row.unsynced not in ("", boot)

    @property
    def linked(self) -> bool:
        """Hard links to the stored file may exist, so that it must not be written."""
        return self._link is not None

    @property
    def in_doubt(self) -> bool:
        """The pieces must be verified before they are used."""
        return self.in_doubt_since_boot or self.changed

    @property
    def mark(self) -> Mark | None:
        """The file as this store left it, None while it is being written."""
        with self._lock:
            return None if self._dirty or self._writers else self._mark

    @property
    def changed(self) -> bool:
        """Somebody else wrote the file, replaced it or took it away."""
        with self._lock:
            if self._tainted:
                return True
            own = self._dirty or self._writers
        return not own and self._mark != self._look()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """This store changes the file itself; from any thread."""
        with self._lock:
            if not self._writers:
                self._notice()
            self._writers += 1
            self._dirty = True
        try:
            yield
        finally:
            with self._lock:
                self._writers -= 1
                if not self._writers:
                    self._left = self._look()

    def _notice(self) -> None:
        """See whether somebody wrote between two writes of this store."""
        self._tainted = self._tainted or (self._left is not None and self._left != self._look())

    def settle(self) -> None:
        """Nothing more will be written for now: from here on any change is somebody else's."""
        with self._lock:
            if self._dirty and not self._writers:
                self._notice()
                self._mark, self._dirty = self._look(), False

    def record(self) -> None:
        """Keep over a restart what the file looks like."""
        mark, number = self._mark, self._number
        if mark != self._recorded and not self._dirty:
            self._recorded = mark
            self._journal.post(lambda index: index.set_mark(number, mark))

    async def allow_links(self) -> None:
        """Make the file read-only and remember what it looks like."""

        def change(index: Index) -> Mark:
            os.chmod(self._file.path, 0o444)
            mark = Mark.of(os.stat(self._file.path))
            index.set_link(self._number, mark)
            return mark

        def applied(mark: Mark) -> None:
            self._link = mark

        await self._journal.submit(change, applied)

    async def examine(
        self,
        layout: Layout,
        digest_of: Callable[[int], bytes | None],
        examined: Callable[[PieceSet, PieceSet], None],
    ) -> None:
        """Verify every recorded piece and drop the rows of bad ones.

        `examined` is called with the good and the bad ones when that is committed. A piece without
        its signed digest counts as bad: it would be of no use to others.
        """
        number = self._number
        # Before the bytes are read: a change during that is seen the next time.
        seen = self._look()
        recorded = await self._journal.submit(lambda index: index.digests(number))
        provable = {p: d for p, d in recorded.items() if digest_of(p) == d}
        good = await self._on_disk(layout, provable)
        bad = PieceSet.of(recorded) - good
        if self.linked and bad:
            # What is fetched again must not be written into the file of whoever made the link.
            await asyncio.get_running_loop().run_in_executor(self._threads, self._detach)
            seen = self._look()
        mark = seen if self.linked and not bad else None

        def change(index: Index) -> None:
            index.drop_pieces(number, bad)
            index.set_unsynced(number, self._boot)
            index.set_link(number, mark)
            index.set_mark(number, seen)

        def applied(_: None) -> None:
            self._link, self.in_doubt_since_boot = mark, False
            self._mark = self._recorded = self._left = seen
            self._tainted = False
            examined(good, bad)

        await self._journal.submit(change, applied)

    async def _on_disk(self, layout: Layout, digests: dict[int, bytes]) -> PieceSet:
        loop, path = asyncio.get_running_loop(), self._file.path
        parts = await asyncio.gather(
            *(
                loop.run_in_executor(self._threads, matching, path, layout, part)
                for part in slices(layout, digests)
            )
        )
        return PieceSet.of(piece for part in parts for piece in part)

    def _detach(self) -> None:
        """Continue on a copy of the stored file."""
        deliver(self._file.path, self._file.path, overwrite=True)
        os.chmod(self._file.path, 0o600)
        self._file.reopen()

    def _look(self) -> Mark | None:
        """What the file looks like now, None where it is missing."""
        try:
            return Mark.of(os.stat(self._file.path))
        except OSError:
            return None
