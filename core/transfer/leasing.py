"""The lease of a task on this host, and the reader that works under it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hawker.core.messages import Read
from hawker.core.telemetry import REQUEST
from hawker.core.transfer.bygone import Bygone
from hawker.core.transfer.holding import end
from hawker.core.transfer.reader import OriginReader


class Leasing:
    """One reader at a time; `on_end` when it is done.

    Attributes:
        waiting: the lease that is read under next.
        reading: a reader is at work.
    """

    def __init__(self, bygone: Bygone, on_end: Callable[[], None]) -> None:
        self.waiting: Read | None = None
        self._bygone = bygone
        self._on_end = on_end
        self._reader: OriginReader | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def reading(self) -> bool:
        return self._task is not None

    @property
    def left(self) -> int:
        """How many pieces the reader is still to bring."""
        return 0 if self._reader is None else self._reader.left

    def take(self, lease: Read) -> None:
        """A lease that is granted, extended, or over where it has no ranges."""
        over = lease.ranges == []
        if self._reader is not None and self._reader.lease.lease == lease.lease:
            self._reader.extend(lease)
            if over:
                self.cancel()
        elif not over:
            if lease.lease not in self._bygone:
                self.waiting = lease
        elif self.waiting is not None and self.waiting.lease == lease.lease:
            self.waiting = None

    def begin(self, group: asyncio.TaskGroup, make: Callable[[Read], OriginReader]) -> None:
        """Read under the lease that waits, unless a reader is at work."""
        if self.waiting is None or self._task is not None:
            return
        lease, self.waiting = self.waiting, None
        self._reader = make(lease)
        self._task = group.create_task(self._read(self._reader))

    def cancel(self) -> None:
        """Have the reader end soon."""
        if self._task is not None:
            self._task.cancel()

    async def stop(self) -> None:
        """Have the reader end, and wait for that."""
        await end(self._task)

    async def _read(self, reader: OriginReader) -> None:
        if reader.lease.request:
            REQUEST.set(reader.lease.request)
        try:
            await reader.run()
        finally:
            self._bygone.add(reader.lease.lease)
            self._reader = None
            self._task = None
            self._on_end()
